"""The rows of a store as plain values, and back: the same for every database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table, insert, select

from ..errors import StoreError
from . import workers
from .database import Database
from .responses import close_all_responses
from .sqlite import Offloaded, open_database
from .statements import INTERRUPT
from .tables import SCHEMA_VERSION, messages, responses, runs, sessions

Row: TypeAlias = dict[str, Any]

# In this order, because messages and responses name sessions.
_TABLES: Mapping[str, Table] = {
    "sessions": sessions,
    "messages": messages,
    "responses": responses,
    "runs": runs,
}
TABLES = tuple(_TABLES)
# Of a process that is not there any more.
_NOT_KEPT = frozenset({"worker"})
_NEWER = "The backup was made by a newer version of the gateway."


def open_rows(place: Path | str, *, readonly: bool) -> Database:
    """The database in a directory or at a URL, for the functions here. The caller closes it.

    :raises StoreError: as :func:`~.sql.open_store` does.
    """
    if isinstance(place, str):
        from .postgres import open_postgres  # needs a driver that not everybody has

        return open_postgres(place, readonly=readonly)
    return Offloaded(open_database(place, readonly=readonly), lambda work: work())


def export_rows(db: Connection, table: str, amount: int = 50) -> Iterator[list[Row]]:
    """All rows of a table, ``amount`` at a time; within one transaction they belong together."""
    kept = [column for column in _TABLES[table].c if column.name not in _NOT_KEPT]
    found = db.execute(select(*kept), execution_options={"yield_per": amount}).mappings()
    while rows := list(islice(found, amount)):
        yield [{name: _plain(value) for name, value in row.items()} for row in rows]


def import_rows(db: Connection, table: str, rows: Sequence[Row]) -> None:
    """Add rows that :func:`export_rows` has given, by this release or an older one.

    :raises StoreError: they have columns that this release does not know, or lack some.
    """
    kept = [column for column in _TABLES[table].c if column.name not in _NOT_KEPT]
    needed = {column.name for column in kept if not column.nullable and column.server_default is None}
    for columns, alike in _by_columns(rows).items():
        if not {column.name for column in kept}.issuperset(columns):
            raise StoreError(_NEWER)
        if not needed.issubset(columns):
            raise StoreError("The backup holds rows that cannot be read.")
        db.execute(insert(_TABLES[table]), alike)


def clear(db: Connection) -> None:
    """Delete all rows of all tables."""
    for name in reversed(TABLES):
        db.execute(_TABLES[name].delete())


def users(db: Connection) -> list[str]:
    """The names of the processes that are using the database."""
    return workers.others(db, "")


def is_empty(db: Connection) -> bool:
    """True if nobody has said anything yet."""
    return all(db.execute(select(table).limit(1)).first() is None for table in (sessions, runs))


def settle_imported(db: Connection, now: int) -> None:
    """End what was under way when the rows were exported, as after the death of a process."""
    db.execute(INTERRUPT, {"now": now})
    close_all_responses(db)


def check_schema(version: int) -> None:
    """Make sure that rows of this version of the schema can be imported.

    Columns only ever join, with a default, so that older rows fit.

    :raises StoreError: it is newer than ours.
    """
    if version > SCHEMA_VERSION:
        raise StoreError(_NEWER)


def _by_columns(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows with the same columns together: one statement each."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    return groups


def _plain(value: Any) -> Any:
    """What JSON can hold; only a damaged file has anything else."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
