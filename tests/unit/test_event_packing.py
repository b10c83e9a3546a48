"""A run's events on their way between processes: every one comes back as it was."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.agents.turn import SEPARATOR
from app.cancel import CancelReason
from app.errors import GatewayBusy, GatewayError, ProviderError, ProviderReason, RunTimeout
from app.events import (
    ApprovalRequested,
    ApprovalResolved,
    ContextCompacted,
    ReasoningDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
    ToolUpdated,
)
from app.messages import ToolCall, Usage
from app.runs.event_packing import UnreadableEvent, merged, pack_events, unpack_events
from app.wire import dumps, loads

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
number = st.integers(0, 2**50)
calls = st.lists(st.builds(ToolCall, text, text, text), max_size=3).map(tuple)
errors = st.one_of(
    st.builds(GatewayError, text),
    st.builds(GatewayBusy),
    st.builds(RunTimeout, st.floats(1, 1e6)),
    st.builds(
        ProviderError, st.sampled_from(ProviderReason), text, retry_after=st.none() | st.floats(0, 1e6)
    ),
)
progress = st.one_of(
    st.builds(RunStarted, number),
    st.builds(TextDelta, text),
    st.just(TextDelta(SEPARATOR)),
    st.builds(ReasoningDelta, text),
    st.builds(ToolStarted, text, text, text),
    st.builds(ToolUpdated, text, text, text),
    st.builds(ToolFinished, text, text, st.booleans(), text),
    st.builds(ApprovalRequested, text, text, text, text, number),
    st.builds(ApprovalResolved, text, text),
    st.builds(ContextCompacted, number, number),
)
terminal = st.one_of(
    st.builds(
        RunCompleted,
        text,
        st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
        st.builds(Usage, number, number, number, number, number),
        calls,
        text,
        text,
    ),
    st.builds(RunFailed, errors),
    st.builds(RunCancelled, st.sampled_from(CancelReason)),
)


def carried(events: Sequence[RunEvent]) -> list[RunEvent]:
    """The events after a journey as bytes."""
    values = loads(dumps(pack_events(events)))
    assert isinstance(values, list)
    return unpack_events(values)


def told(event: RunEvent) -> object:
    """All that can be seen of an event; two errors are equal if they say the same."""
    if isinstance(event, RunFailed):
        error = event.error
        return (error.message, error.status, error.type, error.code, error.param, error.retry_after)
    if isinstance(event, RunCompleted):
        return (event, event.model, event.reasoning)
    return event


@settings(max_examples=200)
@given(st.lists(progress | terminal, max_size=12))
def test_every_event_comes_back_as_it_was(events: list[RunEvent]) -> None:
    assert [told(event) for event in carried(events)] == [told(event) for event in events]


@settings(max_examples=200)
@given(st.lists(progress, max_size=20))
def test_merging_changes_neither_the_text_nor_what_lies_between(events: list[RunEvent]) -> None:
    fewer = merged(events)

    assert _texts(fewer) == _texts(events)
    assert [one for one in fewer if _stays(one)] == [one for one in events if _stays(one)]
    assert not any(_melts(before) and _melts(after) for before, after in itertools.pairwise(fewer))


def _melts(event: RunEvent) -> bool:
    return isinstance(event, TextDelta) and event.text != SEPARATOR


def _stays(event: RunEvent) -> bool:
    return not _melts(event)


def _texts(events: Sequence[RunEvent]) -> list[str]:
    """What is said between those events that stay."""
    parts = [""]
    for event in events:
        if isinstance(event, TextDelta) and event.text != SEPARATOR:
            parts[-1] += event.text
        else:
            parts.append("")
    return parts


_USED = [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "value",
    [
        *(["?", 1], [], "t", None, ["t"], ["stop", "tea"], ["ok", "x"], {"a": 1}),
        *(["t", 5], ["t", None], ["s", "now"], ["f", "c", "read", "no", "text"], [["t"], "x"]),
        ["ok", 5, "stop", _USED, [], "m", ""],
        ["ok", "text", "stop", [1, "2", 3, 4, 5], [], "m", ""],
        ["ok", "text", "stop", _USED, [["c", "read", {}]], "m", ""],
        ["ok", "text", None, _USED, [], "m", ""],
        ["error", "words", "500", "t", None, None, None],
        ["error", "words", 500, "t", 3, None, None],
        ["error", None, 500, "t", None, None, None],
        ["error", "words", 500, "t", None, None, "soon"],
    ],
)
def test_what_is_no_event_is_refused(value: object) -> None:
    with pytest.raises(UnreadableEvent):
        unpack_events([value])  # type: ignore[list-item]
