"""Two workers of one gateway, on Postgres and Redis: both know keys, and clients that are locked out."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import PATH, Connection, chat, chat_body, request_bytes, send
from tests.e2e.test_idempotency import REPLAYED, ask, streamed
from tests.engines import postgres_server
from tests.redis_engine import RedisEngine
from tests.scripted_provider import Reply, ScriptedProvider, Status


@dataclass(frozen=True)
class Cluster:
    """Two workers, and what they share."""

    workers: tuple[GatewayProcess, GatewayProcess]
    redis: RedisEngine
    start: StartGateway

    def one_more(self) -> GatewayProcess:
        """A worker of this test alone."""
        return self.start()


@pytest.fixture(scope="module")
def cluster(start_gateway: StartGateway) -> Iterator[Cluster]:
    limits = {"maxAttempts": 3, "lockoutMs": 60_000, "exemptLoopback": False}
    with postgres_server().database() as database, RedisEngine() as redis:
        env = {
            "OPENCLAW_DATABASE_URL": database,
            "OPENCLAW_REDIS_URL": redis.url,
            "OPENCLAW_LEASE_SECONDS": "2",
        }

        started: list[GatewayProcess] = []

        def start() -> GatewayProcess:
            started.append(start_gateway(env=env, gateway={"auth": {"rateLimit": limits}}))
            return started[-1]

        yield Cluster((start(), start()), redis, start)
        for gateway in started:
            if gateway.running:
                gateway.stop()


@pytest.fixture
def one(cluster: Cluster) -> GatewayProcess:
    return cluster.workers[0]


@pytest.fixture
def other(cluster: Cluster) -> GatewayProcess:
    return cluster.workers[1]


@pytest.fixture
def key() -> str:
    return f"test {uuid.uuid4()}"


@pytest.fixture(params=[None, "somebody"], ids=["no session", "a session"])
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a request says of its session."""
    return {"user": f"{request.param} {uuid.uuid4()}"} if request.param else {}


def test_what_one_worker_has_answered_another_answers_again(
    one: GatewayProcess, other: GatewayProcess, provider: ScriptedProvider, key: str, fields: dict[str, Any]
) -> None:
    first = ask(one, key, **fields)
    second = ask(other, key, **fields)
    headers, text = streamed(other, key, **fields)

    assert first.status == 200, first.body
    assert second.json == first.json
    assert second.headers[REPLAYED] == headers[REPLAYED] == "true"
    assert (headers["x-request-id"], text) == (first.json["id"], first.text)
    assert len(provider.requests) == 1


def test_many_at_once_at_both_are_one_run(
    one: GatewayProcess, other: GatewayProcess, provider: ScriptedProvider, key: str, fields: dict[str, Any]
) -> None:
    provider.on("slowly", Reply("one two three", delay=0.1))

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: ask((one, other)[n % 2], key, "slowly", **fields), range(12)))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert sorted(answer.headers.get(REPLAYED, "") for answer in answers) == ["", *["true"] * 11]
    assert len(provider.requests) == 1


def test_who_joins_at_another_worker_gets_the_stream_from_its_start(
    one: GatewayProcess, other: GatewayProcess, provider: ScriptedProvider, key: str, fields: dict[str, Any]
) -> None:
    gate = threading.Event()
    provider.script(Reply("one two three", gate=gate, gate_at=2))
    with Connection(one) as first:
        body = chat_body(stream=True, **fields)
        first.send(request_bytes(body, headers={"Idempotency-Key": key})).read_head()
        assert any('"one' in line for line in first.lines())
        with ThreadPoolExecutor(2) as pool:
            joined = pool.submit(streamed, other, key, **fields)
            whole = pool.submit(ask, other, key, **fields)
            gate.set()
            assert joined.result()[1] == whole.result().text == "one two three"
    assert len(provider.requests) == 1


def test_another_request_under_the_same_key_is_refused_by_both(
    one: GatewayProcess, other: GatewayProcess, key: str, fields: dict[str, Any]
) -> None:
    assert ask(one, key, **fields).status == 200

    for gateway in (one, other):
        answer = ask(gateway, key, "something else", **fields)
        assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")


def test_a_failure_is_told_again_elsewhere(
    one: GatewayProcess, other: GatewayProcess, provider: ScriptedProvider, key: str, fields: dict[str, Any]
) -> None:
    provider.script(Status(400, {"error": {"message": "No.", "type": "invalid_request_error"}}))

    first, second = ask(one, key, **fields), ask(other, key, **fields)

    assert first.status >= 400
    assert (second.status, second.error) == (first.status, first.error)
    assert len(provider.requests) == 1


def test_what_was_refused_or_deleted_leaves_its_key_free_everywhere(
    one: GatewayProcess, other: GatewayProcess, provider: ScriptedProvider, key: str
) -> None:
    assert ask(one, key, model="openclaw/nobody").status == 404
    first = ask(other, key)
    assert (first.status, REPLAYED in first.headers) == (200, False)

    assert send(one, method="DELETE", path=f"{PATH}/{first.json['id']}").status == 200
    again = ask(one, key)

    assert again.json["id"] != first.json["id"]
    assert ask(other, key).json == again.json
    assert len(provider.requests) == 2


def test_the_key_of_a_worker_that_was_killed_is_free_unless_its_session_is_kept(
    cluster: Cluster, one: GatewayProcess, provider: ScriptedProvider, key: str, fields: dict[str, Any]
) -> None:
    dying = cluster.one_more()
    gate = threading.Event()
    provider.script(Reply("one two three", gate=gate, gate_at=1))
    with Connection(dying) as connection:
        connection.send(request_bytes(chat_body(**fields), headers={"Idempotency-Key": key}))
        assert provider.wait_for_requests(1)
        dying.kill9()
    gate.set()

    def settled() -> Any:
        answer = ask(one, key, **fields)
        return answer if answer.status == 200 or answer.error["code"] != "run_in_progress" else None

    first = wait_until(settled, 30)
    answer = wait_until(settled, 30)
    if fields:
        assert (answer.status, answer.error["code"]) == (409, "interrupted")
        assert len(provider.requests) == 1
    else:
        assert answer.status == 200, (first.body, answer.body)
        assert len(provider.requests) == 2


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_while_redis_is_away_each_worker_answers_and_a_session_gets_a_request_once(
    cluster: Cluster,
    one: GatewayProcess,
    other: GatewayProcess,
    provider: ScriptedProvider,
    key: str,
    how: str,
) -> None:
    provider.on("slowly", Reply("one two three", delay=0.1))
    user = f"somebody {uuid.uuid4()}"
    getattr(cluster.redis, how)()
    try:
        assert [ask(gateway, f"{key} alone").status for gateway in (one, other)] == [200, 200]
        with ThreadPoolExecutor(12) as pool:
            at_once = pool.map(lambda n: ask((one, other)[n % 2], key, "slowly", user=user), range(12))
        refused = [answer for answer in at_once if answer.status != 200]
        answers = [ask(gateway, key, "slowly", user=user) for gateway in (one, other)]
    finally:
        cluster.redis.resume()
        if how == "kill":
            cluster.redis.start()
    assert {answer.error["code"] for answer in refused} <= {"run_in_progress"}
    assert [answer.text for answer in answers] == ["one two three"] * 2
    assert answers[0].json == answers[1].json
    assert len(provider.requests) == 3

    def shared_again() -> bool:
        fresh = f"back {uuid.uuid4()}"
        return bool(ask(one, fresh).json == ask(other, fresh).json)

    wait_until(shared_again, 15)


def test_wrong_secrets_count_together_and_lock_a_client_out_of_all_workers(
    one: GatewayProcess, other: GatewayProcess, address: str
) -> None:
    def status(gateway: GatewayProcess) -> int:
        return send(gateway, chat_body(), source=address, token="wrong").status

    assert [status(one), status(other), status(one)] == [401, 401, 401]

    wait_until(lambda: status(other) == 429)
    assert status(one) == 429
    assert chat(other).status == 200
