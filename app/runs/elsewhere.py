"""Runs of other processes that can be come back to, read as if they were ours."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from ..cancel import CancelReason
from ..errors import EventsLost, InvalidRequest, StoreError
from ..events import TERMINAL, RunCancelled, RunCompleted, RunEvent, RunFailed, RunStarted, TerminalEvent
from ..messages import JsonObject
from ..sessions.store import Store
from .logbook import Card, Logbook, Page
from .outcomes import ending_of

_TICK = 0.4  # seconds after which the reader of a silent run is woken
_CARE = 10.0  # seconds between two signs that somebody reads
_DOUBT = 5.0  # seconds of silence after which the store is asked whether the run goes on
_LAST_WORDS = 2.0  # seconds for which the events of a run that is over may be on their way still


class Elsewhere:
    """The runs that can be come back to in other processes. Any thread may call any method.

    :param cancel: stops a run, wherever it is.
    """

    def __init__(self, book: Logbook, store: Store, cancel: Callable[[str, CancelReason], bool]) -> None:
        self.book = book
        self._store = store
        self._cancel = cancel

    def get(self, name: str) -> RemoteJournaledRun | None:
        """The run with this id or name, live or over, if another process keeps it."""
        card = self.book.card(name)
        return None if card is None else RemoteJournaledRun(self, card)

    def heard(self, run_id: str) -> list[RunEvent]:
        """What is kept of a run's events."""
        return [event for page in self.book.pages(run_id) for event in page.events]

    def forget(self, run_id: str) -> bool:
        """Let nobody find a run any more; True if it was to be found."""
        card = self.book.card(run_id)
        if card is not None:
            self.book.forget(card)
        return card is not None

    def cancel(self, run_id: str, reason: CancelReason) -> bool:
        """Ask a run to stop."""
        return self._cancel(run_id, reason)

    def ending(self, run_id: str) -> TerminalEvent | None:
        """How a run ended by its record; None if it goes on, or nobody can say."""
        try:
            record = self._store.get_run(run_id)
            if record is None or record.ended_at is None:
                return None
            if record.status != "completed" or record.session_id is not None:
                return ending_of(record, self._store)
        except StoreError:
            return None
        # Of a run without a transcript only its own process knows the answer, which may be on its way.
        late = time.time() * 1000 - record.ended_at > 1000 * _DOUBT
        return RunFailed(EventsLost()) if late else None


class RemoteJournaledRun:
    """See :class:`~.journal.JournaledRun`; as it stood when it was asked for."""

    about: object = None

    def __init__(self, elsewhere: Elsewhere, card: Card) -> None:
        self.card = card
        self.id = card.id
        self.agent_id = card.agent_id
        self.created_at = card.created_at
        self.ignored: tuple[str, ...] = ()
        self.started_at: int | None = None
        self.ending: TerminalEvent | None = None
        self._elsewhere = elsewhere
        for page in elsewhere.book.pages(card.id):
            for event in page.events:
                self._note(event)
        self.ending = self.ending or elsewhere.ending(card.id)

    def read(self, after: int = 0) -> RemoteReader:
        """See :meth:`~.journal.JournaledRun.read`."""
        return RemoteReader(self._elsewhere, self.id, after)

    def rewrite(self, about: JsonObject) -> None:
        """Put something new on the run's card."""
        self.card = replace(self.card, about=about)
        self._elsewhere.book.rewrite(self.card)

    def touch(self) -> None:
        """See :meth:`~.journal.JournaledRun.touch`."""
        self._elsewhere.book.touch(self.id)

    def cancel(self, reason: CancelReason) -> bool:
        """See :meth:`~.journal.JournaledRun.cancel`."""
        return self._elsewhere.cancel(self.id, reason)

    def _note(self, event: RunEvent) -> None:
        if isinstance(event, RunStarted):
            self.started_at = event.at
        elif isinstance(event, TERMINAL):
            self.ending = event


class RemoteReader:
    """See :class:`~.journal.Reader`."""

    def __init__(self, elsewhere: Elsewhere, run_id: str, after: int) -> None:
        self._elsewhere = elsewhere
        self._book = elsewhere.book
        self._run_id = run_id
        self._lock = threading.Lock()  # guards _live and _left
        self._ready = threading.Event()
        self._live: deque[Page] = deque()
        self._left = False
        self._next: list[RunEvent] = []
        self._cared_at = time.monotonic()
        self._doubt_at = self._cared_at + _DOUBT
        self._completed = False  # by its record
        self._over = False
        self._silence = self._book.follow(run_id, self._hear)  # first: what comes while we read on is kept
        try:
            self.position = self._begin(after)
        except BaseException:
            self.leave()
            raise

    def get(self, timeout: float | None = None) -> list[RunEvent]:
        """See :meth:`~.journal.Reader.get`; it is woken now and then even if nothing comes."""
        if not self._next and not self._left:
            if self._ready.wait(_TICK if timeout is None else min(timeout, _TICK)):
                self._ready.clear()
            self._take_in()
            self._look_after()
        if self._left:
            return [RunCancelled(CancelReason.DISCONNECT)]
        events, self._next = self._next, []
        self.position += len(events)
        return events

    def leave(self) -> None:
        """See :meth:`~.journal.Reader.leave`."""
        with self._lock:
            self._left = True
        self._silence()
        self._ready.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _begin(self, after: int) -> int:
        """Read what was written down; the number behind which this reader goes on."""
        pages = self._book.pages(self._run_id)
        first = pages[0].first if pages else 1
        last = pages[-1].first + len(pages[-1].events) - 1 if pages else 0
        over = bool(pages) and isinstance(pages[-1].events[-1], TERMINAL)
        if after > last and not over:
            raise InvalidRequest(f"The stream has not come to {after}.", param="after")
        position = min(after, last - over)
        if position < first - 1:
            raise EventsLost
        self.position = position
        self._read_on(pages)
        self._book.touch(self._run_id)
        return position

    def _hear(self, page: Page) -> None:
        with self._lock:
            self._live.append(page)
        self._ready.set()

    def _take_in(self) -> None:
        while True:
            with self._lock:
                if not self._live:
                    return
                page = self._live.popleft()
            # Either it comes next, or something was lost on the way.
            earlier = self._book.pages(self._run_id) if page.first > self._expected else []
            self._read_on([*earlier, page])

    @property
    def _expected(self) -> int:
        """The number of the event that comes next."""
        return self.position + len(self._next) + 1

    def _read_on(self, pages: Sequence[Page]) -> None:
        """Take what follows; if something is missing in between, this is the end."""
        for page in pages:
            self._add(page)
        if pages and pages[-1].first > self._expected:
            self._end(RunFailed(EventsLost()))

    def _add(self, page: Page) -> None:
        """Take from a page what follows what is known."""
        known = self._expected - page.first
        if self._over or not 0 <= known < len(page.events):
            return
        self._next += page.events[known:]
        self._over = isinstance(self._next[-1], TERMINAL)
        self._doubt_at = time.monotonic() + _DOUBT

    def _look_after(self) -> None:
        """Say that somebody reads; if nothing was heard for long, look whether the run goes on."""
        now = time.monotonic()
        if now - self._cared_at >= _CARE:
            self._cared_at = now
            self._book.touch(self._run_id)
        if not self._over and now >= self._doubt_at:
            self._doubt_at = now + _DOUBT
            self._read_on(self._book.pages(self._run_id))
            ending = None if self._next else self._elsewhere.ending(self._run_id)
            if isinstance(ending, RunCompleted) and not self._completed:
                self._completed, self._doubt_at = True, now + _LAST_WORDS
            elif ending is not None:
                # What an answer said before its end is not known here: it would be told as less than it is.
                self._end(RunFailed(EventsLost()) if isinstance(ending, RunCompleted) else ending)

    def _end(self, ending: TerminalEvent) -> None:
        if not self._over:
            self._over = True
            self._next.append(ending)
