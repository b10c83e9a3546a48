"""Cooperative cancellation: one sticky token per run.

The race this module exists for: a callback is registered at the same moment as another
thread cancels. The lock decides which came first; either way the callback runs exactly
once, and always outside the lock, so that it may itself use the token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum


class CancelReason(StrEnum):
    """Who stopped the run."""

    USER = "user"
    DISCONNECT = "disconnect"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LOST = "lost"


class Cancelled(BaseException):
    """Raised inside a run once its token is cancelled.

    Not an ``Exception``: a tool's ``except Exception`` must not swallow it.
    """

    def __init__(self, reason: CancelReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CancelToken:
    """Carries one wish, "stop", from any thread to everything a run is waiting for.

    The first :meth:`cancel` wins and is never undone. Any thread may call any method.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._reason: CancelReason | None = None
        self._settled = False
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_id = 0

    @property
    def cancelled(self) -> bool:
        """True once somebody has cancelled."""
        return self._reason is not None

    @property
    def reason(self) -> CancelReason | None:
        """Why, or None while nobody has cancelled."""
        return self._reason

    def cancel(self, reason: CancelReason) -> bool:
        """Ask for the stop; True if this call was the first.

        Callbacks run in the calling thread, once each, before this returns.
        """
        with self._lock:
            if self._settled or self._reason is not None:
                return False
            self._reason = reason
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()
        return True

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Run ``callback`` on cancellation, at once if that has happened already.

        ``callback`` must be quick and must not raise. Returns a function that removes it.
        """
        with self._lock:
            if self._reason is None:
                callback_id = self._next_id
                self._next_id += 1
                self._callbacks[callback_id] = callback
                return lambda: self._remove(callback_id)
        callback()
        return lambda: None

    def raise_if_cancelled(self) -> None:
        """Raise :class:`Cancelled` if somebody has cancelled."""
        if self._reason is not None:
            raise Cancelled(self._reason)

    def sleep(self, seconds: float) -> None:
        """Wait, but raise :class:`Cancelled` as soon as somebody cancels."""
        woken = threading.Event()
        forget = self.on_cancel(woken.set)
        woken.wait(seconds)
        forget()
        self.raise_if_cancelled()

    def settle(self) -> None:
        """It is too late to cancel: forget all callbacks, and let every later :meth:`cancel` be False."""
        with self._lock:
            self._settled = True
            self._callbacks.clear()

    def _remove(self, callback_id: int) -> None:
        with self._lock:
            self._callbacks.pop(callback_id, None)
