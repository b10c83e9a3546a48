"""Draining a run's stream for a client of HTTP, who may leave at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from ..cancel import CancelReason
from ..events import TERMINAL, RunEvent, TerminalEvent
from ..runs.run import Run
from .client import ClientWatch

KEEP_ALIVE = b": keepalive\n\n"


def stream_events(
    run: Run,
    first: bytes,
    encode: Callable[[Sequence[RunEvent]], bytes],
    client: ClientWatch,
    keep_alive: float,
) -> Generator[bytes]:
    """``first`` at once, then the run's events as ``encode`` writes them, to its terminal event.

    Events that piled up while the client was slow are encoded together. After
    ``keep_alive`` seconds without a sign a comment is sent. A client that leaves, or a
    generator that is closed, cancels the run.
    """
    try:
        yield first
        last_sign = time.monotonic()
        while True:
            events = run.stream.get()
            if data := encode(events):
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
