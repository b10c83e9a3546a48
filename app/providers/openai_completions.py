"""Providers that speak OpenAI's ``POST /chat/completions``.

The answer is always asked for as a stream: silence is noticed, the call can be cancelled,
and what came before a failure is not lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from ..cancel import CancelToken
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
from .base import ModelDone, ModelEvent, ModelInfo, ModelRequest, Provider, ToolSpec
from .classify import classify_event, classify_response
from .sse import SseParser
from .transport import HttpClient, HttpResponse

_ERROR_BODY_LIMIT = 64 * 1024
_JSON_BODY_LIMIT = 16 * 1024 * 1024

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
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream_usage: bool = True
    developer_role: bool = False
    store: bool = False


class OpenAICompletions(Provider):
    """One server, reached at ``base_url`` (which ends before ``/chat/completions``).

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
        default: ModelInfo = ModelInfo(),  # noqa: B008 - it is frozen
        switches: WireSwitches = WireSwitches(),
    ) -> None:
        self.id = id
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = _request_headers(api_key, headers)
        self._secrets = [*([api_key] if api_key else []), *(v for v in headers.values() if len(v) >= 8)]
        self._models = models
        self._default = default
        self._switches = switches
        self._http = http

    def info(self, model: str) -> ModelInfo:
        """What ``model`` can do, as configured."""
        return self._models.get(model, self._default)

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        """See :meth:`Provider.stream`. The call begins with the first ``next``."""
        cancel.raise_if_cancelled()
        with self._http.post(
            self._url,
            headers=self._headers,
            body=dumps(build_body(request, self._switches)),
            timeouts=request.timeouts,
            cancel=cancel,
            provider=self.id,
        ) as response:
            decoder = CompletionDecoder(self.id, self._secrets)
            if self._is_event_stream(response):
                yield from self._read_stream(response, decoder)
                response.drain()
            else:
                yield from self._read_whole(response, decoder)
            yield decoder.finish()

    def close(self) -> None:
        """Close all connections; calls under way fail."""
        self._http.close()

    def _is_event_stream(self, response: HttpResponse) -> bool:
        """False for one JSON body, which servers send that do not know ``stream``.

        :raises ProviderError: it is neither, or the status is not 2xx.
        """
        if not 200 <= response.status < 300:
            raise self._refusal(response)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in {"text/event-stream", "application/json", ""}:
            raise _protocol_error(self.id, "answered with something that is not a chat completion")
        return kind != "application/json"

    def _refusal(self, response: HttpResponse) -> ProviderError:
        body = b""
        response.expect_end()
        with suppress(ProviderError):  # the status says enough
            body = response.read(_ERROR_BODY_LIMIT)
        return classify_response(
            self.id, response.status, response.headers, body, now=datetime.now(UTC), secrets=self._secrets
        )

    def _read_stream(self, response: HttpResponse, decoder: CompletionDecoder) -> Iterator[ModelEvent]:
        parser = SseParser(self.id)
        waiting = True
        while not decoder.done and (data := self._more(response, decoder)):
            payloads = parser.feed(data)
            if payloads and waiting:
                waiting = False
                response.expect_stall()
            for payload in payloads:
                yield from decoder.feed(payload)
            if decoder.answered:
                response.expect_end()

    def _more(self, response: HttpResponse, decoder: CompletionDecoder) -> bytes:
        """More of the stream; a failure after the whole answer is as good as its end."""
        try:
            return response.read1()
        except ProviderError:
            if decoder.answered:
                return b""
            raise

    def _read_whole(self, response: HttpResponse, decoder: CompletionDecoder) -> Iterator[ModelEvent]:
        body = response.read(_JSON_BODY_LIMIT + 1)
        if len(body) > _JSON_BODY_LIMIT:
            raise _protocol_error(self.id, "sent an answer that is too large")
        yield from decoder.feed(body)
        if not decoder.answered:
            raise _protocol_error(self.id, "answered with something that is not a chat completion")


def build_body(request: ModelRequest, switches: WireSwitches) -> dict[str, JsonValue]:
    """The JSON body of a call. ``request.extra`` is merged last and wins."""
    body: dict[str, JsonValue] = {
        "model": request.model,
        "messages": _system(request.system, switches) + [_message(m) for m in request.messages],
        "stream": True,
    }
    if switches.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if switches.store:
        body["store"] = False
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = "auto"
    return body | _sampling(request.params, switches) | dict(request.extra)


class CompletionDecoder:
    """Turns the chunks of one streamed chat completion into model events.

    A whole ``chat.completion`` object is taken for a stream of one chunk. Only the first
    choice counts.
    """

    def __init__(self, provider: str, secrets: Sequence[str] = ()) -> None:
        self.done = False
        self._provider = provider
        self._secrets = secrets
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._calls = _CallAssembler()

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
        chunk = self._parse(payload)
        if error := chunk.get("error") or (chunk if chunk.get("object") == "error" else None):
            raise classify_event(self._provider, error, secrets=self._secrets)
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = _usage(usage)
        choice = _first_choice(chunk)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._end(reason)
        return self._deltas(_object(choice.get("delta") or choice.get("message")))

    def finish(self) -> ModelDone:
        """The terminal event, when the stream has ended.

        :raises ProviderError: TRUNCATED, the stream ended before the answer did.
        """
        if self._finish_reason is None:
            raise ProviderError(
                ProviderReason.TRUNCATED,
                f"Provider {self._provider!r} broke off its answer.",
                provider=self._provider,
            )
        calls = self._calls.finish()
        if not all(call.name for call in calls):
            raise _protocol_error(self._provider, "sent a tool call without a name")
        reason = _FINISH_REASONS.get(self._finish_reason, "stop")
        if reason in {"stop", "tool_calls"}:  # some servers say "stop" after tool calls
            reason = "tool_calls" if calls else "stop"
        return ModelDone(reason, calls, self._usage)

    def _parse(self, payload: bytes) -> dict[str, JsonValue]:
        try:
            chunk = loads(payload)
        except InvalidJson:
            chunk = None
        if not isinstance(chunk, dict):
            raise _protocol_error(self._provider, "sent something that is not a chat completion")
        return chunk

    def _end(self, reason: str) -> None:
        if reason == "error":  # OpenRouter, when a model breaks in the middle
            raise classify_event(self._provider, None)
        self._finish_reason = reason

    def _deltas(self, delta: dict[str, JsonValue]) -> list[ModelEvent]:
        events: list[ModelEvent] = []
        if reasoning := _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")):
            events.append(ReasoningDelta(reasoning))
        if text := _text(delta.get("content")) or _text(delta.get("refusal")):
            events.append(TextDelta(text))
        if isinstance(fragments := delta.get("tool_calls"), list):
            for fragment in fragments:
                self._calls.add(_object(fragment))
        return events


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str]


class _CallAssembler:
    """Puts tool calls together from their fragments, in order of appearance."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def add(self, fragment: dict[str, JsonValue]) -> None:
        function = _object(fragment.get("function"))
        call_id, name = _text(fragment.get("id")), _text(function.get("name"))
        call = self._find(fragment.get("index"), call_id, name)
        call.id = call.id or call_id
        call.name = call.name or name
        call.arguments.append(_arguments(function.get("arguments")))

    def finish(self) -> tuple[ToolCall, ...]:
        """The calls. Every id is there and unique; absent arguments are an empty object."""
        taken: set[str] = set()
        calls = []
        for number, call in enumerate(self._calls):
            call_id = _unique(call.id or f"call_{number}", taken)
            calls.append(ToolCall(call_id, call.name, "".join(call.arguments) or "{}"))
        return tuple(calls)

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


def _unique(call_id: str, taken: set[str]) -> str:
    candidate, number = call_id, 2
    while candidate in taken:
        candidate, number = f"{call_id}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _request_headers(api_key: str | None, extra: Mapping[str, str]) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "user-agent": "openclaw-gateway",
    }
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    return headers | {name.lower(): value for name, value in extra.items()}


def _system(text: str, switches: WireSwitches) -> list[JsonValue]:
    role = "developer" if switches.developer_role else "system"
    return [{"role": role, "content": text}] if text else []


def _message(message: Message) -> JsonValue:
    if isinstance(message, UserMessage):
        return {"role": "user", "content": _user_content(message)}
    if isinstance(message, ToolMessage):
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    return _assistant(message)


def _user_content(message: UserMessage) -> JsonValue:
    return [_part(part) for part in message.parts] if message.images else message.text


def _part(part: TextPart | ImagePart) -> JsonValue:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": f"data:{part.mime};base64,{part.data}"}}


def _assistant(message: AssistantMessage) -> JsonValue:
    if not message.tool_calls:
        return {"role": "assistant", "content": message.text}
    calls: list[JsonValue] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    return {"role": "assistant", "content": message.text or None, "tool_calls": calls}


def _tool(tool: ToolSpec) -> JsonValue:
    function: dict[str, JsonValue] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": function}


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
        "reasoning_effort": params.reasoning_effort,
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
        _object(usage.get("prompt_tokens_details")),
        _object(usage.get("completion_tokens_details")),
    )
    return Usage(
        input=_count(usage.get("prompt_tokens")),
        output=_count(usage.get("completion_tokens")),
        cached=_count(prompt.get("cached_tokens")) or _count(usage.get("prompt_cache_hit_tokens")),
        reasoning=_count(completion.get("reasoning_tokens")),
    )


def _count(value: JsonValue) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _object(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _text(value: JsonValue) -> str:
    """A text; a list of content parts counts as the text of its text parts."""
    if isinstance(value, list):
        return "".join(_text(_object(part).get("text")) for part in value)
    return value if isinstance(value, str) else ""


def _arguments(value: JsonValue) -> str:
    """A piece of JSON text; some servers send the object itself."""
    return dumps(value).decode() if isinstance(value, dict) else _text(value)


def _protocol_error(provider: str, what: str) -> ProviderError:
    return ProviderError(ProviderReason.PROTOCOL, f"Provider {provider!r} {what}.", provider=provider)
