"""Sessions' lanes that several processes share: the store keeps the lines, the bus is the bell.

Runs of this process that wait for one session stand in a line of their own first, in the same order, so
that only the first of them asks the store. A bell that is lost costs a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..bus import Bus
from ..cancel import CancelToken
from ..errors import Fenced, SessionBusy, StoreError
from ..log import get_logger
from ..sessions.store import Store
from .lanes import Lane, Place

# Seconds. How often the first of a line looks whether it is its turn, if nobody rings.
_POLL = 1.0
# For how long a store that cannot be reached keeps a run waiting.
_PATIENCE = 30.0

_log = get_logger("run")


class SharedLanes:
    """:class:`~.lanes.Lanes` of all processes that use ``store``. Any thread may call any method."""

    def __init__(
        self, store: Store, bus: Bus, worker: Callable[[], str], limit: int, *, poll: float = _POLL
    ) -> None:
        """:param worker: the id of this process in the store.
        :param limit: runs that may wait for one session, the running one included.
        :param poll: seconds after which the first of a line looks again.
        """
        self._store = store
        self._bus = bus
        self._worker = worker
        self._limit = limit
        self._poll = poll
        self._lock = threading.Lock()  # guards everything below
        self._lines: dict[str, _Line] = {}
        self._owed: dict[str, str] = {}  # places that could not be given back: run -> session key

    def __len__(self) -> int:
        return len(self._lines)

    def size(self, key: str) -> int:
        """See :meth:`~.lanes.Lanes.size`."""
        line = self._lines.get(key)
        return line.members if line is not None else 0

    def enter(self, key: str, run_id: str) -> SharedPlace:
        """See :meth:`~.lanes.Lanes.enter`. Waits for the store."""
        line = self._join(key)
        try:
            with line.entrance:  # the order here is the order in the store
                standing = self._store.enter_lane(key, run_id, self._worker(), self._limit)
                if standing == "full":
                    raise SessionBusy(self._limit)
                return SharedPlace(self, line, key, run_id, held=standing == "held")
        except BaseException:
            self.forget(key, line)
            raise

    def settle(self) -> None:
        """Give back what could not be given back before; called now and then.

        :raises StoreError: it still cannot be.
        """
        with self._lock:
            owed = list(self._owed.items())
        for run_id, key in owed:
            self._store.leave_lane(run_id)
            with self._lock:
                self._owed.pop(run_id, None)
            self._bus.publish(bell(key), b"")

    def wait(self, place: SharedPlace, cancel: CancelToken) -> None:
        """Ask the store for a turn until it gives one; ``place`` is the first of this process."""
        if self._take(place, time.monotonic()):
            return
        silence = self._bus.subscribe(bell(place.key), place.ring)
        forget = cancel.on_cancel(place.wake)
        since = time.monotonic()
        try:
            while not (cancel.cancelled or place.called or self._take(place, since)):
                place.sleep(self._poll)
        finally:
            forget()
            silence()

    def leave(self, place: SharedPlace) -> None:
        """Give ``place`` back to the store, now or as soon as it can be reached, and ring."""
        try:
            self._store.leave_lane(place.run_id)
        except StoreError as error:
            _log.warning("the place of run %s could not be given back yet: %s", place.run_id, error)
            with self._lock:
                self._owed[place.run_id] = place.key
        self._bus.publish(bell(place.key), b"")

    def _take(self, place: SharedPlace, since: float) -> bool:
        try:
            return self._store.take_lane(place.run_id)
        except Fenced:
            raise
        except StoreError:
            if time.monotonic() - since > _PATIENCE:
                raise
            return False

    def _join(self, key: str) -> _Line:
        with self._lock:
            line = self._lines.setdefault(key, _Line())
            if line.members >= self._limit:
                raise SessionBusy(self._limit)
            line.members += 1
            return line

    def forget(self, key: str, line: _Line) -> None:
        """One of ``line`` has left."""
        with self._lock:
            line.members -= 1
            if not line.members:
                del self._lines[key]


class _Line:
    """Those of one session in this process; ``members`` is guarded by the lanes' lock."""

    __slots__ = ("entrance", "lane", "members")

    def __init__(self) -> None:
        self.entrance = threading.Lock()
        self.lane = Lane(1)
        self.members = 0


class SharedPlace:
    """:class:`~.lanes.Turn` in a shared lane.

    :ivar called: somebody has let it go on.
    """

    def __init__(self, lanes: SharedLanes, line: _Line, key: str, run_id: str, *, held: bool) -> None:
        self.key = key
        self.run_id = run_id
        self.called = False
        self._held = held
        self._lanes = lanes
        self._line = line
        self._local: Place = line.lane.enter()
        self._bell = threading.Event()
        self._lock = threading.Lock()  # guards _left
        self._left = False

    def wait(self, cancel: CancelToken) -> None:
        """See :meth:`~.lanes.Turn.wait`."""
        self._local.wait(cancel)
        if not (self._held or self.called):
            self._lanes.wait(self, cancel)
        cancel.raise_if_cancelled()

    def leave(self) -> None:
        """See :meth:`~.lanes.Turn.leave`."""
        with self._lock:
            if self._left:
                return
            self._left = True
        try:
            self._lanes.leave(self)
        finally:
            self._local.leave()
            self._lanes.forget(self.key, self._line)

    def call(self) -> None:
        """See :meth:`~.lanes.Turn.call`."""
        self.called = True
        self._local.call()
        self._bell.set()

    def ring(self, _: bytes) -> None:
        """It may be its turn; the bus calls this."""
        self._bell.set()

    def wake(self) -> None:
        """Look again, whatever for."""
        self._bell.set()

    def sleep(self, seconds: float) -> None:
        """Wait for the bell; the lanes call this in the run's thread."""
        self._bell.wait(seconds)
        self._bell.clear()


def bell(key: str) -> str:
    """The topic on which it is rung for a session."""
    return f"lane:{key}"
