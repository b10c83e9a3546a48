"""Answers of Anthropic's ``POST /v1/messages``, as they come over the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..events import ReasoningDelta, TextDelta
from ..messages import FinishReason, JsonObject, JsonValue, ToolCall, Usage
from ..wire import dumps
from .base import ModelDone, ModelEvent
from .classify import classify_event
from .streaming import (
    as_count,
    as_object,
    as_text,
    conclude,
    parse_event,
    thoughts_of,
    unique,
)

_THOUGHTS = frozenset({"thinking", "redacted_thinking"})

_STOP_REASONS: Mapping[str, FinishReason] = MappingProxyType(
    {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }
)


class MessageDecoder:
    """Turns the events of one streamed message into model events.

    A whole ``message`` object is understood too. Events and blocks of unknown type are
    skipped, as the API's versioning asks of its clients.
    """

    def __init__(self, provider: str, secrets: Sequence[str] = (), *, ref: str = "") -> None:
        self.done = False
        self._ref = ref
        self._provider = provider
        self._secrets = secrets
        self._stop_reason: str | None = None
        self._tokens: dict[str, int] = {}
        self._calls: dict[int, _Call] = {}
        self._thoughts: dict[int, _Thought] = {}

    @property
    def answered(self) -> bool:
        """True once the stop reason is here: nothing of interest follows."""
        return self._stop_reason is not None

    def feed(self, payload: bytes) -> list[ModelEvent]:
        """The deltas in one event's data. ``message_stop`` sets ``done``.

        :raises ProviderError: PROTOCOL, or what the provider reports inside the stream.
        """
        if self.done or not payload.strip():
            return []
        event = parse_event(self._provider, payload)
        kind, index = event.get("type"), as_count(event.get("index"))
        if kind == "error" or event.get("error"):
            raise classify_event(self._provider, event.get("error"), secrets=self._secrets)
        if kind == "content_block_start":
            return self._begin(index, as_object(event.get("content_block")))
        if kind == "content_block_delta":
            return self._continue(index, as_object(event.get("delta")))
        if kind == "message":
            return self._whole(event)
        if kind == "message_start":
            self._count(as_object(event.get("message")))
        elif kind == "message_delta":
            self._count(event)
            self._end(as_object(event.get("delta")))
        self.done = kind == "message_stop"
        return []

    def finish(self) -> ModelDone:
        """The terminal event, when the stream has ended.

        :raises ProviderError: TRUNCATED, the stream ended before the answer did.
        """
        reason = _STOP_REASONS.get(self._stop_reason, "stop") if self._stop_reason else None
        taken: set[str] = set()
        calls = [
            ToolCall(unique(call.id or f"call_{index}", taken), call.name, "".join(call.arguments) or "{}")
            for index, call in sorted(self._calls.items())
        ]
        thoughts = [block for _, one in sorted(self._thoughts.items()) if (block := one.block())]
        return conclude(self._provider, reason, calls, self._usage(), thoughts_of(self._ref, thoughts))

    def _begin(self, index: int, block: dict[str, JsonValue]) -> list[ModelEvent]:
        if block.get("type") == "tool_use":
            stated = as_object(block.get("input"))  # of a whole message; in a stream it follows in pieces
            arguments = [dumps(stated).decode()] if stated else []
            self._calls[index] = _Call(as_text(block.get("id")), as_text(block.get("name")), arguments)
        if as_text(block.get("type")) in _THOUGHTS:
            self._thoughts[index] = _Thought()
            self._thoughts[index].add(block)
        return _deltas(block)

    def _continue(self, index: int, delta: dict[str, JsonValue]) -> list[ModelEvent]:
        if delta.get("type") == "input_json_delta" and index in self._calls:
            self._calls[index].arguments.append(as_text(delta.get("partial_json")))
        if index in self._thoughts:
            self._thoughts[index].add(delta)
        return _deltas(delta)

    def _whole(self, message: dict[str, JsonValue]) -> list[ModelEvent]:
        self._count(message)
        self._end(message)
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        return [event for index, block in enumerate(blocks) for event in self._begin(index, as_object(block))]

    def _count(self, holder: dict[str, JsonValue]) -> None:
        """Note token counts. They are running totals, and zero where nothing is known yet."""
        usage = as_object(holder.get("usage"))
        for name, value in (usage | as_object(usage.get("output_tokens_details"))).items():
            if count := as_count(value):
                self._tokens[name] = count

    def _end(self, holder: dict[str, JsonValue]) -> None:
        self._stop_reason = as_text(holder.get("stop_reason")) or self._stop_reason

    def _usage(self) -> Usage | None:
        if not self._tokens:
            return None
        fresh, read, written = (
            self._tokens.get(name, 0)
            for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        )
        return Usage(
            input=fresh + read + written,
            output=self._tokens.get("output_tokens", 0),
            cached=read,
            reasoning=self._tokens.get("thinking_tokens", 0),
            cache_write=written,
        )


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str]


class _Thought:
    """A block of thinking, put together from its pieces."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[str]] = {"thinking": [], "signature": [], "data": []}

    def add(self, piece: dict[str, JsonValue]) -> None:
        for name, texts in self._pieces.items():
            texts.append(as_text(piece.get(name)))

    def block(self) -> JsonObject | None:
        """The block as it is handed back; None without a signature, for it would be refused."""
        whole = {name: "".join(texts) for name, texts in self._pieces.items()}
        if whole["data"]:
            return {"type": "redacted_thinking", "data": whole["data"]}
        if whole["signature"]:
            return {"type": "thinking", "thinking": whole["thinking"], "signature": whole["signature"]}
        return None


def _deltas(block: dict[str, JsonValue]) -> list[ModelEvent]:
    """What a block or a delta shows of itself; both name their text alike."""
    kind = as_text(block.get("type")).removesuffix("_delta")
    if kind == "thinking" and (thought := as_text(block.get("thinking"))):
        return [ReasoningDelta(thought)]
    if kind == "text" and (text := as_text(block.get("text"))):
        return [TextDelta(text)]
    return []
