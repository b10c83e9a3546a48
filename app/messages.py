"""What a conversation is made of, independent of any provider's or client's wire format.

System text is not a message here: it belongs to the agent and to the request, and is
passed beside the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = Mapping[str, JsonValue]

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a user turn."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a user turn: its MIME type and its bytes in base64.

    :ivar detail: how closely to look, ``auto``, ``low`` or ``high``; None leaves it to the provider.
    """

    mime: str
    data: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A turn of the person (or program) that talks to the agent."""

    parts: tuple[TextPart | ImagePart, ...]

    @classmethod
    def of(cls, text: str) -> UserMessage:
        """A turn of one text."""
        return cls((TextPart(text),))

    @property
    def text(self) -> str:
        """All text parts, joined by newlines."""
        return "\n".join([p.text for p in self.parts if isinstance(p, TextPart)])

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """All image parts, in order."""
        return tuple([p for p in self.parts if isinstance(p, ImagePart)])


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool; ``arguments`` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Thoughts:
    """A model's own reasoning in its API's wire format, to be handed back as it came.

    ``ref`` is ``provider/model``: nobody else can read it (it is signed or encrypted).
    """

    ref: str
    items: tuple[JsonObject, ...]


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """A turn of the model."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    thoughts: Thoughts | None = None


@dataclass(frozen=True, slots=True)
class ToolMessage:
    """The result of one tool call."""

    call_id: str
    name: str
    text: str
    is_error: bool = False


Message: TypeAlias = UserMessage | AssistantMessage | ToolMessage


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more model calls.

    ``input`` counts every prompt token, cached ones included; ``cached`` says how many of
    them came from the provider's cache and ``cache_write`` how many went into it;
    ``reasoning`` is the part of ``output`` spent on it.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.cache_write + other.cache_write,
        )


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the model should write; None leaves the provider's default.

    ``response_format``, ``logit_bias`` and ``prediction`` are as OpenAI's chat completions have them.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_format: JsonObject | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    logit_bias: JsonObject | None = None
    prediction: JsonObject | None = None
    service_tier: str | None = None
