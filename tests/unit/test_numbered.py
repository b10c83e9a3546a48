"""Numbered chunks: wherever a client was cut off, what it has and what it gets are the whole."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.cancel import CancelReason
from app.channels.openai.activity import shows_tools
from app.channels.openai.chunks import DONE, Completion
from app.channels.openai.numbered import number_chunks
from app.channels.openai.sse import encoder
from app.errors import GatewayError
from app.events import (
    ReasoningDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from app.messages import ToolCall, Usage
from tests.e2e.http_client import stream_text

texts = st.text(max_size=5)
progress = st.one_of(
    st.builds(TextDelta, texts),
    st.builds(TextDelta, st.integers(0, 256).map(lambda n: "y" * n)),
    st.builds(ReasoningDelta, texts),
    st.builds(ToolStarted, texts, texts, texts),
    st.builds(ToolFinished, texts, texts, st.booleans()),
)
calls = st.lists(st.builds(ToolCall, texts, texts, st.text(max_size=900)), max_size=2).map(tuple)
endings = st.one_of(
    st.builds(RunCompleted, texts, st.just("stop"), st.just(Usage(1, 2)), calls),
    st.just(RunFailed(GatewayError("no"))),
    st.just(RunCancelled(CancelReason.USER)),
)
FRAME = re.compile(rb"id: (\d+)\ndata: (.*)\n\n")


def frames(chunks: bytes) -> list[tuple[int, bytes]]:
    """Number and data of each chunk; between them there may be only comments, each of one line."""
    assert all(line.startswith(b": ") for line in FRAME.sub(b"", chunks).splitlines())
    assert b"\n\n" not in FRAME.sub(b"", chunks)
    return [(int(number), data) for number, data in FRAME.findall(chunks)]


def in_batches(events: list[RunEvent], sizes: list[int], start: int, after: int, encode: object) -> bytes:
    """The chunks for a reader that gets the events after ``start`` so many at a time."""
    written, position = b"", start
    pending = iter(sizes)
    while position < len(events):
        batch = events[position : position + next(pending, 1)]
        written += number_chunks(batch, position, encode, after)  # type: ignore[arg-type]
        position += len(batch)
    return written


sizes = st.lists(st.integers(1, 9), max_size=30)


@given(st.lists(progress, max_size=30), endings, sizes, sizes, st.booleans(), st.booleans(), st.data())
def test_a_stream_cut_behind_any_chunk_goes_on_as_if_it_had_not_been(
    begun: list[RunEvent],
    ending: RunEvent,
    first: list[int],
    second: list[int],
    usage: bool,
    reasoning: bool,
    data: st.DataObject,
) -> None:
    events: list[RunEvent] = [RunStarted(1), *begun, ending]
    completion = Completion("chatcmpl-1", 1, "m", include_usage=usage, reasoning=reasoning)
    encode = encoder(completion, tools=data.draw(st.booleans()))
    whole = frames(in_batches(events, first, 0, -1, encode))
    assert all(a < b for (a, _), (b, _) in pairwise(whole))
    assert whole[-1][1] + b"\n\n" == DONE.removeprefix(b"data: ")

    seen = data.draw(st.integers(0, len(whole) - 1))
    after = whole[seen - 1][0] if seen else 0
    rest = frames(in_batches(events, second, min(after, len(events) - 1), after, encode))

    assert {number for number, _ in rest} == {number for number, _ in rest if number > after}
    both = whole[:seen] + rest
    assert both[-1] == whole[-1]
    assert [chunk for _, chunk in both].count(b"[DONE]") == 1
    assert said(both) == "".join(e.text for e in events if isinstance(e, TextDelta))


def said(chunks: list[tuple[int, bytes]]) -> str:
    return stream_text(b"".join(b"data: " + data + b"\n\n" for _, data in chunks))


def test_tool_activity_is_asked_for_by_its_name_among_others() -> None:
    assert not shows_tools({})
    assert not shows_tools({"x-openclaw-events": "all, toolset"})
    assert shows_tools({"x-openclaw-events": "TOOLS"})
    assert shows_tools({"x-openclaw-events": "lifecycle ,tools"})
