"""This process among those that serve one gateway: alive as long as it says so, and watching the others.

The store decides who lives, by its own clock. Whoever is taken for dead has lost its runs, whatever it
still does: the store takes nothing from it, and it has to begin anew under another id.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..cancel import CancelReason
from ..errors import StoreError
from ..log import get_logger
from ..sessions.records import Run as RunRecord
from ..sessions.store import Store
from .executor import Executor

LEASE = 15.0  # seconds for which a process lives without a word

_BEATS = 3  # as often in a lease it says that it lives
_LOOK = 0.25  # seconds between two looks whether an earlier process has ended

_log = get_logger("worker")


@dataclass(frozen=True, slots=True)
class Duties:
    """What a worker calls, in its own thread. All of it may raise :class:`StoreError`.

    :ivar lost: it was taken for dead: all its runs are to stop.
    :ivar swept: another was; these are the runs that it had begun.
    :ivar cancel: somebody elsewhere has asked for the stop of a run.
    :ivar resume: runs that wait in the store may have nobody any more.
    :ivar settle: once in a while.
    """

    lost: Callable[[], object]
    swept: Callable[[Sequence[RunRecord]], object]
    cancel: Callable[[str, CancelReason], object]
    resume: Callable[[], object]
    settle: Callable[[], object]


class Worker:
    """Keeps this process alive in the store. Any thread may call any method.

    :ivar id: of this process in the store; another one after it was taken for dead.
    :ivar name: what an operator knows the process by.
    :ivar well: the store could be reached when it was last asked.
    """

    def __init__(self, store: Store, executor: Executor, name: str, *, lease: float = LEASE) -> None:
        """:param lease: seconds for which it lives without a word."""
        self.id = str(uuid.uuid4())
        self.well = True
        self._store = store
        self._executor = executor
        self.name = name
        self._lease = lease
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._joined = False
        self._trouble_at = -float("inf")  # when the store last failed

    @property
    def joined(self) -> bool:
        """Whether it lives, as far as it knows."""
        return self._joined

    def wait_until_alone(self) -> None:
        """Join as the only one, once an earlier process has ended or its time is up.

        :raises StoreError: another one lives on, or the store cannot be reached.
        """
        deadline = time.monotonic() + self._lease + 1
        self._join()
        while others := self._store.others(self.id):
            if time.monotonic() > deadline:
                self._quit()
                raise StoreError(
                    f"Another gateway uses this database ({', '.join(others)}). Several of them can share it "
                    "once all of them have a Redis, too: set REDIS_URL."
                )
            self._stop.wait(_LOOK)
            self._store.beat(self.id, self._lease)
            self._store.sweep(_now())

    def start(self, duties: Duties) -> None:
        """Live from now on; a store that cannot be reached is asked again until it can."""
        if not self._joined:
            self._attempt(self._join)
        self._thread = self._executor.spawn("openclaw-worker", lambda: self._live(duties))

    def close(self) -> None:
        """Live no more: what is queued is for others to do. Safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._lease)
        self._quit()

    def _join(self) -> None:
        self._store.join(self.id, self.name, self._lease)
        self._joined = True

    def _quit(self) -> None:
        if self._joined:
            self._attempt(lambda: self._store.quit(self.id))
            self._joined = False

    def _live(self, duties: Duties) -> None:
        """The body of the worker's thread."""
        while not self._stop.is_set():
            self._attempt(lambda: self._beat(duties))
            # Not all at the same time: whoever comes first does the work.
            pause = self._lease / _BEATS if self.well else min(1.0, self._lease / _BEATS)
            self._stop.wait(pause * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    def _beat(self, duties: Duties) -> None:
        began = time.monotonic()
        if not self._joined:
            self._join()
        elif not self._store.beat(self.id, self._lease):
            self._begin_anew(duties)
        if time.monotonic() - began > self._lease / _BEATS:  # a store that kept us waiting was away for all
            self._trouble_at = time.monotonic()
        for run_id, reason in self._store.cancels(self.id).items():
            duties.cancel(run_id, CancelReason(reason))
        duties.settle()
        if time.monotonic() - self._trouble_at > self._lease:
            lost = self._store.sweep(_now())
            if lost:
                _log.warning("%d runs were lost with the process they were in", len(lost))
            duties.swept(lost)
            duties.resume()

    def _begin_anew(self, duties: Duties) -> None:
        _log.error("nothing was heard of this process for too long: its runs were given up by the others")
        duties.lost()
        fresh = str(uuid.uuid4())
        self._store.join(fresh, self.name, self._lease)
        self.id = fresh

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
            self.well = True
        except StoreError as error:
            if self.well:
                _log.warning("the store cannot be reached: %s", error)
            self.well = False
            self._trouble_at = time.monotonic()
        except Exception:  # the process would be taken for dead
            _log.exception("a worker's duty failed")


def _now() -> int:
    return time.time_ns() // 1_000_000
