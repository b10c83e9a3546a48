"""The processes that serve one gateway together: who has which runs, and how to stop those of another."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..bus import Bus
from ..cancel import CancelReason
from ..log import get_logger
from ..sessions.records import Run as RunRecord
from ..sessions.store import Store
from ..wire import InvalidJson, dumps, loads
from .worker import Worker

_TOPIC = "cancel"

_log = get_logger("bus")


class Cluster:
    """:class:`~.others.Others` by the store, which knows all runs, and the bus, which is quick.

    The store's note reaches a run's process at the latest with its next sign of life.
    """

    def __init__(self, store: Store, bus: Bus, worker: Worker) -> None:
        self._store = store
        self._bus = bus
        self._worker = worker

    def open(
        self,
        cancel: Callable[[str, CancelReason], object],
        cancel_session: Callable[[str, CancelReason], object],
    ) -> None:
        """Do from now on what others ask for.

        :param cancel: stops a run of this process, :param cancel_session: all of a session.
        """
        stops = {"run": cancel, "session": cancel_session}

        def hear(message: bytes) -> None:
            try:
                match loads(message):
                    case [str(sender), "run" | "session" as what, str(name), str(reason)]:
                        if sender != self._worker.id:
                            stops[what](name, CancelReason(reason))
            except (InvalidJson, ValueError):
                _log.warning("what another process wants stopped could not be read")

        self._bus.subscribe(_TOPIC, hear)

    def session_of(self, run_id: str) -> str | None:
        """See :meth:`~.others.Others.session_of`."""
        record = self._store.get_run(run_id)
        return record.session_key if record is not None and record.ended_at is None else None

    def active(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """See :meth:`~.others.Others.active`."""
        found: dict[str, list[str]] = {key: [] for key in keys}
        for run in self._runs_of(next(iter(found)) if len(found) == 1 else None):
            if run.session_key in found:
                found[run.session_key].append(run.id)
        return found

    def cancel(self, run_id: str, reason: CancelReason) -> bool:
        """See :meth:`~.others.Others.cancel`."""
        found = self._store.ask_cancel(run_id, reason)
        self._ask("run", run_id, reason)  # in any case: one that waits in its lane may have no record yet
        return found

    def cancel_session(self, key: str, reason: CancelReason) -> list[str]:
        """See :meth:`~.others.Others.cancel_session`."""
        found = [run.id for run in self._runs_of(key)]
        asked = [run_id for run_id in found if self._store.ask_cancel(run_id, reason)]
        self._ask("session", key, reason)
        return asked

    def _ask(self, what: str, name: str, reason: CancelReason) -> None:
        self._bus.publish(_TOPIC, dumps([self._worker.id, what, name, reason.value]))

    def _runs_of(self, key: str | None) -> list[RunRecord]:
        """The runs that are under way elsewhere, of a session or of all."""
        return [run for run in self._store.open_runs(key) if run.worker != self._worker.id]
