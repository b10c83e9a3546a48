"""The only module that starts threads.

Under gunicorn's gevent worker these are greenlets, in a plain host they are real threads;
the code is the same.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from ..log import get_logger

_CROWD = 1_000

_log = get_logger("run")


class Executor:
    """Starts named threads and fires deadlines. Any thread may call any method."""

    def __init__(self) -> None:
        # Guards the heap, _closed and _timer; reentrant for the condition's sake, as in RunService.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._deadlines: list[tuple[float, int, Deadline]] = []
        self._crowd = _CROWD
        self._order = itertools.count()
        self._timer: threading.Thread | None = None
        self._closed = False

    def spawn(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Run ``work`` in a thread of its own. ``work`` handles its own errors.

        The thread is a daemon: whoever needs its work finished waits for it.
        """
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def after(self, seconds: float, action: Callable[[], object]) -> Deadline:
        """Call ``action`` once, ``seconds`` from now, unless the deadline is cleared first.

        ``action`` must be quick; all deadlines share one thread.
        """
        deadline = Deadline(action)
        with self._lock:
            self._forget_cleared()
            heapq.heappush(self._deadlines, (time.monotonic() + seconds, next(self._order), deadline))
            if self._timer is None:
                self._timer = self.spawn("openclaw-deadlines", self._watch)
            if self._deadlines[0][2] is deadline:
                self._changed.notify()
        return deadline

    def close(self) -> None:
        """Stop watching deadlines; those that are left never fire."""
        with self._lock:
            self._closed = True
            self._changed.notify()
            timer = self._timer
        if timer is not None:
            timer.join(5)

    def _watch(self) -> None:
        while (deadline := self._next_due()) is not None:
            try:
                deadline.fire()
            except Exception:  # a tool's cancel callback, perhaps; the other deadlines still hold
                _log.exception("a deadline's action failed")

    def _next_due(self) -> Deadline | None:
        with self._lock:
            while not self._closed:
                self._forget_cleared()
                now = time.monotonic()
                if self._deadlines and self._deadlines[0][0] <= now:
                    return heapq.heappop(self._deadlines)[2]
                self._changed.wait(self._deadlines[0][0] - now if self._deadlines else None)
            return None

    def _forget_cleared(self) -> None:
        if len(self._deadlines) > self._crowd:  # many short runs are waiting behind a long one
            self._deadlines = [entry for entry in self._deadlines if not entry[2].cleared]
            heapq.heapify(self._deadlines)
            self._crowd = max(_CROWD, 2 * len(self._deadlines))
        while self._deadlines and self._deadlines[0][2].cleared:
            heapq.heappop(self._deadlines)


class Deadline:
    """An action that is due at a certain time, unless somebody clears it."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    @property
    def cleared(self) -> bool:
        """True once the action has run or will never run."""
        return self._action is None

    def clear(self) -> None:
        """Forget the action, so that whatever it holds can be freed."""
        self._action = None

    def fire(self) -> None:
        """Run the action unless it was cleared."""
        action, self._action = self._action, None
        if action is not None:
            action()
