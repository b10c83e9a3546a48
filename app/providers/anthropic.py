"""Providers that speak Anthropic's ``POST /v1/messages``.

What the API insists on and a conversation of ours need not fulfil is put right here: the
roles alternate and the user begins, no text is blank, calls have ids that are unique and
plain. A thinking model gets its own thoughts back, signed, after its tools have run. Where
they are missing (another model began the turn), one with a budget of thoughts thinks no more
until the user has spoken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal

from ..messages import (
    AssistantMessage,
    ImagePart,
    JsonValue,
    Message,
    SamplingParams,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from ..wire import InvalidJson, loads
from .anthropic_answers import MessageDecoder
from .base import ModelInfo, ModelRequest, ToolSpec
from .formats import narrowed, schema_of, told
from .streaming import (
    CallIds,
    StreamingProvider,
    as_object,
    as_text,
    level_for,
    plain,
    unknown,
    with_own_thoughts,
)
from .transport import HttpClient

_VERSION = "2023-06-01"
_MAX_OUTPUT = 8192
_OPENING = "(The conversation begins with your own words.)"

# Tokens to think with, for models that are told how many; beyond "high" is as much as "high".
_BUDGETS: Mapping[str, int] = MappingProxyType(
    {"none": 0, "minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 16384, "max": 16384}
)
_TIERS: Mapping[str, str] = MappingProxyType({"default": "standard_only", "priority": "auto"})
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_FIRST = _THOUGHTS | {"tool_result"}
_LEAST_BUDGET = 1024
_LEAST_ANSWER = 1024


class AnthropicMessages(StreamingProvider):
    """One server, reached at ``base_url`` (which ends before ``/v1/messages``, or before ``/messages``).

    The parameters are those of :class:`StreamingProvider`.
    """

    wire_headers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"accept": "text/event-stream", "anthropic-version": _VERSION}
    )
    lacks = frozenset(
        {"frequency_penalty", "presence_penalty", "seed", "logit_bias", "prediction", "verbosity"}
    )

    def __init__(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        base_url: str,
        http: HttpClient,
        api_keys: Sequence[str] = (),
        headers: Mapping[str, str] = MappingProxyType({}),
        models: Mapping[str, ModelInfo] = MappingProxyType({}),
        lookup: Callable[[str], ModelInfo | None] = unknown,
        default: ModelInfo = ModelInfo(prefill=True),  # noqa: B008 - it is frozen
    ) -> None:
        super().__init__(
            id,
            url=f"{base_url.rstrip('/').removesuffix('/v1')}/v1/messages",
            api_keys=api_keys,
            headers=headers,
            models=models,
            lookup=lookup,
            default=default,
            http=http,
        )

    def _authorization(self, api_key: str) -> dict[str, str]:
        return {"x-api-key": api_key}

    def _body(self, request: ModelRequest) -> dict[str, JsonValue]:
        self._refuse_unknown({}, request)
        return build_body(request, self.info(request.model), f"{self.id}/{request.model}")

    def _unheeded(self, model: str, params: SamplingParams) -> tuple[str, ...]:
        names = super()._unheeded(model, params)
        more = (name for name in _unheeded(params, self.info(model)) if name not in names)
        return (*names, *more)

    def _decoder(self, ref: str) -> MessageDecoder:
        return MessageDecoder(self.id, self._secrets, ref=ref)


def build_body(
    request: ModelRequest,
    info: ModelInfo = ModelInfo(),  # noqa: B008 - it is frozen
    ref: str = "",
) -> dict[str, JsonValue]:
    """The JSON body of a call. ``request.extra`` is merged last and wins.

    :param ref: the model called; only its own thoughts are handed back.
    """
    request, form = _form(request, info)
    turns = _turns(with_own_thoughts(request.messages, ref))
    max_tokens = request.params.max_tokens or info.max_output or _MAX_OUTPUT
    effort = _bearable(request.params.reasoning_effort, request)
    thinking = _thinking(effort, info, turns, max_tokens)
    body: dict[str, JsonValue] = {
        "model": request.model,
        "max_tokens": max_tokens,
        "messages": _messages(turns),
        "stream": True,
    }
    if request.system.strip():
        body["system"] = [_cached(_text_block(request.system))]
    tools = _tools(request, turns)
    sampling = _sampling(request.params, thinking="thinking" in thinking)
    body |= tools | thinking | sampling
    if form:
        body["output_config"] = as_object(body.get("output_config")) | form
    return body | dict(request.extra)


# --- the conversation ---


@dataclass(slots=True)
class _Turn:
    role: Literal["user", "assistant"]
    blocks: list[dict[str, JsonValue]]


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    """The conversation in turns that alternate; the user has the first one."""
    turns: list[_Turn] = []
    ids = CallIds()
    for message in _without_trailing_space(messages):
        role: Literal["user", "assistant"] = "assistant" if isinstance(message, AssistantMessage) else "user"
        blocks = _blocks(message, ids)
        if turns and turns[-1].role == role:
            turns[-1].blocks += blocks
        elif blocks:
            turns.append(_Turn(role, blocks))
    for turn in turns:
        turn.blocks.sort(key=lambda block: block["type"] not in _FIRST)
    if turns and turns[0].role == "assistant":
        turns.insert(0, _Turn("user", [_text_block(_OPENING)]))
    return turns


def _without_trailing_space(messages: Sequence[Message]) -> Sequence[Message]:
    """The API refuses to continue a text that ends in white space."""
    if messages and isinstance(last := messages[-1], AssistantMessage):
        return [*messages[:-1], replace(last, text=last.text.rstrip())]
    return messages


def _blocks(message: Message, ids: CallIds) -> list[dict[str, JsonValue]]:
    if isinstance(message, UserMessage):
        return [block for part in message.parts for block in _part(part)]
    if isinstance(message, ToolMessage):
        return [_tool_result(message, ids)]
    calls = [_tool_use(call, ids) for call in message.tool_calls]
    said = [*_part(TextPart(message.text)), *calls]
    thoughts = message.thoughts.items if said and message.thoughts else ()
    return [*(dict(block) for block in thoughts), *said]


def _part(part: TextPart | ImagePart) -> list[dict[str, JsonValue]]:
    """One block, or none for a blank text, which the API refuses."""
    if isinstance(part, TextPart):
        return [_text_block(part.text)] if part.text.strip() else []
    return [{"type": "image", "source": {"type": "base64", "media_type": part.mime, "data": part.data}}]


def _text_block(text: str) -> dict[str, JsonValue]:
    return {"type": "text", "text": text}


def _tool_use(call: ToolCall, ids: CallIds) -> dict[str, JsonValue]:
    return {
        "type": "tool_use",
        "id": ids.of_call(call.id),
        "name": plain(call.name),
        "input": _input(call.arguments),
    }


def _input(arguments: str) -> dict[str, JsonValue]:
    try:
        return as_object(loads(arguments.encode()))
    except InvalidJson:
        return {}


def _tool_result(message: ToolMessage, ids: CallIds) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {"type": "tool_result", "tool_use_id": ids.of_result(message.call_id)}
    if message.text.strip():
        result["content"] = message.text
    if message.is_error:
        result["is_error"] = True
    return result


def _messages(turns: Sequence[_Turn]) -> list[JsonValue]:
    """The turns on the wire; everything up to the user's last block is kept in the cache."""
    contents: list[list[JsonValue]] = [[*turn.blocks] for turn in turns]
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is not None:
        contents[last][-1] = _cached(turns[last].blocks[-1])
    return [{"role": turn.role, "content": content} for turn, content in zip(turns, contents, strict=True)]


def _cached(block: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {**block, "cache_control": {"type": "ephemeral"}}


# --- everything else ---


def _tools(request: ModelRequest, turns: Sequence[_Turn]) -> dict[str, JsonValue]:
    """The tools on offer. Tools that were called must be declared even if none is on offer."""
    if request.tools:
        *most, last = map(_offered, request.tools)
        return {"tools": [*most, _cached(last)], **_choice(request)}
    called = {as_text(b["name"]): None for turn in turns for b in turn.blocks if b["type"] == "tool_use"}
    if not called:
        return {}
    declared: list[JsonValue] = [_tool(name, "Not available.", {"type": "object"}) for name in called]
    return {"tools": declared, "tool_choice": {"type": "none"}}


def _offered(tool: ToolSpec) -> dict[str, JsonValue]:
    declared = _tool(tool.name, tool.description, dict(tool.parameters))
    return declared | {"strict": True} if tool.strict else declared


def _choice(request: ModelRequest) -> dict[str, JsonValue]:
    """Whether a tool has to be called, and how many at a time, where that is not left to the model."""
    choice: dict[str, JsonValue] = {"type": "any" if request.tool_choice.required else "auto"}
    if request.tool_choice.name is not None:
        choice = {"type": "tool", "name": request.tool_choice.name}
    if not request.parallel_tool_calls:
        choice["disable_parallel_tool_use"] = True
    return {} if choice == {"type": "auto"} else {"tool_choice": choice}


def _tool(name: str, description: str, schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {"name": name, "description": description, "input_schema": schema}


def _thinking(
    effort: str | None, info: ModelInfo, turns: Sequence[_Turn], max_tokens: int
) -> dict[str, JsonValue]:
    """The fields that say how much to think; none of them leaves it to the model."""
    if info.adaptive:
        level = level_for(effort, info)
        if level == "none":
            return {"thinking": {"type": "disabled"}}
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": level}} if level else {}
    budget = _budget(effort, max_tokens) if info.reasoning is not False and _may_think(turns) else 0
    return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget else {}


def _bearable(effort: str | None, request: ModelRequest) -> str | None:
    """How much to think: nobody who has to call a tool may be told to think first."""
    forced = request.tools and request.tool_choice.required
    return None if forced and effort != "none" else effort


def _may_think(turns: Sequence[_Turn]) -> bool:
    """True if the user has the word, or the model's last words before its tools ran begin with thoughts."""
    if not turns or turns[-1].role == "assistant":
        return False
    if turns[-1].blocks[0]["type"] != "tool_result":
        return True
    return len(turns) > 1 and turns[-2].blocks[0]["type"] in _THOUGHTS


def _budget(effort: str | None, max_tokens: int) -> int:
    """Tokens to think with, 0 for none; they count as output and leave room for an answer."""
    budget = min(_BUDGETS.get(effort or "none", 0), max_tokens - _LEAST_ANSWER)
    return budget if budget >= _LEAST_BUDGET else 0


def _sampling(params: SamplingParams, *, thinking: bool) -> dict[str, JsonValue]:
    """``temperature`` goes up to 1 here, a model that thinks takes none, and few take ``top_p`` beside it."""
    temperature = None if thinking or params.temperature is None else min(params.temperature, 1.0)
    fields: dict[str, JsonValue] = {
        "temperature": temperature,
        "top_p": params.top_p if temperature is None else None,
        "stop_sequences": list(params.stop) or None,
        "service_tier": _TIERS.get(params.service_tier or ""),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _unheeded(params: SamplingParams, info: ModelInfo) -> Iterator[str]:
    """The hints that get in each other's way here, and a tier that Anthropic does not have."""
    if params.temperature is not None and _thinks(params, info):
        yield "temperature"
    elif params.temperature is not None and params.top_p is not None:
        yield "top_p"
    if params.service_tier is not None and params.service_tier not in _TIERS:
        yield "service_tier"


def _thinks(params: SamplingParams, info: ModelInfo) -> bool:
    """True if the model is asked to think, as far as the conversation lets it."""
    if info.adaptive:
        return level_for(params.reasoning_effort, info) not in (None, "none")
    longest = params.max_tokens or info.max_output or _MAX_OUTPUT
    return info.reasoning is not False and _budget(params.reasoning_effort, longest) > 0


def _form(request: ModelRequest, info: ModelInfo) -> tuple[ModelRequest, dict[str, JsonValue]]:
    """The format of the answer in words, as far as it cannot be stated, and as far as it can."""
    schema = schema_of(request.params.response_format)
    begun = bool(request.messages) and isinstance(request.messages[-1], AssistantMessage)
    native, whole = narrowed(schema) if schema and info.schemas and not begun else (None, False)
    if native is None:
        return told(request), {}
    return request if whole else told(request), {"format": {"type": "json_schema", "schema": native}}
