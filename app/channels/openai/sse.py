"""Draining a run: into a stream of chunks, or into one answer."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable

from ...cancel import CancelReason
from ...errors import GatewayError, RunAborted
from ...events import TERMINAL, RunCompleted, RunEvent, RunFailed, TerminalEvent, TextDelta
from ...runs.run import Run
from ..client import ClientWatch
from .chunks import DONE, KEEP_ALIVE, Completion, error_event


def stream_run(run: Run, completion: Completion, client: ClientWatch, keep_alive: float) -> Generator[bytes]:
    """The run as server-sent events, always ending in ``[DONE]``.

    The first chunk comes before anything has happened: it sends the headers. A client that
    leaves cancels the run. ``keep_alive`` is the longest silence in seconds.
    """
    try:
        yield completion.role()
        last_sign = time.monotonic()
        while True:
            events = run.stream.get()
            if data := _encode(events, completion):
                yield data
                last_sign = time.monotonic()
            elif client.gone():
                return
            elif time.monotonic() - last_sign >= keep_alive:
                yield KEEP_ALIVE
                last_sign = time.monotonic()
            if events and isinstance(events[-1], TERMINAL):
                return
    finally:
        run.cancel(CancelReason.DISCONNECT)


def await_run(run: Run, client: ClientWatch) -> TerminalEvent:
    """The run's terminal event. A client that leaves cancels the run."""
    try:
        while True:
            for event in run.stream.get():
                if isinstance(event, TERMINAL):
                    return event
            if client.gone():
                run.cancel(CancelReason.DISCONNECT)
    finally:
        run.cancel(CancelReason.DISCONNECT)


def error_of(event: TerminalEvent) -> GatewayError:
    """The error that a run without an answer ended with."""
    if isinstance(event, RunFailed):
        return event.error
    assert not isinstance(event, RunCompleted), "a completed run has an answer"
    return RunAborted(event.reason)


def _encode(events: Iterable[RunEvent], completion: Completion) -> bytes:
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
