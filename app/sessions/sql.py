"""The store on SQLAlchemy Core."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from sqlalchemy import (
    Delete,
    RowMapping,
    Select,
    Update,
    delete,
    func,
    select,
)

from ..errors import StoreError
from ..log import get_logger
from ..messages import Message
from ..wire import clean
from . import lanes, pruning, transcripts, workers
from .database import Database, Stored, twice_is_once
from .pruning import Ages, Pruned
from .recent import Recent
from .records import (
    Added,
    Branch,
    Entry,
    Loaded,
    NewEntry,
    NewResponse,
    QueuedRun,
    Run,
    RunEnd,
    RunStart,
    Session,
    SessionSettings,
    Standing,
    StoredResponse,
    UsageQuery,
    UsageRow,
)
from .responses import (
    abandon_response,
    close_all_responses,
    close_response,
    delete_response,
    get_response,
    open_response,
    response_messages,
)
from .rows import (
    empty_session_row,
    entry_of,
    run_of,
    session_of,
    settings_text,
    usage_row_of,
)
from .sqlite import Database as File
from .sqlite import Offloaded, open_database
from .statements import (
    ARCHIVE,
    COMPACT,
    CONFIGURE,
    DELETE_SESSION,
    ENDS,
    INTERRUPT,
    OF_RUN,
    OPEN_RUNS,
    OPEN_RUNS_OF_KEY,
    QUEUED,
    RUN,
    RUNS,
    RUNS_OF_KEY,
    SESSION,
    list_of_sessions,
    sums_of_runs,
)
from .store import Offload, Store, Watcher
from .tables import SCHEMA_VERSION, is_live, sessions
from .tables import workers as living

T = TypeVar("T")

_log = get_logger("store")


def open_store(place: Path | str, *, offload: Offload | None = None, readonly: bool = False) -> Store:
    """Open the store in a directory, or, by its URL, in a Postgres database.

    A directory: in the calling thread; later calls go through ``offload``. The default offload runs
    each call where it is made, one at a time. A writer creates what is missing, keeps other writers
    out until it is closed, and marks as failed ("interrupted") the runs that a dead process left open.
    A reader may look on while a writer works.

    A URL: nothing is connected yet. The first call that gets through creates what is missing; until
    then every call is a StoreUnavailable at once. Any number of processes may share the database.

    :raises StoreError: another gateway is writing here, the file cannot be used, or, to a
        reader, there is none yet; the URL cannot be used.
    """
    if isinstance(place, str):
        return _SqlStore(_postgres().open_postgres(place, readonly=readonly))
    database = open_database(place, readonly=readonly)
    if not readonly:
        with ExitStack() as on_failure:
            on_failure.callback(database.close)
            _fail_interrupted(database, time.time_ns() // 1_000_000)
            on_failure.pop_all()
    return _SqlStore(Offloaded(database, offload or _one_at_a_time()))


def migrate_database(url: str) -> tuple[int, int]:
    """Bring a Postgres database up to date: from which version, 0 for an empty one, to which.

    :raises StoreError: it cannot be reached, a newer version has made it, or the URL cannot be used.
    """
    with closing(_postgres().open_postgres(url)) as database:
        return database.upgrade(), SCHEMA_VERSION


def _postgres() -> ModuleType:
    """The module for Postgres; not everybody has the driver that it needs."""
    try:
        return import_module(".postgres", __package__)
    except ModuleNotFoundError:
        raise StoreError(
            "A database needs the package psycopg: pip install 'openclaw-gateway[postgres]'"
        ) from None


class _SqlStore:
    """:class:`Store` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent = Recent()
        self._watchers: tuple[Watcher, ...] = ()

    def load(self, key: str) -> Loaded:
        return self._database.read(lambda db: transcripts.load(db, key, self._recent))

    def session(self, key: str) -> Session | None:
        rows = self._rows(SESSION, {"this_key": key})
        return session_of(rows[0]) if rows else None

    def transcript(self, key: str) -> Loaded:
        return self._database.read(lambda db: transcripts.load_whole(db, key))

    def newest(self, key: str, limit: int) -> Loaded:
        return self._database.read(lambda db: transcripts.load_newest(db, key, limit))

    def ends(self, session_ids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
        found: dict[str, tuple[Entry, ...]] = {}
        for row in self._rows(ENDS, {"these": list(session_ids)}) if session_ids else ():
            entry = entry_of(**row)
            if entry is not None:
                found[row["session_id"]] = (*found.get(row["session_id"], ()), entry)
        return found

    def said_in(self, run: Run) -> list[Entry]:
        session_id = run.session_id
        if session_id is None:
            return []
        values = {"this_session": session_id, "first": 1, "this_run": run.id}
        rows = self._database.read(lambda db: db.execute(OF_RUN, values).all())
        return [entry for row in rows if (entry := entry_of(session_id, *row))]

    def enqueue(self, run: RunStart, request: str) -> None:
        self._database.write(lambda db: transcripts.enqueue(db, run, request), twice_is_once)

    def queued(self) -> list[QueuedRun]:
        return [QueuedRun(row["id"], row["request"] or "") for row in self._rows(QUEUED, {})]

    def adopt(self, worker: str) -> list[QueuedRun]:
        return self._database.write(
            lambda db: workers.adopt(db, worker), lambda db, runs: workers.are_adopted(db, worker, runs)
        )

    def begin(self, run: RunStart, messages: Sequence[Message]) -> int:
        entries = [NewEntry(message) for message in messages]
        first = self._database.write(
            lambda db: transcripts.begin(db, run, entries),
            lambda db, first: transcripts.is_begun(db, run, first, len(entries)),
        )
        self._tell(transcripts.Place(run.session_key, run.agent_id, first), run.id, entries, run.created_at)
        return first

    def append(
        self, session_id: str | None, run_id: str, entries: Sequence[NewEntry], now: int, worker: str = ""
    ) -> int:
        if session_id is None or not entries:
            return 0
        count = len(entries)
        place = self._database.write(
            lambda db: transcripts.append(db, session_id, run_id, entries, now, worker),
            lambda db, place: (
                place is None or transcripts.is_appended(db, session_id, run_id, place.first, count)
            ),
        )
        self._tell(place, run_id, entries, now)
        return place.first if place else 0

    def finish(self, end: RunEnd, entries: Sequence[NewEntry]) -> bool:
        counts, place = self._database.write(
            lambda db: transcripts.finish(db, end, entries), lambda db, _: transcripts.is_finished(db, end)
        )
        self._tell(place, end.id, entries, end.ended_at)
        return counts

    def compact(
        self, session_id: str, summary: str, kept_from: int, now: int, run_id: str = "", worker: str = ""
    ) -> bool:
        values = {"this_session": session_id, "new_summary": clean(summary), "first": kept_from, "now": now}
        if not run_id:
            return self._changes(COMPACT, values)
        run = {"this_run": run_id, "this_worker": worker}
        return self._database.write(lambda db: transcripts.compact(db, values | run))

    def create(self, key: str, session_id: str, agent_id: str, now: int) -> bool:
        row = empty_session_row(key, session_id, agent_id, now)
        return self._database.write(
            lambda db: transcripts.create(db, row), lambda db, made: made and transcripts.is_created(db, row)
        )

    def configure(self, key: str, settings: SessionSettings, now: int) -> bool:
        return self._changes(
            CONFIGURE, {"this_key": key, "new_settings": settings_text(settings), "now": now}, twice_is_once
        )

    def archive(self, key: str, now: int) -> bool:
        return self._changes(ARCHIVE, {"this_key": key, "now": now})

    def get_run(self, run_id: str) -> Run | None:
        rows = self._rows(RUN, {"this_run": run_id})
        return run_of(rows[0]) if rows else None

    def list_runs(self, session_key: str | None, limit: int) -> list[Run]:
        statement = RUNS if session_key is None else RUNS_OF_KEY
        return [run_of(row) for row in self._rows(statement, {"this_key": session_key, "at_most": limit})]

    def open_runs(self, session_key: str | None = None) -> list[Run]:
        statement = OPEN_RUNS if session_key is None else OPEN_RUNS_OF_KEY
        return [run_of(row) for row in self._rows(statement, {"this_key": session_key})]

    def ask_cancel(self, run_id: str, reason: str) -> bool:
        return self._database.write(lambda db: workers.ask_cancel(db, run_id, reason), twice_is_once)

    def cancels(self, worker: str) -> dict[str, str]:
        return self._database.read(lambda db: workers.cancels(db, worker))

    def join(self, worker: str, name: str, seconds: float) -> None:
        self._database.write(lambda db: workers.join(db, worker, name, seconds), twice_is_once)

    def beat(self, worker: str, seconds: float) -> bool:
        return self._database.write(lambda db: workers.beat(db, worker, seconds), twice_is_once)

    def quit(self, worker: str) -> None:
        self._database.write(lambda db: workers.quit_work(db, worker), twice_is_once)

    def others(self, worker: str) -> list[str]:
        return self._database.read(lambda db: workers.others(db, worker))

    def sweep(self, now: int) -> list[Run]:
        return self._database.write(lambda db: workers.sweep(db, now), workers.are_swept)

    def enter_lane(self, key: str, run_id: str, worker: str, limit: int) -> Standing:
        return self._database.write(
            lambda db: lanes.enter_lane(db, key, run_id, worker, limit), twice_is_once
        )

    def take_lane(self, run_id: str) -> bool:
        return self._database.write(lambda db: lanes.take_lane(db, run_id), twice_is_once)

    def leave_lane(self, run_id: str) -> None:
        self._database.write(lambda db: lanes.leave_lane(db, run_id), twice_is_once)

    def list_sessions(
        self,
        agent_id: str | None,
        limit: int,
        offset: int = 0,
        *,
        archived: bool = False,
        parent_key: str | None = None,
        namespace: str | None = None,
    ) -> list[Session]:
        statement = list_of_sessions(agent_id, parent_key, namespace, archived=archived)
        return [session_of(row) for row in self._rows(statement, {"at_most": limit, "skip": offset})]

    def count_sessions(self, agent_id: str | None = None) -> int:
        statement = select(func.count().label("number")).select_from(sessions).where(is_live)
        if agent_id is not None:
            statement = statement.where(sessions.c.agent_id == agent_id)
        return int(self._rows(statement, {})[0]["number"])

    def usage(self, query: UsageQuery) -> list[UsageRow]:
        return [usage_row_of(row, query.by) for row in self._rows(sums_of_runs(query), {})]

    def delete_session(self, key: str) -> bool:
        return self._changes(DELETE_SESSION, {"this_key": key})

    def open_response(self, new: NewResponse, branch: Branch) -> str | None:
        return self._database.write(lambda db: open_response(db, new, branch))

    def abandon_response(self, response_id: str, branch: Branch) -> None:
        self._database.write(lambda db: abandon_response(db, response_id, branch), twice_is_once)

    def close_response(self, response_id: str, body: str) -> None:
        self._database.write(lambda db: close_response(db, response_id, body), twice_is_once)

    def get_response(self, response_id: str) -> StoredResponse | None:
        return self._database.read(lambda db: get_response(db, response_id))

    def response_messages(self, response_id: str) -> list[Message] | None:
        return self._database.read(lambda db: response_messages(db, response_id))

    def delete_response(self, response_id: str) -> bool:
        return self._database.write(lambda db: delete_response(db, response_id))

    def count_old(self, ages: Ages) -> Pruned:
        return self._database.read(lambda db: pruning.count_old(db, ages))

    def prune(self, ages: Ages, limit: int) -> Pruned:
        return self._database.write(lambda db: pruning.prune(db, ages, limit), twice_is_once)

    def watch(self, watcher: Watcher) -> None:
        self._watchers = (*self._watchers, watcher)

    def check(self) -> None:
        self._database.check()

    def close(self) -> None:
        self._database.close()

    def _tell(
        self, place: transcripts.Place | None, run_id: str, entries: Sequence[NewEntry], now: int
    ) -> None:
        if not (self._watchers and place and place.first):
            return
        stored = tuple(
            Entry(seq, entry.message, entry.stop, now, run_id)
            for seq, entry in enumerate(entries, place.first)
        )
        for watch in self._watchers:
            try:
                watch(Added(place.key, place.agent_id, stored))
            except Exception:  # what is stored is stored
                _log.exception("a watcher of the store failed")

    def _rows(self, statement: Select[Any], values: dict[str, Any]) -> Sequence[RowMapping]:
        return self._database.read(lambda db: db.execute(statement, values).mappings().all())

    def _changes(
        self, statement: Update | Delete, values: dict[str, Any], stored: Stored[bool] | None = None
    ) -> bool:
        """Whether there was a row to change."""
        return self._database.write(lambda db: db.execute(statement, values).rowcount > 0, stored)


def _one_at_a_time() -> Offload:
    lock = threading.Lock()  # guards the one connection

    def run(work: Callable[[], T], /) -> T:
        with lock:
            return work()

    return run


def _fail_interrupted(database: File, now: int) -> None:
    with database.transaction() as db:
        db.execute(delete(living))
        count = db.execute(INTERRUPT, {"now": now}).rowcount
        close_all_responses(db)
    if count:
        _log.warning("%d runs were interrupted by the end of an earlier process", count)
