"""A run as a stream of OpenAI chunks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial

from ...errors import GatewayError, RunAborted
from ...events import TERMINAL, RunCompleted, RunEvent, RunFailed, TerminalEvent, TextDelta
from ...runs.run import Run
from ..client import ClientWatch
from ..drain import stream_events
from .chunks import DONE, Completion, error_event


def stream_run(run: Run, completion: Completion, client: ClientWatch, keep_alive: float) -> Generator[bytes]:
    """The run as chunks, always ending in ``[DONE]``; see :func:`~..drain.stream_events`.

    The first chunk comes before anything has happened: it sends the headers.
    """
    encode = partial(_encode, completion=completion)
    return stream_events(run, completion.role(), encode, client, keep_alive)


def error_of(event: TerminalEvent) -> GatewayError:
    """The error that a run without an answer ended with."""
    if isinstance(event, RunFailed):
        return event.error
    assert not isinstance(event, RunCompleted), "a completed run has an answer"
    return RunAborted(event.reason)


def _encode(events: Sequence[RunEvent], completion: Completion) -> bytes:
    """The chunks for ``events``; text that piled up while the client was slow goes as one."""
    text: list[str] = []
    end = b""
    for event in events:
        if isinstance(event, TextDelta):
            text.append(event.text)
        elif isinstance(event, RunCompleted):
            end = completion.end(event.finish_reason, event.usage)
        elif isinstance(event, TERMINAL):
            end = error_event(error_of(event)) + DONE
    return (completion.content("".join(text)) if text else b"") + end
