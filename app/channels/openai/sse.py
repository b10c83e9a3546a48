"""A run as a stream of OpenAI chunks."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import partial
from itertools import groupby

from ...errors import GatewayError, RunAborted
from ...events import TERMINAL, ReasoningDelta, RunCompleted, RunEvent, RunFailed, TerminalEvent, TextDelta
from ..client import ClientWatch
from ..drain import Source, stream_events
from .activity import Encode, with_tools
from .chunks import DONE, FRAGMENT, Completion, error_event, fragments


def stream_run(
    run: Source, completion: Completion, encode: Encode, client: ClientWatch, keep_alive: float
) -> Generator[bytes]:
    """The run as chunks, always ending in ``[DONE]``; see :func:`~..drain.stream_events`.

    The first chunk comes before anything has happened: it sends the headers.
    """
    return stream_events(run, completion.role(), encode, client, keep_alive)


def encoder(completion: Completion, *, tools: bool = False) -> Encode:
    """What makes chunks of events.

    :param tools: also show what the agent does with its own tools.
    """
    encode = partial(_encode, completion=completion)
    return with_tools(encode) if tools else encode


def error_of(event: TerminalEvent) -> GatewayError:
    """The error that a run without an answer ended with."""
    if isinstance(event, RunFailed):
        return event.error
    assert not isinstance(event, RunCompleted), "a completed run has an answer"
    return RunAborted(event.reason)


def _encode(events: Sequence[RunEvent], completion: Completion) -> bytes:
    """The chunks for ``events``; text that piled up while the client was slow goes as one."""
    if len(events) == 1 and isinstance(only := events[0], TextDelta) and len(only.text) <= FRAGMENT:
        return completion.content(only.text)  # a word at a time: the rest would cost more than the chunk
    chunks: list[bytes] = []
    for kind, group in groupby(events, type):
        if kind is TextDelta:
            chunks += map(completion.content, fragments(_joined(group)))
        elif kind is ReasoningDelta and completion.shows_reasoning:
            chunks.append(completion.reasoning(_joined(group)))
        elif kind in TERMINAL:
            chunks += (_end(event, completion) for event in group if isinstance(event, TERMINAL))
    return b"".join(chunks)


def _joined(deltas: Iterable[RunEvent]) -> str:
    return "".join(event.text for event in deltas if isinstance(event, TextDelta | ReasoningDelta))


def _end(event: TerminalEvent, completion: Completion) -> bytes:
    if isinstance(event, RunCompleted):
        return completion.end(event)
    return error_event(error_of(event)) + DONE
