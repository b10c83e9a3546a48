"""Runs that outlive their readers' connections: whoever comes back reads on where they left off.

The journal keeps a run's events in memory, while it goes on and for a while after its end. A run
that nobody journals has a stream for its one reader instead (:mod:`.stream`) and knows nothing of this.
Where several processes serve one gateway, each finds the others' runs, too (:mod:`.elsewhere`).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeAlias

from ..cancel import CancelReason
from ..errors import EventsLost, InvalidRequest
from ..events import (
    TERMINAL,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunStarted,
    TerminalEvent,
    TextDelta,
    ToolUpdated,
)
from ..messages import JsonObject
from .elsewhere import Elsewhere, RemoteJournaledRun
from .logbook import Card, Scribe
from .run import RunRequest
from .service import RunService
from .tape import Tape

_ENTRY_BYTES = 2_000  # what a run takes besides its events, about
_PIECE = 256  # letters; a longer text is several events, so that a reader can go on within it
_STEP = 32 * 1024  # bytes by which a run may grow before the journal looks at the sum


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """What the journal keeps.

    :ivar seconds: for how long a run is kept after its end.
    :ivar grace: seconds for which a run goes on without a reader.
    :ivar run_bytes: of one run's events; beyond it the oldest go.
    :ivar total_bytes: of all runs' events; beyond it runs that ended go, the first to end first, and
        then a run's oldest events as new ones come.
    """

    seconds: float = 300.0
    grace: float = 60.0
    run_bytes: int = 4 * 2**20
    total_bytes: int = 64 * 2**20


class Journal:
    """The journaled runs of a gateway. Any thread may call any method.

    :ivar limits: what is kept. :ivar monotonic: the clock, in seconds.
    """

    def __init__(
        self,
        runs: RunService,
        after: Callable[[float, Callable[[], object]], object],
        limits: JournalLimits,
        *,
        elsewhere: Elsewhere | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param after: calls a function once, a number of seconds from now.
        :param elsewhere: the runs of other processes, which then see those of this one.
        """
        self._runs = runs
        self._elsewhere = elsewhere
        self._after = after
        self.limits = limits
        self.monotonic = monotonic
        self._lock = threading.Lock()  # guards everything below
        self._entries: dict[str, JournaledRun] = {}
        self._over: dict[str, JournaledRun] = {}  # those of them that have ended, the first to end first
        self._bytes = 0

    def start(
        self,
        request: RunRequest,
        about: object = None,
        *,
        card: JsonObject | None = None,
        name: str | None = None,
        size: int = 0,
        unattended: bool = False,
    ) -> JournaledRun:
        """Start a run; its events are kept from the first on.

        :param about: whatever the caller wants to find again with the run.
        :param card: the same for other processes; see :attr:`RemoteJournaledRun.card`.
        :param name: another one under which :meth:`get` finds the run.
        :param size: about how many bytes ``about`` takes once the run is over.
        :param unattended: the run goes on however long nobody reads it.
        :raises GatewayError: see :meth:`RunService.start`.
        """
        names = (request.run_id, name or request.run_id)
        entry = JournaledRun(self, request, names, about, None if unattended else self.limits.grace)
        entry.own = size
        if self._elsewhere is not None:
            entry.scribe = self._elsewhere.book.begin(
                Card(request.run_id, request.agent_id, request.created_at, card, name)
            )
        with self._lock:
            self._entries.update(dict.fromkeys(names, entry))
            self._bytes += _ENTRY_BYTES
        try:
            entry.ignored = self._runs.start(request, sink=entry).ignored
        except BaseException:
            self.forget(entry.id)
            raise
        return entry

    def get(self, name: str) -> KeptRun | None:
        """The run with this id or name, live or over, if it is kept, here or in another process."""
        kept = self._entries.get(name)
        return self._elsewhere.get(name) if kept is None and self._elsewhere is not None else kept

    def heard(self, run_id: str) -> Sequence[RunEvent]:
        """What another process has told so far of a run that it keeps."""
        return () if self._elsewhere is None else self._elsewhere.heard(run_id)

    def forget(self, run_id: str) -> bool:
        """Keep a run no longer; True if it was kept. Those who read it read on; a live one goes on."""
        return self.forget_here(run_id) or (self._elsewhere is not None and self._elsewhere.forget(run_id))

    def forget_here(self, run_id: str) -> bool:
        """As :meth:`forget`, if this process has the run."""
        with self._lock:
            entry = self._entries.get(run_id)
            if entry is not None:
                self._drop(entry)
        if entry is not None and entry.scribe is not None:
            entry.scribe.drop()
        return entry is not None

    def note(self, run: KeptRun, card: JsonObject) -> None:
        """Put something new on a run's card, for all who find it; see :attr:`JournaledRun.card`."""
        if isinstance(run, RemoteJournaledRun):
            run.rewrite(card)
        elif run.scribe is not None:
            run.scribe.rewrite(card)

    def reread(self, run_id: str) -> None:
        """Somebody in another process has put something new on the card of a run of this one."""
        if (entry := self._entries.get(run_id)) is not None and entry.scribe is not None:
            entry.scribe.reread()

    def touch(self, run_id: str) -> None:
        """Somebody in another process still cares for a run of this one."""
        if entry := self._entries.get(run_id):
            entry.touch()

    @property
    def size(self) -> int:
        """About how many bytes all of it takes."""
        return self._bytes

    def cancel(self, run_id: str, reason: CancelReason) -> bool:
        """Ask a live run to stop; True if nobody had asked before."""
        return self._runs.cancel(run_id, reason)

    def account(self, entry: JournaledRun, size: int) -> int:
        """Called by a run whose events take ``size`` bytes now; by how many all of it is too much."""
        with self._lock:
            if self._entries.get(entry.id) is not entry:
                return 0
            self._bytes += size - entry.counted
            entry.counted = size
            self._make_room()
            return max(0, self._bytes - self.limits.total_bytes)

    def keep_ended(self, entry: JournaledRun) -> None:
        """Called by a run that is over: its time runs."""
        with self._lock:
            if self._entries.get(entry.id) is not entry:
                return
            self._over[entry.id] = entry
            self._bytes += entry.own
            entry.counted += entry.own
            self._make_room()
        # Weak: what has to make room for others before its time is to be gone.
        self._after(self.limits.seconds, partial(self._expire, weakref.ref(entry)))

    def _make_room(self) -> None:
        while self._bytes > self.limits.total_bytes and self._over:
            self._drop(next(iter(self._over.values())))

    def _drop(self, entry: JournaledRun) -> None:
        for name in entry.names:
            self._entries.pop(name, None)
        self._over.pop(entry.id, None)
        self._bytes -= entry.counted + _ENTRY_BYTES

    def _expire(self, kept: weakref.ref[JournaledRun]) -> None:
        entry = kept()
        with self._lock:
            if entry is not None and self._entries.get(entry.id) is entry:
                self._drop(entry)


class JournaledRun:
    """One run and its events, numbered from 1 without gaps. Any thread may call any method.

    Long texts are kept as several events of at most 256 characters.

    :ivar id: of the run. :ivar names: under which the journal finds it.
    :ivar agent_id: who answers. :ivar created_at: Unix milliseconds.
    :ivar about: what its starter has put there.
    :ivar ignored: as :class:`~.run.Run` has it.
    :ivar started_at: when it had left its lanes, Unix milliseconds; None before.
    :ivar ending: the terminal event, once it has come.
    :ivar own: the bytes that it takes besides its events, counted once it has ended.
    :ivar counted: the bytes that the journal has counted. :ivar scribe: writes the run down for other
        processes, if there are any. All three are the journal's own.
    """

    def __init__(
        self,
        journal: Journal,
        request: RunRequest,
        names: tuple[str, ...],
        about: object,
        grace: float | None,
    ) -> None:
        # Not the request: it may hold megabytes of images, and the run forgets it when it ends.
        self.id = request.run_id
        self.created_at = request.created_at
        self.agent_id = request.agent_id
        self.names = names
        self.about = about
        self.ignored: tuple[str, ...] = ()
        self.started_at: int | None = None
        self.ending: TerminalEvent | None = None
        self.own = 0
        self.counted = 0
        self.scribe: Scribe | None = None
        self._journal = journal
        self._grace = grace
        self._lock = threading.Lock()  # guards everything below
        self._tape = Tape(journal.limits.run_bytes)
        self._readers: set[Reader] = set()
        self._unread_since = journal.monotonic()

    @property
    def card(self) -> JsonObject | None:
        """What is on the run's card by now, if there are other processes to see it."""
        return self.scribe.card.about if self.scribe is not None else None

    def read(self, after: int = 0) -> Reader:
        """Read the events that follow event ``after``; once the run is over, the terminal event in any case.

        :raises InvalidRequest: the run is not over, and has not come to event ``after``.
        :raises EventsLost: some of them are not kept any more.
        """
        with self._lock:
            if self.ending is None and after > self._tape.last:
                raise InvalidRequest(f"The stream has not come to {after}.", param="after")
            newest = self._tape.last - (self.ending is not None)
            reader = Reader(self, min(after, newest))
            if reader.position < self._tape.lost:
                raise EventsLost
            self._readers.add(reader)
            return reader

    def touch(self) -> None:
        """Somebody still cares: the time for which the run goes on without a reader begins anew."""
        self._unread_since = self._journal.monotonic()

    def cancel(self, reason: CancelReason) -> bool:
        """Ask the run to stop; True if it was live and nobody had asked before."""
        return self._journal.cancel(self.id, reason)

    def put(self, event: RunEvent) -> None:
        """Add an event; the run thread calls this. Never blocks."""
        if isinstance(event, ToolUpdated):  # what a result looked like on its way is worth nothing later
            return
        pieces = _pieces(event)
        with self._lock:
            for piece in pieces:
                self._tape.append(piece)
            if self.scribe is not None:
                self.scribe.put(pieces)
            if isinstance(event, TERMINAL):
                self.ending = event
            elif isinstance(event, RunStarted):
                self.started_at = event.at
            for reader in self._readers:
                reader.wake()
            size = self._tape.size
        if self.ending is not None or abs(size - self.counted) >= _STEP:
            self._account(size)
        if self.ending is not None:
            self._journal.keep_ended(self)

    def nudge(self) -> None:
        """Wake all readers; cancel the run if there has been none for too long."""
        with self._lock:
            for reader in self._readers:
                reader.wake()
            left = not self._readers and self.ending is None
        if left and self._grace is not None and self._journal.monotonic() - self._unread_since >= self._grace:
            self.cancel(CancelReason.DISCONNECT)

    def take(self, reader: Reader) -> list[RunEvent]:
        """What comes next for one of its readers, who calls this."""
        with self._lock:
            if reader not in self._readers:
                return [RunCancelled(CancelReason.DISCONNECT)]
            try:
                events = self._tape.after(reader.position)
            except LookupError:
                reader.position += 1
                return [RunFailed(EventsLost())]
            if not events:
                reader.rest()
            reader.position += len(events)
            return events

    def remove(self, reader: Reader) -> None:
        """One of its readers, who calls this, has left."""
        with self._lock:
            self._readers.discard(reader)
            reader.wake()
            self._unread_since = self._journal.monotonic()

    def _account(self, size: int) -> None:
        excess = self._journal.account(self, size)
        if excess:
            with self._lock:
                self._tape.trim(size - excess)
                size = self._tape.size
            self._journal.account(self, size)


# A run that can be come back to, whoever has it.
KeptRun: TypeAlias = JournaledRun | RemoteJournaledRun


class Reader:
    """One who follows a journaled run. One thread reads; it has to :meth:`leave`, or use ``with``.

    :ivar position: the number of the last event that was handed out.
    """

    def __init__(self, entry: JournaledRun, position: int) -> None:
        self.position = position
        self._entry = entry
        self._ready = threading.Event()

    def get(self, timeout: float | None = None) -> list[RunEvent]:
        """The next events, at least one; empty after ``timeout`` seconds or a nudge.

        After the list that ends with a terminal event nothing more comes. For a reader who is so far
        behind that the next event is not kept any more, the run has failed with :class:`EventsLost`;
        for one who has left it was cancelled.
        """
        return self._entry.take(self) or (self._entry.take(self) if self._ready.wait(timeout) else [])

    def leave(self) -> None:
        """Read no more; the run goes on for its time of grace. Safe to call twice."""
        self._entry.remove(self)

    def wake(self) -> None:
        """Let :meth:`get` look again; its run calls this."""
        if not self._ready.is_set():
            self._ready.set()

    def rest(self) -> None:
        """Let :meth:`get` wait; its run calls this when there is nothing to read."""
        self._ready.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def _pieces(event: RunEvent) -> Sequence[RunEvent]:
    if isinstance(event, TextDelta) and len(event.text) > _PIECE:
        return [TextDelta(event.text[i : i + _PIECE]) for i in range(0, len(event.text), _PIECE)]
    return (event,)
