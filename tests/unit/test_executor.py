"""Threads and deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.runs.executor import Executor

PATIENCE = 5.0


@pytest.fixture
def executor() -> Iterator[Executor]:
    with closing(Executor()) as executor:
        yield executor


def test_work_runs_in_a_thread_with_its_name(executor: Executor) -> None:
    seen: list[tuple[str, bool]] = []

    def work() -> None:
        seen.append((threading.current_thread().name, threading.current_thread().daemon))

    executor.spawn("run-7", work).join(PATIENCE)

    assert seen == [("run-7", True)]


def test_an_executor_nobody_uses_has_no_thread() -> None:
    before = threading.active_count()

    executor = Executor()

    assert threading.active_count() == before
    executor.close()


def test_deadlines_fire_in_the_order_they_are_due_whatever_order_they_were_set_in(executor: Executor) -> None:
    fired: list[str] = []
    done = threading.Event()
    executor.after(0.15, done.set)
    executor.after(0.1, lambda: fired.append("second"))
    executor.after(0.02, lambda: fired.append("first"))

    assert done.wait(PATIENCE)
    assert fired == ["first", "second"]


def test_a_deadline_fires_when_it_is_due_and_not_before(executor: Executor) -> None:
    fired = threading.Event()
    before = time.monotonic()

    deadline = executor.after(0.1, fired.set)

    assert not deadline.cleared
    assert fired.wait(PATIENCE)
    assert time.monotonic() - before >= 0.1
    assert deadline.cleared


def test_a_cleared_deadline_never_fires(executor: Executor) -> None:
    fired, later = threading.Event(), threading.Event()
    executor.after(0.02, fired.set).clear()
    executor.after(0.06, later.set)

    assert later.wait(PATIENCE)
    assert not fired.is_set()


def test_all_deadlines_share_one_thread(executor: Executor) -> None:
    threads: set[threading.Thread] = set()
    done = threading.Event()
    for number in range(20):
        executor.after(number / 1000, lambda: threads.add(threading.current_thread()))
    executor.after(0.05, done.set)

    assert done.wait(PATIENCE)
    assert len(threads) == 1


def test_closing_ends_the_thread_and_drops_what_is_left() -> None:
    executor, fired, early = Executor(), [], threading.Event()
    executor.after(0, early.set)
    executor.after(60, lambda: fired.append(1))
    assert early.wait(PATIENCE)

    before = time.monotonic()
    executor.close()
    executor.close()

    assert time.monotonic() - before < PATIENCE
    assert fired == []
    assert [t for t in threading.enumerate() if t.name == "openclaw-deadlines"] == []
