"""Where the state is, and with whom this process shares it."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..bus import Bus
from ..bus.local import LocalBus
from ..cancel import CancelReason
from ..config import Config
from ..errors import ConfigError, StoreUnavailable
from ..log import get_logger
from ..runs.cluster import Cluster
from ..runs.elsewhere import Elsewhere
from ..runs.executor import Executor
from ..runs.journal import Journal, JournalLimits
from ..runs.logbook import Logbook
from ..runs.others import NOBODY, Others
from ..runs.outcomes import ending_of
from ..runs.relay import Relay
from ..runs.remote import RemoteRun
from ..runs.service import RunService
from ..runs.shared_approvals import SharedApprovals
from ..runs.shared_lanes import SharedLanes, bell
from ..runs.worker import LEASE, Duties, Worker
from ..sessions.records import Run as RunRecord
from ..sessions.sql import open_store
from ..sessions.store import Offload, Store
from ..tools.approvals import Approvals

_log = get_logger("runtime")


@dataclass(frozen=True)
class Place:
    """Where to keep the state.

    :ivar directory: of this machine; holds all of it if there is no database.
    :ivar database_url: of a database, "" for none. :ivar redis_url: of a Redis, "" for none.
    :ivar redis_prefix: of everything that is in there.
    :ivar lease: seconds after which a process of which nothing is heard is taken for dead.
    """

    directory: Path
    database_url: str = ""
    redis_url: str = ""
    redis_prefix: str = "openclaw:"
    lease: float = LEASE


@dataclass(frozen=True)
class State:
    """The store, the bus, and the parts that a process needs that does not have them to itself.

    :ivar worker: this process in the store; None if nobody else can be there.
    :ivar resumers: start runs that nobody has begun; they are called again and again.
    """

    store: Store
    bus: Bus
    worker: Worker | None = None
    relay: Relay | None = None
    others: Others = NOBODY
    lanes: SharedLanes | None = None
    resumers: list[Callable[[], object]] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        """True if other processes may serve the same gateway."""
        return self.relay is not None

    @property
    def whole(self) -> bool:
        """False while Redis cannot be reached: other processes hear later of what happens here."""
        return self.bus.healthy

    def check(self) -> None:
        """Make sure that a run could begin now.

        :raises StoreError: it could not.
        """
        self.store.check()
        self.gate()

    def gate(self) -> None:
        """The same as far as it is known without asking.

        :raises StoreUnavailable: a run could not begin.
        """
        if self.worker is not None and not (self.worker.joined and self.worker.well):
            raise StoreUnavailable("The database cannot be reached at the moment. Please try again.")

    def described(self, directory: Path) -> str:
        """Where the state is, for the operator."""
        if self.worker is None:
            return str(directory)
        others = "shared through Redis" if self.shared else "with one process at a time"
        return f"Postgres, {others}, as {self.worker.name}; {directory} for what is this machine's own"

    def worker_id(self) -> str:
        """The id of this process in the store; "" if it has the store to itself."""
        return self.worker.id if self.worker is not None else ""

    def journal(self, runs: RunService, executor: Executor, limits: JournalLimits) -> Journal:
        """The journal of this process, which knows those of the others."""
        if not self.shared:
            return Journal(runs, executor.after, limits)
        book = Logbook(self.bus, executor.after, limits.seconds)
        journal = Journal(runs, executor.after, limits, elsewhere=Elsewhere(book, self.store, runs.cancel))
        book.open(journal.touch, journal.forget_here, journal.reread)
        return journal

    def begin(self, runs: RunService, end_commands: Callable[[str], object], approvals: Approvals) -> None:
        """Take part from now on, with ``runs`` as those of this process.

        :param end_commands: ends the background commands of the session with this key.
        :param approvals: what waits here for an operator's word.
        """
        if self.worker is None:
            return

        def stop_session(key: str, reason: CancelReason) -> None:
            runs.cancel_here(key, reason)
            end_commands(key)

        if isinstance(self.others, Cluster):
            self.others.open(runs.cancel_own, stop_session)
        if self.relay is not None:
            runs.observe(self.relay.observe)
            SharedApprovals(self.bus, approvals).open()
        self.worker.start(
            Duties(
                lost=runs.give_up,
                swept=self._swept,
                cancel=runs.cancel_own,
                resume=partial(self._resume, runs),
                settle=self._settle,
            )
        )

    def resume_with(self, resume: Callable[[], object]) -> None:
        """Have runs started that nobody has begun: now, or again and again if other processes may leave some.

        :raises StoreError: they could not be looked up.
        """
        if self.worker is None:
            resume()
        else:
            self.resumers.append(resume)

    def close(self) -> None:
        """Give all of it back. Safe to call twice."""
        with ExitStack() as steps:
            steps.callback(self.store.close)
            steps.callback(self.bus.close)
            if self.worker is not None:
                steps.callback(self.worker.close)

    def _swept(self, lost: Sequence[RunRecord]) -> None:
        for record in lost:
            if self.relay is not None:
                self.relay.tell_end(_remote(record), ending_of(record, self.store))
            self.bus.publish(bell(record.session_key), b"")

    def _resume(self, runs: RunService) -> None:
        for resume in self.resumers if not runs.draining else ():
            resume()

    def _settle(self) -> None:
        if self.lanes is not None:
            self.lanes.settle()
        if self.relay is not None:
            for run in self.relay.silent():
                record = self.store.get_run(run.id)
                over = record is not None and record.ended_at is not None
                self.relay.settle(run, ending_of(record, self.store) if record and over else None)


def place_of(config: Config, env: Mapping[str, str]) -> Place:
    """Where the configuration and the environment say that the state is.

    :raises ConfigError: the lease is no number of seconds.
    """
    try:
        lease = float(env.get("OPENCLAW_LEASE_SECONDS") or LEASE)
    except ValueError:
        lease = 0.0
    if not 1 <= lease <= 600:
        raise ConfigError("OPENCLAW_LEASE_SECONDS must be a number of seconds from 1 to 600.")
    state = config.state
    return Place(config.state_dir, state.database, state.redis, state.redis_prefix, lease)


def open_state(
    place: Place,
    executor: Executor,
    *,
    per_session: int,
    offload: Offload | None = None,
    watched: Callable[[Store], Store] = lambda store: store,
) -> State:
    """Open the state; :meth:`State.begin` is yet to be called.

    :param per_session: how many runs of one session may wait, over all processes.
    :param watched: the store, measured.
    :raises StoreError: it cannot be opened; a database that is away is no reason.
    :raises ConfigError: the URL of Redis cannot be used.
    """
    if not place.database_url:
        if place.redis_url:
            _log.warning("A Redis is of no use without a database: it is ignored. Set DATABASE_URL as well.")
        return State(watched(open_store(place.directory, offload=offload)), LocalBus())
    with suppress(OSError):  # it still holds what is this machine's alone
        place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as on_failure:
        store = watched(open_store(place.database_url))
        on_failure.callback(store.close)
        worker = Worker(store, executor, f"{socket.gethostname()}:{os.getpid()}", lease=place.lease)
        if not place.redis_url:
            _be_alone(worker)
            on_failure.pop_all()
            return State(store, LocalBus(), worker)
        from ..bus.redis import RedisBus  # only where one is used

        bus: Bus = RedisBus(place.redis_url, executor.spawn, prefix=place.redis_prefix)
        on_failure.pop_all()
    relay = Relay(bus, uuid.uuid4().hex, executor.after)
    lanes = SharedLanes(store, bus, lambda: worker.id, per_session)
    return State(store, bus, worker, relay, Cluster(store, bus, worker), lanes)


def _be_alone(worker: Worker) -> None:
    try:
        worker.wait_until_alone()
    except StoreUnavailable as error:
        _log.warning("The database cannot be reached: %s", error)


def _remote(record: RunRecord) -> RemoteRun:
    # Not detached: what was interrupted may be asked for again, so nobody keeps how it ended.
    return RemoteRun(record.id, record.session_key, record.agent_id, detached=False)
