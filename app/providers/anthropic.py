"""Providers that speak Anthropic's ``POST /v1/messages``.

What the API insists on and a conversation of ours need not fulfil is put right here: the
roles alternate and the user begins, no text is blank, calls have ids that are unique and
plain. A thinking model wants its own thoughts back, signed, after its tools have run; they
are not kept, so it thinks only at the beginning of a turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..errors import ProviderError, ProviderReason
from ..events import ReasoningDelta, TextDelta
from ..messages import (
    AssistantMessage,
    FinishReason,
    ImagePart,
    JsonValue,
    Message,
    SamplingParams,
    TextPart,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from ..wire import InvalidJson, dumps, loads
from .base import ModelDone, ModelEvent, ModelInfo, ModelRequest, ToolSpec
from .classify import classify_event
from .streaming import StreamingProvider, as_count, as_object, as_text, conclude, parse_event, unique
from .transport import HttpClient

_VERSION = "2023-06-01"
_MAX_OUTPUT = 8192
_OPENING = "(The conversation begins with your own words.)"

# Tokens to think with; whatever is asked for beyond "high" is as much as "high".
_BUDGETS: Mapping[str, int] = MappingProxyType(
    {"none": 0, "minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 16384, "max": 16384}
)
_LEAST_BUDGET = 1024
_LEAST_ANSWER = 1024

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


class AnthropicMessages(StreamingProvider):
    """One server, reached at ``base_url`` (which ends before ``/v1/messages``, or before ``/messages``).

    :param headers: sent with every request; they win over our own.
    :param models: what is known about some models; ``default`` holds for the others.
    :param http: belongs to this provider from now on and is closed with it.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        base_url: str,
        api_key: str | None,
        http: HttpClient,
        headers: Mapping[str, str] = MappingProxyType({}),
        models: Mapping[str, ModelInfo] = MappingProxyType({}),
        default: ModelInfo = ModelInfo(prefill=True),  # noqa: B008 - it is frozen
    ) -> None:
        super().__init__(
            id,
            url=f"{base_url.rstrip('/').removesuffix('/v1')}/v1/messages",
            api_key=api_key,
            credentials={"anthropic-version": _VERSION} | ({"x-api-key": api_key} if api_key else {}),
            headers=headers,
            models=models,
            default=default,
            http=http,
        )

    def _body(self, request: ModelRequest) -> dict[str, JsonValue]:
        if refused := _unsupported(request.params):
            raise ProviderError(
                ProviderReason.FORMAT, f"Provider {self.id!r} does not support {refused}.", provider=self.id
            )
        return build_body(request, self.info(request.model).max_output)

    def _decoder(self) -> MessageDecoder:
        return MessageDecoder(self.id, self._secrets)


def build_body(request: ModelRequest, max_output: int | None = None) -> dict[str, JsonValue]:
    """The JSON body of a call. ``request.extra`` is merged last and wins.

    :param max_output: the most tokens that the model writes, if that is known.
    """
    turns = _turns(request.messages)
    max_tokens = request.params.max_tokens or max_output or _MAX_OUTPUT
    budget = _budget(request.params.reasoning_effort, max_tokens) if _begins_a_turn(turns) else 0
    body: dict[str, JsonValue] = {
        "model": request.model,
        "max_tokens": max_tokens,
        "messages": _messages(turns),
        "stream": True,
    }
    if request.system.strip():
        body["system"] = [_cached(_text_block(request.system))]
    if budget:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    tools = _tools(request.tools, turns)
    return body | tools | _sampling(request.params, thinking=budget > 0) | dict(request.extra)


class MessageDecoder:
    """Turns the events of one streamed message into model events.

    A whole ``message`` object is understood too. Events and blocks of unknown type are
    skipped, as the API's versioning asks of its clients.
    """

    def __init__(self, provider: str, secrets: Sequence[str] = ()) -> None:
        self.done = False
        self._provider = provider
        self._secrets = secrets
        self._stop_reason: str | None = None
        self._tokens: dict[str, int] = {}
        self._calls: dict[int, _Call] = {}

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
        return conclude(self._provider, reason, calls, self._usage())

    def _begin(self, index: int, block: dict[str, JsonValue]) -> list[ModelEvent]:
        if block.get("type") == "tool_use":
            stated = as_object(block.get("input"))  # of a whole message; in a stream it follows in pieces
            arguments = [dumps(stated).decode()] if stated else []
            self._calls[index] = _Call(as_text(block.get("id")), as_text(block.get("name")), arguments)
        return _deltas(block)

    def _continue(self, index: int, delta: dict[str, JsonValue]) -> list[ModelEvent]:
        if delta.get("type") == "input_json_delta" and index in self._calls:
            self._calls[index].arguments.append(as_text(delta.get("partial_json")))
        return _deltas(delta)

    def _whole(self, message: dict[str, JsonValue]) -> list[ModelEvent]:
        self._count(message)
        self._end(message)
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        return [event for index, block in enumerate(blocks) for event in self._begin(index, as_object(block))]

    def _count(self, holder: dict[str, JsonValue]) -> None:
        """Note token counts. They are running totals, and zero where nothing is known yet."""
        for name, value in as_object(holder.get("usage")).items():
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
        return Usage(input=fresh + read + written, output=self._tokens.get("output_tokens", 0), cached=read)


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str]


def _deltas(block: dict[str, JsonValue]) -> list[ModelEvent]:
    """What a block or a delta shows of itself; both name their text alike."""
    kind = as_text(block.get("type")).removesuffix("_delta")
    if kind == "thinking" and (thought := as_text(block.get("thinking"))):
        return [ReasoningDelta(thought)]
    if kind == "text" and (text := as_text(block.get("text"))):
        return [TextDelta(text)]
    return []


# --- the conversation ---


@dataclass(slots=True)
class _Turn:
    role: Literal["user", "assistant"]
    blocks: list[dict[str, JsonValue]]


class _CallIds:
    """The ids of calls on the wire. A result has the id of the latest call that had its id."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._current: dict[str, str] = {}

    def of_call(self, call_id: str) -> str:
        self._current[call_id] = unique(_plain(call_id), self._taken)
        return self._current[call_id]

    def of_result(self, call_id: str) -> str:
        return self._current.get(call_id) or _plain(call_id)


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    """The conversation in turns that alternate; the user has the first one."""
    turns: list[_Turn] = []
    ids = _CallIds()
    for message in _without_trailing_space(messages):
        role: Literal["user", "assistant"] = "assistant" if isinstance(message, AssistantMessage) else "user"
        blocks = _blocks(message, ids)
        if turns and turns[-1].role == role:
            turns[-1].blocks += blocks
        elif blocks:
            turns.append(_Turn(role, blocks))
    for turn in turns:
        turn.blocks.sort(key=lambda block: block["type"] != "tool_result")
    if turns and turns[0].role == "assistant":
        turns.insert(0, _Turn("user", [_text_block(_OPENING)]))
    return turns


def _without_trailing_space(messages: Sequence[Message]) -> Sequence[Message]:
    """The API refuses to continue a text that ends in white space."""
    if messages and isinstance(last := messages[-1], AssistantMessage):
        return [*messages[:-1], AssistantMessage(last.text.rstrip(), last.tool_calls)]
    return messages


def _blocks(message: Message, ids: _CallIds) -> list[dict[str, JsonValue]]:
    if isinstance(message, UserMessage):
        return [block for part in message.parts for block in _part(part)]
    if isinstance(message, ToolMessage):
        return [_tool_result(message, ids)]
    calls = [_tool_use(call, ids) for call in message.tool_calls]
    return [*_part(TextPart(message.text)), *calls]


def _part(part: TextPart | ImagePart) -> list[dict[str, JsonValue]]:
    """One block, or none for a blank text, which the API refuses."""
    if isinstance(part, TextPart):
        return [_text_block(part.text)] if part.text.strip() else []
    return [{"type": "image", "source": {"type": "base64", "media_type": part.mime, "data": part.data}}]


def _text_block(text: str) -> dict[str, JsonValue]:
    return {"type": "text", "text": text}


def _tool_use(call: ToolCall, ids: _CallIds) -> dict[str, JsonValue]:
    return {
        "type": "tool_use",
        "id": ids.of_call(call.id),
        "name": _plain(call.name),
        "input": _input(call.arguments),
    }


def _input(arguments: str) -> dict[str, JsonValue]:
    try:
        return as_object(loads(arguments.encode()))
    except InvalidJson:
        return {}


def _tool_result(message: ToolMessage, ids: _CallIds) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {"type": "tool_result", "tool_use_id": ids.of_result(message.call_id)}
    if message.text.strip():
        result["content"] = message.text
    if message.is_error:
        result["is_error"] = True
    return result


def _plain(name: str) -> str:
    """``name`` in the characters that the API takes in ids and names of tools."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "_"


def _messages(turns: Sequence[_Turn]) -> list[JsonValue]:
    """The turns on the wire; everything up to the last block is kept in the cache."""
    contents: list[list[JsonValue]] = [[*turn.blocks] for turn in turns]
    if turns:
        contents[-1][-1] = _cached(turns[-1].blocks[-1])
    return [{"role": turn.role, "content": content} for turn, content in zip(turns, contents, strict=True)]


def _cached(block: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {**block, "cache_control": {"type": "ephemeral"}}


# --- everything else ---


def _tools(tools: Sequence[ToolSpec], turns: Sequence[_Turn]) -> dict[str, JsonValue]:
    """The tools on offer. Tools that were called must be declared even if none is on offer."""
    if tools:
        return {"tools": [_tool(tool.name, tool.description, dict(tool.parameters)) for tool in tools]}
    called = {as_text(b["name"]): None for turn in turns for b in turn.blocks if b["type"] == "tool_use"}
    if not called:
        return {}
    declared: list[JsonValue] = [_tool(name, "Not available.", {"type": "object"}) for name in called]
    return {"tools": declared, "tool_choice": {"type": "none"}}


def _tool(name: str, description: str, schema: dict[str, JsonValue]) -> JsonValue:
    return {"name": name, "description": description, "input_schema": schema}


def _begins_a_turn(turns: Sequence[_Turn]) -> bool:
    """True unless the model goes on after its tools have run, or goes on writing."""
    return bool(turns) and turns[-1].role == "user" and turns[-1].blocks[0]["type"] != "tool_result"


def _budget(effort: str | None, max_tokens: int) -> int:
    """Tokens to think with, 0 for none; they count as output and leave room for an answer."""
    budget = min(_BUDGETS.get(effort or "none", 0), max_tokens - _LEAST_ANSWER)
    return budget if budget >= _LEAST_BUDGET else 0


def _sampling(params: SamplingParams, *, thinking: bool) -> dict[str, JsonValue]:
    """``temperature`` goes up to 1 here, and a model that thinks takes none."""
    fields: dict[str, JsonValue] = {
        "temperature": None if thinking or params.temperature is None else min(params.temperature, 1.0),
        "top_p": params.top_p,
        "stop_sequences": list(params.stop) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _unsupported(params: SamplingParams) -> str | None:
    """What ``params`` asks for that the API does not have; a penalty of 0 asks for nothing."""
    if params.reasoning_effort is not None and params.reasoning_effort not in _BUDGETS:
        return f"the reasoning_effort {params.reasoning_effort!r}; it knows {', '.join(_BUDGETS)}"
    stated = {
        "frequency_penalty": bool(params.frequency_penalty),
        "presence_penalty": bool(params.presence_penalty),
        "seed": params.seed is not None,
        "response_format": params.response_format is not None,
    }
    name = next((name for name, asked in stated.items() if asked), None)
    return f"the parameter {name!r}" if name else None
