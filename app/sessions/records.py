"""What the store takes and gives: plain frozen values. Times are Unix milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..messages import Message, Usage

Stop: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "aborted", "note"]
EndStatus: TypeAlias = Literal["completed", "failed", "cancelled"]
RunStatus: TypeAlias = Literal["queued", "in_progress", "completed", "failed", "cancelled"]

# How a run ended that ends only because the gateway did; it may begin again.
INTERRUPTED = ("interrupted", "gateway_unavailable")

UsageGroup: TypeAlias = Literal["day", "agent", "model", "session"]

# What became of a run that wants a place in its session's lane; it is the run's turn once it is "held".
Standing: TypeAlias = Literal["full", "waiting", "held"]


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A message to store, and why an assistant turn stopped; "note" is the gateway's own."""

    message: Message
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored message; ``seq`` grows from 1 within its session."""

    seq: int
    message: Message
    stop: Stop | None
    created_at: int
    run_id: str


@dataclass(frozen=True, slots=True)
class Added:
    """What was added to the transcript of a session."""

    session_key: str
    agent_id: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a person has chosen for one conversation; None leaves it to the agent.

    :ivar model: ``provider/model``, which is then used without fallbacks.
    :ivar thinking: a level of thinking.
    :ivar usage: what is shown of it under an answer: ``off``, ``tokens`` or ``full``.
    :ivar label: what the person calls it.
    :ivar verbose: whether tool calls are shown: ``off``, ``on`` or ``full``.
    :ivar reasoning: whether the model's reasoning is shown: ``off``, ``on`` or ``stream``.
    """

    model: str | None = None
    thinking: str | None = None
    usage: str | None = None
    label: str | None = None
    verbose: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation. Tokens and cost are the sums over its finished runs, ``model`` is the last one's.

    :ivar model: "" before the first run.
    :ivar active_at: when somebody last asked something or was answered; decides when a conversation is stale.
    :ivar context_tokens: size of the last prompt, 0 if nobody has counted.
    :ivar summary: stands for all messages before ``kept_from``; None while all of them are sent.
    :ivar kept_from: ``seq`` of the first message that still goes to the model, 1 without a summary.
    :ivar cost: in US dollars, of the runs whose price is known.
    :ivar parent_key: the session that spawned this one.
    :ivar archived_at: set once its key belongs to a newer session; its key is then a name of its own.
    """

    id: str
    key: str
    agent_id: str
    created_at: int
    updated_at: int
    message_count: int
    input_tokens: int
    output_tokens: int
    model: str
    active_at: int = 0
    context_tokens: int = 0
    summary: str | None = None
    kept_from: int = 1
    compactions: int = 0
    cost: float = 0.0
    settings: SessionSettings = SessionSettings()
    parent_key: str | None = None
    archived_at: int | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a run begins with; ``session`` is None if nobody has used the key yet.

    ``history`` begins at the session's ``kept_from`` unless the whole transcript was asked for.
    """

    session: Session | None
    history: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class RunStart:
    """A run at its beginning; without ``session_id`` it is ephemeral and keeps no transcript.

    :ivar known: there may be a record of it already, from when it was queued or interrupted.
    :ivar fingerprint: of what was asked, if the asker may ask again under a key of its own.
    :ivar worker: who has it; it is not begun once that one is taken for dead. "" if nobody keeps watch.
    """

    id: str
    session_key: str
    session_id: str | None
    agent_id: str
    channel: str
    model: str
    created_at: int
    parent_key: str | None = None
    known: bool = True
    fingerprint: str | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """A run that has not begun; ``request`` is whatever its asker needs to begin it."""

    id: str
    request: str


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One attempt to call a model.

    :ivar credential: which of the provider's keys was used, counted from 0.
    :ivar outcome: ``ok``, a :class:`~app.errors.ProviderReason`, or ``cancelled``.
    :ivar status: the provider's HTTP status if it refused.
    :ivar milliseconds: how long it took.
    """

    model: str
    credential: int
    outcome: str
    status: int | None
    milliseconds: int


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended; ``attempts`` counts its model calls, failed ones included.

    :ivar cost: in US dollars, None if the price is not known.
    :ivar context_tokens: size of the last prompt, 0 if nobody has counted.
    :ivar calls: every attempt, in order; recorded only if there is more to tell than one success.
    :ivar worker: who ends it, which counts only while the run is theirs; "" for whoever may.
    """

    id: str
    status: EndStatus
    finish_reason: str | None
    usage: Usage
    model: str
    error_code: str | None
    error_message: str | None
    ended_at: int
    attempts: int
    cost: float | None = None
    context_tokens: int = 0
    calls: tuple[ModelCall, ...] = ()
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run's record; while ``ended_at`` is None the run is not over."""

    id: str
    session_key: str
    session_id: str | None
    agent_id: str
    channel: str
    model: str
    created_at: int
    status: RunStatus
    finish_reason: str | None
    usage: Usage
    error_code: str | None
    error_message: str | None
    ended_at: int | None
    attempts: int
    cost: float | None = None
    calls: tuple[ModelCall, ...] = ()
    fingerprint: str | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which finished runs to count: begun at or after ``since`` and before ``until``.

    :ivar by: what to tell apart; a day is one in UTC.
    """

    since: int = 0
    until: int | None = None
    agent_id: str | None = None
    session_key: str | None = None
    by: tuple[UsageGroup, ...] = ("day",)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What the runs of one group came to.

    :ivar group: the values of ``UsageQuery.by`` in that order; a day is ``2026-11-23``.
    :ivar unpriced: runs that used tokens of unknown price, which are not in ``cost``.
    """

    group: tuple[str, ...]
    runs: int
    usage: Usage
    cost: float
    unpriced: int


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A response that is about to be made; its run has the same id.

    :ivar request: what was asked, as JSON of the channel's own.
    :ivar parent_id: the response that it follows.
    :ivar worker: who makes it, as in :class:`RunStart`.
    """

    id: str
    agent_id: str
    created_at: int
    request: str
    parent_id: str | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it is stored.

    :ivar body: the finished response, as JSON of the channel's own; None while it is open, and for
        good if the gateway died before it was finished.
    :ivar last_seq: the last message of its run in its session; None while it is open, if its run
        never began, and if it kept no transcript.
    """

    id: str
    agent_id: str
    created_at: int
    open: bool
    session_id: str | None
    last_seq: int | None
    request: str
    body: str | None


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a conversation goes on if it cannot go on in place: a new session's key and id."""

    key: str
    session_id: str
