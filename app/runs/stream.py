"""The bounded stream between a run and the channel that shows it."""

from __future__ import annotations

import threading

from ..events import TERMINAL, RunEvent


class RunStream:
    """Typed events from one run thread to one reader, ending with one terminal event.

    A full stream blocks its run and nobody else. A reader that leaves frees the run at
    once: from then on events are dropped. The terminal event never waits for room, so a
    run can always end.
    """

    def __init__(self, limit: int = 256) -> None:
        """:param limit: progress events that may wait for the reader."""
        # Events, not conditions: a condition on a plain lock finds out whether it is held by trying
        # to take it, and under gevent every such try is a trip through the event loop.
        self._lock = threading.Lock()  # guards everything below
        self._readable = threading.Event()
        self._writable = threading.Event()
        self._events: list[RunEvent] = []
        self._limit = limit
        self._open = True
        self._ended = False
        self._quiet = False  # nothing was put since the last nudge; a race here costs one nudge

    def put(self, event: RunEvent) -> None:
        """Hand over an event; the run thread calls this. Blocks while the stream is full."""
        terminal = isinstance(event, TERMINAL)
        while not terminal and self._is_full():
            self._writable.wait()
        with self._lock:
            if self._ended or not (self._open or terminal):
                return
            self._ended = terminal
            self._quiet = False
            self._events.append(event)
            self._readable.set()

    def get(self, timeout: float | None = None) -> list[RunEvent]:
        """All events that are waiting, at least one; empty after ``timeout`` seconds or a nudge.

        After the list that ends with a terminal event nothing more comes. Without a time-out
        this relies on nudges: a timer for each event would cost more than the event.
        """
        return self._take() or (self._take() if self._readable.wait(timeout) else [])

    def nudge(self) -> None:
        """Wake the reader, with nothing, if nothing has come since the last nudge."""
        if self._quiet:
            self._readable.set()
        self._quiet = True

    def close(self) -> None:
        """Take no more progress events: the reader has left or the run is being cancelled."""
        with self._lock:
            self._open = False
            self._writable.set()

    def _is_full(self) -> bool:
        """True if the writer has to wait, until ``_writable`` is set."""
        if len(self._events) < self._limit:
            return False
        with self._lock:
            full = self._open and len(self._events) >= self._limit
            if full:
                self._writable.clear()
            return full

    def _take(self) -> list[RunEvent]:
        with self._lock:
            events, self._events = self._events, []
            if not events:
                self._readable.clear()
            elif len(events) >= self._limit:
                self._writable.set()
            return events
