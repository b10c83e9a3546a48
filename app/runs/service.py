"""Runs: admitted here, executed here, recorded here, whichever channel asked.

The life of a run: admitted (or refused), its place taken in its session's lane, a thread
started; there it waits for its lane, loads the session, waits for the global lane, stores
the new messages, takes its turn, stores the answer together with its end, gives its places
back and then, last of all, puts the one terminal event on its stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..agents.context import mark_unfinished, new_messages
from ..agents.loop import Turn, TurnInput, TurnRecord
from ..agents.prompt import PromptLimits
from ..agents.registry import Agent, AgentRegistry
from ..cancel import Cancelled, CancelReason
from ..errors import (
    GatewayBusy,
    GatewayDraining,
    GatewayError,
    InvalidRequest,
    RunAborted,
    RunTimeout,
)
from ..events import RunCancelled, RunCompleted, RunFailed, TerminalEvent
from ..log import get_logger
from ..messages import AssistantMessage, Message, UserMessage
from ..sessions.keys import main_key
from ..sessions.records import EndStatus, NewEntry, RunEnd, RunStart
from ..sessions.store import Store
from ..tools.registry import ToolRegistry
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
    """

    concurrent: int
    pending: int
    per_session: int


class RunService:
    """Starts and stops runs. Any thread may call any method."""

    def __init__(
        self,
        *,
        agents: AgentRegistry,
        tools: ToolRegistry,
        store: Store,
        executor: Executor,
        limits: RunLimits,
        prompt_limits: PromptLimits,
        tick: float,
        new_id: Callable[[], str],
        clock: Callable[[], int],
    ) -> None:
        """:param tick: seconds after which the reader of a silent stream is woken.
        :param new_id: makes session ids.
        :param clock: unix time in milliseconds.
        """
        self._agents = agents
        self._tools = tools
        self._store = store
        self._executor = executor
        self._limits = limits
        self._prompt_limits = prompt_limits
        self._tick = tick
        self._ticking = False
        self._new_id = new_id
        self._clock = clock
        self._sessions = SessionLanes(limits.per_session)
        self._global = Lane(limits.concurrent)
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

    def cancel(self, run_id: str, reason: CancelReason) -> bool:
        """Ask a live run to stop; True if it was live."""
        run = self._live.get(run_id)
        return run is not None and run.cancel(reason)

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
        attempt = _Attempt(run, agent)
        ending: TerminalEvent
        try:
            self._take_turn(attempt, place)
            ending = _completed(attempt.record)
        except Cancelled as cancelled:
            ending = attempt.cancelled(cancelled.reason)
        except GatewayError as error:
            ending = RunFailed(error)
        except BaseException:  # whatever a tool raises, SystemExit too, its run ends and frees its places
            _log.exception("run %s failed", run.id)
            ending = RunFailed(GatewayError("internal error"))
        ending = self._record_end(attempt, ending)
        self._forget(run, place)
        _log.info(
            "run %s agent=%s session=%s %s in %.0f ms",
            run.id, agent.id, run.request.session_key, _outcome(ending), 1000 * (time.monotonic() - started),
        )  # fmt: skip
        run.stream.put(ending)

    def _forget(self, run: Run, place: Place) -> None:
        self._sessions.leave(run.request.session_key, place)
        with self._lock:
            del self._live[run.id]
            self._idle.notify_all()

    def _take_turn(self, attempt: _Attempt, place: Place) -> None:
        run, token = attempt.run, attempt.run.token
        place.wait(token)
        slot: Place | None = None
        deadline = self._executor.after(attempt.timeout, attempt.time_out)
        try:
            history = self._open_session(attempt)
            slot = self._global.enter()
            slot.wait(token)
            turn = Turn(
                attempt.agent,
                self._turn_input(attempt, history),
                self._tools,
                self._prompt_limits,
                cancel=token,
                emit=run.stream.put,
                store=lambda messages: self._append(attempt, messages),
            )
            attempt.record = turn.record
            turn.run()
        finally:
            deadline.clear()
            if slot is not None:
                slot.leave()

    def _open_session(self, attempt: _Attempt) -> tuple[Message, ...]:
        """Store what is new before any model is called; the conversation as it then stands."""
        request = attempt.run.request
        if request.ephemeral:
            self._store.begin(attempt.start(None), ())
            attempt.begun = True
            return request.messages
        loaded = self._store.load(request.session_key)
        if loaded.session is not None and loaded.session.agent_id != attempt.agent.id:
            raise InvalidRequest(
                f"The session belongs to agent {loaded.session.agent_id!r}.", param="session_key"
            )
        history = tuple(entry.message for entry in loaded.history)
        fresh = mark_unfinished(history, new_messages(history, request.messages))
        attempt.session_id = loaded.session.id if loaded.session else self._new_id()
        self._store.begin(attempt.start(attempt.session_id), fresh)
        attempt.begun = True
        return (*history, *fresh)

    def _turn_input(self, attempt: _Attempt, history: tuple[Message, ...]) -> TurnInput:
        request = attempt.run.request
        return TurnInput(
            run_id=request.run_id,
            session_key=request.session_key,
            history=history,
            system=request.system,
            params=request.params,
            main_session=request.session_key == main_key(attempt.agent.id, self._agents.main_key),
        )

    def _append(self, attempt: _Attempt, messages: Sequence[Message]) -> None:
        entries = [NewEntry(message, "tool_calls") for message in messages]
        self._store.append(attempt.session_id, attempt.run.id, entries, self._clock())

    def _record_end(self, attempt: _Attempt, ending: TerminalEvent) -> TerminalEvent:
        """Store how the run ended; if that fails, the run has failed."""
        try:
            if not attempt.begun:
                self._store.begin(attempt.start(None), ())
            self._store.finish(attempt.end(ending, self._clock()), attempt.last_entries(ending))
        except GatewayError as error:
            _log.error("run %s could not be recorded: %s", attempt.run.id, error)
            return RunFailed(error) if isinstance(ending, RunCompleted) else ending
        except Exception:
            _log.exception("run %s could not be recorded", attempt.run.id)
            return RunFailed(GatewayError("internal error"))
        return ending


class _Attempt:
    """What a run's thread knows about its run while it goes on."""

    def __init__(self, run: Run, agent: Agent) -> None:
        self.run = run
        self.agent = agent
        self.timeout = agent.timeout if run.request.timeout is None else run.request.timeout
        self.record = TurnRecord(model_ref=agent.model_ref)
        self.session_id: str | None = None
        self.begun = False

    def start(self, session_id: str | None) -> RunStart:
        request = self.run.request
        return RunStart(
            id=request.run_id,
            session_key=request.session_key,
            session_id=session_id,
            agent_id=self.agent.id,
            channel=request.channel,
            model=self.agent.model_ref,
            created_at=request.created_at,
        )

    def time_out(self) -> None:
        self.run.cancel(CancelReason.TIMEOUT)

    def cancelled(self, reason: CancelReason) -> TerminalEvent:
        if reason is CancelReason.TIMEOUT:
            return RunFailed(RunTimeout(self.timeout))
        if reason is CancelReason.SHUTDOWN:
            return RunFailed(GatewayDraining())
        return RunCancelled(reason)

    def end(self, ending: TerminalEvent, now: int) -> RunEnd:
        error = _error_of(ending)
        return RunEnd(
            id=self.run.id,
            status=_STATUS[type(ending)],
            finish_reason=ending.finish_reason if isinstance(ending, RunCompleted) else None,
            usage=self.record.usage,
            model=self.record.model_ref,
            error_code=(error.code or error.type) if error else None,
            error_message=error.message if error else None,
            ended_at=now,
            attempts=self.record.attempts,
        )

    def last_entries(self, ending: TerminalEvent) -> tuple[NewEntry, ...]:
        """The answer, or what there is of it when the turn was cut short."""
        if isinstance(ending, RunCompleted) and self.record.last is not None:
            return (NewEntry(self.record.last, ending.finish_reason),)
        if partial := self.record.partial:
            return (NewEntry(AssistantMessage(partial), "aborted"),)
        return ()


_STATUS: dict[type[TerminalEvent], EndStatus] = {
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
}


def _completed(record: TurnRecord) -> RunCompleted:
    return RunCompleted(record.text, record.finish_reason, record.usage)


def _error_of(ending: TerminalEvent) -> GatewayError | None:
    if isinstance(ending, RunFailed):
        return ending.error
    return RunAborted(ending.reason) if isinstance(ending, RunCancelled) else None


def _outcome(ending: TerminalEvent) -> str:
    error = _error_of(ending)
    return "completed" if error is None else f"{_STATUS[type(ending)]} ({error.code or error.type})"


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
