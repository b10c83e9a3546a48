"""Runs that are asked for by an id of their asker's own: once, whatever happens, and never twice.

Whoever asks again under the same id, on another connection or after a restart, is told what has
become of the first. A run is acknowledged only when it would survive the death of this process.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Final, cast

from ..agents.turn import SEPARATOR
from ..bus import Bus
from ..cancel import CancelReason
from ..errors import GatewayBusy, GatewayDraining, GatewayError, SessionBusy
from ..events import TERMINAL, RunCancelled, RunCompleted, RunEvent, RunFailed, RunStarted, TerminalEvent
from ..log import get_logger
from ..messages import AssistantMessage, FinishReason, Message, ToolMessage, Usage
from ..sessions.records import INTERRUPTED, QueuedRun, RunEnd, RunStart
from ..sessions.records import Run as RunRecord
from ..sessions.store import Store
from .packing import UnreadableRequest, pack, unpack
from .remote import Followed
from .run import Listener, RunRequest
from .service import RunService

_KEPT = 1_000
_CLAIM = 30.0  # seconds for which one process may be about to begin a run
_KEPT_MILLISECONDS = 600_000

_log = get_logger("run")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; times are Unix milliseconds."""

    run_id: str
    ending: TerminalEvent
    started_at: int
    ended_at: int


class Standing(Enum):
    """How it stands with a run that has no outcome yet."""

    STARTED = "started"
    UNDER_WAY = "under way"


STARTED: Final = Standing.STARTED
UNDER_WAY: Final = Standing.UNDER_WAY


class Outcomes:
    """What became of runs. Any thread may call any method.

    :meth:`observe` is an observer of the runs; whoever shows events to clients is one before it.
    """

    def __init__(
        self, runs: RunService, store: Store, clock: Callable[[], int], bus: Bus | None = None
    ) -> None:
        """:param bus: on which other processes may be that are asked for the same runs."""
        self._runs = runs
        self._store = store
        self._clock = clock
        self._bus = bus if bus is not None and bus.shared else None
        self._unstarted: list[QueuedRun] = []  # taken over, and there was no room for them yet
        self._lock = threading.Lock()  # guards everything below
        self._begun: dict[str, int] = {}  # live runs that have left their lanes, and when
        self._claimed: dict[str, threading.Event] = {}  # ids under which something is about to begin
        self._recent: OrderedDict[str, Outcome] = OrderedDict()
        self._followers: dict[str, list[Callable[[Outcome], None]]] = {}
        self._last_start = 0

    def observe(self, run: Followed) -> Listener:
        """Listens to a run, of this process or of another one."""
        return partial(self._hear, run)

    def _hear(self, run: Followed, event: RunEvent) -> None:
        if isinstance(event, RunStarted):
            with self._lock:
                self._begun[run.id] = event.at
        elif isinstance(event, TERMINAL):
            now = self._clock()
            with self._lock:
                started_at = self._begun.pop(run.id, now)
            self._close(Outcome(run.id, event, started_at, now), keep=run.detached)

    def once(self, run_id: str, begin: Callable[[], TerminalEvent | None]) -> Outcome | Standing:
        """Do what is asked under ``run_id`` if it was not asked before, else say how it stands.

        :param begin: either starts a run (see :meth:`start`) or does without and returns how it ended.
        :raises Exception: what ``begin`` raises; the id is then as free as before.
        """
        decided = self._claim(run_id)
        if not isinstance(decided, threading.Event):
            return decided
        try:
            return self._recorded(run_id) or self._first_of_all(run_id, begin)
        finally:
            with self._lock:
                del self._claimed[run_id]
            decided.set()

    def start(self, request: RunRequest, acknowledge: Callable[[], None]) -> None:
        """Start a run, ``acknowledge`` it once it is safe, and only then let its events come.

        :raises GatewayError: see :meth:`RunService.start`, or it could not be stored.
        """
        request = replace(request, detached=True, created_at=self._later(request.created_at))

        def admitted() -> None:
            self._store.enqueue(_queued(request, self._runs.worker), pack(request))
            queued.set()
            acknowledge()

        queued = threading.Event()
        try:
            self._runs.start(request, admitted)
        except GatewayError as error:
            if queued.is_set():
                self._give_up(request.run_id, error)
            raise

    def resume(self) -> None:
        """Start what a process has acknowledged and not begun that is no more, in the order it was asked.

        What there is no room for is left for the next time.

        :raises StoreError: it could not be looked up.
        """
        if worker := self._runs.worker:
            waiting = [*self._unstarted, *self._store.adopt(worker)]
        else:
            waiting = self._store.queued()
        self._unstarted = [one for one in waiting if not self._resumed(one)]

    def _resumed(self, waiting: QueuedRun) -> bool:
        """Whether a run has been started, or never can be."""
        try:
            self._runs.start(unpack(waiting.request))
        except GatewayDraining:
            return True  # it stays where it is, and whoever comes next finds it
        except UnreadableRequest:
            self._give_up(waiting.id, GatewayError("The request cannot be read any more."))
        except (GatewayBusy, SessionBusy) as error:
            if self._runs.worker:
                return False
            self._give_up(waiting.id, error)
        except GatewayError as error:
            self._give_up(waiting.id, error)
        return True

    def follow(self, run_id: str, tell: Callable[[Outcome], None]) -> Callable[[], object]:
        """Call ``tell`` once with the outcome of a run: now, or in its thread after its last event.

        A run that nobody knows may still come. ``tell`` must be quick and must not raise.

        :returns: a function that calls it off.
        """
        with self._lock:
            self._followers.setdefault(run_id, []).append(tell)
        if (outcome := self.known(run_id)) is not None and self._unfollow(run_id, tell):
            tell(outcome)
        return lambda: self._unfollow(run_id, tell)

    def wait(self, run_id: str, seconds: float) -> Outcome | None:
        """The outcome of a run; None if there is none in time."""
        told: list[Outcome] = []
        ready = threading.Event()

        def tell(outcome: Outcome) -> None:
            told.append(outcome)
            ready.set()

        forget = self.follow(run_id, tell)
        ready.wait(seconds)
        forget()
        return told[0] if told else None

    def known(self, run_id: str) -> Outcome | None:
        """The outcome of a run that is over.

        :raises StoreError: it is not remembered, and the state could not be read.
        """
        with self._lock:
            recent = self._recent.get(run_id)
        return recent or (self._recorded(run_id) if self._runs.get(run_id) is None else None)

    def last(self, run_id: str) -> Outcome | None:
        """As :meth:`known`; also of a run that was interrupted, which may be asked for again."""
        return self.known(run_id) or self._recorded(run_id, interrupted=True)

    def _claim(self, run_id: str) -> Outcome | Standing | threading.Event:
        """How it stands with a run; if nobody has asked for it, what the others who ask will wait for.

        Whoever is about to begin it may yet be refused, and then nobody else would ever hear of it.
        """
        while True:
            with self._lock:
                if run_id in self._recent:
                    return self._recent[run_id]
                if (other := self._claimed.get(run_id)) is None:
                    if self._runs.get(run_id) is not None:
                        return UNDER_WAY
                    self._claimed[run_id] = mine = threading.Event()
                    return mine
            other.wait()

    def _first_of_all(self, run_id: str, begin: Callable[[], TerminalEvent | None]) -> Outcome | Standing:
        """Begin, unless another process has or is about to."""
        if self._bus is None:
            return self._begin(run_id, begin)
        claim, me = f"run:{run_id}", self._runs.worker.encode()
        if self._bus.claim(claim, me, _CLAIM) is not None:
            return UNDER_WAY
        try:
            if self._runs.is_live(run_id):
                return UNDER_WAY
            return self._recorded(run_id) or self._begin(run_id, begin)
        finally:
            self._bus.release(claim, me)

    def _begin(self, run_id: str, begin: Callable[[], TerminalEvent | None]) -> Standing:
        now = self._clock()
        try:
            ending = begin()
        except BaseException as error:  # whoever has asked for the same meanwhile hears of it, too
            known = error if isinstance(error, GatewayError) else GatewayError(str(error))
            self._close(Outcome(run_id, RunFailed(known), now, now), keep=False)
            raise
        if ending is not None:
            self._close(Outcome(run_id, ending, now, now), keep=True)
        return STARTED

    def _close(self, outcome: Outcome, *, keep: bool) -> None:
        with self._lock:
            if keep:
                self._recent[outcome.run_id] = outcome
                self._forget_old(outcome.ended_at)
            followers = self._followers.pop(outcome.run_id, [])
        for tell in followers:
            tell(outcome)

    def _forget_old(self, now: int) -> None:
        while self._recent:
            oldest = next(iter(self._recent.values()))
            if len(self._recent) <= _KEPT and now - oldest.ended_at < _KEPT_MILLISECONDS:
                return
            del self._recent[oldest.run_id]

    def _unfollow(self, run_id: str, tell: Callable[[Outcome], None]) -> bool:
        """Whether it was still to be told."""
        with self._lock:
            followers = self._followers.get(run_id, [])
            if tell not in followers:
                return False
            followers.remove(tell)
            if not followers:
                del self._followers[run_id]
            return True

    def _recorded(self, run_id: str, *, interrupted: bool = False) -> Outcome | None:
        """The outcome of a run that an earlier process may have begun; None if it is to begin again.

        :param interrupted: also of one that ended only because its process did.
        """
        record = self._store.get_run(run_id)
        if record is None or record.ended_at is None:
            return None
        if record.error_code in INTERRUPTED and not interrupted:
            return None
        return Outcome(run_id, ending_of(record, self._store), record.created_at, record.ended_at)

    def _later(self, now: int) -> int:
        """``now``, or a little later: what was asked first has the smaller time."""
        with self._lock:
            self._last_start = max(now, self._last_start + 1)
            return self._last_start

    def _give_up(self, run_id: str, error: GatewayError) -> None:
        """Take a run out of the queue that cannot be started."""
        _log.error("run %s could not be started: %s", run_id, error)
        code = error.code or error.type
        end = RunEnd(run_id, "failed", None, Usage(), "", code, error.message, self._clock(), 0)
        self._store.finish(end, ())


def ending_of(record: RunRecord, store: Store) -> TerminalEvent:
    """How a run ended that is over, by its record and what it has left in its session's transcript.

    :raises StoreError: the transcript could not be read.
    """
    if record.status == "completed":
        return _answer(record, [entry.message for entry in store.said_in(record)])
    if record.status == "cancelled":
        return RunCancelled(CancelReason.USER)
    error = GatewayError(record.error_message or "The run failed.")
    error.code = record.error_code
    return RunFailed(error)


def _answer(record: RunRecord, said: Sequence[Message]) -> RunCompleted:
    spoken = [message for message in said if isinstance(message, AssistantMessage)]
    reason = cast(FinishReason, record.finish_reason or "stop")
    done = {message.call_id for message in said if isinstance(message, ToolMessage)}
    last = spoken[-1].tool_calls if spoken and reason == "tool_calls" else ()
    calls = tuple(call for call in last if call.id not in done)
    text = SEPARATOR.join(message.text for message in spoken if message.text)
    return RunCompleted(text, reason, record.usage, calls, record.model)


def _queued(request: RunRequest, worker: str) -> RunStart:
    return RunStart(
        id=request.run_id,
        session_key=request.session_key,
        session_id=None,
        agent_id=request.agent_id,
        channel=request.channel,
        model=request.model or "",
        created_at=request.created_at,
        parent_key=request.parent_key,
        worker=worker,
    )
