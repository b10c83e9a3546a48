"""A process among others: it lives as long as it says so, and takes care of what the dead leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.cancel import CancelReason
from app.errors import StoreError
from app.messages import UserMessage
from app.runs.executor import Executor
from app.runs.worker import Duties, Worker
from app.sessions.records import Run, RunStart
from app.sessions.sql import open_store
from app.sessions.store import Store
from tests.integration.runs import wait_until

LEASE = 0.6


@dataclass
class Log:
    """What a worker was told to do.

    :ivar free: while it is not set, the worker is kept busy, as one that stands still.
    """

    lost: int = 0
    swept: list[Run] = field(default_factory=list)
    cancelled: list[tuple[str, CancelReason]] = field(default_factory=list)
    resumed: int = 0
    free: threading.Event = field(default_factory=threading.Event)

    def duties(self) -> Duties:
        self.free.set()
        return Duties(
            lost=self._lose,
            swept=self._sweep,
            cancel=lambda run_id, reason: self.cancelled.append((run_id, reason)),
            resume=self._resume,
            settle=self.free.wait,
        )

    def _lose(self) -> None:
        self.lost += 1

    def _sweep(self, lost: Sequence[Run]) -> None:
        self.swept += lost

    def _resume(self) -> None:
        self.resumed += 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor()
    yield executor
    executor.close()


@pytest.fixture
def worker(store: Store, executor: Executor) -> Iterator[Worker]:
    worker = Worker(store, executor, "this one", lease=LEASE)
    yield worker
    worker.close()


def begin(store: Store, run_id: str, worker: str, key: str = "chat") -> None:
    run = RunStart(run_id, key, f"session of {key}", "main", "tests", "p/m", 1, worker=worker)
    store.begin(run, [UserMessage.of("hi")])


def test_it_lives_for_longer_than_its_lease(store: Store, worker: Worker) -> None:
    log = Log()
    worker.start(log.duties())
    first = worker.id

    wait_until(lambda: log.resumed > 6)  # two leases and more
    assert (worker.id, log.lost) == (first, 0)
    assert store.others("somebody else") == ["this one"]

    worker.close()
    assert store.others("somebody else") == []


def test_the_runs_of_one_that_is_not_heard_of_are_swept_once(store: Store, worker: Worker) -> None:
    log = Log()
    store.join("ghost", "the other", 0.2)
    begin(store, "r1", "ghost")
    store.enter_lane("chat", "r1", "ghost", 5)

    worker.start(log.duties())
    wait_until(lambda: log.swept)
    wait_until(lambda: log.resumed > 4)

    (lost,) = log.swept
    assert (lost.id, lost.status, lost.error_code) == ("r1", "failed", "interrupted")
    assert store.enter_lane("chat", "r2", worker.id, 5) == "held"


def test_one_that_stood_still_for_too_long_gives_its_runs_up_and_begins_anew(
    store: Store, worker: Worker
) -> None:
    log = Log()
    worker.start(log.duties())
    wait_until(lambda: log.resumed)
    before = worker.id
    begin(store, "r1", before)

    log.free.clear()
    store.join("neighbour", "the other", 60)
    wait_until(lambda: store.sweep(2_000))
    log.free.set()

    wait_until(lambda: log.lost)
    wait_until(lambda: worker.id != before)
    wait_until(lambda: "this one" in store.others("neighbour"))
    assert log.lost == 1


def test_it_hears_of_wishes_for_the_end_of_its_runs(store: Store, worker: Worker) -> None:
    log = Log()
    worker.start(log.duties())
    begin(store, "r1", worker.id)
    assert store.ask_cancel("r1", "user")

    wait_until(lambda: ("r1", CancelReason.USER) in log.cancelled)


def test_being_alone_waits_for_the_lease_of_one_that_died(store: Store, worker: Worker) -> None:
    store.join("ghost", "the other", 0.4)
    worker.wait_until_alone()
    assert store.others(worker.id) == []


def test_being_alone_is_refused_beside_one_that_lives(store: Store, worker: Worker) -> None:
    store.join("neighbour", "the other", 60)
    with pytest.raises(StoreError, match=r"\(the other\).*REDIS_URL"):
        worker.wait_until_alone()
    assert store.others("neighbour") == []


def test_a_store_that_fails_is_asked_again_and_nobody_is_swept_meanwhile(
    store: Store, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    worker.start(log.duties())
    wait_until(lambda: log.resumed)
    store.close()
    wait_until(lambda: not worker.well)

    resumed = log.resumed
    wait_until(lambda: caplog.text.count("the store cannot be reached") == 1)
    assert log.resumed == resumed
    assert log.lost == 0
