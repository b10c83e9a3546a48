"""What runs do to sessions and their transcripts, one transaction each; lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Row
from sqlalchemy.sql.dml import ReturningUpdate

from ..errors import Fenced
from . import workers
from .recent import NOTHING, Known, Recent
from .records import Entry, Loaded, NewEntry, RunEnd, RunStart
from .rows import entry_of, message_row, queued_row, run_end, run_row, session_of, session_row
from .statements import (
    APPEND,
    CLOSE_RUN,
    COMPACT_IN_RUN,
    CONTINUE,
    EXTEND,
    HISTORY,
    LOCK_SESSION,
    NEW_MESSAGES,
    NEW_RUN,
    NEW_SESSION,
    NEWEST,
    OF_RUN,
    OPEN_RUN,
    QUEUE_AGAIN,
    RUN,
    SESSION,
    SETTLE,
    TAKE_OVER,
    UNUSED_SESSION,
)

MessageRow: TypeAlias = Row[*tuple[Any, ...]]


class Place(NamedTuple):
    """Where in which session entries were added; ``first`` is 0 if there were none."""

    key: str
    agent_id: str
    first: int


def load(db: Connection, key: str, recent: Recent) -> Loaded:
    """A session with its messages from its ``kept_from`` on, of which ``recent`` may know some."""
    row = db.execute(SESSION, {"this_key": key}).mappings().one_or_none()
    if row is None:
        return Loaded(None, ())
    session = session_of(row)
    first = session.kept_from
    known = recent.known(session.id, first)
    rows = _behind(db, session.id, known)
    if rows is None:
        known, rows = NOTHING, _read_on(db, session.id, first)
    entries = known.entries + _entries(session.id, rows)
    size = known.size + sum(len(str(row.body)) for row in rows)
    recent.keep(session.id, Known(first, entries, size))
    return Loaded(session, entries)


def _behind(db: Connection, session_id: str, known: Known) -> Sequence[MessageRow] | None:
    """The rows behind what is known; None if that is nothing, or the database has it otherwise."""
    if not known.entries:
        return None
    last = known.entries[-1]
    rows = _read_on(db, session_id, last.seq)
    return rows[1:] if _entries(session_id, rows[:1]) == (last,) else None


def load_whole(db: Connection, key: str) -> Loaded:
    """A session with all its messages."""
    row = db.execute(SESSION, {"this_key": key}).mappings().one_or_none()
    if row is None:
        return Loaded(None, ())
    session = session_of(row)
    return Loaded(session, _entries(session.id, _read_on(db, session.id, 1)))


def _read_on(db: Connection, session_id: str, first: int) -> Sequence[MessageRow]:
    return db.execute(HISTORY, {"this_session": session_id, "first": first}).all()


def _entries(session_id: str, rows: Iterable[MessageRow]) -> tuple[Entry, ...]:
    return tuple(entry for row in rows if (entry := entry_of(session_id, *row)))


def load_newest(db: Connection, key: str, limit: int) -> Loaded:
    """A session with its newest messages."""
    row = db.execute(SESSION, {"this_key": key}).mappings().one_or_none()
    if row is None:
        return Loaded(None, ())
    session = session_of(row)
    rows = db.execute(NEWEST, {"this_session": session.id, "first": 1, "at_most": limit}).all()
    return Loaded(session, _entries(session.id, reversed(rows)))


def create(db: Connection, row: dict[str, Any]) -> bool:
    """Begin an empty session unless its key has one."""
    return db.execute(UNUSED_SESSION[db.dialect.name], row).first() is not None


def is_created(db: Connection, row: dict[str, Any]) -> bool:
    """Whether this very session is there."""
    found = db.execute(SESSION, {"this_key": row["key"]}).first()
    return found is not None and found.id == row["id"]


def begin(db: Connection, run: RunStart, entries: Sequence[NewEntry]) -> int:
    """Record a run as in progress, with what it was asked; the ``seq`` of the first message."""
    if run.worker:
        workers.must_live(db, run.worker)
    first = 0 if run.session_id is None else _open(db, run, run.session_id, entries)
    if not (run.known and _take_over(db, run)):
        db.execute(NEW_RUN, run_row(run))
    return first


def _take_over(db: Connection, run: RunStart) -> bool:
    """Go on with the record of a run that was queued or interrupted; False if there is none."""
    taken = {
        "new_session_id": run.session_id,
        "new_channel": run.channel,
        "new_model": run.model,
        "new_worker": run.worker,
    }
    return db.execute(TAKE_OVER, {"this_run": run.id, **taken}).rowcount > 0


def is_begun(db: Connection, run: RunStart, first: int, count: int) -> bool:
    """Whether the run has begun by an attempt that gave this ``first``."""
    record = db.execute(RUN, {"this_run": run.id}).one_or_none()
    if record is None or record.status != "in_progress" or record.worker != run.worker:
        return False
    return not count or run.session_id is None or _are_there(db, run.session_id, run.id, first, count)


def enqueue(db: Connection, run: RunStart, request: str) -> None:
    """Record a run that waits."""
    again = {"this_run": run.id, "new_request": request, "new_worker": run.worker}
    if not db.execute(QUEUE_AGAIN, again).rowcount:
        db.execute(NEW_RUN, queued_row(run, request))


def _open(db: Connection, run: RunStart, session_id: str, entries: Sequence[NewEntry]) -> int:
    """Go on with a session, or begin it; the ``seq`` of the first entry."""
    now = run.created_at
    place = _extend(db, CONTINUE, {"this_key": run.session_key}, session_id, run.id, entries, now)
    if place is not None:
        return place.first
    row = session_row(run, session_id, len(entries))
    if db.execute(UNUSED_SESSION[db.dialect.name], row).first() is None:
        # Another run has just begun it, or it is not to be gone on with: then this is an error.
        place = _extend(db, CONTINUE, {"this_key": run.session_key}, session_id, run.id, entries, now)
        if place is not None:
            return place.first
        db.execute(NEW_SESSION, row)
    return _insert(db, session_id, run.id, entries, now, first=1)


def append(
    db: Connection, session_id: str, run_id: str, entries: Sequence[NewEntry], now: int, worker: str
) -> Place | None:
    """Add entries of a run that is open, or of no run at all; None if the session is gone."""
    run = {"this_run": run_id, "this_worker": worker}
    place = _extend(db, APPEND, run, session_id, run_id, entries, now)
    if place is not None or db.execute(OPEN_RUN, run).scalar():
        return place
    if db.execute(RUN, run).first() is not None:
        raise Fenced
    return _extend(db, EXTEND, {}, session_id, run_id, entries, now)


def is_appended(db: Connection, session_id: str, run_id: str, first: int, count: int) -> bool:
    """Whether the entries are there that an attempt has given these places."""
    # Whoever is still about to write them has the session's row locked.
    db.execute(LOCK_SESSION, {"this_session": session_id})
    return _are_there(db, session_id, run_id, first, count)


def _are_there(db: Connection, session_id: str, run_id: str, first: int, count: int) -> bool:
    """Nobody else is given the places of a run's entries, and no run writes two at a time."""
    found = db.execute(OF_RUN, {"this_session": session_id, "first": first, "this_run": run_id}).all()
    return [row.seq for row in found[:count]] == list(range(first, first + count))


def compact(db: Connection, values: dict[str, Any]) -> bool:
    """Let a summary stand for a session's earlier messages, for a run that is open."""
    if db.execute(COMPACT_IN_RUN, values).rowcount > 0:
        return True
    if not db.execute(OPEN_RUN, values).scalar():
        raise Fenced
    return False


def finish(db: Connection, end: RunEnd, entries: Sequence[NewEntry]) -> tuple[bool, Place | None]:
    """Close a run: whether that counts, and where its last entries are."""
    changes = {f"new_{name}": value for name, value in run_end(end).items()}
    closed = db.execute(CLOSE_RUN, {"this_run": end.id, "this_worker": end.worker, **changes}).one_or_none()
    if closed is not None and closed.session_id is not None:
        more = {
            "more_input": end.usage.input,
            "more_output": end.usage.output,
            "more_cost": end.cost or 0.0,
            "last_context": end.context_tokens or None,
            "last_model": end.model,
        }
        return True, _extend(db, SETTLE, more, closed.session_id, end.id, entries, end.ended_at)
    return closed is not None, None


def is_finished(db: Connection, end: RunEnd) -> bool:
    """Whether it is this end that the run has come to."""
    record = db.execute(RUN, {"this_run": end.id}).one_or_none()
    return record is not None and (record.ended_at, record.status) == (end.ended_at, end.status)


def _extend(
    db: Connection,
    statement: ReturningUpdate[Any],
    values: dict[str, Any],
    session_id: str,
    run_id: str,
    entries: Sequence[NewEntry],
    now: int,
) -> Place | None:
    """Add entries to a session; None if there is no such session."""
    common = {"this_session": session_id, "now": now, "added": len(entries)}
    row = db.execute(statement, common | values).one_or_none()
    if row is None:
        return None
    first = row.message_count - len(entries) + 1
    return Place(row.key, row.agent_id, _insert(db, session_id, run_id, entries, now, first=first))


def _insert(
    db: Connection, session_id: str, run_id: str, entries: Sequence[NewEntry], now: int, *, first: int
) -> int:
    rows = [message_row(session_id, run_id, now, *numbered) for numbered in enumerate(entries, first)]
    if not rows:
        return 0
    db.execute(NEW_MESSAGES, rows)
    return first
