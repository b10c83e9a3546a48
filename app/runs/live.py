"""Runs that are waiting or running: to be found, counted and stopped, here and in other processes."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..agents.registry import Agent
from ..cancel import CancelReason
from .lanes import Turn
from .others import Others
from .run import Run


@dataclass(frozen=True, slots=True)
class RunCounts:
    """How many runs there are now.

    :ivar waiting: those of them that are in their lanes.
    :ivar sessions: to how many sessions they belong.
    """

    live: int
    waiting: int
    sessions: int


@dataclass(slots=True)
class Admitted:
    """A live run and its place in its session's lane.

    :ivar stage: a run is ``entering`` until its asker has been told that it will come. One that then
        waits is ``claimed`` by the one before it, which then has ``told`` what it asks; else it has
        ``begun`` once it is its turn. Guarded by the service's lock.
    """

    run: Run
    agent: Agent
    place: Turn
    stage: Literal["entering", "waiting", "begun", "claimed", "told"] = "entering"


class LiveRuns:
    """The live runs of this process, and what can be said of those of others.

    Any thread may call any method.
    """

    def __init__(self, others: Others) -> None:
        self._others = others
        # Reentrant: a condition on a plain lock finds out whether it is held by trying to take it,
        # and under gevent every such try is a trip through the event loop.
        self._lock = threading.RLock()  # guards _live
        self._live: dict[str, Admitted] = {}

    @property
    def live(self) -> int:
        """Runs that are waiting or running."""
        return len(self._live)

    def counts(self) -> RunCounts:
        """How many runs there are now, and what they are at."""
        with self._lock:
            runs = [live.run for live in self._live.values()]
        waiting = sum(run.started_at is None for run in runs)
        return RunCounts(len(runs), waiting, len({run.request.session_key for run in runs}))

    def ids(self) -> list[str]:
        """The ids of all live runs."""
        with self._lock:
            return list(self._live)

    def get(self, run_id: str) -> Run | None:
        """The live run with this id."""
        live = self._live.get(run_id)
        return live.run if live else None

    def cancel(self, run_id: str, reason: CancelReason) -> bool:
        """Ask a live run to stop, wherever it is; True if it was live, and nobody here had asked before."""
        live = self._live.get(run_id)
        return self._others.cancel(run_id, reason) if live is None else live.run.cancel(reason)

    def cancel_own(self, run_id: str, reason: CancelReason) -> bool:
        """As :meth:`cancel`, but only a run of this process."""
        live = self._live.get(run_id)
        return live is not None and live.run.cancel(reason)

    def session_of(self, run_id: str) -> str | None:
        """The key of a live run's session, wherever the run is; None if it is not live."""
        live = self._live.get(run_id)
        return self._others.session_of(run_id) if live is None else live.run.session_key

    def is_live(self, run_id: str) -> bool:
        """True if a run is waiting or running, wherever it is."""
        return self.session_of(run_id) is not None

    def active(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """The ids of the live runs of sessions, wherever they are; those of this process first."""
        asked = list(keys)
        found = {key: [run.id for run in self.of_session(key)] for key in asked}
        for key, elsewhere in self._others.active(asked).items():
            found[key] += [run_id for run_id in elsewhere if run_id not in found[key]]
        return found

    def of_session(self, key: str) -> list[Run]:
        """The live runs of a session in this process; at most the first one runs, the others wait."""
        with self._lock:
            return [live.run for live in self._live.values() if live.run.request.session_key == key]

    def family(self, key: str) -> list[Run]:
        """The live runs of a session in this process, and then of the sub-agents it has started."""
        with self._lock:
            children = [live.run for live in self._live.values() if live.run.request.parent_key == key]
            return [*self.of_session(key), *children]

    def cancel_session(self, key: str, reason: CancelReason) -> list[str]:
        """Ask all live runs of a session, and of the sub-agents it has started, to stop, wherever they are.

        :returns: the ids of the session's own that nobody had asked before.
        """
        here = self.cancel_here(key, reason)
        return here + [run_id for run_id in self._others.cancel_session(key, reason) if run_id not in here]

    def cancel_here(self, key: str, reason: CancelReason) -> list[str]:
        """As :meth:`cancel_session`, but only those of this process."""
        stopped = [run for run in self.family(key) if run.cancel(reason)]
        return [run.id for run in stopped if run.request.session_key == key]

    def give_up(self) -> None:
        """The other processes have taken this one for dead, and closed all its runs: stop them.

        Their sessions may be another's already.
        """
        with self._lock:
            left = [live.run for live in self._live.values()]
        for run in left:
            run.cancel(CancelReason.LOST)
