"""One SQLite file as a database: its lock, its settings, and words for its errors.

The file stays where it is whatever state it is in: nothing here deletes or replaces it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, StaticPool, create_engine, select
from sqlalchemy.exc import DBAPIError, ResourceClosedError, SQLAlchemyError

from ..errors import StoreError
from .beacon import seen
from .database import Stored
from .store import Offload
from .tables import SCHEMA_VERSION, metadata, steps_from

T = TypeVar("T")

FILE_NAME = "gateway.sqlite3"
LOCK_NAME = "gateway.lock"

# A gateway has the file to itself, so only an operator's own tool can make it wait.
_BUSY_TIMEOUT = 0.5

_DISK_FULL = "The disk is full: nothing was stored. Free some space and try again."
_DAMAGED = (
    f"The session store ({FILE_NAME}) is damaged or not a database. Nothing was changed or deleted. To"
    f" repair it, stop the gateway, move {FILE_NAME} and its -wal and -shm files away, and put a backup in"
    " their place; without one, the gateway starts with an empty store."
)
_READ_ONLY = "The session store can only be read here."
_OLDER = (
    f"The session store ({FILE_NAME}) was made by an older version of the gateway, whose next start brings it"
    " up to date; until then it cannot be read here."
)
_NOTHING_YET = "There is no session store yet: the gateway's first start creates it."
_CLOSED = "The session store is closed."
_TEXTS = {
    sqlite3.SQLITE_FULL: _DISK_FULL,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_BUSY: f"Another program is holding the session store ({FILE_NAME}) locked.",
    sqlite3.SQLITE_IOERR: f"The disk failed while the session store ({FILE_NAME}) was read or written.",
    sqlite3.SQLITE_CANTOPEN: f"The session store ({FILE_NAME}) cannot be opened; check its permissions.",
    sqlite3.SQLITE_CONSTRAINT: "The session was replaced or the run recorded meanwhile. Please try again.",
}


class Database:
    """The open file. Not for two threads at once."""

    def __init__(self, raw: sqlite3.Connection, connection: Connection, resources: ExitStack) -> None:
        self._raw = raw
        self._connection = connection
        self._resources = resources

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All of the block or, if it raises, nothing of it.

        :raises StoreError: for every failure of the database, that of the commit included.
        """
        with _explained(), self._connection.begin():
            self._raw.execute("BEGIN")
            yield self._connection

    def close(self) -> None:
        """Close the file, then give up its lock."""
        self._resources.close()


class Offloaded:
    """:class:`~.database.Database` of one file; every call runs where ``offload`` runs it, one at a time."""

    def __init__(self, database: Database, offload: Offload) -> None:
        self._database = database
        self._offload = offload

    def read(self, work: Callable[[Connection], T]) -> T:
        """See :meth:`~.database.Database.read`."""
        return self.write(work)

    def write(self, work: Callable[[Connection], T], _: Stored[T] | None = None) -> T:
        """See :meth:`~.database.Database.write`; no commit gets lost here."""

        def run() -> T:
            with self._database.transaction() as db:
                return work(db)

        return self._offload(run)

    def check(self) -> None:
        """See :meth:`~.database.Database.check`."""
        self.read(lambda db: db.execute(select(1)))

    def close(self) -> None:
        """See :meth:`~.database.Database.close`."""
        self._offload(self._database.close)


def open_database(directory: Path, *, readonly: bool) -> Database:
    """Open the file in ``directory``; unless ``readonly``, create and lock it too.

    A file of an older version is brought up to date, wholly or not at all.

    :raises StoreError: another process has the lock, the file is unusable, or made by a
        newer version; to read: there is none yet, or it is of an older version.
    """
    resources = ExitStack()
    try:
        with _explained():
            return _open(directory, readonly, resources)
    except BaseException:
        resources.close()
        raise


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep every gateway away from the state in ``directory``.

    :raises StoreError: one is using it, or the directory cannot be used.
    """
    with ExitStack() as resources:
        with _explained():
            _create_files(directory)
            resources.enter_context(_locked(directory / LOCK_NAME))
        yield


def _open(directory: Path, readonly: bool, resources: ExitStack) -> Database:
    if not readonly:
        _create_files(directory)
        resources.enter_context(_locked(directory / LOCK_NAME))
    raw = resources.enter_context(closing(_connect(directory / FILE_NAME, readonly)))
    version = _version(raw)
    if readonly and version < SCHEMA_VERSION:
        raise StoreError(_OLDER if version else _NOTHING_YET)
    # hide_parameters: a log line about a failed statement must not quote the conversation.
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool, hide_parameters=True)
    resources.callback(engine.dispose)
    database = Database(raw, resources.enter_context(engine.connect()), resources)
    if not readonly:
        _tune(raw)
    if version < SCHEMA_VERSION:
        _bring_up_to_date(database, version)
    return database


def _create_files(directory: Path) -> None:
    """Create what is missing, for its owner only; what exists keeps its permissions."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (LOCK_NAME, FILE_NAME):
        (directory / name).touch(mode=0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that dies with this process, so that a crash leaves nothing to clean up."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(_in_use(path.parent)) from None
        yield


def _in_use(directory: Path) -> str:
    beacon = seen(directory)
    place = f" It is {beacon}." if beacon else ""
    return f"Another gateway is using this state directory.{place}"


def _connect(file: Path, readonly: bool) -> sqlite3.Connection:
    mode = "ro" if readonly else "rw"
    if not file.exists():
        raise StoreError(_NOTHING_YET)
    raw = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,  # transactions are begun explicitly
        check_same_thread=False,  # the caller serialises, in whatever thread it likes
    )
    # A flipped byte in one text must not make the whole row set unreadable.
    raw.text_factory = partial(str, encoding="utf-8", errors="replace")
    return raw


def _version(raw: sqlite3.Connection) -> int:
    """The schema's version, 0 for an empty file. Reading the header also finds garbage and truncation."""
    (version,) = raw.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StoreError(f"The session store ({FILE_NAME}) was made by a newer version of the gateway.")
    (objects,) = raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and objects:
        raise StoreError(f"{FILE_NAME} is not a session store of this gateway. Nothing was changed.")
    return int(version)


def _tune(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute("PRAGMA journal_mode = WAL")  # readers beside the writer; a commit is one append
    # A commit is in the kernel's hands when it returns, so the death of the process loses
    # nothing. The death of the machine may cost the last moments but not the file; an fsync
    # per commit would cost every turn milliseconds.
    raw.execute("PRAGMA synchronous = NORMAL")


def _bring_up_to_date(database: Database, version: int) -> None:
    with database.transaction() as db:  # the new schema and its number, or the file as it was
        if version == 0:
            metadata.create_all(db)
        else:
            for step in steps_from(version):
                db.exec_driver_sql(step)
        db.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn every failure of database or file system into a StoreError."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StoreError(_database_text(error)) from error
    except OSError as error:
        raise StoreError(_file_text(error)) from error


def _database_text(error: SQLAlchemyError | sqlite3.Error) -> str:
    if isinstance(error, ResourceClosedError):
        return _CLOSED
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_OK)
    name = getattr(cause, "sqlite_errorname", type(cause).__name__)
    return _TEXTS.get(code & 0xFF, f"The session store ({FILE_NAME}) cannot be used ({name}).")


def _file_text(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _DISK_FULL
    return f"The state directory cannot be used: {os.strerror(error.errno or errno.EIO)}."
