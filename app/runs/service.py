"""Runs: admitted here, executed here, recorded here, whichever channel asked.

The life of a run: admitted (or refused), its place taken in its session's lane, a thread
started; there it waits for its lane, loads the session, stores the new messages, waits for
the global lane, takes its turn, stores the answer together with its end, gives its places
back and then, last of all, puts the one terminal event on its stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from .. import context
from ..agents.registry import Agent, AgentRegistry
from ..cancel import Cancelled, CancelReason
from ..errors import GatewayBusy, GatewayDraining, GatewayError, StoreError
from ..events import RunCompleted, RunFailed, TerminalEvent
from ..log import get_logger
from ..messages import Message
from .answering import answering, check_abilities, ignored
from .attempt import STATUS, Attempt, RunParts, error_of
from .budget import TimeBudget
from .executor import Executor
from .lanes import Lane, Lanes, Place, SessionLanes
from .live import Admitted, LiveRuns
from .others import NOBODY, Others
from .run import Observer, Run, RunRequest, Sink

_log = get_logger("run")


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How much runs at a time.

    :ivar concurrent: runs that may talk to a model at the same time.
    :ivar pending: runs that may exist at the same time, waiting ones included.
    :ivar per_session: runs of one session that may exist at the same time.
    :ivar sub_agents: sub-agents' runs that may talk to a model at the same time. They have a
        lane of their own: a parent that waits for its children must not keep them out.
    """

    concurrent: int
    pending: int
    per_session: int
    sub_agents: int = 8


class RunService(LiveRuns):
    """Starts runs and sees them to their ends. Any thread may call any method."""

    def __init__(
        self,
        *,
        agents: AgentRegistry,
        parts: RunParts,
        executor: Executor,
        limits: RunLimits,
        tick: float,
        on_end: Callable[[RunRequest, TerminalEvent], None],
        lanes: Lanes | None = None,
        others: Others = NOBODY,
        gate: Callable[[], None] | None = None,
    ) -> None:
        """:param tick: seconds after which the reader of a silent stream is woken.
        :param on_end: called in the run's thread before its terminal event.
        :param lanes: of the sessions that are kept, if other processes serve them, too.
        :param others: those processes.
        :param gate: raises a :class:`StoreError` for as long as no run can begin; quick.
        """
        super().__init__(others)
        self._agents = agents
        self._parts = parts
        self._executor = executor
        self._limits = limits
        self._tick = tick
        self._on_end = on_end
        self._observers: tuple[Observer, ...] = ()
        self._ticking = False
        self._own = SessionLanes(limits.per_session)
        self._sessions: Lanes = self._own if lanes is None else lanes
        self._gate = gate
        self._global = Lane(limits.concurrent)
        self._sub_agents: dict[int, Lane] = {}  # by depth: nobody waits in its own children's way
        # The lock of the live runs also guards what follows.
        self._idle = threading.Condition(self._lock)
        self._telling = 0  # runs that are over but for their terminal event
        self._leaving = False
        self._draining = False

    @property
    def worker(self) -> str:
        """The id of this process in the store; "" if it has the store to itself."""
        return self._parts.worker()

    @property
    def draining(self) -> bool:
        """True once no more runs are admitted."""
        return self._draining

    @property
    def leaving(self) -> bool:
        """True once nobody should be sent here any more, whether runs are still admitted or not."""
        return self._leaving

    def start(
        self, request: RunRequest, admitted: Callable[[], None] | None = None, sink: Sink | None = None
    ) -> Run:
        """Admit a run and start it; its events come on ``run.stream``, or go to ``sink``.

        :param admitted: called before the first event, when nothing but a lack of threads can
            refuse the run any more. If it raises, so does this, and there is no run.
        :raises AgentNotFound, ModelNotFound: no such agent, or a model of no known provider.
        :raises InvalidRequest: the model that would answer cannot take what the request holds.
        :raises GatewayBusy, SessionBusy, GatewayDraining: not admitted.
        :raises StoreError: what has to be looked up first could not be read.
        """
        try:
            live = self._admit(request, sink)
        except StoreError:
            self._check_room()  # it has closed meanwhile: no failure, and another one can take the run
            raise
        try:
            if admitted is not None:
                admitted()
            self._launch(live)
        except BaseException:
            self._forget(live)
            raise
        return live.run

    def _admit(self, request: RunRequest, sink: Sink | None) -> Admitted:
        self._check_room()  # first: a gateway that is closing may have no store to look into any more
        agent = self._agents.get(request.agent_id)
        judged = answering(agent, request, self._parts.resolve_model, self._parts.store)
        check_abilities(judged, request)
        if self._gate is not None:
            self._gate()
        run = Run(request, self._observers, sink, ignored(judged, request))
        lanes = self._own if request.ephemeral else self._sessions
        live = Admitted(run, agent, lanes.enter(run.session_key, run.id))  # which may wait for the store
        try:
            with self._lock:
                self._check_room()
                self._live[run.id] = live
        except GatewayError:
            live.place.leave()
            raise
        return live

    def _check_room(self) -> None:
        if self._draining:
            raise GatewayDraining
        if len(self._live) >= self._limits.pending:
            raise GatewayBusy

    def _launch(self, live: Admitted) -> None:
        with self._lock:
            live.stage = "waiting"
        try:
            self._keep_ticking()
            self._executor.spawn(f"run-{live.run.id}", context.carried(lambda: self._execute(live)))
        except RuntimeError:  # the system has no more threads to give
            raise GatewayBusy from None

    def room(self, session_key: str | None) -> tuple[int, int]:
        """How many runs may exist at a time, and how many more may come now.

        Of all, or of the session if there is one, whichever has less room.
        """
        of_all = max(0, self._limits.pending - len(self._live))
        if session_key is not None:
            of_session = max(0, self._limits.per_session - self._sessions.size(session_key))
            if of_session < of_all:
                return self._limits.per_session, of_session
        return self._limits.pending, of_all

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Ask ``observer`` who is to hear of each run that starts from now on, whoever asked for it.

        Returns a function that ends this for later runs.
        """
        with self._lock:
            self._observers = (*self._observers, observer)
        return lambda: self._forget_observer(observer)

    def _forget_observer(self, observer: Observer) -> None:
        with self._lock:
            self._observers = tuple(one for one in self._observers if one is not observer)

    def adopt(self, parts: RunParts) -> None:
        """Let runs that start from now on have these parts; the others end with theirs."""
        self._parts = parts

    def drain(self, seconds: float, notice: float = 0.0) -> None:
        """Admit nothing more, give live runs ``seconds`` to end, then stop them.

        Returns when all runs have ended, at most a few seconds after the time is up.

        :param notice: seconds for which runs are admitted still, though the gateway is leaving. A
            second call cuts them short.
        """
        with self._lock:
            self._leaving = True
            self._idle.wait_for(lambda: self._draining, notice)
            self._draining = True
            self._idle.notify_all()
            self._idle.wait_for(lambda: not self._live, seconds)
            left = list(self._live.values())
        for live in left:
            live.run.cancel(CancelReason.SHUTDOWN)
        with self._lock:
            if not self._idle.wait_for(lambda: not self._live, 5):
                _log.error("%d runs did not stop in time", len(self._live))
            self._idle.wait_for(lambda: not self._telling, 1)  # then nobody is told anything any more

    def _keep_ticking(self) -> None:
        """Nudge all readers again and again, as long as there are runs."""
        with self._lock:
            if not self._ticking and self._live:
                self._executor.after(self._tick, self._nudge)
                self._ticking = True

    def _nudge(self) -> None:
        with self._lock:
            everybody = list(self._live.values())
            self._ticking = False
        self._keep_ticking()
        for live in everybody:
            live.run.nudge()

    def _execute(self, live: Admitted) -> None:
        """The body of a run's thread. Never raises; ends with the terminal event.

        A run that the next process begins has no end in this one.
        """
        started = time.monotonic()
        run = live.run
        context.refine(run_id=run.id, agent_id=live.agent.id)
        attempt = Attempt(run, live.agent, self._parts)
        ending: TerminalEvent
        try:
            self._take_turn(attempt, live)
            record = attempt.record
            ending = RunCompleted(
                record.text,
                record.finish_reason,
                record.usage,
                record.client_calls,
                record.model_ref,
                str(record.thoughts),
            )
        except Cancelled as cancelled:
            ending = attempt.cancelled(cancelled.reason)
        except GatewayError as error:
            ending = RunFailed(error)
        except BaseException:  # whatever a tool raises, SystemExit too, its run ends and frees its places
            _log.exception("run %s failed", run.id)
            ending = RunFailed(GatewayError("internal error"))
        ending = attempt.record_end(ending)
        if isinstance(ending, RunCompleted) and not run.request.ephemeral:
            run.token.settle()  # its reader leaves now, and what it has started goes on
        self._clean_up(attempt, ending)
        with self._lock:
            self._telling += 1
        self._forget(live)
        _tell(run, live.agent, _outcome(ending), time.monotonic() - started)
        try:
            if not attempt.waits_on(ending):  # for its asker nothing has ended
                run.publish(ending)
        finally:
            with self._lock:
                self._telling -= 1
                self._idle.notify_all()

    def _lane(self, depth: int) -> Lane:
        if not depth:
            return self._global
        with self._lock:
            return self._sub_agents.setdefault(depth, Lane(self._limits.sub_agents))

    def _clean_up(self, attempt: Attempt, ending: TerminalEvent) -> None:
        try:
            self._on_end(attempt.run.request, ending)
            attempt.clean_up()
        except Exception:  # the answer is stored: nothing here may take it back
            _log.exception("cleaning up after run %s failed", attempt.run.id)

    def _forget(self, live: Admitted) -> None:
        live.place.leave()
        with self._lock:
            del self._live[live.run.id]
            self._idle.notify_all()

    def _take_turn(self, attempt: Attempt, live: Admitted) -> None:
        run, token = attempt.run, attempt.run.token
        live.place.wait(token)
        if not self._begins(live):
            attempt.was_told()
            return
        lane = self._lane(run.request.depth)
        slot: Place | None = None
        budget = TimeBudget(self._executor, attempt.timeout, partial(run.cancel, CancelReason.TIMEOUT))
        try:
            conversation = attempt.open_session()
            slot = lane.enter()
            slot.wait(token)
            self._check_open(run)
            run.begin(self._parts.clock())
            turn = attempt.turn(conversation, budget, lambda: self._steering(attempt))
            if run.request.compact is None:
                turn.run()
            else:
                turn.compact(run.request.compact)
        finally:
            budget.stop()
            if slot is not None:
                slot.leave()

    def _begins(self, live: Admitted) -> bool:
        """Whether it is this run's turn; False if what it asks was told to the run before it.

        :raises Cancelled: the gateway stops, and the next process can begin the run.
        :raises StoreError: it was to be told, and could not be stored.
        """
        with self._lock:
            if live.stage == "waiting":
                self._check_open(live.run)
                live.stage = "begun"
            if live.stage == "claimed":
                raise StoreError("What was asked could not be stored.")
            return live.stage == "begun"

    def _check_open(self, run: Run) -> None:
        """:raises Cancelled: the gateway stops, and the next process can begin the run."""
        if self._draining and run.request.detached:
            raise Cancelled(CancelReason.SHUTDOWN)

    def _steering(self, attempt: Attempt) -> Sequence[tuple[Message, int]]:
        """What the runs that wait right behind this one have to say to it; they are over with that."""
        told: list[tuple[Message, int]] = []
        for live in self._claim(attempt.run.request.session_key):
            try:
                told += attempt.take_over(live.run.request)
                with self._lock:
                    live.stage = "told"
            finally:
                live.place.call()
        return told

    def _claim(self, key: str) -> Iterator[Admitted]:
        """The first of the waiting runs of a session, up to one that wants a turn of its own."""
        with self._lock:
            waiting = [
                live
                for live in self._live.values()
                if live.run.request.session_key == key and live.stage in ("entering", "waiting")
            ]
        for live in waiting:
            if live.stage == "entering" or not live.run.request.steer:
                return
            live.run.token.settle()
            if not live.run.token.cancelled:
                with self._lock:
                    live.stage = "claimed"
                yield live


def _tell(run: Run, agent: Agent, outcome: str, seconds: float) -> None:
    """One line for a run. Session keys may hold people's names: they are for those who look for a mistake."""
    milliseconds = round(1000 * seconds)
    _log.info(
        "run %s agent=%s %s in %d ms", run.id, agent.id, outcome, milliseconds,
        extra={"fields": {"outcome": outcome, "duration_ms": milliseconds, "channel": run.channel}},
    )  # fmt: skip
    _log.debug("run %s belongs to session %s", run.id, run.request.session_key)


def _outcome(ending: TerminalEvent) -> str:
    error = error_of(ending)
    return "completed" if error is None else f"{STATUS[type(ending)]} ({error.code or error.type})"
