"""Lanes: who may run now. First come, first served.

A session's lane has room for one run, the global lane for a fixed number. A run takes
its place in its session's lane when it is admitted, in order of arrival, waits there for
its turn, and only then queues for the global lane; so a busy session holds no global slot.
"""

from __future__ import annotations

import threading

from ..cancel import CancelToken
from ..errors import SessionBusy


class Place:
    """One run's place in one lane. Leave it exactly when the run is over; twice is harmless."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._turn = threading.Event()

    def wait(self, cancel: CancelToken) -> None:
        """Block until it is this run's turn.

        :raises Cancelled: the run was cancelled while it waited; it still has to leave.
        """
        if not self._turn.is_set():
            remove = cancel.on_cancel(self._turn.set)
            self._turn.wait()
            remove()
        cancel.raise_if_cancelled()

    def leave(self) -> None:
        """Give the place back and let the next run through."""
        self._lane.leave(self)

    def call(self) -> None:
        """Tell the waiting run that its turn has come."""
        self._turn.set()


class Lane:
    """A queue in order of arrival with room for ``width`` runs at a time."""

    def __init__(self, width: int) -> None:
        self._lock = threading.Lock()  # guards both collections
        self._running: set[Place] = set()
        self._waiting: list[Place] = []  # short, and an empty deque is large
        self._width = width

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def enter(self) -> Place:
        """Take the next place in the queue."""
        place = Place(self)
        with self._lock:
            self._waiting.append(place)
            self._advance()
        return place

    def leave(self, place: Place) -> None:
        """Give ``place`` back, wherever in the queue it is."""
        with self._lock:
            if place in self._running:
                self._running.remove(place)
            elif place in self._waiting:
                self._waiting.remove(place)
            self._advance()

    def _advance(self) -> None:
        while self._waiting and len(self._running) < self._width:
            place = self._waiting.pop(0)
            self._running.add(place)
            place.call()


class SessionLanes:
    """One lane of width one per session key, kept only while somebody is in it."""

    def __init__(self, limit: int) -> None:
        """:param limit: runs that may wait for one session, the running one included."""
        self._lock = threading.Lock()  # guards _lanes and who is in them
        self._lanes: dict[str, Lane] = {}
        self._limit = limit

    def __len__(self) -> int:
        return len(self._lanes)

    def size(self, key: str) -> int:
        """How many have a place for session ``key``."""
        lane = self._lanes.get(key)
        return len(lane) if lane is not None else 0

    def enter(self, key: str) -> Place:
        """Take the next place for session ``key``.

        :raises SessionBusy: too many runs wait for this session already.
        """
        with self._lock:
            lane = self._lanes.get(key, Lane(1))
            if len(lane) >= self._limit:
                raise SessionBusy(self._limit)
            self._lanes[key] = lane
            return lane.enter()

    def leave(self, key: str, place: Place) -> None:
        """Give ``place`` back and forget the lane once it is empty."""
        with self._lock:
            place.leave()
            lane = self._lanes.get(key)
            if lane is not None and not len(lane):
                del self._lanes[key]
