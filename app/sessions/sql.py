"""The store on SQLAlchemy Core. The statements are the same for every database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, insert, select, update

from ..log import get_logger
from ..messages import Message, Usage
from ..wire import clean
from .entries import UnreadableEntry, decode, encode
from .records import Entry, Loaded, NewEntry, Run, RunEnd, RunStart, Session, Stop
from .sqlite import Database, open_database
from .store import Offload, Store
from .tables import is_open, messages, runs, sessions

T = TypeVar("T")

_log = get_logger("store")

_NO_USAGE = Usage()
_STOPS = frozenset((None, *get_args(Stop)))

_SESSION = select(sessions).where(sessions.c.key == bindparam("this_key"))
_HISTORY = (
    select(messages.c.seq, messages.c.body, messages.c.stop, messages.c.created_at, messages.c.run_id)
    .where(messages.c.session_id == bindparam("this_session"))
    .order_by(messages.c.seq)
)
_NEW_SESSION = insert(sessions)
_NEW_RUN = insert(runs)
_NEW_MESSAGES = insert(messages)
_EXTEND = (  # also takes the row lock that keeps two writers from giving out one seq twice
    update(sessions)
    .where(sessions.c.id == bindparam("this_session"))
    .values(
        updated_at=bindparam("now"),
        message_count=sessions.c.message_count + bindparam("added"),
        input_tokens=sessions.c.input_tokens + bindparam("more_input"),
        output_tokens=sessions.c.output_tokens + bindparam("more_output"),
        model=func.coalesce(bindparam("last_model"), sessions.c.model),
    )
    .returning(sessions.c.message_count)
)
_CLOSE_RUN = (
    update(runs)
    .where(runs.c.id == bindparam("this_run"), is_open)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                *("status", "finish_reason", "model", "error_code", "error_message", "ended_at", "attempts"),
                *("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"),
            )
        }
    )
    .returning(runs.c.session_id)
)
_INTERRUPT = (
    update(runs)
    .where(is_open)
    .values(
        status="failed",
        error_code="interrupted",
        error_message="The gateway stopped before the run was over.",
        ended_at=bindparam("now"),
    )
)
_RUN = select(runs).where(runs.c.id == bindparam("this_run"))
_RUNS = select(runs).order_by(runs.c.created_at.desc(), runs.c.id).limit(bindparam("at_most"))
_RUNS_OF_KEY = _RUNS.where(runs.c.session_key == bindparam("this_key"))
_SESSIONS = (
    select(sessions)
    .order_by(sessions.c.updated_at.desc(), sessions.c.id)
    .limit(bindparam("at_most"))
    .offset(bindparam("skip"))
)
_SESSIONS_OF_AGENT = _SESSIONS.where(sessions.c.agent_id == bindparam("this_agent"))
_DELETE_SESSION = delete(sessions).where(sessions.c.key == bindparam("this_key"))


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


class _SqlStore:
    """:class:`Store` on one database."""

    def __init__(self, database: Database, offload: Offload) -> None:
        self._database = database
        self._offload = offload

    def load(self, key: str) -> Loaded:
        return self._transaction(lambda db: _load(db, key))

    def begin(self, run: RunStart, messages: Sequence[Message]) -> None:
        entries = [NewEntry(message) for message in messages]
        self._transaction(lambda db: _begin(db, run, entries))

    def append(self, session_id: str | None, run_id: str, entries: Sequence[NewEntry], now: int) -> None:
        if session_id is not None and entries:
            self._transaction(lambda db: _extend(db, session_id, run_id, entries, now))

    def finish(self, end: RunEnd, entries: Sequence[NewEntry]) -> None:
        self._transaction(lambda db: _finish(db, end, entries))

    def get_run(self, run_id: str) -> Run | None:
        row = self._transaction(lambda db: db.execute(_RUN, {"this_run": run_id}).mappings().one_or_none())
        return None if row is None else _run(row)

    def list_runs(self, session_key: str | None, limit: int) -> list[Run]:
        statement = _RUNS if session_key is None else _RUNS_OF_KEY
        values = {"this_key": session_key, "at_most": limit}
        return [
            _run(row) for row in self._transaction(lambda db: db.execute(statement, values).mappings().all())
        ]

    def list_sessions(self, agent_id: str | None, limit: int, offset: int = 0) -> list[Session]:
        statement = _SESSIONS if agent_id is None else _SESSIONS_OF_AGENT
        values = {"this_agent": agent_id, "at_most": limit, "skip": offset}
        return [
            _session(row)
            for row in self._transaction(lambda db: db.execute(statement, values).mappings().all())
        ]

    def delete_session(self, key: str) -> bool:
        return self._transaction(lambda db: db.execute(_DELETE_SESSION, {"this_key": key}).rowcount > 0)

    def close(self) -> None:
        self._offload(self._database.close)

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
        count = db.execute(_INTERRUPT, {"now": now}).rowcount
    if count:
        _log.warning("%d runs were interrupted by the end of an earlier process", count)


def _load(db: Connection, key: str) -> Loaded:
    row = db.execute(_SESSION, {"this_key": key}).mappings().one_or_none()
    if row is None:
        return Loaded(None, ())
    session = _session(row)
    rows = db.execute(_HISTORY, {"this_session": session.id})
    return Loaded(session, tuple(entry for row in rows if (entry := _entry(session.id, *row))))


def _begin(db: Connection, run: RunStart, entries: Sequence[NewEntry]) -> None:
    if run.session_id is not None and not _extend(db, run.session_id, run.id, entries, run.created_at):
        db.execute(_NEW_SESSION, _new_session_row(run, run.session_id, len(entries)))
        _insert(db, run.session_id, run.id, entries, run.created_at, first=1)
    db.execute(_NEW_RUN, _new_run_row(run))


def _finish(db: Connection, end: RunEnd, entries: Sequence[NewEntry]) -> None:
    closed = db.execute(_CLOSE_RUN, _close_run_values(end)).one_or_none()
    if closed is not None and closed.session_id is not None:
        _extend(db, closed.session_id, end.id, entries, end.ended_at, end.usage, end.model)


def _extend(
    db: Connection,
    session_id: str,
    run_id: str,
    entries: Sequence[NewEntry],
    now: int,
    usage: Usage = _NO_USAGE,
    model: str | None = None,
) -> bool:
    """Add entries and tokens to a session; False, and nothing done, if there is none."""
    count = db.execute(
        _EXTEND,
        {
            "this_session": session_id,
            "now": now,
            "added": len(entries),
            "more_input": usage.input,
            "more_output": usage.output,
            "last_model": model,
        },
    ).scalar()
    if count is None:
        return False
    _insert(db, session_id, run_id, entries, now, first=count - len(entries) + 1)
    return True


def _insert(
    db: Connection, session_id: str, run_id: str, entries: Sequence[NewEntry], now: int, *, first: int
) -> None:
    rows = [_message_row(session_id, run_id, now, *numbered) for numbered in enumerate(entries, first)]
    if rows:
        db.execute(_NEW_MESSAGES, rows)


def _message_row(session_id: str, run_id: str, now: int, seq: int, entry: NewEntry) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "seq": seq,
        "run_id": run_id,
        "created_at": now,
        "stop": entry.stop,
        "body": encode(entry.message),
    }


def _new_session_row(run: RunStart, session_id: str, message_count: int) -> dict[str, Any]:
    return {
        "id": session_id,
        "key": run.session_key,
        "agent_id": run.agent_id,
        "created_at": run.created_at,
        "updated_at": run.created_at,
        "message_count": message_count,
        "input_tokens": 0,
        "output_tokens": 0,
        "model": run.model,
    }


def _new_run_row(run: RunStart) -> dict[str, Any]:
    return {
        "id": run.id,
        "session_key": run.session_key,
        "session_id": run.session_id,
        "agent_id": run.agent_id,
        "channel": run.channel,
        "model": run.model,
        "created_at": run.created_at,
        "status": "in_progress",
    }


def _close_run_values(end: RunEnd) -> dict[str, Any]:
    return {
        "this_run": end.id,
        "new_status": end.status,
        "new_finish_reason": end.finish_reason,
        "new_model": end.model,
        "new_error_code": end.error_code,
        "new_error_message": None if end.error_message is None else clean(end.error_message),
        "new_ended_at": end.ended_at,
        "new_attempts": end.attempts,
        "new_input_tokens": end.usage.input,
        "new_output_tokens": end.usage.output,
        "new_cached_tokens": end.usage.cached,
        "new_reasoning_tokens": end.usage.reasoning,
    }


def _session(row: RowMapping) -> Session:
    return Session(**row)


def _entry(
    session_id: str, seq: int, body: object, stop: str | None, created_at: int, run_id: str
) -> Entry | None:
    """The entry, or None and a log line: one bad row must not cost the conversation."""
    try:
        message = decode(body)
    except UnreadableEntry as error:
        _log.warning("session %s: message %s is unreadable and left out (%s)", session_id, seq, error)
        return None
    return Entry(seq, message, cast(Stop, stop) if stop in _STOPS else None, created_at, run_id)


def _run(row: RowMapping) -> Run:
    values = dict(row)
    names = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    usage = Usage(*(values.pop(name) for name in names))
    return Run(usage=usage, **values)
