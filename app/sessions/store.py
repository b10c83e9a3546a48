"""The contract of session storage, whatever database is behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeAlias, TypeVar

from ..messages import Message
from .pruning import Ages, Pruned
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
    Standing,
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

    def adopt(self, worker: str) -> list[QueuedRun]:
        """Make the queued runs of all who don't live those of ``worker``; the oldest first.

        :raises Fenced: ``worker`` does not live.
        """

    def begin(self, run: RunStart, messages: Sequence[Message]) -> int:
        """Record a run as in progress and append what it was asked.

        A queued run is taken out of the queue, an interrupted one goes on.

        Creates the session if ``run.session_id`` is new, and says that it is active now. Without
        a session id the messages are not kept. A ``session_key`` that has another session by now,
        or whose session was archived meanwhile, is a StoreError.

        :raises Fenced: the run has a worker, and that one does not live.
        :returns: the ``seq`` of the first message, 0 if none was kept.
        """

    def append(
        self, session_id: str | None, run_id: str, entries: Sequence[NewEntry], now: int, worker: str = ""
    ) -> int:
        """Add to a transcript. Does nothing for None or for a session deleted meanwhile.

        :param run_id: whose entries they are; an id that is no run's is that of a note.
        :param worker: as in :class:`RunEnd`.
        :raises Fenced: the run is over, or somebody else's.
        :returns: the ``seq`` of the first entry, 0 if none was kept.
        """

    def finish(self, end: RunEnd, entries: Sequence[NewEntry]) -> bool:
        """Close a run, add its last entries to its session, its tokens and its cost: all or nothing.

        Only the first finish of a run counts; one of an unknown run, or of somebody else's, does nothing,
        and is False.
        """

    def compact(
        self, session_id: str, summary: str, kept_from: int, now: int, run_id: str = "", worker: str = ""
    ) -> bool:
        """Let ``summary`` stand for the messages before ``kept_from``, the transcript staying whole.

        Nobody has counted the session's ``context_tokens`` then.

        False, and nothing changed, if there is no such session, if as much or more of it was
        summed up before, or if ``kept_from`` lies beyond the place of its next message.

        :param run_id: the run that does this, if one does.
        :param worker: as in :class:`RunEnd`.
        :raises Fenced: the run is over, or somebody else's.
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

    def open_runs(self, session_key: str | None = None) -> list[Run]:
        """The runs that are queued or in progress, of one session key or of all, the oldest first."""

    def ask_cancel(self, run_id: str, reason: str) -> bool:
        """Note for whoever has a run that it is to end; False if it is over or unknown.

        The first reason stays.
        """

    def cancels(self, worker: str) -> dict[str, str]:
        """Which runs of ``worker`` are to end, and why."""

    def join(self, worker: str, name: str, seconds: float) -> None:
        """Let ``worker`` live from now on, for so long if it does not :meth:`beat`.

        What it begins, queues and waits for is safe from others until then. All times of workers are by
        the database's clock.
        """

    def beat(self, worker: str, seconds: float) -> bool:
        """Let ``worker`` live for so long from now.

        False if others have taken it for dead: its runs are over, whatever they write is refused, and it
        has to join under a new id.
        """

    def quit(self, worker: str) -> None:
        """``worker`` lives no more: others may adopt what it has queued."""

    def others(self, worker: str) -> list[str]:
        """The names of all who live but ``worker``."""

    def sweep(self, now: int) -> list[Run]:
        """Take every worker for dead whose time is up; the runs that it leaves behind in progress.

        These have failed then ("interrupted"), their responses are closed, and nobody is in a lane for
        them. Any worker may call this, and one that has had trouble with the database waits first for as
        long as it lives itself: others may have had the same trouble.
        """

    def enter_lane(self, key: str, run_id: str, worker: str, limit: int) -> Standing:
        """Let a run stand in line for session ``key``, at the end; "held" if nobody is there.

        "full", and nothing changed, if ``limit`` runs are in the line already, the one that holds the lane
        included. The database lets one run at a time hold a lane.

        :raises RunUnderWay: the run stands there already, and is another worker's.
        :raises Fenced: ``worker`` does not live.
        """

    def take_lane(self, run_id: str) -> bool:
        """Whether it is the run's turn; it holds its lane then until it leaves.

        :raises Fenced: it has no place, or no more: its worker was taken for dead.
        """

    def leave_lane(self, run_id: str) -> None:
        """Give up a run's place, held or not, if it has one."""

    def list_sessions(
        self,
        agent_id: str | None,
        limit: int,
        offset: int = 0,
        *,
        archived: bool = False,
        parent_key: str | None = None,
        namespace: str | None = None,
    ) -> list[Session]:
        """Sessions by last use, newest first, of one agent or of all.

        :param archived: whether to list the archived ones, too.
        :param parent_key: only those that this session spawned.
        :param namespace: only those of this namespace.
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

    def count_old(self, ages: Ages) -> Pruned:
        """What :meth:`prune` would delete if it were called until there is nothing left."""

    def prune(self, ages: Ages, limit: int) -> Pruned:
        """Delete ``limit`` old sessions and as many old runs at most, but nothing that is under way.

        Sessions take their transcripts and responses along, runs their stored responses. What runs came
        to is gone from :meth:`usage` with them; the sums of a session are its own.
        """

    def watch(self, watcher: Watcher) -> None:
        """Show ``watcher`` what is added to transcripts from now on, as soon as it is written."""

    def check(self) -> None:
        """Make sure that the database answers, without waiting for one that has gone away."""

    def close(self) -> None:
        """Give the database back; safe to repeat. Any later call raises StoreError."""
