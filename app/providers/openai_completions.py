"""Providers that speak OpenAI's ``POST /chat/completions``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..events import ReasoningDelta, TextDelta
from ..messages import (
    AssistantMessage,
    FinishReason,
    ImagePart,
    JsonObject,
    JsonValue,
    Message,
    SamplingParams,
    TextPart,
    Thoughts,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from ..wire import dumps
from .base import ModelDone, ModelEvent, ModelInfo, ModelRequest, ToolChoice, ToolSpec
from .classify import classify_event
from .embeddings import OpenAIEmbeddings
from .formats import schema_of, weaker
from .streaming import (
    as_count,
    as_object,
    as_text,
    cache_key,
    conclude,
    level_for,
    parse_event,
    thoughts_of,
    unique,
    unknown,
    with_own_thoughts,
)
from .transport import HttpClient

_FINISH_REASONS: Mapping[str, FinishReason] = MappingProxyType(
    {
        "stop": "stop",
        "length": "length",
        "max_tokens": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "content_filter": "content_filter",
    }
)


@dataclass(frozen=True, slots=True)
class WireSwitches:
    """Where servers that call themselves compatible differ. The defaults suit most of them.

    :ivar max_tokens_field: the name of the output limit.
    :ivar stream_usage: ask for token counts with ``stream_options``.
    :ivar developer_role: send the system text in the role ``developer``.
    :ivar store: the server knows ``store``; send it as false.
    :ivar cache_key: the server knows ``prompt_cache_key``.
    :ivar json_schema: the server knows the ``response_format`` of this type.
    :ivar strict_tools: the server knows ``strict`` in the description of a tool.
    :ivar reasoning_back: the server wants its ``reasoning_content`` back with every turn that
        called tools.
    :ivar lacks: the hints that the server refuses.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream_usage: bool = True
    developer_role: bool = False
    store: bool = False
    cache_key: bool = False
    json_schema: bool = True
    strict_tools: bool = True
    reasoning_back: bool = False
    lacks: frozenset[str] = frozenset()


class OpenAICompletions(OpenAIEmbeddings):
    """One server, reached at ``base_url`` (which ends before ``/chat/completions``).

    The parameters are those of :class:`~.streaming.StreamingProvider`, and the server's ``switches``.
    """

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
        default: ModelInfo = ModelInfo(),  # noqa: B008 - it is frozen
        switches: WireSwitches = WireSwitches(),
    ) -> None:
        super().__init__(
            id,
            url=f"{base_url.rstrip('/')}/chat/completions",
            api_keys=api_keys,
            headers=headers,
            models=models,
            lookup=lookup,
            default=default,
            http=http,
        )
        self._embeddings_url = f"{base_url.rstrip('/')}/embeddings"
        self._switches = switches
        self.lacks = switches.lacks

    def _body(self, request: ModelRequest) -> dict[str, JsonValue]:
        self._refuse_unknown({}, request)
        if not self._switches.json_schema and schema_of(request.params.response_format):
            request = weaker(request)
        return build_body(request, self._switches, self.info(request.model), f"{self.id}/{request.model}")

    def _decoder(self, ref: str) -> CompletionDecoder:
        return CompletionDecoder(self.id, self._secrets, ref=ref)


def build_body(
    request: ModelRequest,
    switches: WireSwitches,
    info: ModelInfo = ModelInfo(),  # noqa: B008 - it is frozen
    ref: str = "",
) -> dict[str, JsonValue]:
    """The JSON body of a call. ``request.extra`` is merged last and wins.

    :param ref: the model called; only its own thoughts are handed back.
    """
    messages = with_own_thoughts(request.messages, ref, all_turns=switches.reasoning_back)
    body: dict[str, JsonValue] = {
        "model": request.model,
        "messages": _system(request.system, switches) + [_message(m, switches) for m in messages],
        "stream": True,
    }
    if switches.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if switches.store:
        body["store"] = False
    if switches.cache_key and request.cache_key:
        body["prompt_cache_key"] = cache_key(request.cache_key)
    if request.tools:
        body["tools"] = [_tool(tool, switches) for tool in request.tools]
        body["tool_choice"] = _choice(request.tool_choice)
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if level := level_for(request.params.reasoning_effort, info):
        body["reasoning_effort"] = level
    return body | _sampling(request.params, switches) | dict(request.extra)


class CompletionDecoder:
    """Turns the chunks of one streamed chat completion into model events.

    A whole ``chat.completion`` object is taken for a stream of one chunk. Only the first
    choice counts.
    """

    def __init__(self, provider: str, secrets: Sequence[str] = (), *, ref: str = "") -> None:
        self.done = False
        self._ref = ref
        self._provider = provider
        self._secrets = secrets
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._calls = _CallAssembler()
        self._reasoning: list[str] = []

    @property
    def answered(self) -> bool:
        """True once the finish reason is here: only token counts may follow."""
        return self._finish_reason is not None

    def feed(self, payload: bytes) -> list[ModelEvent]:
        """The deltas in one event's data. ``[DONE]`` sets ``done``.

        :raises ProviderError: PROTOCOL, or what the provider reports inside the stream.
        """
        payload = payload.strip()
        if payload == b"[DONE]":
            self.done = True
        if self.done or not payload:
            return []
        chunk = parse_event(self._provider, payload)
        if error := chunk.get("error") or (chunk if chunk.get("object") == "error" else None):
            raise classify_event(self._provider, error, secrets=self._secrets)
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = _usage(usage)
        choice = _first_choice(chunk)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._end(reason)
        return self._deltas(as_object(choice.get("delta") or choice.get("message")))

    def finish(self) -> ModelDone:
        """The terminal event, when the stream has ended.

        :raises ProviderError: TRUNCATED, the stream ended before the answer did.
        """
        reason = _FINISH_REASONS.get(self._finish_reason, "stop") if self._finish_reason else None
        calls = self._calls.finish()
        return conclude(self._provider, reason, calls, self._usage, self._thoughts(calls))

    def _thoughts(self, calls: Sequence[ToolCall]) -> Thoughts | None:
        """What the server may want back with the calls: the reasoning, and signatures that it gave them."""
        if not calls:
            return None
        reasoning = "".join(self._reasoning)
        items: list[JsonObject] = [{"reasoning_content": reasoning}] if reasoning else []
        return thoughts_of(self._ref, [*items, *self._calls.extras()])

    def _end(self, reason: str) -> None:
        if reason == "error":  # OpenRouter, when a model breaks in the middle
            raise classify_event(self._provider, None)
        self._finish_reason = reason

    def _deltas(self, delta: dict[str, JsonValue]) -> list[ModelEvent]:
        events: list[ModelEvent] = []
        if reasoning := as_text(delta.get("reasoning_content")) or as_text(delta.get("reasoning")):
            self._reasoning.append(reasoning)
            events.append(ReasoningDelta(reasoning))
        if text := as_text(delta.get("content")) or as_text(delta.get("refusal")):
            events.append(TextDelta(text))
        if isinstance(fragments := delta.get("tool_calls"), list):
            for fragment in fragments:
                self._calls.add(as_object(fragment))
        return events


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str]
    extra: JsonValue = None


class _CallAssembler:
    """Puts tool calls together from their fragments, in order of appearance."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def add(self, fragment: dict[str, JsonValue]) -> None:
        function = as_object(fragment.get("function"))
        call_id, name = as_text(fragment.get("id")), as_text(function.get("name"))
        call = self._find(fragment.get("index"), call_id, name)
        call.id = call.id or call_id
        call.name = call.name or name
        call.extra = fragment.get("extra_content") or call.extra
        call.arguments.append(_arguments(function.get("arguments")))

    def finish(self) -> tuple[ToolCall, ...]:
        """The calls. Every id is there and unique; absent arguments are an empty object."""
        taken: set[str] = set()
        for number, call in enumerate(self._calls):
            call.id = unique(call.id or f"call_{number}", taken)
        return tuple(ToolCall(one.id, one.name, "".join(one.arguments) or "{}") for one in self._calls)

    def extras(self) -> list[JsonObject]:
        """What else the server said of its calls, after :meth:`finish`: Google signs them."""
        return [{"id": call.id, "extra_content": call.extra} for call in self._calls if call.extra]

    def _find(self, index: JsonValue, call_id: str, name: str) -> _Call:
        """The call that a fragment continues, or a new one.

        Servers that send each call in one piece may number all of them 0 or not at all;
        a name together with another id begins a new call then.
        """
        if isinstance(index, int):
            known = self._by_index.get(index)
        else:
            known = self._with_id(call_id) if call_id else self._last_unless(name)
        if known is None or (name and call_id and known.id not in {"", call_id}):
            known = _Call("", "", [])
            self._calls.append(known)
        if isinstance(index, int):
            self._by_index[index] = known
        return known

    def _with_id(self, call_id: str) -> _Call | None:
        return next((call for call in self._calls if call.id == call_id), None)

    def _last_unless(self, name: str) -> _Call | None:
        return self._calls[-1] if self._calls and not name else None


def _system(text: str, switches: WireSwitches) -> list[JsonValue]:
    role = "developer" if switches.developer_role else "system"
    return [{"role": role, "content": text}] if text else []


def _message(message: Message, switches: WireSwitches) -> JsonValue:
    if isinstance(message, UserMessage):
        return {"role": "user", "content": _user_content(message)}
    if isinstance(message, ToolMessage):
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    return _assistant(message, switches)


def _user_content(message: UserMessage) -> JsonValue:
    return [_part(part) for part in message.parts] if message.images else message.text


def _part(part: TextPart | ImagePart) -> JsonValue:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    detail: dict[str, JsonValue] = {"detail": part.detail} if part.detail else {}
    return {"type": "image_url", "image_url": {"url": f"data:{part.mime};base64,{part.data}", **detail}}


def _assistant(message: AssistantMessage, switches: WireSwitches) -> JsonValue:
    if not message.tool_calls:
        return {"role": "assistant", "content": message.text}
    thoughts = message.thoughts.items if message.thoughts else ()
    extras = {one["id"]: one["extra_content"] for one in thoughts if "id" in one}
    turn: dict[str, JsonValue] = {
        "role": "assistant",
        "content": message.text or None,
        "tool_calls": [_call(call, extras.get(call.id)) for call in message.tool_calls],
    }
    if switches.reasoning_back:  # without the field the server refuses the whole conversation
        turn["reasoning_content"] = "".join(as_text(one.get("reasoning_content")) for one in thoughts)
    return turn


def _call(call: ToolCall, extra: JsonValue) -> JsonValue:
    function: dict[str, JsonValue] = {"name": call.name, "arguments": call.arguments}
    wire: dict[str, JsonValue] = {"id": call.id, "type": "function", "function": function}
    return wire | ({"extra_content": extra} if extra else {})


def _tool(tool: ToolSpec, switches: WireSwitches) -> JsonValue:
    function: dict[str, JsonValue] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    if switches.strict_tools and tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> JsonValue:
    if choice.name is not None:
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.required else "auto"


def _sampling(params: SamplingParams, switches: WireSwitches) -> dict[str, JsonValue]:
    fields: dict[str, JsonValue] = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        switches.max_tokens_field: params.max_tokens,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "seed": params.seed,
        "stop": list(params.stop) or None,
        "response_format": dict(params.response_format) if params.response_format else None,
        "logit_bias": dict(params.logit_bias) if params.logit_bias else None,
        "prediction": dict(params.prediction) if params.prediction else None,
        "verbosity": params.verbosity,
        "service_tier": params.service_tier,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _first_choice(chunk: dict[str, JsonValue]) -> dict[str, JsonValue]:
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and not choice.get("index"):
            return choice
    return {}


def _usage(usage: dict[str, JsonValue]) -> Usage:
    prompt, completion = (
        as_object(usage.get("prompt_tokens_details")),
        as_object(usage.get("completion_tokens_details")),
    )
    return Usage(
        input=as_count(usage.get("prompt_tokens")),
        output=as_count(usage.get("completion_tokens")),
        cached=as_count(prompt.get("cached_tokens")) or as_count(usage.get("prompt_cache_hit_tokens")),
        reasoning=as_count(completion.get("reasoning_tokens")),
        cache_write=as_count(prompt.get("cache_write_tokens")),
    )


def _arguments(value: JsonValue) -> str:
    """A piece of JSON text; some servers send the object itself."""
    return dumps(value).decode() if isinstance(value, dict) else as_text(value)
