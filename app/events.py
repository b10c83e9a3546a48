"""What happens during a run, as typed values.

A run's stream carries any number of progress events and then exactly one terminal event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from .cancel import CancelReason
from .errors import GatewayError
from .messages import FinishReason, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run has left its lanes and begins; Unix milliseconds."""

    at: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the visible answer. All deltas of a run concatenate to its final text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's reasoning, which is not part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The agent calls one of its own tools; ``arguments`` is JSON text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolUpdated:
    """A tool call is still at it; ``text`` is what its result looks like so far."""

    call_id: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool call has ended; ``text`` is its result as the model gets it."""

    call_id: str
    name: str
    is_error: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A command waits for an operator's word, until ``expires_at`` (Unix milliseconds)."""

    approval_id: str
    call_id: str
    command: str
    directory: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class ApprovalResolved:
    """The wait is over: ``allow-once``, ``allow-always``, ``deny`` or ``expired``."""

    approval_id: str
    decision: str


@dataclass(frozen=True, slots=True)
class ContextCompacted:
    """The older part of the conversation was replaced by a summary; sizes in estimated tokens."""

    tokens_before: int
    tokens_after: int


@dataclass(frozen=True, slots=True)
class RunCompleted:
    """The run has an answer: its whole text, why it stopped, and all tokens it took.

    :ivar tool_calls: of tools that the caller runs itself; then ``finish_reason`` is ``tool_calls``.
    :ivar model: ``provider/model`` that gave it, where that is known; no part of the answer.
    :ivar reasoning: all its reasoning deltas; no part of the answer.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    model: str = field(default="", compare=False)
    reasoning: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The run has no answer; ``error`` says why."""

    error: GatewayError


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Somebody stopped the run."""

    reason: CancelReason


ProgressEvent: TypeAlias = (
    RunStarted
    | TextDelta
    | ReasoningDelta
    | ToolStarted
    | ToolUpdated
    | ToolFinished
    | ApprovalRequested
    | ApprovalResolved
    | ContextCompacted
)
TerminalEvent: TypeAlias = RunCompleted | RunFailed | RunCancelled
RunEvent: TypeAlias = ProgressEvent | TerminalEvent

TERMINAL = (RunCompleted, RunFailed, RunCancelled)
