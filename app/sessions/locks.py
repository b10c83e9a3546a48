"""Transactions that must not overlap, on databases that let several in at a time."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select

from .tables import Words

# Numbers of one space for all that share a database, so they are made of a name that begins with ours.
_WAIT = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("name", type_=Words()), 0)))


def in_turn(db: Connection, name: str) -> None:
    """Wait until no other transaction is in turn for ``name``; this one is until it ends.

    What the next statement reads is then as the last one left it.
    """
    if db.dialect.name == "postgresql":  # SQLite has one connection, and the caller serialises
        db.execute(_WAIT, {"name": f"openclaw:{name}"})
