"""The store on SQLAlchemy Core."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    Connection,
    Delete,
    RowMapping,
    Select,
    Update,
    func,
    select,
)
from sqlalchemy.sql.dml import ReturningUpdate

from ..log import get_logger
from ..messages import Message
from ..wire import clean
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
    message_row,
    queued_row,
    run_end,
    run_of,
    run_row,
    session_of,
    session_row,
    settings_text,
    usage_row_of,
)
from .sqlite import Database, open_database
from .statements import (
    ARCHIVE,
    CLOSE_RUN,
    COMPACT,
    CONFIGURE,
    CONTINUE,
    DELETE_SESSION,
    ENDS,
    EXTEND,
    HISTORY,
    INTERRUPT,
    NEW_MESSAGES,
    NEW_RUN,
    NEW_SESSION,
    NEWEST,
    OF_RUN,
    QUEUE_AGAIN,
    QUEUED,
    RUN,
    RUNS,
    RUNS_OF_KEY,
    SESSION,
    SETTLE,
    TAKE_OVER,
    list_of_sessions,
    sums_of_runs,
)
from .store import Offload, Store, Watcher
from .tables import is_live, sessions

T = TypeVar("T")

_log = get_logger("store")


def open_store(directory: Path, *, offload: Offload | None = None, readonly: bool = False) -> Store:
    """Open the store in ``directory``, in the calling thread; later calls go through ``offload``.

    The default offload runs each call where it is made, one at a time. A writer creates
    what is missing, keeps other writers out until it is closed, and marks as failed
    ("interrupted") the runs that a dead process left open. A reader may look on while a
    writer works.

    :raises StoreError: another gateway is writing here, the file cannot be used, or, to a
        reader, there is none yet.
    """
    database = open_database(directory, readonly=readonly)
    store = _SqlStore(database, offload or _one_at_a_time())
    if not readonly:
        with ExitStack() as on_failure:
            on_failure.callback(database.close)
            _fail_interrupted(database, time.time_ns() // 1_000_000)
            on_failure.pop_all()
    return store


class _Place(NamedTuple):
    """Where in which session entries were added; ``first`` is 0 if there were none."""

    key: str
    agent_id: str
    first: int


class _SqlStore:
    """:class:`Store` on one database."""

    def __init__(self, database: Database, offload: Offload) -> None:
        self._database = database
        self._offload = offload
        self._watchers: tuple[Watcher, ...] = ()

    def load(self, key: str) -> Loaded:
        return self._transaction(lambda db: _load(db, key, whole=False))

    def session(self, key: str) -> Session | None:
        rows = self._rows(SESSION, {"this_key": key})
        return session_of(rows[0]) if rows else None

    def transcript(self, key: str) -> Loaded:
        return self._transaction(lambda db: _load(db, key, whole=True))

    def newest(self, key: str, limit: int) -> Loaded:
        return self._transaction(lambda db: _load_newest(db, key, limit))

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
        rows = self._transaction(lambda db: db.execute(OF_RUN, values).all())
        return [entry for row in rows if (entry := entry_of(session_id, *row))]

    def enqueue(self, run: RunStart, request: str) -> None:
        self._transaction(lambda db: _enqueue(db, run, request))

    def queued(self) -> list[QueuedRun]:
        return [QueuedRun(row["id"], row["request"] or "") for row in self._rows(QUEUED, {})]

    def begin(self, run: RunStart, messages: Sequence[Message]) -> int:
        entries = [NewEntry(message) for message in messages]
        first = self._transaction(lambda db: _begin(db, run, entries))
        self._tell(_Place(run.session_key, run.agent_id, first), run.id, entries, run.created_at)
        return first

    def append(self, session_id: str | None, run_id: str, entries: Sequence[NewEntry], now: int) -> int:
        if session_id is None or not entries:
            return 0
        place = self._transaction(lambda db: _extend(db, EXTEND, {}, session_id, run_id, entries, now))
        self._tell(place, run_id, entries, now)
        return place.first if place else 0

    def finish(self, end: RunEnd, entries: Sequence[NewEntry]) -> None:
        place = self._transaction(lambda db: _finish(db, end, entries))
        self._tell(place, end.id, entries, end.ended_at)

    def compact(self, session_id: str, summary: str, kept_from: int, now: int) -> bool:
        return self._changes(
            COMPACT,
            {"this_session": session_id, "new_summary": clean(summary), "first": kept_from, "now": now},
        )

    def create(self, key: str, session_id: str, agent_id: str, now: int) -> bool:
        row = empty_session_row(key, session_id, agent_id, now)
        return self._transaction(lambda db: _create(db, row))

    def configure(self, key: str, settings: SessionSettings, now: int) -> bool:
        return self._changes(
            CONFIGURE, {"this_key": key, "new_settings": settings_text(settings), "now": now}
        )

    def archive(self, key: str, now: int) -> bool:
        return self._changes(ARCHIVE, {"this_key": key, "now": now})

    def get_run(self, run_id: str) -> Run | None:
        rows = self._rows(RUN, {"this_run": run_id})
        return run_of(rows[0]) if rows else None

    def list_runs(self, session_key: str | None, limit: int) -> list[Run]:
        statement = RUNS if session_key is None else RUNS_OF_KEY
        return [run_of(row) for row in self._rows(statement, {"this_key": session_key, "at_most": limit})]

    def list_sessions(
        self,
        agent_id: str | None,
        limit: int,
        offset: int = 0,
        *,
        archived: bool = False,
        parent_key: str | None = None,
    ) -> list[Session]:
        statement = list_of_sessions(agent_id, parent_key, archived=archived)
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
        return self._transaction(lambda db: open_response(db, new, branch))

    def abandon_response(self, response_id: str, branch: Branch) -> None:
        self._transaction(lambda db: abandon_response(db, response_id, branch))

    def close_response(self, response_id: str, body: str) -> None:
        self._transaction(lambda db: close_response(db, response_id, body))

    def get_response(self, response_id: str) -> StoredResponse | None:
        return self._transaction(lambda db: get_response(db, response_id))

    def response_messages(self, response_id: str) -> list[Message] | None:
        return self._transaction(lambda db: response_messages(db, response_id))

    def delete_response(self, response_id: str) -> bool:
        return self._transaction(lambda db: delete_response(db, response_id))

    def watch(self, watcher: Watcher) -> None:
        self._watchers = (*self._watchers, watcher)

    def close(self) -> None:
        self._offload(self._database.close)

    def _tell(self, place: _Place | None, run_id: str, entries: Sequence[NewEntry], now: int) -> None:
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
        return self._transaction(lambda db: db.execute(statement, values).mappings().all())

    def _changes(self, statement: Update | Delete, values: dict[str, Any]) -> bool:
        """Whether there was a row to change."""
        return self._transaction(lambda db: db.execute(statement, values).rowcount > 0)

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._database.transaction() as db:
                return work(db)

        return self._offload(run)


def _one_at_a_time() -> Offload:
    lock = threading.Lock()  # guards the one connection

    def run(work: Callable[[], T], /) -> T:
        with lock:
            return work()

    return run


def _fail_interrupted(database: Database, now: int) -> None:
    with database.transaction() as db:
        count = db.execute(INTERRUPT, {"now": now}).rowcount
        close_all_responses(db)
    if count:
        _log.warning("%d runs were interrupted by the end of an earlier process", count)


def _load(db: Connection, key: str, *, whole: bool) -> Loaded:
    row = db.execute(SESSION, {"this_key": key}).mappings().one_or_none()
    if row is None:
        return Loaded(None, ())
    session = session_of(row)
    first = 1 if whole else session.kept_from
    rows = db.execute(HISTORY, {"this_session": session.id, "first": first})
    return Loaded(session, tuple(entry for row in rows if (entry := entry_of(session.id, *row))))


def _load_newest(db: Connection, key: str, limit: int) -> Loaded:
    row = db.execute(SESSION, {"this_key": key}).mappings().one_or_none()
    if row is None:
        return Loaded(None, ())
    session = session_of(row)
    rows = db.execute(NEWEST, {"this_session": session.id, "first": 1, "at_most": limit}).all()
    return Loaded(session, tuple(entry for row in reversed(rows) if (entry := entry_of(session.id, *row))))


def _create(db: Connection, row: dict[str, Any]) -> bool:
    if db.execute(SESSION, {"this_key": row["key"]}).first() is not None:
        return False
    db.execute(NEW_SESSION, row)
    return True


def _begin(db: Connection, run: RunStart, entries: Sequence[NewEntry]) -> int:
    first = 0 if run.session_id is None else _open(db, run, run.session_id, entries)
    if not (run.known and _take_over(db, run)):
        db.execute(NEW_RUN, run_row(run))
    return first


def _take_over(db: Connection, run: RunStart) -> bool:
    """Go on with the record of a run that was queued or interrupted; False if there is none."""
    taken = {"new_session_id": run.session_id, "new_channel": run.channel, "new_model": run.model}
    return db.execute(TAKE_OVER, {"this_run": run.id, **taken}).rowcount > 0


def _enqueue(db: Connection, run: RunStart, request: str) -> None:
    if not db.execute(QUEUE_AGAIN, {"this_run": run.id, "new_request": request}).rowcount:
        db.execute(NEW_RUN, queued_row(run, request))


def _open(db: Connection, run: RunStart, session_id: str, entries: Sequence[NewEntry]) -> int:
    """Go on with a session, or begin it; the ``seq`` of the first entry."""
    now = run.created_at
    place = _extend(db, CONTINUE, {"this_key": run.session_key}, session_id, run.id, entries, now)
    if place is not None:
        return place.first
    db.execute(NEW_SESSION, session_row(run, session_id, len(entries)))
    return _insert(db, session_id, run.id, entries, now, first=1)


def _finish(db: Connection, end: RunEnd, entries: Sequence[NewEntry]) -> _Place | None:
    changes = {f"new_{name}": value for name, value in run_end(end).items()}
    closed = db.execute(CLOSE_RUN, {"this_run": end.id, **changes}).one_or_none()
    if closed is not None and closed.session_id is not None:
        more = {
            "more_input": end.usage.input,
            "more_output": end.usage.output,
            "more_cost": end.cost or 0.0,
            "last_context": end.context_tokens or None,
            "last_model": end.model,
        }
        return _extend(db, SETTLE, more, closed.session_id, end.id, entries, end.ended_at)
    return None


def _extend(
    db: Connection,
    statement: ReturningUpdate[Any],
    values: dict[str, Any],
    session_id: str,
    run_id: str,
    entries: Sequence[NewEntry],
    now: int,
) -> _Place | None:
    """Add entries to a session; None if there is no such session."""
    common = {"this_session": session_id, "now": now, "added": len(entries)}
    row = db.execute(statement, common | values).one_or_none()
    if row is None:
        return None
    first = row.message_count - len(entries) + 1
    return _Place(row.key, row.agent_id, _insert(db, session_id, run_id, entries, now, first=first))


def _insert(
    db: Connection, session_id: str, run_id: str, entries: Sequence[NewEntry], now: int, *, first: int
) -> int:
    rows = [message_row(session_id, run_id, now, *numbered) for numbered in enumerate(entries, first)]
    if not rows:
        return 0
    db.execute(NEW_MESSAGES, rows)
    return first
