"""The contract of session storage, whatever database is behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeAlias, TypeVar

from ..messages import Message
from .records import (
    Added,
    Branch,
    Entry,
    Loaded,
    NewEntry,
    NewResponse,
    QueuedRun,
    Run,
    RunEnd,
    RunStart,
    Session,
    SessionSettings,
    StoredResponse,
    UsageQuery,
    UsageRow,
)

T = TypeVar("T")

# Called in the thread that has stored it. Must be quick and must not raise.
Watcher: TypeAlias = Callable[[Added], None]


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
        """The session of ``key`` with the messages from its ``kept_from`` on, oldest first.

        What a long conversation has left behind is not read; unreadable rows are left out.
        """

    def session(self, key: str) -> Session | None:
        """The session of ``key`` without its messages; None if nobody has used the key yet."""

    def transcript(self, key: str) -> Loaded:
        """The session of ``key`` with all its messages, oldest first; unreadable rows are left out."""

    def newest(self, key: str, limit: int) -> Loaded:
        """The session of ``key`` with its newest ``limit`` messages, oldest first."""

    def ends(self, session_ids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
        """The first and the last message of each session that has any."""

    def said_in(self, run: Run) -> list[Entry]:
        """What a run has added to its session, oldest first; nothing once that is deleted."""

    def enqueue(self, run: RunStart, request: str) -> None:
        """Record a run that will begin later: if this process dies, the next one finds it.

        A run that is not over yet or was interrupted is queued again, any other is a StoreError.

        :param request: what :meth:`queued` gives back.
        """

    def queued(self) -> list[QueuedRun]:
        """The runs that have yet to begin, the oldest first."""

    def begin(self, run: RunStart, messages: Sequence[Message]) -> int:
        """Record a run as in progress and append what it was asked.

        A queued run is taken out of the queue, an interrupted one goes on.

        Creates the session if ``run.session_id`` is new, and says that it is active now. Without
        a session id the messages are not kept. A ``session_key`` that has another session by now,
        or whose session was archived meanwhile, is a StoreError.

        :returns: the ``seq`` of the first message, 0 if none was kept.
        """

    def append(self, session_id: str | None, run_id: str, entries: Sequence[NewEntry], now: int) -> int:
        """Add to a transcript. Does nothing for None or for a session deleted meanwhile.

        :returns: the ``seq`` of the first entry, 0 if none was kept.
        """

    def finish(self, end: RunEnd, entries: Sequence[NewEntry]) -> None:
        """Close a run, add its last entries to its session, its tokens and its cost: all or nothing.

        Only the first finish of a run counts; one of an unknown run does nothing.
        """

    def compact(self, session_id: str, summary: str, kept_from: int, now: int) -> bool:
        """Let ``summary`` stand for the messages before ``kept_from``, the transcript staying whole.

        Nobody has counted the session's ``context_tokens`` then.

        False, and nothing changed, if there is no such session, if as much or more of it was
        summed up before, or if ``kept_from`` lies beyond the place of its next message.
        """

    def create(self, key: str, session_id: str, agent_id: str, now: int) -> bool:
        """Begin an empty session; False, and nothing changed, if ``key`` has one."""

    def configure(self, key: str, settings: SessionSettings, now: int) -> bool:
        """Replace a session's settings; False if there is none."""

    def archive(self, key: str, now: int) -> bool:
        """Free ``key`` for a new session; False if it has none.

        The session goes on under the key ``archived:<its id>:<key>``. Runs that are on may still
        end in it, none may begin.
        """

    def get_run(self, run_id: str) -> Run | None:
        """One run's record."""

    def list_runs(self, session_key: str | None, limit: int) -> list[Run]:
        """The newest runs, of one session key or of all."""

    def list_sessions(
        self,
        agent_id: str | None,
        limit: int,
        offset: int = 0,
        *,
        archived: bool = False,
        parent_key: str | None = None,
    ) -> list[Session]:
        """Sessions by last use, newest first, of one agent or of all.

        :param archived: whether to list the archived ones, too.
        :param parent_key: only those that this session spawned.
        """

    def count_sessions(self, agent_id: str | None = None) -> int:
        """How many sessions are not archived, of one agent or of all."""

    def usage(self, query: UsageQuery) -> list[UsageRow]:
        """What finished runs came to, one row a group, in the groups' order.

        Its work grows with the number of runs in the time that is asked for.
        """

    def delete_session(self, key: str) -> bool:
        """Delete a session with its transcript, but not its runs; False if there is none."""

    def open_response(self, new: NewResponse, branch: Branch) -> str | None:
        """Record a response whose run is about to begin; the key of the session that it is to go on in.

        That is ``branch.key`` for one that follows none. One that follows another goes on in place if it
        is the first to do so and nothing was said there since, else in a copy that ends where the other
        does and is called as ``branch`` says. None, and nothing changed, if there is no such response
        or if it has no place in a session: it is still open, never began or kept no transcript.
        """

    def abandon_response(self, response_id: str, branch: Branch) -> None:
        """Take back :meth:`open_response`: the run was refused."""

    def close_response(self, response_id: str, body: str) -> None:
        """Store the finished response of a run that is over; one that is gone stays so."""

    def get_response(self, response_id: str) -> StoredResponse | None:
        """One response; None if nobody has stored it, or somebody has deleted it or its session."""

    def response_messages(self, response_id: str) -> list[Message] | None:
        """The whole conversation up to the end of a response; None if it has no place in a session."""

    def delete_response(self, response_id: str) -> bool:
        """Delete a response that is not open; False if there is none.

        The session goes with it if it was begun for responses and this was the last of them.
        """

    def watch(self, watcher: Watcher) -> None:
        """Show ``watcher`` what is added to transcripts from now on, as soon as it is written."""

    def close(self) -> None:
        """Give the database back; safe to repeat. Any later call raises StoreError."""
