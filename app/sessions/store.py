"""The contract of session storage, whatever database is behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ..messages import Message
from .records import Loaded, NewEntry, Run, RunEnd, RunStart, Session

T = TypeVar("T")


class Offload(Protocol):
    """Runs a piece of blocking work somewhere else and waits for it.

    One piece at a time, in any thread; the work's result or exception comes back. A server
    on green threads gives one native thread; the work takes no lock that was patched.
    """

    def __call__(self, work: Callable[[], T], /) -> T:
        """Return what ``work`` returns."""


class Store(Protocol):
    """Sessions, their transcripts, and runs. Any thread may call any method.

    A call that returns has been written: it survives the death of this process. A call that
    raises has changed nothing.

    :raises StoreError: from every method.
    """

    def load(self, key: str) -> Loaded:
        """The session of ``key`` with its transcript, oldest first; unreadable rows are left out."""

    def begin(self, run: RunStart, messages: Sequence[Message]) -> None:
        """Record a run as in progress and append what it was asked.

        Creates the session if ``run.session_id`` is new. Without a session id the messages
        are not kept. A ``session_key`` that has another session by now is a StoreError.
        """

    def append(self, session_id: str | None, run_id: str, entries: Sequence[NewEntry], now: int) -> None:
        """Add to a transcript. Does nothing for None or for a session deleted meanwhile."""

    def finish(self, end: RunEnd, entries: Sequence[NewEntry]) -> None:
        """Close a run, add its last entries to its session, count its tokens: all or nothing.

        Only the first finish of a run counts; one of an unknown run does nothing.
        """

    def get_run(self, run_id: str) -> Run | None:
        """One run's record."""

    def list_runs(self, session_key: str | None, limit: int) -> list[Run]:
        """The newest runs, of one session key or of all."""

    def list_sessions(self, agent_id: str | None, limit: int, offset: int = 0) -> list[Session]:
        """Sessions by last use, newest first, of one agent or of all."""

    def delete_session(self, key: str) -> bool:
        """Delete a session with its transcript, but not its runs; False if there is none."""

    def close(self) -> None:
        """Give the database back; safe to repeat. Any later call raises StoreError."""
