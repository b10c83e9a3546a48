"""The bounded stream between a run and the channel that shows it."""

from __future__ import annotations

import threading
from collections import deque

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
        self._events: deque[RunEvent] = deque()
        self._limit = limit
        self._open = True
        self._ended = False

    def put(self, event: RunEvent) -> None:
        """Hand over an event; the run thread calls this. Blocks while the stream is full."""
        terminal = isinstance(event, TERMINAL)
        while not terminal and self._is_full():
            self._writable.wait()
        with self._lock:
            if self._ended or not (self._open or terminal):
                return
            self._ended = terminal
            self._events.append(event)
            self._readable.set()

    def get(self, timeout: float) -> list[RunEvent]:
        """All events that are waiting, at least one; empty after ``timeout`` seconds.

        After the list that ends with a terminal event nothing more comes.
        """
        return self._take() or (self._take() if self._readable.wait(timeout) else [])

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
            events = list(self._events)
            self._events.clear()
            if not events:
                self._readable.clear()
            elif len(events) >= self._limit:
                self._writable.set()
            return events
