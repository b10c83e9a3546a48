"""What the store needs of a database, whichever it is: transactions that are whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")

# Asked after a commit of which nobody knows whether it has happened: is what it gave there?
Stored: TypeAlias = Callable[[Connection, T], bool]


class Database(Protocol):
    """Any thread may call any method.

    :raises StoreError: from every method, for every failure of the database; it may wait some
        seconds for one that has just gone away.
    """

    def read(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` gives, all of it as at one moment. It may be called more than once."""

    def write(self, work: Callable[[Connection], T], stored: Stored[T] | None = None) -> T:
        """What ``work`` gives once all it does is written; nothing is, if this raises.

        ``work`` may be called again after an attempt of which nothing was written.

        :param stored: where a commit may get lost on its way back: tells whether the attempt that gave
            this result was written, and if it says no, ``work`` is called again. None if there is no
            telling: then such a failure is told as what it is.
        """

    def check(self) -> None:
        """Raise what the next call would raise, without waiting for one that has gone away."""

    def close(self) -> None:
        """Give everything back; safe to repeat."""


def twice_is_once(_db: Connection, _result: object) -> bool:
    """The :data:`Stored` of work that may be done again even if it was done."""
    return False
