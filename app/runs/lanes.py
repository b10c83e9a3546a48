"""Lanes: who may run now. First come, first served.

A session's lane has room for one run, the global lane for a fixed number. A run takes
its place in its session's lane when it is admitted, in order of arrival, waits there for
its turn, and only then queues for the global lane; so a busy session holds no global slot.
Where several processes serve one gateway, sessions' lanes are theirs together (:mod:`.shared_lanes`).
"""

from __future__ import annotations

import threading
from typing import Protocol

from ..cancel import CancelToken
from ..errors import SessionBusy


class Turn(Protocol):
    """One run's place in the lane of its session. Leave it when the run is over; twice is harmless."""

    def wait(self, cancel: CancelToken) -> None:
        """Block until it is this run's turn, or somebody has called it.

        :raises Cancelled: the run was cancelled while it waited; it still has to leave.
        :raises StoreError: it has lost its place.
        """

    def leave(self) -> None:
        """Give the place back and let the next run through."""

    def call(self) -> None:
        """Let the waiting run go on, whether it is its turn or not."""


class Lanes(Protocol):
    """The lanes of all sessions. Any thread may call any method."""

    def enter(self, key: str, run_id: str) -> Turn:
        """Take the next place for session ``key``.

        :raises SessionBusy: too many runs wait for this session already.
        :raises StoreError: there is no telling.
        """

    def size(self, key: str) -> int:
        """How many of this process have a place for session ``key``."""


class Place:
    """One run's place in one lane, as :class:`Turn` has it."""

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
        return self.admit(Place(self))

    def admit(self, place: Place) -> Place:
        """Let ``place`` be the next in the queue."""
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
    """:class:`Lanes` of one process: one of width one per session key, kept only while somebody is in it."""

    def __init__(self, limit: int) -> None:
        """:param limit: runs that may wait for one session, the running one included."""
        self._lock = threading.Lock()  # guards _lanes and who is in them
        self._lanes: dict[str, Lane] = {}
        self._limit = limit

    def __len__(self) -> int:
        return len(self._lanes)

    def size(self, key: str) -> int:
        """See :meth:`Lanes.size`."""
        lane = self._lanes.get(key)
        return len(lane) if lane is not None else 0

    def enter(self, key: str, run_id: str) -> Place:  # noqa: ARG002 - only who shares lanes has to tell runs apart
        """See :meth:`Lanes.enter`."""
        with self._lock:
            lane = self._lanes.get(key, Lane(1))
            if len(lane) >= self._limit:
                raise SessionBusy(self._limit)
            self._lanes[key] = lane
            return lane.admit(_SessionPlace(lane, self, key))

    def leave(self, key: str, lane: Lane, place: Place) -> None:
        """Give ``place`` back and forget the lane once it is empty."""
        with self._lock:
            lane.leave(place)
            if not len(lane) and self._lanes.get(key) is lane:
                del self._lanes[key]


class _SessionPlace(Place):
    """A place in a lane that is kept only while somebody is in it."""

    def __init__(self, lane: Lane, lanes: SessionLanes, key: str) -> None:
        super().__init__(lane)
        self._lanes = lanes
        self._key = key

    def leave(self) -> None:
        self._lanes.leave(self._key, self._lane, self)
