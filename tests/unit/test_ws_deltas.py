"""When a chat's deltas are told: at most one in a while, but nothing is kept back for good."""

from __future__ import annotations

from app.channels.ws.events import DELTA_MILLISECONDS, Frame, Narrator
from app.events import RunCompleted, RunEvent, RunStarted, TextDelta, ToolStarted
from app.messages import Usage


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
