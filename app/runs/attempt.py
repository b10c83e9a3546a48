"""One run under way: its session, its turn and what will be recorded of it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..agents.context import mark_unfinished, new_messages
from ..agents.conversation import Conversation
from ..agents.loop import Turn
from ..agents.models import Candidate, effort_of, merge_params
from ..agents.registry import Agent
from ..agents.results import before_answer, bound_results
from ..agents.turn import Harness, TurnInput, TurnRecord
from ..cancel import CancelReason
from ..errors import (
    ConfigError,
    Fenced,
    GatewayDraining,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    RunAborted,
    RunTimeout,
)
from ..events import RunCancelled, RunCompleted, RunFailed, TerminalEvent
from ..log import get_logger
from ..messages import AssistantMessage, Message, SamplingParams
from ..sessions.records import EndStatus, Entry, Loaded, NewEntry, RunEnd, RunStart, Session, SessionSettings
from ..sessions.store import Store
from .budget import TimeBudget
from .freshness import ResetPolicy
from .packing import pack
from .run import Run, RunRequest

# Work is split further only as deep as the configuration says; these tools never go deeper at all.
SUB_AGENT_WITHHELD = frozenset(
    {"sessions_list", "sessions_history", "sessions_send", "session_status", "memory_search", "memory_get"}
)

_log = get_logger("run")


@dataclass(frozen=True, slots=True)
class RunParts:
    """What all runs of a gateway share.

    :ivar resolve_model: the candidate for ``provider/model``; raises :class:`ConfigError`.
    :ivar news: each gives, once, what happened in a session since its last turn.
    :ivar retell: takes a line back that did not reach an answer.
    :ivar main_key: the session key of an agent's own conversation.
    :ivar spawn_depth: how deep sub-agents may have sub-agents of their own.
    :ivar new_id: makes session ids.
    :ivar clock: unix time in milliseconds.
    :ivar worker: the id of this process in the store; "" if it has the store to itself.
    """

    store: Store
    harness: Harness
    resolve_model: Callable[[str], Candidate]
    news: Sequence[Callable[[str], list[str]]]
    retell: Callable[[str, str], None]
    reset: ResetPolicy
    main_key: Callable[[str], str]
    spawn_depth: int
    new_id: Callable[[], str]
    clock: Callable[[], int]
    worker: Callable[[], str] = str


class Attempt:
    """What a run's thread knows about its run while it goes on."""

    def __init__(self, run: Run, agent: Agent, parts: RunParts) -> None:
        self.run = run
        self.agent = agent
        self.timeout = agent.timeout if run.request.timeout is None else run.request.timeout
        self.record = TurnRecord(model_ref=agent.model_ref)
        self._parts = parts
        self._worker = parts.worker()  # as it is now: once it is another, this run is nobody's
        self._params = run.request.params
        self._session_id: str | None = None
        self._begun = False
        self._called = False
        self._heard: tuple[str, ...] = ()
        self._scratch = _scratch(parts.harness.scratch, run.request.session_key)

    def open_session(self) -> Conversation:
        """Store what is new before any model is called; the conversation as it then stands.

        :raises InvalidRequest: the session belongs to another agent.
        :raises ModelNotFound: the request names a model of no known provider.
        :raises StoreError: nothing could be stored.
        """
        request = self.run.request
        if request.ephemeral:
            self._choose_model(SessionSettings())
            self._begin(None, ())
            return Conversation(list(request.messages), [0] * len(request.messages))
        loaded = self._load()
        session = loaded.session
        if session is not None and session.agent_id != self.agent.id:
            raise InvalidRequest(f"The session belongs to agent {session.agent_id!r}.", param="session_key")
        self._choose_model(session.settings if session else SessionSettings())
        own = self._own(loaded.history)
        entries = _last(own, loaded.history) if own else loaded.history
        history = [entry.message for entry in entries]
        fresh = () if own else _fresh(history, request)
        if request.messages and not (own or fresh):  # all was said before: its answer got lost
            entries = entries[: before_answer(history)]
            history = history[: len(entries)]
        first = self._begin(session.id if session else self._new_id(), fresh)
        numbers = [*(entry.seq for entry in entries), *range(first, first + len(fresh))]
        return _conversation([*history, *fresh], numbers, session)

    def turn(
        self,
        conversation: Conversation,
        budget: TimeBudget,
        steering: Callable[[], Sequence[tuple[Message, int]]],
    ) -> Turn:
        """The turn to run; :attr:`record` is then its record."""
        request, harness = self.run.request, self._parts.harness
        turn = Turn(
            self.agent,
            TurnInput(
                run_id=request.run_id,
                session_key=request.session_key,
                channel=request.channel,
                message_channel=request.message_channel,
                cache_key=request.cache_key,
                conversation=conversation,
                scratch=self._scratch,
                system=request.system,
                params=self._params,
                client_tools=request.client_tools,
                ephemeral=request.ephemeral,
                main_session=request.session_key == self._parts.main_key(self.agent.id),
                purpose=request.purpose,
                withheld=self._withheld(),
                news=self._news(),
                off_the_clock=budget.paused,
                time_left=lambda: budget.left,
                steering=steering,
            ),
            harness,
            cancel=self.run.token,
            emit=self.run.publish,
            store=self._append,
            compacted=None if self._session_id is None else self._compacted,
        )
        self.record = turn.record
        self._called = True
        return turn

    def take_over(self, request: RunRequest) -> list[tuple[Message, int]]:
        """Store what another run of this session was to ask, as its part of this turn.

        :returns: its messages with their numbers in the transcript.
        :raises StoreError: nothing could be stored.
        """
        first = self._parts.store.begin(self._start(request, self._session_id), request.messages)
        return list(zip(request.messages, itertools.count(first)))

    def was_told(self) -> None:
        """Another run has stored what this one asks: only its end is left to record."""
        self._begun = True

    def cancelled(self, reason: CancelReason) -> TerminalEvent:
        """How the run ends if it was cancelled for ``reason``."""
        if reason is CancelReason.TIMEOUT:
            return RunFailed(RunTimeout(self.timeout))
        if reason is CancelReason.SHUTDOWN:
            return RunFailed(GatewayDraining())
        if reason is CancelReason.LOST:
            return RunFailed(Fenced())
        return RunCancelled(reason)

    def waits_on(self, ending: TerminalEvent) -> bool:
        """True for a run that was queued and is for the next process to begin: no model was called yet."""
        stopped = isinstance(ending, RunFailed) and isinstance(ending.error, GatewayDraining)
        return self.run.request.detached and not self._called and stopped

    def record_end(self, ending: TerminalEvent) -> TerminalEvent:
        """Store how the run ended; if that fails, the run has failed."""
        if not isinstance(ending, RunCompleted):
            for line in self._heard:
                self._parts.retell(self.run.request.session_key, line)
        if isinstance(ending, RunFailed) and isinstance(ending.error, Fenced):
            return ending  # the others have recorded how it ended
        try:
            if self.waits_on(ending):
                self._queue_again()
                return ending
            if not self._begun:
                self._begin(None, ())
            end = self._end(ending)
            counts = self._parts.store.finish(end, self._last_entries(ending)) or self._has_ended(end)
        except GatewayError as error:
            _log.error("run %s could not be recorded: %s", self.run.id, error)
            return RunFailed(error) if isinstance(ending, RunCompleted) else ending
        except Exception:
            _log.exception("run %s could not be recorded", self.run.id)
            return RunFailed(GatewayError("internal error"))
        return ending if counts else RunFailed(Fenced())

    def clean_up(self) -> None:
        """Remove what nobody can ask for again."""
        if self.run.request.ephemeral and self._scratch.exists():
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _new_id(self) -> str | None:
        """The id of a session that begins with this run; to compact nothing begins none."""
        return self._parts.new_id() if self.run.request.compact is None else None

    def _load(self) -> Loaded:
        """The session, or nothing if its time is up."""
        store, key = self._parts.store, self.run.request.session_key
        loaded = store.load(key)
        now = self._parts.clock()
        if loaded.session is None or self.run.request.continues:
            return loaded
        if not self._parts.reset.is_stale(loaded.session, now):
            return loaded
        store.archive(key, now)
        return Loaded(None, ())

    def _choose_model(self, settings: SessionSettings) -> None:
        """Let the request's model, or else the session's, answer instead of the agent's own."""
        request = self.run.request
        thinking = SamplingParams(reasoning_effort=effort_of(settings.thinking))
        self._params = merge_params(thinking, request.params)
        try:
            if request.model:
                self.agent = self.agent.answering_by(self._parts.resolve_model(request.model))
            elif settings.model:
                self.agent = self.agent.answering_by(self._parts.resolve_model(settings.model))
        except ConfigError as error:
            if request.model:
                raise ModelNotFound(str(error)) from None
            _log.warning("session %s: %s The agent's own model answers.", request.session_key, error)
        self.record.model_ref = self.agent.model_ref

    def _own(self, history: Sequence[Entry]) -> Sequence[Entry]:
        """What this run has stored before it was interrupted, if it can go on from there.

        Other runs may have come first since.
        """
        if not self.run.request.detached:
            return ()
        own = [entry for entry in history if entry.run_id == self.run.id]
        return own if own and own[-1].stop != "aborted" else ()

    def _news(self) -> tuple[str, ...]:
        """What the agent has to hear; it stays where it is while nobody listens."""
        request = self.run.request
        if request.compact is not None:
            return ()
        self._heard = tuple(line for source in self._parts.news for line in source(request.session_key))
        return self._heard

    def _withheld(self) -> frozenset[str]:
        depth = self.run.request.depth
        spawn = frozenset({"sessions_spawn"}) if depth >= self._parts.spawn_depth else frozenset()
        return spawn | SUB_AGENT_WITHHELD if depth else spawn

    def _begin(self, session_id: str | None, messages: Sequence[Message]) -> int:
        first = self._parts.store.begin(self._start(self.run.request, session_id), messages)
        self._session_id = self.run.session_id = session_id
        self._begun = True
        return first

    def _start(self, request: RunRequest, session_id: str | None) -> RunStart:
        return RunStart(
            id=request.run_id,
            session_key=request.session_key,
            session_id=session_id,
            agent_id=self.agent.id,
            channel=request.channel,
            model=self.agent.model_ref,
            created_at=request.created_at,
            parent_key=request.parent_key,
            known=request.detached,
            fingerprint=request.fingerprint,
            worker=self._worker,
        )

    def _queue_again(self) -> None:
        """Put the run back into the store's queue if it was taken out already."""
        if self._begun:
            request = self.run.request
            self._parts.store.enqueue(self._start(request, self._session_id), pack(request))

    def _append(self, messages: Sequence[Message]) -> int:
        entries = [NewEntry(message, "tool_calls") for message in messages]
        now = self._parts.clock()
        return self._parts.store.append(self._session_id, self.run.id, entries, now, self._worker)

    def _compacted(self, summary: str, kept_from: int) -> bool:
        if self._session_id is None:
            return False
        now = self._parts.clock()
        return self._parts.store.compact(self._session_id, summary, kept_from, now, self.run.id, self._worker)

    def _has_ended(self, end: RunEnd) -> bool:
        """Whether the run ended as it says, and not because others have given it up.

        A store that was told twice, as the first answer got lost, takes no note of the second time.
        """
        record = self._parts.store.get_run(end.id) if self._worker else None
        return record is None or (record.status, record.ended_at) == (end.status, end.ended_at)

    def _end(self, ending: TerminalEvent) -> RunEnd:
        error = error_of(ending)
        record = self.record
        return RunEnd(
            id=self.run.id,
            status=STATUS[type(ending)],
            finish_reason=ending.finish_reason if isinstance(ending, RunCompleted) else None,
            usage=record.usage,
            model=record.model_ref,
            error_code=(error.code or error.type) if error else None,
            error_message=error.message if error else None,
            ended_at=self._parts.clock(),
            attempts=len(record.calls),
            cost=record.cost if record.usage.total else None,
            context_tokens=record.context_tokens,
            calls=tuple(record.calls),
            worker=self._worker,
        )

    def _last_entries(self, ending: TerminalEvent) -> tuple[NewEntry, ...]:
        """The answer, or what there is of it when the turn was cut short."""
        if isinstance(ending, RunCompleted) and self.record.last is not None:
            return (NewEntry(self.record.last, ending.finish_reason),)
        if partial := self.record.partial:
            return (NewEntry(AssistantMessage(partial), "aborted"),)
        return ()


STATUS: dict[type[TerminalEvent], EndStatus] = {
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
}


def error_of(ending: TerminalEvent) -> GatewayError | None:
    """Why a run has no answer; None if it has one."""
    if isinstance(ending, RunFailed):
        return ending.error
    return RunAborted(ending.reason) if isinstance(ending, RunCancelled) else None


def _scratch(directory: Path, session_key: str) -> Path:
    return directory / sha256(session_key.encode(errors="replace")).hexdigest()[:24]


def _last(own: Sequence[Entry], history: Sequence[Entry]) -> Sequence[Entry]:
    """``history`` in the order in which a model can go on from ``own``."""
    numbers = {entry.seq for entry in own}
    return [*(entry for entry in history if entry.seq not in numbers), *own]


def _fresh(history: Sequence[Message], request: RunRequest) -> tuple[Message, ...]:
    tell = bound_results if request.continues else new_messages
    return mark_unfinished(history, tell(history, request.messages))


def _conversation(messages: list[Message], numbers: list[int], session: Session | None) -> Conversation:
    if session is None:
        return Conversation(messages, numbers)
    return Conversation(messages, numbers, session.summary, session.context_tokens)
