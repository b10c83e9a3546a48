"""Runs: admitted here, executed here, recorded here, whichever channel asked.

The life of a run: admitted (or refused), its place taken in its session's lane, a thread
started; there it waits for its lane, loads the session, waits for the global lane, stores
the new messages, takes its turn, stores the answer together with its end, gives its places
back and then, last of all, puts the one terminal event on its stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..agents.registry import Agent, AgentRegistry
from ..cancel import Cancelled, CancelReason
from ..errors import GatewayBusy, GatewayDraining, GatewayError, InvalidRequest
from ..events import RunCompleted, RunFailed, TerminalEvent
from ..log import get_logger
from ..messages import AssistantMessage, UserMessage
from .attempt import STATUS, Attempt, RunParts, error_of
from .budget import TimeBudget
from .executor import Executor
from .lanes import Lane, Place, SessionLanes
from .run import Run, RunRequest

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


class RunService:
    """Starts and stops runs. Any thread may call any method."""

    def __init__(
        self,
        *,
        agents: AgentRegistry,
        parts: RunParts,
        executor: Executor,
        limits: RunLimits,
        tick: float,
        on_end: Callable[[RunRequest, TerminalEvent], None],
    ) -> None:
        """:param tick: seconds after which the reader of a silent stream is woken.
        :param on_end: called in the run's thread before its terminal event.
        """
        self._agents = agents
        self._parts = parts
        self._executor = executor
        self._limits = limits
        self._tick = tick
        self._on_end = on_end
        self._ticking = False
        self._sessions = SessionLanes(limits.per_session)
        self._global = Lane(limits.concurrent)
        self._sub_agents: dict[int, Lane] = {}  # by depth: nobody waits in its own children's way
        # Reentrant: a condition on a plain lock finds out whether it is held by trying to take it,
        # and under gevent every such try is a trip through the event loop.
        self._lock = threading.RLock()  # guards _live, _draining and _ticking
        self._idle = threading.Condition(self._lock)
        self._live: dict[str, Run] = {}
        self._draining = False

    @property
    def live(self) -> int:
        """Runs that are waiting or running."""
        return len(self._live)

    @property
    def draining(self) -> bool:
        """True once no more runs are admitted."""
        return self._draining

    def start(self, request: RunRequest) -> Run:
        """Admit a run and start it; its events come on ``run.stream``.

        :raises AgentNotFound: no such agent.
        :raises InvalidRequest: the agent's model cannot take what the request holds.
        :raises GatewayBusy, SessionBusy, GatewayDraining: not admitted.
        """
        agent = self._agents.get(request.agent_id)
        _check_abilities(agent, request)
        run = Run(request)
        with self._lock:
            if self._draining:
                raise GatewayDraining
            if len(self._live) >= self._limits.pending:
                raise GatewayBusy
            place = self._sessions.enter(request.session_key)
            self._live[run.id] = run
        try:
            self._keep_ticking()
            self._executor.spawn(f"run-{run.id}", lambda: self._execute(run, agent, place))
        except RuntimeError:  # the system has no more threads to give
            self._forget(run, place)
            raise GatewayBusy from None
        return run

    def get(self, run_id: str) -> Run | None:
        """The live run with this id."""
        return self._live.get(run_id)

    def cancel(self, run_id: str, reason: CancelReason) -> bool:
        """Ask a live run to stop; True if it was live."""
        run = self._live.get(run_id)
        return run is not None and run.cancel(reason)

    def of_session(self, key: str) -> list[Run]:
        """The live runs of a session; at most the first one runs, the others wait."""
        with self._lock:
            return [run for run in self._live.values() if run.request.session_key == key]

    def cancel_session(self, key: str, reason: CancelReason) -> list[str]:
        """Ask all live runs of a session, and of the sub-agents it has started, to stop.

        :returns: the ids of the session's own that nobody had asked before.
        """
        with self._lock:
            children = [run for run in self._live.values() if run.request.parent_key == key]
        stopped = [run.id for run in self.of_session(key) if run.cancel(reason)]
        for child in children:
            child.cancel(reason)
        return stopped

    def drain(self, seconds: float) -> None:
        """Admit nothing more, give live runs ``seconds`` to end, then stop them.

        Returns when all runs have ended, at most a few seconds after the time is up.
        """
        with self._lock:
            self._draining = True
            self._idle.wait_for(lambda: not self._live, seconds)
            left = list(self._live.values())
        for run in left:
            run.cancel(CancelReason.SHUTDOWN)
        with self._lock:
            if not self._idle.wait_for(lambda: not self._live, 5):
                _log.error("%d runs did not stop in time", len(self._live))

    def _keep_ticking(self) -> None:
        """Nudge all readers again and again, as long as there are runs."""
        with self._lock:
            if not self._ticking and self._live:
                self._executor.after(self._tick, self._nudge)
                self._ticking = True

    def _nudge(self) -> None:
        with self._lock:
            runs = list(self._live.values())
            self._ticking = False
        self._keep_ticking()
        for run in runs:
            run.stream.nudge()

    def _execute(self, run: Run, agent: Agent, place: Place) -> None:
        """The body of a run's thread. Never raises; ends with the terminal event."""
        started = time.monotonic()
        attempt = Attempt(run, agent, self._parts)
        ending: TerminalEvent
        try:
            self._take_turn(attempt, place)
            record = attempt.record
            ending = RunCompleted(record.text, record.finish_reason, record.usage)
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
        self._forget(run, place)
        _log.info(
            "run %s agent=%s session=%s %s in %.0f ms",
            run.id, agent.id, run.request.session_key, _outcome(ending), 1000 * (time.monotonic() - started),
        )  # fmt: skip
        run.stream.put(ending)

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

    def _forget(self, run: Run, place: Place) -> None:
        self._sessions.leave(run.request.session_key, place)
        with self._lock:
            del self._live[run.id]
            self._idle.notify_all()

    def _take_turn(self, attempt: Attempt, place: Place) -> None:
        run, token = attempt.run, attempt.run.token
        place.wait(token)
        lane = self._lane(run.request.depth)
        slot: Place | None = None
        budget = TimeBudget(self._executor, attempt.timeout, partial(run.cancel, CancelReason.TIMEOUT))
        try:
            conversation = attempt.open_session()
            slot = lane.enter()
            slot.wait(token)
            turn = attempt.turn(conversation, budget)
            if run.request.compact is None:
                turn.run()
            else:
                turn.compact(run.request.compact)
        finally:
            budget.stop()
            if slot is not None:
                slot.leave()


def _outcome(ending: TerminalEvent) -> str:
    error = error_of(ending)
    return "completed" if error is None else f"{STATUS[type(ending)]} ({error.code or error.type})"


def _check_abilities(agent: Agent, request: RunRequest) -> None:
    """Refuse by name what the agent's model cannot do, before anything is started.

    :raises InvalidRequest: images or a prefill for a model that has no use for them.
    """
    info = agent.candidates[0].info
    asked = next((m for m in reversed(request.messages) if isinstance(m, UserMessage)), None)
    if asked is not None and asked.images and not info.images:
        raise InvalidRequest(
            f"The model of agent {agent.id!r} cannot see images.",
            param="messages",
            code="images_not_supported",
        )
    if request.messages and isinstance(request.messages[-1], AssistantMessage) and not info.prefill:
        raise InvalidRequest(
            f"The model of agent {agent.id!r} cannot continue a trailing assistant message; "
            "end the conversation with a user message.",
            param="messages",
            code="prefill_not_supported",
        )
