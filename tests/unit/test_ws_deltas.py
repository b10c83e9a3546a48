"""When what is said is told: the more there is, the more seldom, but nothing is kept back for good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cancel import CancelReason
from app.channels.ws.events import DELTA_MILLISECONDS, Frame, Narrator
from app.events import RunCancelled, RunCompleted, RunEvent, RunStarted, TextDelta, ToolFinished, ToolStarted
from app.messages import Usage
from app.wire import dumps


def narrator(*events: RunEvent, now: int = 1_000) -> Narrator:
    """One that has told all of ``events`` at the same moment."""
    narrator = Narrator("run-1", "agent:main:main", "main")
    for event in (RunStarted(now), *events):
        list(narrator.tell(event, now))
    return narrator


def deltas(*frames: Frame) -> list[object]:
    return [frame.payload["deltaText"] for frame in frames if frame.payload.get("state") == "delta"]


def test_a_piece_that_comes_too_soon_is_told_with_the_next_one_that_does_not() -> None:
    told = narrator(TextDelta("It "), TextDelta("is "))
    assert told.behind
    assert deltas(*told.tell(TextDelta("soup."), 1_000 + DELTA_MILLISECONDS)) == ["is soup."]
    assert not told.behind


def test_a_model_that_pauses_keeps_nothing_back() -> None:
    told = narrator(TextDelta("It "), TextDelta("is "))
    assert deltas(*told.catch_up(1_150)) == ["is "]
    assert deltas(*told.catch_up(1_300)) == []


def test_what_was_said_before_a_tool_is_told_before_it() -> None:
    told = narrator(TextDelta("Let "), TextDelta("me look."))
    frames = list(told.tell(ToolStarted("call-1", "read", "{}"), 1_001))
    assert [frame.name for frame in frames] == ["chat", "agent"]
    assert deltas(*frames) == ["me look."]


def test_nothing_is_told_after_the_end() -> None:
    told = narrator(TextDelta("It "), TextDelta("is."), RunCompleted("It is.", "stop", Usage()))
    assert not told.behind
    assert list(told.catch_up(2_000)) == []


LONG = "x" * 10_000


def said(frames: Iterable[Frame]) -> list[Any]:
    """The data of the assistant's events."""
    return [f.payload["data"] for f in frames if f.payload.get("stream") == "assistant"]


def kinds(frames: Iterable[Frame]) -> list[Any]:
    return [frame.payload.get("stream", frame.payload.get("state")) for frame in frames]


def test_a_long_answer_costs_its_listeners_not_the_square_of_its_length() -> None:
    told, now, sizes = narrator(), 1_000, list[int]()
    pieces = 2**20 // 32
    for number in range(pieces):
        now = 1_000 + 2 * number
        sizes += [len(dumps(frame.payload)) for frame in told.tell(TextDelta("x" * 32), now)]
    seconds = (now - 1_000) / 1_000

    assert sum(sizes) < 2 * 100_000 * seconds + 2 * 2**20


def test_a_short_answer_is_told_word_by_word() -> None:
    told = narrator()
    frames = [frame for n in range(20) for frame in told.tell(TextDelta("word "), 1_000 + n)]

    assert [one["delta"] for one in said(frames)] == ["word "] * 20


def test_what_was_held_back_comes_with_the_next_piece_that_is_not() -> None:
    told = narrator(TextDelta(LONG))

    assert said(told.tell(TextDelta("a"), 1_001)) == []
    assert said(told.tell(TextDelta("b"), 1_002)) == []
    assert said(told.tell(TextDelta("c"), 1_160)) == [{"text": f"{LONG}abc", "delta": "abc"}]


def test_what_was_held_back_is_told_when_the_model_pauses() -> None:
    told = narrator(TextDelta(LONG), TextDelta("a"))

    assert said(told.catch_up(1_001)) == []
    assert said(told.catch_up(1_160)) == [{"text": f"{LONG}a", "delta": "a"}]
    assert said(told.catch_up(2_000)) == []


def test_what_was_held_back_is_told_before_a_tool_and_before_the_end() -> None:
    told = narrator(TextDelta(LONG), TextDelta("a"))
    looking = list(told.tell(ToolStarted("c", "ls", "{}"), 1_001))
    more = said(told.tell(TextDelta(LONG), 1_002))
    list(told.tell(TextDelta("b"), 1_003))
    ending = list(told.tell(RunCancelled(CancelReason.USER), 1_004))

    assert [f.payload.get("stream", f.payload.get("state")) for f in looking] == [
        "assistant",
        "delta",
        "tool",
    ]
    assert said(looking) == [{"text": f"{LONG}a", "delta": "a"}]
    assert more == [{"text": LONG, "delta": LONG}]
    assert kinds(ending) == ["assistant", "lifecycle", "aborted"]
    assert said(ending) == [{"text": f"{LONG}b", "delta": "b"}]


_STEP = st.one_of(
    st.integers(0, 3_000).map(lambda size: TextDelta("y" * size)),
    st.just(TextDelta("\n\n")),
    st.just(ToolStarted("c", "ls", "{}")),
    st.just(ToolFinished("c", "ls", False, "x")),
    st.none(),  # a timer
)


@given(st.lists(st.tuples(st.integers(0, 40), _STEP), max_size=40))
def test_the_pieces_of_each_message_are_its_text_however_they_come(
    script: list[tuple[int, RunEvent | None]],
) -> None:
    told, now, frames = narrator(), 1_000, list[Frame]()
    for later, event in script:
        now += later
        frames += told.catch_up(now) if event is None else told.tell(event, now)
    frames += told.tell(RunCompleted(told.text, "stop", Usage()), now)

    messages = list[str]()
    for one in said(frames):
        if one["text"] == one["delta"]:
            messages.append("")
        messages[-1] += one["delta"]
        assert messages[-1] == one["text"]
    assert "".join(messages).replace("\n", "") == told.text.replace("\n", "")


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_late_listener_is_told_the_new_piece_and_the_whole(size: int) -> None:
    told = narrator()
    told.hear(TextDelta("x" * size))

    assert said(told.tell(TextDelta("y"), 5_000)) == [{"text": "x" * size + "y", "delta": "y"}]
