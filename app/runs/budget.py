"""The time a run may take, without the time it spends waiting for a person."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .executor import Deadline, Executor


class TimeBudget:
    """Calls ``action`` once ``seconds`` have passed on the run's own clock. Any thread may use it."""

    def __init__(self, executor: Executor, seconds: float, action: Callable[[], object]) -> None:
        self._executor = executor
        self._action = action
        self._lock = threading.Lock()  # guards everything below
        self._left = seconds
        self._pauses = 0
        self._stopped = False
        self._started_at = time.monotonic()
        self._deadline: Deadline = executor.after(seconds, action)

    @property
    def left(self) -> float:
        """Seconds until ``action``, if nobody pauses the clock."""
        with self._lock:
            running = 0.0 if self._pauses else time.monotonic() - self._started_at
            return max(0.0, self._left - running)

    def stop(self) -> None:
        """The run is over: ``action`` is never called any more."""
        with self._lock:
            self._stopped = True
            self._deadline.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands still inside the block; blocks may nest and overlap."""
        self._pause()
        try:
            yield
        finally:
            self._resume()

    def _pause(self) -> None:
        with self._lock:
            self._pauses += 1
            if self._pauses == 1:
                self._deadline.clear()
                self._left -= time.monotonic() - self._started_at

    def _resume(self) -> None:
        with self._lock:
            self._pauses -= 1
            if self._pauses == 0 and not self._stopped:
                self._started_at = time.monotonic()
                self._deadline = self._executor.after(max(0.0, self._left), self._action)
