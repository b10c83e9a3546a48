"""What is old goes: looked for now and then, deleted a little at a time."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from ..bus import Bus
from ..errors import StoreError
from ..log import get_logger
from ..sessions.pruning import Ages, Pruned
from ..sessions.store import Store
from .executor import Executor

EVERY = 3_600.0  # seconds between two looks

_AT_ONCE = 20  # sessions and runs in one transaction, so that nobody waits long for it
_PAUSE = 0.1  # seconds between two of them
_CLAIM = "retention"

_log = get_logger("retention")


@dataclass(frozen=True, slots=True)
class Rules:
    """For how many seconds things are kept; None for ever.

    :ivar idle: a session since its last use. :ivar archived: a session since it was archived.
    :ivar runs: the record of a run since its beginning.
    :ivar enforced: what is old is deleted; else the log tells of it.
    """

    idle: float | None = None
    archived: float | None = None
    runs: float | None = None
    enforced: bool = False

    def ages(self, now: int) -> Ages | None:
        """What is old ``now``, in Unix milliseconds; None if nothing ever is."""
        kept = (self.idle, self.archived, self.runs)
        if all(seconds is None for seconds in kept):
            return None
        idle, archived, runs = (None if one is None else now - int(one * 1000) for one in kept)
        return Ages(idle, archived, runs)


class Retention:
    """Looks for what is old, once in a while, as long as the executor lives.

    Of several processes that share a bus one does.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        executor: Executor,
        rules: Callable[[], Rules],
        clock: Callable[[], int],
        *,
        every: float = EVERY,
    ) -> None:
        """:param rules: asked before each look.
        :param clock: Unix time in milliseconds.
        :param every: seconds between two looks; the first one comes at some moment before.
        """
        self._store = store
        self._bus = bus
        self._executor = executor
        self._rules = rules
        self._clock = clock
        self._every = every
        self._name = uuid.uuid4().bytes
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin; a start does not make work by itself."""
        self._again(self._every * random.uniform(0.02, 0.1))  # noqa: S311 - so that not all look at once

    def stop(self) -> None:
        """Delete nothing more."""
        self._stopped.set()

    def look(self) -> Pruned:
        """Delete what is old, or tell of it, in the calling thread.

        :raises StoreError: as the store does.
        """
        rules = self._rules()
        ages = rules.ages(self._clock())
        if ages is None:
            return Pruned()
        if not rules.enforced:
            return _told(
                self._store.count_old(ages), "are old; session.maintenance.mode is warn, so they stay"
            )
        return _told(delete_old(self._store, ages, self._stopped), "were old and are deleted")

    def _again(self, seconds: float) -> None:
        self._executor.after(seconds, self._wake)

    def _wake(self) -> None:
        if not self._stopped.is_set():
            self._executor.spawn("openclaw-retention", self._work)

    def _work(self) -> None:
        try:
            if self._bus.claim(_CLAIM, self._name, self._every * 0.9) is None:
                self.look()
        except StoreError as error:
            _log.warning("what is old could not be deleted: %s", error)
        except Exception:
            _log.exception("what is old could not be deleted")
        self._again(self._every * random.uniform(0.95, 1.05))  # noqa: S311


def delete_old(store: Store, ages: Ages, stopped: threading.Event | None = None) -> Pruned:
    """Delete all that is old, a little at a time, until there is nothing left or ``stopped`` is set.

    :raises StoreError: as the store does.
    """
    stopped = stopped or threading.Event()
    sessions = runs = 0
    while not stopped.is_set():
        done = store.prune(ages, _AT_ONCE)
        sessions, runs = sessions + done.sessions, runs + done.runs
        if max(done.sessions, done.runs) < _AT_ONCE:
            break
        stopped.wait(_PAUSE)
    return Pruned(sessions, runs)


def _told(pruned: Pruned, what: str) -> Pruned:
    if pruned != Pruned():
        _log.info("%d sessions and %d runs %s", pruned.sessions, pruned.runs, what)
    return pruned
