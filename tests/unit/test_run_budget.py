"""The time a run may take, and when a conversation is stale."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.runs.budget import TimeBudget
from app.runs.executor import Executor
from app.runs.freshness import ResetPolicy
from app.runs.news import NewsBoard
from app.sessions.records import Session

ROME = ZoneInfo("Europe/Rome")


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor()
    yield executor
    executor.close()


def test_a_budget_that_is_used_up_calls_its_action_once(executor: Executor) -> None:
    over = threading.Event()

    TimeBudget(executor, 0.05, over.set)

    assert over.wait(5)


def test_a_stopped_budget_never_calls_its_action(executor: Executor) -> None:
    calls: list[str] = []
    budget = TimeBudget(executor, 0.05, lambda: calls.append("late"))

    budget.stop()
    later = threading.Event()
    executor.after(0.15, later.set)

    assert later.wait(5)
    assert calls == []


def test_the_clock_stands_still_while_it_is_paused(executor: Executor) -> None:
    over, later = threading.Event(), threading.Event()
    budget = TimeBudget(executor, 0.2, over.set)

    with budget.paused(), budget.paused():
        left = budget.left
        executor.after(0.4, later.set)
        assert later.wait(5)
        assert budget.left == left
        assert not over.is_set()

    assert over.wait(5)


def test_a_pause_that_outlives_its_run_brings_nothing_back(executor: Executor) -> None:
    calls: list[str] = []
    budget = TimeBudget(executor, 0.05, lambda: calls.append("late"))

    with budget.paused():
        budget.stop()
    later = threading.Event()
    executor.after(0.15, later.set)

    assert later.wait(5)
    assert calls == []


def test_what_is_left_gets_less(executor: Executor) -> None:
    budget = TimeBudget(executor, 60, lambda: None)
    first = budget.left
    deadline = time.monotonic() + 5

    while budget.left == first:
        assert time.monotonic() < deadline

    assert 0 < budget.left < first <= 60
    budget.stop()


# Freshness


def session(created: datetime, active: datetime) -> Session:
    created_at, active_at = (int(moment.timestamp() * 1000) for moment in (created, active))
    return Session("s", "k", "main", created_at, active_at, 1, 0, 0, "m", active_at=active_at)


def at(text: str, zone: ZoneInfo = ROME) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def policy(mode: str, **fields: int | None) -> ResetPolicy:
    values = {"at_hour": 4, "idle_minutes": None, **fields}
    return ResetPolicy(mode, zone=ROME, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reset", "created", "active", "now", "stale"),
    [
        (policy("none"), "2020-01-01 00:00", "2020-01-01 00:00", "2026-01-01 00:00", False),
        (policy("daily"), "2026-05-01 22:00", "2026-05-01 23:00", "2026-05-02 03:59", False),
        (policy("daily"), "2026-05-01 22:00", "2026-05-01 23:00", "2026-05-02 04:00", True),
        (policy("daily"), "2026-05-02 04:30", "2026-05-02 05:00", "2026-05-02 23:59", False),
        (policy("daily", at_hour=0), "2026-05-01 23:59", "2026-05-01 23:59", "2026-05-02 00:00", True),
        (policy("daily", idle_minutes=10), "2026-05-02 04:30", "2026-05-02 05:00", "2026-05-02 05:11", True),
        (policy("idle"), "2026-05-01 00:00", "2026-05-02 05:00", "2026-05-02 06:00", False),
        (policy("idle"), "2026-05-01 00:00", "2026-05-02 05:00", "2026-05-02 06:01", True),
        (policy("idle", idle_minutes=5), "2026-05-01 00:00", "2026-05-02 05:00", "2026-05-02 05:06", True),
        # Clocks go forward on the 29th of March, back on the 25th of October.
        (policy("daily"), "2026-03-28 05:00", "2026-03-28 05:00", "2026-03-29 03:59", False),
        (policy("daily"), "2026-03-28 05:00", "2026-03-28 05:00", "2026-03-29 04:00", True),
        (policy("daily"), "2026-10-24 05:00", "2026-10-24 05:00", "2026-10-25 03:59", False),
        (policy("daily"), "2026-10-24 05:00", "2026-10-24 05:00", "2026-10-25 04:00", True),
    ],
)
def test_a_session_is_stale_after_its_hour_or_its_silence(
    reset: ResetPolicy, created: str, active: str, now: str, stale: bool
) -> None:
    moment = int(at(now).timestamp() * 1000)

    assert reset.is_stale(session(at(created), at(active)), moment) is stale


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)), st.integers(0, 23))
def test_a_session_that_has_just_begun_is_fresh(moment: datetime, hour: int) -> None:
    now = int(moment.timestamp() * 1000)

    assert not policy("daily", at_hour=hour).is_stale(session(moment, moment), now)
    assert policy("daily", at_hour=hour).is_stale(session(moment, moment), now + 49 * 3_600_000)


# News


def test_news_are_handed_out_once_and_only_to_their_session() -> None:
    board = NewsBoard()
    board.post("a", "one")
    board.post("a", "two")

    assert board.take("b") == []
    assert board.take("a") == ["one", "two"]
    assert board.take("a") == []


def test_news_never_grow_without_bound() -> None:
    board = NewsBoard()
    for number in range(1_500):
        board.post(f"s{number}", "x" * 10_000)
    for number in range(100):
        board.post("s1499", str(number))

    assert board.take("s0") == []
    assert board.take("s1499")[-1] == "99"
    assert len(board.take("s1498")[0]) < 10_000
