"""Deleting what is old, a little at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, and_, bindparam, delete, func, or_, select

from .tables import is_live, is_open, is_open_response, responses, runs, sessions


@dataclass(frozen=True, slots=True)
class Ages:
    """What is old: everything before these moments, Unix milliseconds. Nothing is where there is none.

    :ivar idle: a session was last used.
    :ivar archived: a session was archived.
    :ivar runs: a run began; a stored response goes with its run.
    """

    idle: int | None = None
    archived: int | None = None
    runs: int | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many sessions and runs were deleted, or would be."""

    sessions: int = 0
    runs: int = 0


# In what is under way nothing is old, whenever it began.
_UNDER_WAY = (
    select(runs.c.id)
    .where(is_open, or_(runs.c.session_id == sessions.c.id, runs.c.session_key == sessions.c.key))
    .exists()
)
_OLD_SESSIONS = select(sessions.c.id).where(
    or_(
        and_(is_live, sessions.c.updated_at < bindparam("idle")),
        and_(~is_live, sessions.c.archived_at < bindparam("archived")),
    ),
    ~_UNDER_WAY,
)
_OPEN_ANSWER = select(responses.c.id).where(responses.c.id == runs.c.id, is_open_response).exists()
_OLD_RUNS = select(runs.c.id).where(runs.c.created_at < bindparam("runs"), ~is_open, ~_OPEN_ANSWER)
_SOME_SESSIONS = _OLD_SESSIONS.order_by(sessions.c.updated_at).limit(bindparam("at_most"))
_SOME_RUNS = _OLD_RUNS.order_by(runs.c.created_at).limit(bindparam("at_most"))
_THESE: BindParameter[Any] = bindparam("these", expanding=True)
_DELETE_SESSIONS = delete(sessions).where(sessions.c.id.in_(_THESE))
_DELETE_RUNS = delete(runs).where(runs.c.id.in_(_THESE))
_DELETE_RESPONSES = delete(responses).where(responses.c.id.in_(_THESE))


def count_old(db: Connection, ages: Ages) -> Pruned:
    """What :func:`prune` would delete if it were called again and again."""
    return Pruned(_count(db, _OLD_SESSIONS, ages), _count(db, _OLD_RUNS, ages))


def prune(db: Connection, ages: Ages, limit: int) -> Pruned:
    """Delete ``limit`` old sessions and as many old runs at most, the oldest first."""
    found = _found(db, _SOME_SESSIONS, ages, limit)
    if found:
        db.execute(_DELETE_SESSIONS, {"these": found})  # transcripts and responses go with them
    old = _found(db, _SOME_RUNS, ages, limit)
    if old:
        db.execute(_DELETE_RESPONSES, {"these": old})
        db.execute(_DELETE_RUNS, {"these": old})
    return Pruned(len(found), len(old))


def _found(db: Connection, statement: Select[Any], ages: Ages, limit: int) -> list[str]:
    # Whoever is using a row at this moment keeps it.
    locked = statement.with_for_update(skip_locked=True)
    return list(db.execute(locked, _moments(ages) | {"at_most": limit}).scalars())


def _count(db: Connection, statement: Select[Any], ages: Ages) -> int:
    counted = select(func.count()).select_from(statement.subquery())
    return int(db.execute(counted, _moments(ages)).scalar() or 0)


def _moments(ages: Ages) -> dict[str, int]:
    """Nothing is from before 1970."""
    return {name: 0 if moment is None else moment for name, moment in asdict(ages).items()}
