"""The contract between the agent loop and any model API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from ..cancel import CancelToken
from ..events import ReasoningDelta, TextDelta
from ..messages import FinishReason, JsonObject, Message, SamplingParams, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it; ``parameters`` is a JSON schema of an object."""

    name: str
    description: str
    parameters: JsonObject


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model can do.

    ``max_output`` is the most tokens it writes in one answer. ``prefill`` means that it
    continues a trailing assistant turn. ``small`` asks for the short system prompt: the
    model is local and slow to read.
    """

    context_window: int = 200_000
    max_output: int | None = None
    images: bool = False
    tools: bool = True
    prefill: bool = False
    small: bool = False


@dataclass(frozen=True, slots=True)
class CallTimeouts:
    """Seconds of silence on the wire that a model call survives.

    A comment or any other byte counts as life. ``first_token`` holds until the first data
    event, ``stall`` from then on.
    """

    connect: float = 10.0
    first_token: float = 120.0
    stall: float = 120.0


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call of one model: everything it gets to see."""

    model: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    params: SamplingParams = SamplingParams()
    extra: JsonObject = field(default_factory=dict)
    timeouts: CallTimeouts = CallTimeouts()


@dataclass(frozen=True, slots=True)
class ModelDone:
    """The last event of a model call.

    ``usage`` is None if the provider reported none.
    """

    finish_reason: FinishReason
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None


ModelEvent: TypeAlias = TextDelta | ReasoningDelta | ModelDone


@runtime_checkable
class Provider(Protocol):
    """A model API. One object serves all threads."""

    id: str

    def info(self, model: str) -> ModelInfo:
        """What ``model`` can do. Quick, no network. Unknown models get defaults."""

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        """Call the model and yield its answer as it comes.

        Yields text and reasoning deltas (never empty) and then exactly one
        :class:`ModelDone`. Closing the iterator early ends the call at the socket.

        :raises ProviderError: classified; nothing is retried here.
        :raises Cancelled: soon after ``cancel`` fires, wherever the call is waiting.
        """

    def close(self) -> None:
        """Give back sockets and child processes. Calls under way fail."""
