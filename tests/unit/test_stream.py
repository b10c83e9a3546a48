"""The bounded stream between a run's thread and its reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cancel import CancelReason
from app.errors import GatewayError
from app.events import (
    TERMINAL,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    TextDelta,
    ToolFinished,
)
from app.messages import Usage
from app.runs.stream import RunStream

DONE = RunCompleted("ab", "stop", Usage())
PATIENCE = 5.0


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def read_to_end(stream: RunStream) -> list[RunEvent]:
    events: list[RunEvent] = []
    deadline = time.monotonic() + PATIENCE
    while not (events and isinstance(events[-1], TERMINAL)):
        assert time.monotonic() < deadline, f"no terminal event after {events}"
        events += stream.get(0.5)
    return events


def stays_blocked(thread: threading.Thread) -> bool:
    thread.join(0.1)
    return thread.is_alive()


def test_events_come_out_in_order_and_the_terminal_one_last() -> None:
    stream = RunStream()
    for event in (TextDelta("a"), ToolFinished("1", "read", False), TextDelta("b"), DONE):
        stream.put(event)

    assert stream.get(0) == [TextDelta("a"), ToolFinished("1", "read", False), TextDelta("b"), DONE]


@pytest.mark.parametrize(
    "terminal", [DONE, RunFailed(GatewayError("no")), RunCancelled(CancelReason.USER)], ids=lambda e: type(e)
)
def test_nothing_comes_after_a_terminal_event(terminal: RunEvent) -> None:
    stream = RunStream()
    stream.put(terminal)

    stream.put(TextDelta("late"))
    stream.put(DONE)

    assert stream.get(0) == [terminal]
    assert stream.get(0) == []


def test_get_waits_no_longer_than_its_timeout() -> None:
    before = time.monotonic()

    assert RunStream().get(0.05) == []

    assert 0.04 <= time.monotonic() - before < PATIENCE


def test_get_returns_as_soon_as_there_is_an_event() -> None:
    stream, got = RunStream(), []
    reader = in_thread(lambda: got.extend(stream.get(60)))

    stream.put(TextDelta("a"))
    reader.join(PATIENCE)

    assert got == [TextDelta("a")]


def test_a_full_stream_blocks_its_writer_until_somebody_reads() -> None:
    stream = RunStream(limit=2)
    texts = [TextDelta(str(i)) for i in range(5)]
    writer = in_thread(lambda: [stream.put(event) for event in (*texts, DONE)] and None)
    assert stays_blocked(writer)

    first = stream.get(0)
    events = first + read_to_end(stream)
    writer.join(PATIENCE)

    assert first == texts[:2]
    assert events == [*texts, DONE]
    assert not writer.is_alive()


def test_closing_wakes_a_blocked_writer_whose_event_is_dropped() -> None:
    stream = RunStream(limit=1)
    stream.put(TextDelta("a"))
    writer = in_thread(lambda: stream.put(TextDelta("b")))
    assert stays_blocked(writer)

    stream.close()
    writer.join(PATIENCE)

    assert not writer.is_alive()
    assert stream.get(0) == [TextDelta("a")]


def test_a_terminal_event_never_waits_for_room() -> None:
    stream = RunStream(limit=1)
    stream.put(TextDelta("a"))

    writer = in_thread(lambda: stream.put(DONE))
    writer.join(PATIENCE)

    assert not writer.is_alive()
    assert stream.get(0) == [TextDelta("a"), DONE]


def test_a_closed_stream_drops_progress_and_still_takes_the_terminal_event() -> None:
    stream = RunStream()
    stream.close()

    stream.put(TextDelta("dropped"))
    stream.put(DONE)

    assert stream.get(0) == [DONE]


TERMINALS = st.sampled_from([DONE, RunFailed(GatewayError("x")), RunCancelled(CancelReason.TIMEOUT)])
EVENTS = st.one_of(st.builds(TextDelta, st.text(max_size=3)), TERMINALS)


@given(st.lists(EVENTS, max_size=40), TERMINALS, st.integers(1, 5), st.one_of(st.none(), st.integers(0, 40)))
def test_any_script_ends_with_exactly_one_terminal_event(
    script: list[RunEvent], last: RunEvent, limit: int, closed_before: int | None
) -> None:
    stream = RunStream(limit)

    def write() -> None:
        for number, event in enumerate((*script, last)):
            if number == closed_before:
                stream.close()
            stream.put(event)

    writer = in_thread(write)
    events = read_to_end(stream)
    writer.join(PATIENCE)

    expected = [*script, last]
    first_end = next(i for i, event in enumerate(expected) if isinstance(event, TERMINAL))
    shown = expected[:first_end]
    if closed_before is not None:
        shown = shown[:closed_before]
    assert events == [*shown, expected[first_end]]
    assert stream.get(0) == []
    assert not writer.is_alive()


@given(st.integers(1, 8), st.lists(st.floats(0, 0.001), min_size=5, max_size=20))
def test_no_more_than_the_limit_ever_waits(limit: int, naps: list[float]) -> None:
    stream = RunStream(limit)
    writer = in_thread(lambda: [stream.put(TextDelta("x")) for _ in range(50)] and stream.put(DONE))
    sizes, ended, nap = [], False, iter(naps)

    while not ended:
        threading.Event().wait(next(nap, 0))
        events = stream.get(PATIENCE)
        ended = isinstance(events[-1], TERMINAL)
        sizes.append(len(events) - ended)

    writer.join(PATIENCE)
    assert max(sizes) <= limit
    assert sum(sizes) == 50
