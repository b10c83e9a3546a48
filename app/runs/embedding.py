"""Embeddings: runs without a conversation. Admitted, bounded, timed and recorded like all others.

They have a lane of their own, as wide as the one of the agents' turns, so that neither keeps the
other out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeAlias

from .. import context
from ..agents.cooldown import Cooldowns
from ..agents.embedding import EmbeddingTurn, Input, choose_embedder
from ..agents.failover import CallReport
from ..agents.models import Candidate
from ..agents.registry import AgentRegistry
from ..cancel import Cancelled, CancelReason, CancelToken
from ..errors import GatewayBusy, GatewayDraining, GatewayError, RunAborted, RunTimeout
from ..events import RunCancelled, RunCompleted, RunEvent, RunFailed, RunStarted, TerminalEvent
from ..log import get_logger
from ..messages import Usage
from ..providers.base import Embeddings
from ..sessions.records import EndStatus, RunEnd, RunStart
from ..sessions.store import Store
from .budget import TimeBudget
from .executor import Executor
from .lanes import Lane
from .run import Listener

CHANNEL = "openai-embeddings"

_TICK = 0.4  # seconds after which a client that has left is noticed

_log = get_logger("run")


@dataclass(frozen=True, slots=True)
class EmbeddingAsk:
    """What somebody wants vectors of; plain data.

    :ivar id: unique, of the run's record.
    :ivar session_key: for the record; no session is begun.
    :ivar model: ``provider/model`` instead of the agent's own.
    :ivar created_at: unix time in milliseconds.
    """

    id: str
    agent_id: str
    session_key: str
    inputs: tuple[Input, ...]
    created_at: int
    dimensions: int | None = None
    model: str | None = None


class EmbeddingRun:
    """A live run: its vectors as they come, and a way to stop it.

    :ivar started_at: when it was its turn, Unix milliseconds; None before that.
    :ivar ignored: nothing that is asked for is.
    :ivar listeners: hear when the run begins and how it ends.
    """

    ignored: tuple[str, ...] = ()

    def __init__(self, ask: EmbeddingAsk, candidate: Candidate, timeout: float) -> None:
        self.ask = ask
        self.candidate = candidate
        self.timeout = timeout
        self.token = CancelToken()
        self.turn: EmbeddingTurn | None = None
        self.started_at: int | None = None
        self.listeners: tuple[Listener, ...] = ()
        self._results: SimpleQueue[Embeddings | GatewayError | None] = SimpleQueue()

    @property
    def id(self) -> str:
        """Of the run's record."""
        return self.ask.id

    @property
    def agent_id(self) -> str:
        """For whom it is."""
        return self.ask.agent_id

    @property
    def channel(self) -> str:
        """Who asks, for the record."""
        return CHANNEL

    @property
    def created_at(self) -> int:
        """When it was asked for, Unix milliseconds."""
        return self.ask.created_at

    def slices(self, gone: Callable[[], bool]) -> Iterator[Embeddings]:
        """The vectors in the order of the inputs, some of them at a time; one thread reads them.

        Who stops reading stops the run, and so does a client that is ``gone``.

        :raises GatewayError: why there are no more; the vectors so far are of no use.
        """
        try:
            while True:
                try:
                    result = self._results.get(timeout=_TICK)
                except Empty:
                    if gone():
                        self.token.cancel(CancelReason.DISCONNECT)
                    continue
                if result is None:
                    return
                if isinstance(result, GatewayError):
                    raise result
                yield result
        finally:
            self.token.cancel(CancelReason.DISCONNECT)

    def begin(self, now: int) -> None:
        """It is the run's turn; its thread calls this. ``now`` is in Unix milliseconds."""
        self.started_at = now
        self.publish(RunStarted(now))

    def publish(self, event: RunEvent) -> None:
        """Show an event to all who listen; the run's thread calls this."""
        for hear in self.listeners:
            hear(event)

    def tell(self, result: Embeddings | GatewayError | None) -> None:
        """Vectors, or why there are none, or that there are no more; for the run's thread."""
        self._results.put(result)


# Asked once for each run: who is to hear of it.
EmbeddingObserver: TypeAlias = Callable[[EmbeddingRun], Listener]


class EmbeddingService:
    """Starts and ends embedding runs. Any thread may call any method."""

    def __init__(
        self,
        *,
        agents: AgentRegistry,
        resolve_model: Callable[[str], Candidate],
        store: Store,
        executor: Executor,
        cooldowns: Cooldowns,
        concurrent: int,
        pending: int,
        draining: Callable[[], bool],
        clock: Callable[[], int],
        observers: Sequence[EmbeddingObserver],
        called: Callable[[str, CallReport], None],
        worker: Callable[[], str] = str,
    ) -> None:
        """:param concurrent: runs that may call a model at the same time.
        :param pending: runs that may exist at the same time, waiting ones included.
        :param draining: nothing more is to be admitted.
        :param clock: unix time in milliseconds.
        :param called: told of each model call that is over, in its run's thread; must not raise.
        :param worker: the id of this process in the store; "" if it has the store to itself.
        """
        self._observers = tuple(observers)
        self._called = called
        self._agents = agents
        self._resolve_model = resolve_model
        self._store = store
        self._executor = executor
        self._cooldowns = cooldowns
        self._pending = pending
        self._draining = draining
        self._clock = clock
        self._worker = worker
        self._lane = Lane(concurrent)
        self._changed = threading.Condition(threading.RLock())  # guards _live
        self._live: set[EmbeddingRun] = set()

    def start(self, ask: EmbeddingAsk) -> EmbeddingRun:
        """Admit a run and start it.

        :raises AgentNotFound: no such agent.
        :raises InvalidRequest: the model makes no vectors, or none of such inputs.
        :raises GatewayBusy, GatewayDraining: not admitted.
        """
        agent = self._agents.get(ask.agent_id)
        candidate = choose_embedder(agent, ask.model, ask.inputs, self._resolve_model)
        run = EmbeddingRun(ask, candidate, agent.timeout)
        with self._changed:
            if self._draining():
                raise GatewayDraining
            if len(self._live) >= self._pending:
                raise GatewayBusy
            self._live.add(run)
        try:
            self._executor.spawn(f"run-{ask.id}", context.carried(lambda: self._execute(run)))
        except RuntimeError:  # the system has no more threads to give
            self._forget(run)
            raise GatewayBusy from None
        return run

    def drain(self, seconds: float) -> None:
        """Give live runs ``seconds`` to end, then stop them; returns when all have ended, or soon after."""
        with self._changed:
            self._changed.wait_for(lambda: not self._live, seconds)
            left = list(self._live)
        for run in left:
            run.token.cancel(CancelReason.SHUTDOWN)
        with self._changed:
            if not self._changed.wait_for(lambda: not self._live, 5):
                _log.error("%d embedding runs did not stop in time", len(self._live))

    def _execute(self, run: EmbeddingRun) -> None:
        """The body of a run's thread. Never raises."""
        started = time.monotonic()
        context.refine(run_id=run.id, agent_id=run.agent_id)
        error: GatewayError | None = None
        run.listeners = tuple(observe(run) for observe in self._observers)
        try:
            self._embed(run)
        except Cancelled as cancelled:
            error = _stopped(cancelled.reason, run.timeout)
        except GatewayError as failure:
            error = failure
        except BaseException:  # whatever a provider raises, its run ends and frees its place
            _log.exception("run %s failed", run.id)
            error = GatewayError("internal error")
        error = self._recorded(run, error)
        self._forget(run)
        outcome = f"{_status(error)} ({error.code or error.type})" if error else "completed"
        milliseconds = round(1000 * (time.monotonic() - started))
        _log.info(
            "run %s agent=%s embeddings %s in %d ms", run.id, run.agent_id, outcome, milliseconds,
            extra={"fields": {"outcome": outcome, "duration_ms": milliseconds, "channel": CHANNEL}},
        )  # fmt: skip
        run.publish(_ending(run, error))
        run.tell(error)

    def _embed(self, run: EmbeddingRun) -> None:
        self._store.begin(_beginning(run, self._worker()), ())
        stop = partial(run.token.cancel, CancelReason.TIMEOUT)
        budget = TimeBudget(self._executor, run.timeout, stop)
        place = self._lane.enter()
        try:
            place.wait(run.token)
            run.begin(self._clock())
            run.turn = EmbeddingTurn(
                run.candidate,
                run.ask.inputs,
                run.ask.dimensions,
                cancel=run.token,
                cooldowns=self._cooldowns,
                time_left=lambda: budget.left,
                watch=partial(self._called, run.id),
            )
            for answer in run.turn.run():
                run.tell(answer)
        finally:
            budget.stop()
            place.leave()

    def _recorded(self, run: EmbeddingRun, error: GatewayError | None) -> GatewayError | None:
        """How the run ends once that is stored; what cannot be stored has failed."""
        try:
            self._store.finish(_end(run, error, self._clock()), ())
        except GatewayError as failure:
            _log.error("run %s could not be recorded: %s", run.id, failure)
            return error or failure
        return error

    def _forget(self, run: EmbeddingRun) -> None:
        with self._changed:
            self._live.discard(run)
            self._changed.notify_all()


def _stopped(reason: CancelReason, timeout: float) -> GatewayError:
    if reason is CancelReason.TIMEOUT:
        return RunTimeout(timeout)
    return GatewayDraining() if reason is CancelReason.SHUTDOWN else RunAborted(reason)


def _status(error: GatewayError | None) -> EndStatus:
    if error is None:
        return "completed"
    return "cancelled" if isinstance(error, RunAborted) else "failed"


def _ending(run: EmbeddingRun, error: GatewayError | None) -> TerminalEvent:
    if isinstance(error, RunAborted):
        return RunCancelled(run.token.reason or CancelReason.USER)
    if error is not None:
        return RunFailed(error)
    return RunCompleted("", "stop", run.turn.usage if run.turn else Usage(), model=run.candidate.ref)


def _beginning(run: EmbeddingRun, worker: str) -> RunStart:
    return RunStart(
        id=run.id,
        session_key=run.ask.session_key,
        session_id=None,
        agent_id=run.agent_id,
        channel=CHANNEL,
        model=run.candidate.ref,
        created_at=run.created_at,
        known=False,
        worker=worker,
    )


def _end(run: EmbeddingRun, error: GatewayError | None, now: int) -> RunEnd:
    usage = run.turn.usage if run.turn else Usage()
    calls = tuple(run.turn.calls) if run.turn else ()
    price = run.candidate.info.price
    return RunEnd(
        id=run.id,
        status=_status(error),
        finish_reason=None,
        usage=usage,
        model=run.candidate.ref,
        error_code=(error.code or error.type) if error else None,
        error_message=error.message if error else None,
        ended_at=now,
        attempts=len(calls),
        cost=price.of(usage) if price and usage.total else None,
        calls=calls,
    )
