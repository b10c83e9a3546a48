"""What the store takes and gives: plain frozen values. Times are Unix milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..messages import Message, Usage

Stop: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "aborted", "note"]
EndStatus: TypeAlias = Literal["completed", "failed", "cancelled"]
RunStatus: TypeAlias = Literal["queued", "in_progress", "completed", "failed", "cancelled"]


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
class Session:
    """A conversation. Tokens are the sums over its finished runs, ``model`` is the last one's."""

    id: str
    key: str
    agent_id: str
    created_at: int
    updated_at: int
    message_count: int
    input_tokens: int
    output_tokens: int
    model: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a run begins with; ``session`` is None if nobody has used the key yet."""

    session: Session | None
    history: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class RunStart:
    """A run at its beginning; without ``session_id`` it is ephemeral and keeps no transcript."""

    id: str
    session_key: str
    session_id: str | None
    agent_id: str
    channel: str
    model: str
    created_at: int


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended; ``attempts`` counts its model calls, failed ones included."""

    id: str
    status: EndStatus
    finish_reason: str | None
    usage: Usage
    model: str
    error_code: str | None
    error_message: str | None
    ended_at: int
    attempts: int


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
