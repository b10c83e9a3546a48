"""The contract between the agent loop and any model API."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from ..cancel import CancelToken
from ..events import ReasoningDelta, TextDelta
from ..messages import FinishReason, JsonObject, Message, SamplingParams, Thoughts, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it; ``parameters`` is a JSON schema of an object.

    :ivar strict: the model is to be held to the schema; None leaves it to the provider.
    """

    name: str
    description: str
    parameters: JsonObject
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model has to call a tool: it may, or it must, or it must call the one called ``name``."""

    required: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cache_read: float
    cache_write: float

    def of(self, usage: Usage) -> float:
        """What ``usage`` costs, in dollars."""
        fresh = max(0, usage.input - usage.cached - usage.cache_write)
        return (
            fresh * self.input
            + usage.cached * self.cache_read
            + usage.cache_write * self.cache_write
            + usage.output * self.output
        ) / 1_000_000


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model can do.

    ``max_output`` is the most tokens it writes in one answer. ``tools_on_demand`` means that it
    calls a tool only if it has to, though it does not choose to (``tools``). ``prefill`` means that it
    continues a trailing assistant turn. ``small`` asks for the short system prompt: the
    model is local and slow to read. ``reasoning`` says whether it takes a level of thinking;
    None means that nobody knows. ``levels`` names the levels it takes, empty if nobody knows;
    ``adaptive`` means that it decides itself how much to think, within its level. ``sampling``
    is false for a model that refuses a temperature and the like. ``schemas`` means that its
    answers are known to be held to a JSON schema; the others are told in words. ``price`` is
    None where it is not known, never zero for that.
    """

    context_window: int = 200_000
    max_output: int | None = None
    images: bool = False
    tools: bool = True
    tools_on_demand: bool = False
    prefill: bool = False
    small: bool = False
    reasoning: bool | None = None
    levels: tuple[str, ...] = ()
    adaptive: bool = False
    sampling: bool = True
    schemas: bool = False
    price: Price | None = None


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
    """One call of one model: everything it gets to see.

    :ivar tool_choice: means something only if there are ``tools``.
    :ivar parallel_tool_calls: False if one answer may call one tool at most.
    :ivar credential: which of the provider's keys to use, counted from 0.
    :ivar cache_key: the same for calls that share their beginning, "" if nobody knows.
    """

    model: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    params: SamplingParams = SamplingParams()
    extra: JsonObject = field(default_factory=dict)
    timeouts: CallTimeouts = CallTimeouts()
    credential: int = 0
    cache_key: str = ""
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class ModelDone:
    """The last event of a model call.

    ``usage`` is None if the provider reported none. ``thoughts`` go back to the same model
    with the rest of the conversation.
    """

    finish_reason: FinishReason
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    thoughts: Thoughts | None = None


ModelEvent: TypeAlias = TextDelta | ReasoningDelta | ModelDone


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Inputs to turn into vectors, in one call of one model.

    :ivar inputs: texts, or tokens of the model's own; at least one, and none of them empty.
    :ivar dimensions: the length of vector to ask for; None for the model's own.
    :ivar credential: which of the provider's keys to use, counted from 0.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    timeouts: CallTimeouts = CallTimeouts()
    credential: int = 0


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector of 32-bit floats for each input, in their order, all of one length and finite.

    ``usage`` is None if the provider reported none.
    """

    vectors: tuple[array[float], ...]
    usage: Usage | None = None


@runtime_checkable
class Provider(Protocol):
    """A model API. One object serves all threads.

    :ivar credentials: how many keys it has; they are tried one after the other. A provider
        that does not say has one.
    """

    id: str
    credentials: int = 1

    def info(self, model: str) -> ModelInfo:
        """What ``model`` can do. Quick, no network. Unknown models get defaults."""

    def ignores(self, model: str, params: SamplingParams) -> tuple[str, ...]:  # noqa: ARG002
        """Which of ``params`` make no difference, for ``model`` or its API does not take them. Quick."""
        return ()

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        """Call the model and yield its answer as it comes.

        Yields text and reasoning deltas (never empty) and then exactly one
        :class:`ModelDone`. Closing the iterator early ends the call at the socket.

        :raises ProviderError: classified; nothing is retried here.
        :raises Cancelled: soon after ``cancel`` fires, wherever the call is waiting.
        """

    def close(self) -> None:
        """Give back sockets and child processes. Calls under way fail."""


@runtime_checkable
class Embedder(Protocol):
    """What a :class:`Provider` is, too, if its API makes vectors.

    :ivar embeds_tokens: it takes inputs that are tokens, not only texts.
    """

    embeds_tokens: bool = False

    def embed(self, request: EmbeddingRequest, cancel: CancelToken) -> Embeddings:
        """Call the model and wait for all vectors.

        A provider that cannot make vectors of other lengths than the model's own ignores ``dimensions``.

        :raises ProviderError: classified; nothing is retried here.
        :raises Cancelled: soon after ``cancel`` fires, wherever the call is waiting.
        """
