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
        self._lock = threading.Lock()  # guards everything below
        self._readable = threading.Condition(self._lock)
        self._writable = threading.Condition(self._lock)
        self._events: deque[RunEvent] = deque()
        self._limit = limit
        self._open = True
        self._ended = False

    def put(self, event: RunEvent) -> None:
        """Hand over an event; the run thread calls this. Blocks while the stream is full."""
        terminal = isinstance(event, TERMINAL)
        with self._lock:
            if not terminal and self._open and len(self._events) >= self._limit:
                self._writable.wait_for(self._has_room)
            if self._ended or not (self._open or terminal):
                return
            self._ended = terminal
            self._events.append(event)
            self._readable.notify()

    def get(self, timeout: float) -> list[RunEvent]:
        """All events that are waiting, at least one; empty after ``timeout`` seconds.

        After the list that ends with a terminal event nothing more comes.
        """
        with self._lock:
            if not self._events:
                self._readable.wait(timeout)
            events = list(self._events)
            self._events.clear()
            if len(events) >= self._limit:
                self._writable.notify_all()
            return events

    def close(self) -> None:
        """Take no more progress events: the reader has left or the run is being cancelled."""
        with self._lock:
            self._open = False
            self._writable.notify_all()

    def _has_room(self) -> bool:
        return not self._open or len(self._events) < self._limit
