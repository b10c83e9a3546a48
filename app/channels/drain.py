"""Draining a run's stream for a client of HTTP, who may leave at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from ..events import TERMINAL, RunEvent, TerminalEvent
from .client import ClientWatch

KEEP_ALIVE = b": keepalive\n\n"
_LOOK = 1.0  # seconds


class Source(Protocol):
    """A run, or one who reads a journaled run; who leaves a run stops it, a journaled one goes on."""

    def get(self) -> list[RunEvent]:
        """The next events, none after a nudge; the terminal event comes last."""

    def leave(self) -> None:
        """The client has what it wanted, or is gone. Safe to call twice."""


def stream_events(
    run: Source,
    first: bytes,
    encode: Callable[[Sequence[RunEvent]], bytes],
    client: ClientWatch,
    keep_alive: float,
    sign: bytes = KEEP_ALIVE,
) -> Generator[bytes]:
    """``first`` at once, then the run's events as ``encode`` writes them, to its terminal event.

    Events that piled up while the client was slow are encoded together. After
    ``keep_alive`` seconds of silence a ``sign`` of life is sent. A client that leaves, or a
    generator that is closed, leaves the run.
    """
    try:
        yield first
        last_sign = time.monotonic()
        while True:
            events = run.get()
            if data := encode(events):
                yield data
                last_sign = time.monotonic()
            elif client.gone():
                return
            elif time.monotonic() - last_sign >= keep_alive:
                yield sign
                last_sign = time.monotonic()
            if events and isinstance(events[-1], TERMINAL):
                return
    finally:
        run.leave()


def await_run(run: Source, client: ClientWatch) -> TerminalEvent:
    """The run's terminal event. A client that leaves, leaves the run."""
    last_look = time.monotonic()
    try:
        while True:
            events = run.get()
            for event in events:
                if isinstance(event, TERMINAL):
                    return event
            # A look costs more than a word: while the run talks, one in a while is enough.
            if not events or time.monotonic() - last_look >= _LOOK:
                last_look = time.monotonic()
                if client.gone():
                    run.leave()
    finally:
        run.leave()
