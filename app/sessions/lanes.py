"""The lanes of sessions as the database keeps them: one run goes on in a session, others stand in line."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..errors import Fenced, RunUnderWay
from .locks import in_turn
from .records import Standing
from .tables import places

_LINE = select(places.c.run_id, places.c.held, places.c.worker).where(
    places.c.session_key == bindparam("this_key")
)
_PLACE = select(places.c.session_key, places.c.held).where(places.c.run_id == bindparam("this_run"))
_FIRST = select(func.min(places.c.seq)).where(places.c.session_key == bindparam("this_key")).scalar_subquery()
_HOLD = (
    update(places).where(places.c.run_id == bindparam("this_run"), places.c.seq == _FIRST).values(held=True)
)
_LEAVE = delete(places).where(places.c.run_id == bindparam("this_run"))


def enter_lane(db: Connection, key: str, run_id: str, worker: str, limit: int) -> Standing:
    """Stand in line for a session, unless so many do already; a run that does so keeps its place."""
    in_turn(db, key)
    line = {place.run_id: place for place in db.execute(_LINE, {"this_key": key})}
    if run_id in line:
        if line[run_id].worker != worker:
            raise RunUnderWay
        return "held" if line[run_id].held else "waiting"
    if len(line) >= limit:
        return "full"
    place = {"session_key": key, "run_id": run_id, "worker": worker, "held": not line}
    try:
        db.execute(insert(places), place)
    except IntegrityError:  # there is no such worker
        raise Fenced from None
    return "waiting" if line else "held"


def take_lane(db: Connection, run_id: str) -> bool:
    """Hold the lane if the run is the first in its line."""
    place = db.execute(_PLACE, {"this_run": run_id}).one_or_none()
    if place is None:
        raise Fenced
    if place.held:
        return True
    in_turn(db, place.session_key)
    # Whoever holds the lane is the first until it leaves.
    return db.execute(_HOLD, {"this_run": run_id, "this_key": place.session_key}).rowcount > 0


def leave_lane(db: Connection, run_id: str) -> None:
    """Give a place back, wherever in the line it is."""
    db.execute(_LEAVE, {"this_run": run_id})
