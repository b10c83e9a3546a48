"""The bus of a gateway that is one process: dictionaries, and nothing that runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from . import Hear
from .expiring import Expiring
from .listeners import Listeners
from .logs import Logs

_MOST_NAMES = 20_000
_MOST_GROUPS = 1_000


class LocalBus:
    """See :class:`Bus`. Bounded in memory: what was said first makes room."""

    shared = False
    healthy = True
    published = dropped = 0

    def __init__(
        self, listeners: Listeners | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """:param monotonic: the clock, in seconds."""
        self._listeners = listeners or Listeners()
        self._now = monotonic
        self._lock = threading.Lock()  # guards everything below
        self._claims: Expiring[bytes] = Expiring(_MOST_NAMES)
        self._counters: Expiring[int] = Expiring(_MOST_NAMES)
        self._groups: Expiring[dict[str, bytes]] = Expiring(_MOST_GROUPS)
        self._logs = Logs()

    def publish(self, topic: str, message: bytes) -> None:
        """See :meth:`Bus.publish`."""
        self._listeners.tell(topic, message)

    def subscribe(self, topic: str, hear: Hear) -> Callable[[], None]:
        """See :meth:`Bus.subscribe`."""
        return self._listeners.add(topic, hear)

    def wanted(self, topic: str) -> bool:  # noqa: ARG002 - the contract's name
        """False: there is no other process."""
        return False

    def record(self, log: str, entries: Sequence[bytes], seconds: float) -> None:
        """See :meth:`Bus.record`."""
        self.add(log, entries, seconds)

    def add(self, log: str, entries: Sequence[bytes], seconds: float) -> tuple[int, int]:
        """Record; the number before the first of ``entries``, and the newest that is not kept."""
        with self._lock:
            now = self._now()
            return self._logs.add(log, entries, now + seconds, now)

    def replay(self, log: str, after: int = 0) -> list[tuple[int, bytes]]:
        """See :meth:`Bus.replay`."""
        with self._lock:
            return self._logs.after(log, after, self._now())

    def claim(self, name: str, value: bytes, seconds: float) -> bytes | None:
        """See :meth:`Bus.claim`."""
        with self._lock:
            now = self._now()
            taken = self._claims.get(name, now)
            if taken is not None and taken != value:
                return taken
            self._claims.put(name, value, now + seconds, now)
            return None

    def take(self, name: str, value: bytes, seconds: float) -> None:
        """Take ``name``, whoever has it."""
        with self._lock:
            now = self._now()
            self._claims.put(name, value, now + seconds, now)

    def held(self, name: str) -> bytes | None:
        """See :meth:`Bus.held`."""
        with self._lock:
            return self._claims.get(name, self._now())

    def release(self, name: str, value: bytes) -> None:
        """See :meth:`Bus.release`."""
        with self._lock:
            if self._claims.get(name, self._now()) == value:
                self._claims.drop(name)

    def count(self, name: str, seconds: float, more: int = 1) -> int:
        """See :meth:`Bus.count`."""
        with self._lock:
            now = self._now()
            counted = self._counters.get(name, now)
            until = now + (seconds if counted is None else self._counters.left(name, now))
            total = (counted or 0) + more
            self._counters.put(name, total, until, now)
            return total

    def forget(self, name: str) -> None:
        """See :meth:`Bus.forget`."""
        with self._lock:
            self._counters.drop(name)

    def announce(self, group: str, members: Mapping[str, bytes], seconds: float) -> None:
        """See :meth:`Bus.announce`."""
        with self._lock:
            now = self._now()
            self._groups.put(group, dict(members), now + seconds, now)

    def present(self, group: str) -> dict[str, bytes]:
        """See :meth:`Bus.present`."""
        with self._lock:
            return dict(self._groups.get(group, self._now()) or {})

    def close(self) -> None:
        """Nothing to give back."""

    def knows(self, log: str) -> bool:
        """True if this process has added to a log."""
        return log in self._logs

    def claims(self) -> Iterator[tuple[str, bytes, float]]:
        """Name, value and seconds left of what is taken."""
        with self._lock:
            return self._claims.items(self._now())

    def groups(self) -> Iterator[tuple[str, dict[str, bytes], float]]:
        """Name, members and seconds left of every group."""
        with self._lock:
            return self._groups.items(self._now())

    def logs(self) -> Iterator[tuple[str, int, float]]:
        """Name, number of the newest entry and seconds left of every log."""
        with self._lock:
            return self._logs.kept(self._now())
