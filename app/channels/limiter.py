"""Counts wrong secrets per client and locks clients out, in all workers of a gateway at once."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ..bus import Bus
from ..config import RateLimitConfig
from ..errors import TooManyFailures
from ..log import get_logger
from ..wire import InvalidJson, dumps, loads

MAX_CLIENTS = 10_000

_TOPIC = "auth"

_log = get_logger("auth")


@dataclass(slots=True)
class _History:
    failures: list[float] = field(default_factory=list)
    locked_until: float = 0.0


class FailureLimiter:
    """The failures of every client within a window. Bounded in memory; any thread may call any method.

    Over a shared bus each worker knows the failures that all have seen, so that whether a client is locked
    out is looked up here and nowhere else. Attempts that several workers see in the same moment are counted
    by the bus, and exactly.
    """

    def __init__(
        self, limits: RateLimitConfig, monotonic: Callable[[], float], bus: Bus | None = None
    ) -> None:
        """:param bus: of the gateway; one that is not shared is of no use here."""
        self._lock = threading.Lock()  # guards _clients
        self._clients: dict[str, _History] = {}
        self._attempts = limits.max_attempts
        self._window = limits.window_ms / 1000
        self._lockout = limits.lockout_ms / 1000
        self._now = monotonic
        self._bus = bus if bus is not None and bus.shared else None
        self._me = secrets.token_hex(8)
        if self._bus is not None:
            self._bus.subscribe(_TOPIC, self._hear)

    def check(self, client: str) -> None:
        """:raises TooManyFailures: the client is locked out, with the seconds that are left."""
        with self._lock:
            history = self._clients.get(client)
            left = history.locked_until - self._now() if history else 0.0
        if left > 0:
            raise TooManyFailures(left)

    def forget(self, client: str) -> None:
        """The client knew the secret: its history is void."""
        if client in self._clients and self._drop(client) and self._bus is not None:
            self._bus.forget(_counter(client))
            self._bus.publish(_TOPIC, dumps([self._me, client, None]))

    def record(self, client: str, *, may_lock: bool) -> int:
        """Count a failure; returns how many there were within the window.

        :raises TooManyFailures: there is no room for one more client that has failed.
        """
        failures = self._add(client)
        if self._bus is not None:
            failures = max(failures, self._bus.count(_counter(client), self._window))
        locks = may_lock and failures >= self._attempts
        if locks:
            self._shut_out(client)
        if self._bus is not None:
            self._bus.publish(_TOPIC, dumps([self._me, client, locks]))
        return failures

    def _add(self, client: str) -> int:
        now = self._now()
        with self._lock:
            history = self._clients.get(client) or self._admit(client, now)
            history.failures = [t for t in history.failures if now - t < self._window][-self._attempts :]
            history.failures.append(now)
            return len(history.failures)

    def _shut_out(self, client: str) -> None:
        now = self._now()
        with self._lock:
            history = self._clients.get(client) or self._admit(client, now)
            history.locked_until = now + self._lockout

    def _drop(self, client: str) -> bool:
        with self._lock:
            return self._clients.pop(client, None) is not None

    def _hear(self, message: bytes) -> None:
        """Another worker tells what a client has done: failed, been locked out, or known the secret."""
        try:
            match loads(message):
                case [str(sender), str(client), None | bool() as locks] if sender != self._me:
                    self._follow(client, locks)
        except InvalidJson:
            _log.warning("what another worker tells of a client could not be read")
        except TooManyFailures:
            return  # no room for one more, and that one is no client of this worker's

    def _follow(self, client: str, locks: bool | None) -> None:
        if locks is None:
            self._drop(client)
            return
        self._add(client)
        if locks:
            self._shut_out(client)

    def _admit(self, client: str, now: float) -> _History:
        if len(self._clients) >= MAX_CLIENTS:
            self._make_room(now)
        return self._clients.setdefault(client, _History())

    def _make_room(self, now: float) -> None:
        """Drop what has expired, else the oldest client that is not locked.

        :raises TooManyFailures: everybody is locked: an attack from thousands of addresses.
        """
        unlocked = [name for name, history in self._clients.items() if history.locked_until <= now]
        expired = [name for name in unlocked if self._is_over(self._clients[name], now)]
        for name in expired or unlocked[:1]:
            del self._clients[name]
        if not unlocked:
            raise TooManyFailures(self._lockout)

    def _is_over(self, history: _History, now: float) -> bool:
        return not history.failures or now - history.failures[-1] >= self._window


def _counter(client: str) -> str:
    return f"auth:{client}"
