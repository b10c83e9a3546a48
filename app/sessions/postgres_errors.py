"""Words for what can go wrong with a Postgres database. None of them names a host, a user or a value."""

from __future__ import annotations

import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoneFree

from ..errors import StoreError, StoreUnavailable

_AWAY = "The database cannot be reached at the moment. Please try again."
_FULL = "The database has no connection free for the gateway. Please try again."
_IN_THE_WAY = "Another transaction was in the way. Please try again."
_READ_ONLY = "The database can only be read at the moment. Please try again."
_DISK_FULL = "The disk of the database is full: nothing was stored. Free some space and try again."
_CONFLICT = "The session was replaced or the run recorded meanwhile. Please try again."
_RIGHTS = (
    "The database's user may not do what the gateway needs. It has to own the schema openclaw, or be allowed"
    " to create it (GRANT CREATE ON DATABASE)."
)
_THEIRS = "The schema openclaw of the database is not this gateway's. Nothing was changed."

UNKNOWN = (
    "The connection to the database broke while something was being stored: it may be stored or not. Please"
    " look before you try again."
)

# By SQLSTATE, or by its class. What is unavailable is worth another attempt.
_UNAVAILABLE = {
    "08": _AWAY,
    "57P01": _AWAY,
    "57P02": _AWAY,
    "57P03": _AWAY,
    "53300": _FULL,
    "25006": _READ_ONLY,
    "40001": _IN_THE_WAY,
    "40P01": _IN_THE_WAY,
    "3F": _AWAY,
    "42P01": _AWAY,  # somebody has dropped our tables: the next attempt makes new ones
}
_TEXTS = {
    "23": _CONFLICT,
    "53100": _DISK_FULL,
    "55P03": "The database was busy with the same session for too long. Please try again.",
    "57014": "The database took too long. Please try again.",
    "42501": _RIGHTS,
    "42P07": _THEIRS,
}
_GONE = ("08", "57P", "25006", "3F", "42P01")
# A refused connection has no SQLSTATE, only the server's words for it.
_REFUSALS = {
    "password authentication failed": "The database refuses the user or the password of its URL.",
    "no password supplied": "The database wants a password, and its URL has none.",
    "pg_hba.conf": "The database does not let this machine or user in.",
    "does not exist": "The database or the user that its URL names does not exist.",
    "too many": _FULL,
    "remaining connection slots": _FULL,
    "SSL": "The database and the gateway cannot agree on encryption (sslmode).",
}


class Failure(Exception):
    """What a database error was, without its details: these quote values."""


def explained(error: SQLAlchemyError | psycopg.Error) -> StoreError:
    """``error`` for the person who reads it; a :class:`StoreUnavailable` may be gone at the next attempt."""
    if isinstance(error, NoneFree):
        return StoreUnavailable("All connections to the database are in use. Please try again.")
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return StoreError(f"The database cannot be used ({type(error).__name__}).")
    state = cause.sqlstate
    if state is None:
        return _without_state(cause)
    if text := _UNAVAILABLE.get(state) or _UNAVAILABLE.get(state[:2]):
        return StoreUnavailable(text)
    text = _TEXTS.get(state) or _TEXTS.get(state[:2])
    return StoreError(text or f"The database cannot be used ({type(cause).__name__}).")


def is_gone(error: BaseException) -> bool:
    """Whether there is nothing behind the connection any more, or not what there was."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return False
    state = cause.sqlstate
    return isinstance(cause, psycopg.OperationalError) if state is None else state.startswith(_GONE)


def reported(error: SQLAlchemyError | psycopg.Error) -> Exception:
    """``error`` for a log."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return error
    names = (type(cause).__name__, cause.sqlstate, cause.diag.constraint_name)
    failure = Failure(" ".join(filter(None, names)))
    if isinstance(error, DBAPIError):
        return type(error)(error.statement, None, failure, hide_parameters=True)
    return failure


def _without_state(cause: psycopg.Error) -> StoreError:
    """The server has said nothing, or has not let us in."""
    if not isinstance(cause, psycopg.OperationalError):
        return StoreError(f"The database cannot be used ({type(cause).__name__}); check its URL.")
    said = str(cause)
    return StoreUnavailable(next((text for words, text in _REFUSALS.items() if words in said), _AWAY))
