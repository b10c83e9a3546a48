"""Who lives, by the database's clock, and what becomes of the runs of those who don't."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from ..errors import Fenced
from .locks import in_turn
from .records import QueuedRun, Run
from .responses import close_responses_of_the_dead
from .rows import run_of
from .statements import INTERRUPT, RECORD, RUN
from .tables import Words, is_open, is_queued, runs, workers

_ALL = "workers"


class _Clock(GenericFunction[int]):
    """Now in Unix milliseconds, by the clock that all who share the database share."""

    type = BigInteger()
    inherit_cache = True


@compiles(_Clock, "sqlite")
def _sqlite_clock(*_: Any, **__: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(_Clock, "postgresql")
def _postgres_clock(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


_UNTIL = _Clock() + bindparam("milliseconds", type_=BigInteger())
_LIVING = select(workers.c.id)
_LIVES = _LIVING.where(workers.c.id == bindparam("this_worker")).with_for_update(read=True, key_share=True)
_PROLONG = update(workers).where(workers.c.id == bindparam("this_worker")).values(expires_at=_UNTIL)
_ENTER = insert(workers).values(id=bindparam("this_worker"), name=bindparam("its_name"), expires_at=_UNTIL)
_QUIT = delete(workers).where(workers.c.id == bindparam("this_worker"))
_BURY = delete(workers).where(workers.c.expires_at <= _Clock())
_OTHERS = (
    select(workers.c.name)
    .where(workers.c.id != bindparam("this_worker"), workers.c.expires_at > _Clock())
    .order_by(workers.c.name)
)
_FAIL = INTERRUPT.where(runs.c.worker.not_in(_LIVING)).returning(*RECORD)
_ADOPT = (
    update(runs)
    .where(is_open, is_queued, runs.c.worker.not_in(_LIVING))
    .values(worker=bindparam("this_worker"))
    .returning(runs.c.id, runs.c.request, runs.c.created_at)
)
_WISH = (
    update(runs)
    .where(runs.c.id == bindparam("this_run"), is_open)
    .values(cancel=func.coalesce(runs.c.cancel, bindparam("why", type_=Words())))
)
_WISHES = select(runs.c.id, runs.c.cancel).where(
    is_open, runs.c.worker == bindparam("this_worker"), runs.c.cancel.is_not(None)
)


def must_live(db: Connection, worker: str) -> None:
    """Make sure that nobody takes ``worker`` for dead before the transaction ends.

    :raises Fenced: somebody has.
    """
    if db.execute(_LIVES, {"this_worker": worker}).first() is None:
        raise Fenced


def join(db: Connection, worker: str, name: str, seconds: float) -> None:
    """Let ``worker`` live for so long."""
    if not beat(db, worker, seconds):
        db.execute(_ENTER, {"this_worker": worker, "its_name": name, "milliseconds": int(seconds * 1000)})


def beat(db: Connection, worker: str, seconds: float) -> bool:
    """Let ``worker`` live for so long from now; False if it was taken for dead."""
    values = {"this_worker": worker, "milliseconds": int(seconds * 1000)}
    return db.execute(_PROLONG, values).rowcount > 0


def quit_work(db: Connection, worker: str) -> None:
    """A normal end: what ``worker`` has queued is free for others."""
    db.execute(_QUIT, {"this_worker": worker})


def others(db: Connection, worker: str) -> list[str]:
    """The names of all who live but ``worker``."""
    return list(db.execute(_OTHERS, {"this_worker": worker}).scalars())


def sweep(db: Connection, now: int) -> list[Run]:
    """Take those for dead whose time is up; their runs in progress, which are over now."""
    in_turn(db, _ALL)
    db.execute(_BURY)  # their places go with them
    lost = [run_of(row) for row in db.execute(_FAIL, {"now": now}).mappings()]
    close_responses_of_the_dead(db)
    return lost


def adopt(db: Connection, worker: str) -> list[QueuedRun]:
    """Give ``worker`` the queued runs of all who don't live; the oldest first."""
    in_turn(db, _ALL)
    must_live(db, worker)
    found = sorted(db.execute(_ADOPT, {"this_worker": worker}), key=lambda row: (row.created_at, row.id))
    return [QueuedRun(row.id, row.request or "") for row in found]


def are_swept(db: Connection, lost: list[Run]) -> bool:
    """Whether the sweep that gave these is written; one that gave none may be done again."""
    if not lost:
        return False
    record = db.execute(RUN, {"this_run": lost[0].id}).one_or_none()
    return record is not None and record.ended_at == lost[0].ended_at


def are_adopted(db: Connection, worker: str, found: list[QueuedRun]) -> bool:
    """Whether the adoption that gave these is written; one that gave none may be done again."""
    if not found:
        return False
    record = db.execute(RUN, {"this_run": found[0].id}).one_or_none()
    return record is not None and record.worker == worker


def ask_cancel(db: Connection, run_id: str, reason: str) -> bool:
    """Note that a run is to end; False if it is over or unknown. The first reason stays."""
    return db.execute(_WISH, {"this_run": run_id, "why": reason}).rowcount > 0


def cancels(db: Connection, worker: str) -> dict[str, str]:
    """Which of a worker's runs are to end, and why."""
    return {row.id: row.cancel for row in db.execute(_WISHES, {"this_worker": worker})}
