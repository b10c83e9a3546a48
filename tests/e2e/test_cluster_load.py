"""Many conversations on four machines: while nothing fails, and while everything does.

``OPENCLAW_TEST_FULL=1`` runs the whole size: 500 conversations of 20 turns.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.cluster import Cluster, cluster, freeze, thaw
from tests.e2e.conversations import Conversation, check, converse, silence, spread
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.ws_client import WsClient

FULL = bool(os.environ.get("OPENCLAW_TEST_FULL"))
CONVERSATIONS, TURNS = (500, 20) if FULL else (40, 6)
SPEAKERS, THREADS = 2, 64 if FULL else 24
LEASE = 4.0

pytestmark = pytest.mark.timeout(3_600 if FULL else 240)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, provider_port: int) -> Iterator[Cluster]:
    """Where nobody is taken for dead who only has to wait for the processor."""
    directory = tmp_path_factory.mktemp("four")
    with cluster(directory, f"http://127.0.0.1:{provider_port}/v1", 4) as running:
        yield running


@pytest.fixture
def strict(tmp_path: Path, provider_port: int) -> Iterator[Cluster]:
    """Where the dead are soon taken for dead."""
    with cluster(tmp_path, f"http://127.0.0.1:{provider_port}/v1", 4, lease=LEASE) as running:
        yield running


def begin(name: str, count: int = CONVERSATIONS) -> list[Conversation]:
    return [Conversation(f"agent:main:{name}-{number}") for number in range(count)]


def say_all(four: Cluster, conversations: list[Conversation], turns: int = TURNS) -> None:
    converse(four.port, conversations, SPEAKERS, turns // SPEAKERS, THREADS)


def check_all(four: Cluster, conversations: list[Conversation]) -> None:
    for conversation in conversations:
        check(conversation, four.transcript(conversation.key).history)


def statuses(conversations: list[Conversation]) -> Counter[int]:
    return Counter(turn.status for one in conversations for turn in one.turns)


def report(name: str, conversations: list[Conversation], seconds: float) -> None:
    """Figures for whoever runs this with ``-s``."""
    took = spread(conversations)
    middle, late = took[len(took) // 2], took[int(len(took) * 0.99)]
    errors = Counter(
        turn.error.partition(":")[0] for one in conversations for turn in one.turns if turn.error
    )
    figures = (
        f"{len(took)} turns in {seconds:.1f} s",
        f"{len(took) / seconds:.0f}/s",
        f"median {middle * 1000:.0f} ms",
        f"p99 {late * 1000:.0f} ms",
        f"longest silence {silence(conversations):.1f} s",
        f"{dict(statuses(conversations))} {dict(errors)}",
    )
    print(f"\n{name}: {', '.join(figures)}")


def test_conversations_at_random_machines_are_whole_and_in_order(four: Cluster) -> None:
    conversations = begin("quiet")
    asked = CONVERSATIONS * TURNS
    finals: Counter[str] = Counter()
    with WsClient(four.gateways[0].port) as watcher:
        watching = threading.Thread(target=lambda: count_finals(watcher, finals, asked), daemon=True)
        watching.start()
        began = time.monotonic()
        say_all(four, conversations)
        report("quiet", conversations, time.monotonic() - began)
        watching.join(60)

    assert statuses(conversations) == {200: asked}
    assert (len(finals), set(finals.values())) == (asked, {1})
    check_all(four, conversations)
    for conversation in conversations[:20]:
        assert len(four.transcript(conversation.key).history) == 2 * TURNS


def count_finals(watcher: WsClient, finals: Counter[str], count: int) -> None:
    """Read until so many runs have ended, and then a little longer."""
    deadline = time.monotonic() + 3_000
    while finals.total() < count and time.monotonic() < deadline:
        take_finals(watcher, finals)
    for _ in range(10):
        take_finals(watcher, finals)


def take_finals(watcher: WsClient, finals: Counter[str]) -> None:
    watcher.read(0.1)
    finals.update(event["runId"] for event in watcher.events("chat", state="final"))
    watcher.frames.clear()


def test_conversations_survive_machines_that_are_killed_and_that_stand_still(strict: Cluster) -> None:
    four = strict
    conversations = begin("talk")
    began = time.monotonic()
    with Trouble(lambda chance: strike(four, chance)):
        say_all(four, conversations)
    report("killed and frozen", conversations, time.monotonic() - began)

    check_all(four, conversations)
    assert statuses(conversations)[200] > CONVERSATIONS * TURNS // 2
    last = begin("last")
    say_all(four, last, SPEAKERS)
    assert statuses(last) == {200: CONVERSATIONS * SPEAKERS}  # no lane is held by anybody who is gone
    check_all(four, last)


class Trouble:
    """Makes trouble in a thread of its own until the block ends."""

    def __init__(self, strike: Callable[[random.Random], None]) -> None:
        self._strike = strike
        self._over = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(120)
        assert not self._errors, self._errors
        assert self.count, "there was no trouble at all"

    def _work(self) -> None:
        chance = random.Random(11)
        while not self._over.wait(0.3):
            try:
                self._strike(chance)
            except BaseException as error:
                self._errors.append(error)
                return
            self.count += 1


def strike(four: Cluster, chance: random.Random) -> None:
    """Kill a machine and start it again, or let it stand still for longer than its lease."""
    gateway = chance.choice(four.gateways)
    if chance.random() < 0.7:
        gateway.kill9()
        gateway.start()
    else:
        freeze(gateway)
        time.sleep(LEASE + 1)
        thaw(gateway)


@pytest.mark.parametrize("engine", ["redis", "postgres"])
def test_an_engine_that_is_restarted_under_load_costs_no_message(four: Cluster, engine: str) -> None:
    conversations = begin(engine)
    restart = (
        four.redis.restart if engine == "redis" else lambda: (four.postgres.crash(), four.postgres.start())
    )
    began = time.monotonic()
    again: list[float] = []

    def once(_: random.Random) -> None:
        if not again:
            restart()
            again.append(time.monotonic())

    with Trouble(once):
        say_all(four, conversations)
    report(f"{engine} restarted", conversations, time.monotonic() - began)

    check_all(four, conversations)
    wait_until(lambda: all(_answers(gateway.port) for gateway in four.gateways), 10, "all of them")
    last = begin(f"last-{engine}", 8)
    say_all(four, last, SPEAKERS)
    assert statuses(last) == {200: 8 * SPEAKERS}


def _answers(port: int) -> bool:
    probe = [Conversation(f"agent:main:probe-{port}-{time.monotonic_ns()}")]
    converse(port, probe, 1, 1, 1)
    return statuses(probe) == {200: 1}


def test_a_rolling_restart_cuts_nobody_off(four: Cluster) -> None:
    conversations = begin("rolling")

    def one(gateway: GatewayProcess) -> None:
        gateway.stop()
        gateway.start()

    one_by_one(four, conversations, one)

    check_all(four, conversations)
    assert set(statuses(conversations)) <= {200, 503}
    assert statuses(conversations)[200] > CONVERSATIONS * TURNS // 2


def test_workers_that_are_replaced_lose_no_message(four: Cluster) -> None:
    conversations = begin("replaced")

    one_by_one(four, conversations, renew)

    check_all(four, conversations)
    assert statuses(conversations)[200] > CONVERSATIONS * TURNS // 2


def one_by_one(
    four: Cluster, conversations: list[Conversation], change: Callable[[GatewayProcess], None]
) -> None:
    """Have all of it said while one gateway after the other is changed."""
    waiting = list(four.gateways)

    def next_one(_: random.Random) -> None:
        if waiting:
            change(waiting.pop())

    began = time.monotonic()
    with Trouble(next_one):
        say_all(four, conversations)
    report(change.__name__, conversations, time.monotonic() - began)


def renew(gateway: GatewayProcess) -> None:
    """Have its worker replaced, which takes requests until it is gone."""
    before = gateway.workers
    os.kill(gateway.pid, signal.SIGHUP)
    wait_until(lambda: gateway.workers and not set(gateway.workers) & set(before), 30, "the new worker")
    gateway.wait_until_ready()
