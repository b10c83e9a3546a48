"""Stored responses: which session each one is part of, and where in it the next one goes on."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

from sqlalchemy import (
    Connection,
    RowMapping,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from ..messages import Message
from ..wire import clean
from .keys import is_conversation_key, is_response_key
from .records import Branch, NewResponse, StoredResponse
from .rows import entry_of
from .tables import is_live, is_open, is_open_response, messages, responses, runs, sessions, workers

_PLAIN = ("id", "agent_id", "created_at", "session_id", "last_seq", "request", "body")
_FIND = select(responses).where(responses.c.id == bindparam("this_response"))
_LOCK = _FIND.with_for_update()
_CLAIM = (
    update(responses)
    .where(responses.c.id == bindparam("this_response"), responses.c.continued_by.is_(None))
    .values(continued_by=bindparam("child"))
)
_UNCLAIM = (
    update(responses).where(responses.c.continued_by == bindparam("this_response")).values(continued_by=None)
)
_DELETE = delete(responses).where(responses.c.id == bindparam("this_response"))
_SESSION = select(sessions).where(sessions.c.id == bindparam("this_session"))
_IN_PLACE = _SESSION.where(sessions.c.message_count == bindparam("at"), is_live)
_SESSION_OF_RUN = (
    select(sessions.c.id)
    .join(runs, runs.c.session_id == sessions.c.id)
    .where(runs.c.id == responses.c.id)
    .scalar_subquery()
)
_LAST_OF_RUN = (
    select(messages.c.seq)
    .join(runs, runs.c.session_id == messages.c.session_id)
    .where(runs.c.id == responses.c.id, messages.c.run_id == responses.c.id)
    .order_by(messages.c.seq.desc())
    .limit(1)
    .scalar_subquery()
)
_CLOSE = (
    update(responses)
    .where(is_open_response)
    .values(
        status="closed",
        session_id=func.coalesce(_SESSION_OF_RUN, responses.c.session_id),
        last_seq=_LAST_OF_RUN,
    )
)
_ABANDONED = _CLOSE.where(
    responses.c.worker.not_in(select(workers.c.id)),
    ~exists(select(runs.c.id).where(runs.c.id == responses.c.id, is_open)),
)
_FINISH = _CLOSE.where(responses.c.id == bindparam("this_response")).values(body=bindparam("new_body"))
_OTHERS = select(func.count()).select_from(responses).where(responses.c.session_id == bindparam("of"))
_UP_TO = (
    select(messages.c.seq, messages.c.body, messages.c.stop, messages.c.created_at, messages.c.run_id)
    .where(messages.c.session_id == bindparam("of"), messages.c.seq <= bindparam("last"))
    .order_by(messages.c.seq)
)


class _Place(NamedTuple):
    """A session by key, and by id if there is one already."""

    key: str
    session_id: str | None


def open_response(db: Connection, new: NewResponse, branch: Branch) -> str | None:
    """Record a response; the key of the session it goes on in, None if its parent cannot be followed."""
    place = _Place(branch.key, None) if new.parent_id is None else _follow(db, new.parent_id, new, branch)
    if place is None:
        return None
    db.execute(insert(responses), asdict(new) | {"status": "open", "session_id": place.session_id})
    return place.key


def abandon_response(db: Connection, response_id: str, branch: Branch) -> None:
    """Take back what :func:`open_response` did: no run has begun."""
    db.execute(_UNCLAIM, {"this_response": response_id})
    db.execute(_DELETE, {"this_response": response_id})
    db.execute(delete(sessions).where(sessions.c.id == branch.session_id))


def close_response(db: Connection, response_id: str, body: str) -> None:
    """The run of an open response is over."""
    db.execute(_FINISH, {"this_response": response_id, "new_body": clean(body)})


def close_all_responses(db: Connection) -> None:
    """The responses that an earlier process has left open get no body any more."""
    db.execute(_CLOSE)


def close_responses_of_the_dead(db: Connection) -> None:
    """The same for those whose worker does not live and whose run is not waiting for another one."""
    db.execute(_ABANDONED)


def get_response(db: Connection, response_id: str) -> StoredResponse | None:
    """One response."""
    row = _found(db, response_id)
    if row is None:
        return None
    return StoredResponse(open=row["status"] == "open", **{name: row[name] for name in _PLAIN})


def response_messages(db: Connection, response_id: str) -> list[Message] | None:
    """The conversation up to the end of a response; None if it is not there, or not any more."""
    row = _found(db, response_id)
    if row is None or row["last_seq"] is None:
        return None
    rows = db.execute(_UP_TO, {"of": row["session_id"], "last": row["last_seq"]})
    entries = (entry_of(row["session_id"], *stored) for stored in rows)
    return [entry.message for entry in entries if entry is not None]


def delete_response(db: Connection, response_id: str) -> bool:
    """Delete a response, and its session if that holds nothing but deleted responses."""
    row = _found(db, response_id)
    if row is None:
        return False
    db.execute(_DELETE, {"this_response": response_id})
    session = db.execute(_SESSION, {"this_session": row["session_id"]}).mappings().one_or_none()
    if session is not None and is_response_key(session["key"]) and not _is_used(db, session["id"]):
        db.execute(delete(sessions).where(sessions.c.id == session["id"]))
    return True


def _found(db: Connection, response_id: str) -> RowMapping | None:
    return db.execute(_FIND, {"this_response": response_id}).mappings().one_or_none()


def _is_used(db: Connection, session_id: str) -> bool:
    return bool(db.execute(_OTHERS, {"of": session_id}).scalar())


def _follow(db: Connection, parent_id: str, new: NewResponse, branch: Branch) -> _Place | None:
    """A session that ends where the parent ends, and that nobody else goes on in."""
    # Whoever comes first has it; SQLite lets one writer in at a time, others lock the row.
    parent = db.execute(_LOCK, {"this_response": parent_id}).mappings().one_or_none()
    if parent is None or parent["last_seq"] is None:
        return None
    first = db.execute(_CLAIM, {"this_response": parent_id, "child": new.id}).rowcount > 0
    end = {"this_session": parent["session_id"], "at": parent["last_seq"]}
    session = db.execute(_IN_PLACE, end).mappings().one_or_none() if first else None
    # Of a conversation every response takes part; whoever follows one of them leaves the others.
    if session is not None and not is_conversation_key(session["key"]):
        return _Place(session["key"], session["id"])
    return _fork(db, parent, new, branch)


def _fork(db: Connection, parent: RowMapping, new: NewResponse, branch: Branch) -> _Place:
    """Copy the parent's session up to the parent's end."""
    old = db.execute(_SESSION, {"this_session": parent["session_id"]}).mappings().one()
    last = parent["last_seq"]
    changed = {"id": branch.session_id, "key": branch.key, "message_count": last, "archived_at": None}
    times = dict.fromkeys(("created_at", "updated_at", "active_at"), new.created_at)
    sums = {"input_tokens": 0, "output_tokens": 0, "cost": 0.0, "context_tokens": 0}
    # A summary that was made later tells of what comes later.
    whole = {"summary": None, "kept_from": 1, "compactions": 0} if old["kept_from"] > last else {}
    db.execute(insert(sessions), dict(old) | changed | times | sums | whole)
    columns = [column for column in messages.c if column.name != "session_id"]
    copied = select(literal(branch.session_id), *columns).where(
        messages.c.session_id == old["id"], messages.c.seq <= last
    )
    db.execute(insert(messages).from_select(["session_id", *(column.name for column in columns)], copied))
    return _Place(branch.key, branch.session_id)
