"""A Postgres database that any number of processes share. Imported only where one is used.

The driver waits by the sockets of its process, so under green threads a call stops nobody else; that holds
if the driver is imported after patching, which is why nothing imports this module at its own import.

Our objects live in a schema of their own, and every transaction says so itself: poolers that give each
transaction another connection, as PgBouncer does, keep nothing that was set for a session.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import Any, Generic, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..errors import StoreError, StoreUnavailable
from ..log import get_logger
from .database import Stored, twice_is_once
from .postgres_errors import UNKNOWN, explained, is_gone, reported
from .tables import SCHEMA_VERSION, metadata, steps_from

T = TypeVar("T")

_versions = Table("schema_version", MetaData(), Column("version", Integer, nullable=False))

_CONNECTIONS = 10  # half of them are kept while nobody uses them
_PATIENCE = 10.0
_CLOSED = "The session store is closed."
_READ_ONLY = "The session store can only be read here."
_NEWER = "The database was made by a newer version of the gateway."
_OLDER = "The database was made by an older version of the gateway: run `openclaw migrate` first."
_NOTHING_YET = "There is nothing in the database yet: the gateway's first start creates it."

_OURS = "SET LOCAL search_path = openclaw"
_LIMITS = "SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '5s'"
# What a read sees is of one moment. One round trip, as a bare BEGIN is.
_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_OURS}; {_LIMITS}"
_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED; {_OURS}; {_LIMITS}"
_UPGRADE = (
    f"BEGIN ISOLATION LEVEL READ COMMITTED; {_OURS};"
    " SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'"
)
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('openclaw:upgrade', 0))"

_USABLE = (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)
_CONNECTING: dict[str, Any] = {
    "prepare_threshold": None,  # a pooler's next connection would not know the statement
    "connect_timeout": 5,
    "application_name": "openclaw-gateway",
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

_log = get_logger("store")


def open_postgres(url: str, *, readonly: bool = False, patience: float = _PATIENCE) -> Postgres:
    """The database at ``url``; nothing is connected yet.

    :param patience: seconds for which calls wait for a database that has gone away.
    :raises StoreError: the URL cannot be used.
    """
    try:
        address = make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        raise StoreError("The URL of the database cannot be read.") from None
    engine = create_engine(
        address,
        isolation_level="AUTOCOMMIT",  # transactions are begun explicitly
        pool_size=_CONNECTIONS // 2,
        max_overflow=_CONNECTIONS // 2,
        pool_timeout=5,
        use_native_hstore=False,
        hide_parameters=True,
        connect_args={name: value for name, value in _CONNECTING.items() if name not in address.query},
    )
    return Postgres(engine, readonly=readonly, patience=patience)


class _CommitLost(Exception, Generic[T]):
    """The connection went away between a commit and its confirmation: ``result`` is stored, or it is not."""

    def __init__(self, result: T) -> None:
        super().__init__()
        self.result = result


class Postgres:
    """:class:`~.database.Database`; a call takes one of up to ten connections."""

    def __init__(self, engine: Engine, *, readonly: bool, patience: float) -> None:
        self._engine = engine
        self._readonly = readonly
        self._patience = patience
        self._ready = False  # our schema is as we know it
        self._closed = False
        # Since when nobody has got through. A database that was never there keeps nobody waiting.
        self._away_since: float | None = -patience

    def read(self, work: Callable[[Connection], T]) -> T:
        """See :meth:`~.database.Database.read`."""
        return self._call(_READ, work, twice_is_once)

    def write(self, work: Callable[[Connection], T], stored: Stored[T] | None = None) -> T:
        """See :meth:`~.database.Database.write`."""
        if self._readonly:
            raise StoreError(_READ_ONLY)
        return self._call(_WRITE, work, stored)

    def check(self) -> None:
        """See :meth:`~.database.Database.check`."""
        self._once(_READ, lambda db: db.execute(select(1)))

    def upgrade(
        self, steps: Callable[[int], Iterable[str]] = steps_from, target: int = SCHEMA_VERSION
    ) -> int:
        """Bring our schema up to date, wholly or not at all; the version it had, 0 for none.

        Processes that do this at the same time wait for each other.

        :param steps: what leads from a version to ``target``.
        :raises StoreError: it cannot be reached, or was made by a newer version.
        """
        with self._explaining():
            return self._transaction(_UPGRADE, lambda db: _upgrade(db, steps, target))

    def close(self) -> None:
        """See :meth:`~.database.Database.close`."""
        self._closed = True
        self._engine.dispose()

    def _call(self, begin: str, work: Callable[[Connection], T], stored: Stored[T] | None) -> T:
        """Try until it is known to be done, or there is no use in waiting any longer."""
        lost: _CommitLost[T] | None = None
        for pause in _pauses():
            try:
                if lost is not None and stored is not None:
                    if self._was_stored(lost.result, stored):
                        return lost.result
                    lost = None
                return self._once(begin, work)
            except _CommitLost as error:
                if stored is None:
                    raise StoreError(UNKNOWN) from None
                lost, reason = error, StoreError(UNKNOWN)
            except StoreUnavailable as error:
                reason = error if lost is None else StoreError(UNKNOWN)
            if not self._worth_waiting(reason):
                raise reason
            time.sleep(pause)
        raise AssertionError("pauses never end")

    def _once(self, begin: str, work: Callable[[Connection], T]) -> T:
        if self._closed:
            raise StoreError(_CLOSED)
        with self._explaining():
            if not self._ready:
                self._make_ready()
            result = self._transaction(begin, work)
        self._away_since = None
        return result

    def _transaction(self, begin: str, work: Callable[[Connection], T]) -> T:
        """All of ``work`` or, if it raises, nothing of it: then the pool rolls back.

        :raises _CommitLost: nobody knows.
        """
        with self._begun(begin.encode()) as connection:
            raw = _driver(connection)
            try:
                result = work(connection)
            except BaseException as error:
                if not _drop_unless_usable(connection, raw) and is_gone(error):
                    connection.invalidate()  # it leads to a server that is not the right one any more
                raise
            try:
                raw.commit()
            except BaseException:
                if _drop_unless_usable(connection, raw):
                    raise _CommitLost(result) from None
                raise
            return result

    def _begun(self, begin: bytes) -> Connection:
        """A connection in a transaction; those that went away while nobody used them are dropped."""
        for left in reversed(range(_CONNECTIONS + 1)):
            connection = self._engine.connect()
            raw = _driver(connection)
            try:
                raw.execute(begin)
            except BaseException as error:
                _drop_unless_usable(connection, raw)
                connection.close()
                if not (left and isinstance(error, psycopg.OperationalError)):
                    raise
            else:
                return connection
        raise AssertionError("the last attempt raises")

    def _was_stored(self, result: T, stored: Stored[T]) -> bool:
        answer: list[bool] = []

        def ask(db: Connection) -> None:
            answer.append(stored(db, result))
            raise _Enough  # what is only asked must not end in another commit

        with suppress(_Enough):
            self._once(_WRITE, ask)
        return answer[0]

    def _make_ready(self) -> None:
        if self._readonly:
            self._transaction(_READ, _check)
        else:
            self._transaction(_UPGRADE, lambda db: _upgrade(db, steps_from, SCHEMA_VERSION))
        self._ready = True

    def _worth_waiting(self, reason: StoreError) -> bool:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            _log.warning("the store waits for its database: %s", reason)
        return now - self._away_since < self._patience

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, psycopg.Error) as error:
            explanation = explained(error)
            if is_gone(error):
                self._ready = False  # whatever comes back may be another database
            elif not isinstance(explanation, StoreUnavailable):
                self._away_since = None
            raise explanation from reported(error)


class _Enough(Exception):
    """Ends a transaction that was only to look."""


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)


def _drop_unless_usable(connection: Connection, raw: psycopg.Connection[Any]) -> bool:
    """Keep a connection that is broken, or was left in the middle of something, out of the pool."""
    broken = raw.info.transaction_status not in _USABLE
    if broken and not connection.invalidated:
        connection.invalidate()
    return broken


def _pauses() -> Iterator[float]:
    """Seconds between attempts: none at first, for most often only the connection was old."""
    return chain((0.0, 0.05, 0.1, 0.2, 0.4), repeat(0.8))


def _check(db: Connection) -> None:
    """Whether a reader knows this schema."""
    version = _version(db)
    if version > SCHEMA_VERSION:
        raise StoreError(_NEWER)
    if version < SCHEMA_VERSION:
        raise StoreError(_OLDER if version else _NOTHING_YET)


def _upgrade(db: Connection, steps: Callable[[int], Iterable[str]], target: int) -> int:
    db.exec_driver_sql(_ONE_AT_A_TIME)
    # Asked first, because a user without the right to create one may have been given one.
    if not db.exec_driver_sql("SELECT 1 FROM pg_namespace WHERE nspname = 'openclaw'").scalar():
        db.exec_driver_sql("CREATE SCHEMA openclaw")
    version = _version(db)
    if version > target:
        raise StoreError(_NEWER)
    if version == 0:
        metadata.create_all(db, checkfirst=False)
        _versions.create(db, checkfirst=False)
        db.execute(insert(_versions), {"version": target})
    elif version < target:
        for step in steps(version):
            db.exec_driver_sql(step)
        db.execute(update(_versions), {"version": target})
    return version


def _version(db: Connection) -> int:
    """The schema's version, 0 if there is none."""
    if db.exec_driver_sql("SELECT to_regclass('openclaw.schema_version')").scalar() is None:
        return 0
    return int(db.execute(select(_versions.c.version)).scalar_one())
