"""Wrong secrets at several workers: counted together over Redis, and each for itself while that is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from app.bus.redis import RedisBus
from app.channels.auth import Guard
from app.config import AuthConfig
from app.errors import GatewayError
from app.runs.executor import Executor
from tests.e2e.gateway_process import wait_until
from tests.redis_engine import RedisEngine

SECRET = "s3cret-token"
OUTSIDE = "203.0.113.7"

Worker = Callable[[], Guard]


@pytest.fixture(scope="module")
def engine() -> Iterator[RedisEngine]:
    with RedisEngine() as engine:
        yield engine


@pytest.fixture
def worker(engine: RedisEngine) -> Iterator[Worker]:
    """Starts workers that lock a client out after four wrong secrets."""
    engine.command("FLUSHALL")
    config = AuthConfig.model_validate({"token": SECRET, "rateLimit": {"maxAttempts": 4}})
    with ExitStack() as stack:
        yield lambda: Guard(config, bus=stack.enter_context(closing(RedisBus(engine.url, Executor().spawn))))


def status(guard: Guard, secret: str = "wrong", client: str = OUTSIDE) -> int:
    try:
        guard.check({"REMOTE_ADDR": client, "HTTP_AUTHORIZATION": f"Bearer {secret}"})
    except GatewayError as error:
        return error.status
    return 200


def test_failures_at_any_worker_lock_a_client_out_of_all(worker: Worker) -> None:
    one, other = worker(), worker()

    assert [status(guard) for guard in (one, other, one, other)] == [401] * 4

    assert status(other, SECRET) == 429
    wait_until(lambda: status(one, SECRET) == 429)
    assert status(one, SECRET, "203.0.113.8") == status(other, SECRET, "203.0.113.8") == 200


def test_a_worker_that_comes_later_does_not_give_away_more_than_one_attempt(worker: Worker) -> None:
    one = worker()
    assert [status(one) for _ in range(4)] == [401] * 4

    late = worker()

    assert [status(late), status(late)] == [401, 429]


def test_who_knows_the_secret_is_forgiven_by_all(worker: Worker) -> None:
    one, other = worker(), worker()
    for _ in range(3):
        assert [status(guard) for guard in (one, other, one)] == [401] * 3
        # What one worker is told of the last failure has come when the other can void it.
        wait_until(lambda: OUTSIDE in other._limiter._clients)
        assert status(other, SECRET) == 200
        wait_until(lambda: OUTSIDE not in one._limiter._clients)

    assert status(one) == 401


def test_attempts_at_the_same_moment_are_counted_exactly(worker: Worker) -> None:
    workers = [worker() for _ in range(3)]

    with ThreadPoolExecutor(30) as pool:
        statuses = list(pool.map(lambda number: status(workers[number % 3]), range(300)))

    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 4 + 30, "those that were under way when the fourth one failed"
    assert [status(guard, SECRET) for guard in workers] == [429] * 3


def test_while_redis_is_away_each_worker_locks_out_by_itself(worker: Worker, engine: RedisEngine) -> None:
    one, other = worker(), worker()
    assert status(one) == 401
    engine.kill()
    try:
        assert [status(one) for _ in range(4)] == [401, 401, 401, 429]
        assert status(other, SECRET) == 200
    finally:
        engine.start()
