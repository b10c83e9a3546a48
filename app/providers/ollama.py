"""Providers that speak Ollama's ``POST /api/chat``: one JSON object per line.

The server would cut a conversation that is too long for it without a word; it is asked to
refuse it instead, so that the gateway can choose what to leave out.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from ..cancel import CancelToken
from ..events import ReasoningDelta, TextDelta
from ..messages import (
    AssistantMessage,
    FinishReason,
    JsonObject,
    JsonValue,
    Message,
    SamplingParams,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from ..wire import InvalidJson, dumps, loads
from .base import EmbeddingRequest, Embeddings, ModelDone, ModelEvent, ModelInfo, ModelRequest, ToolSpec
from .classify import classify_event
from .embeddings import EmbeddingProvider, ollama_body, read_ollama
from .streaming import (
    as_count,
    as_object,
    as_text,
    conclude,
    level_for,
    parse_event,
    protocol_error,
    thoughts_of,
    unknown,
    with_own_thoughts,
)
from .transport import HttpClient


class Ollama(EmbeddingProvider):
    """One server, reached at ``base_url`` (which ends before ``/api/chat``, or before ``/chat``).

    The parameters are those of :class:`~.streaming.StreamingProvider`, and:

    :param windows: context windows in tokens that the configuration states, by model. The
        server is told to use them; for other models it chooses itself.
    """

    wire_headers: ClassVar[Mapping[str, str]] = MappingProxyType({"accept": "application/x-ndjson"})
    lacks = frozenset({"logit_bias", "prediction", "verbosity", "service_tier"})

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
        windows: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        address = base_url.rstrip("/").removesuffix("/api").removesuffix("/v1")
        super().__init__(
            id,
            url=f"{address}/api/chat",
            api_keys=api_keys,
            headers=headers,
            models=models,
            lookup=lookup,
            default=default,
            http=http,
        )
        self._embed_url = f"{address}/api/embed"
        self._windows = windows

    def _parser(self) -> LineParser:
        return LineParser(self.id)

    def _body(self, request: ModelRequest) -> dict[str, JsonValue]:
        self._refuse_unknown({}, request)
        ref = f"{self.id}/{request.model}"
        return build_body(request, self.info(request.model), ref, self._windows.get(request.model))

    def _embed(self, request: EmbeddingRequest, cancel: CancelToken) -> Embeddings:
        body = ollama_body(request, self._windows.get(request.model))
        answer = self._ask(self._embed_url, body, request, cancel)
        return read_ollama(self.id, answer, len(request.inputs))

    def _decoder(self, ref: str) -> ChatDecoder:
        return ChatDecoder(self.id, self._secrets, ref=ref)


def build_body(
    request: ModelRequest,
    info: ModelInfo = ModelInfo(),  # noqa: B008 - it is frozen
    ref: str = "",
    window: int | None = None,
) -> dict[str, JsonValue]:
    """The JSON body of a call. ``request.extra`` is merged last and wins.

    :param ref: the model called; only its own thoughts are handed back.
    :param window: the context window to use, None for the server's choice.
    """
    messages = with_own_thoughts(request.messages, ref)
    body: dict[str, JsonValue] = {
        "model": request.model,
        "messages": [*_system(request.system), *(_message(message) for message in messages)],
        "stream": True,
        "truncate": False,
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if options := _options(request.params, window):
        body["options"] = options
    if (think := _think(request.params.reasoning_effort, info)) is not None:
        body["think"] = think
    if request.params.response_format and not request.tools:  # held to it, a model could call none
        body["format"] = _format(request.params.response_format)
    return body | dict(request.extra)


class LineParser:
    """Cuts a stream into its lines, however the bytes were cut. One object reads one stream.

    :param provider: id of the provider, for error texts.
    :param limit: bytes of one line that are accepted.
    """

    def __init__(self, provider: str = "", *, limit: int = 16 * 1024 * 1024) -> None:
        self._provider = provider
        self._limit = limit
        self._pieces: list[bytes] = []  # of a line whose end has not come
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Every line that ``data`` completes, blank ones left out.

        :raises ProviderError: PROTOCOL, a line over the limit.
        """
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            lines.append(b"".join((*self._pieces, end)))
            self._pieces, self._size = [], 0
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
        if self._size > self._limit:
            raise protocol_error(self._provider, "sent an event that is too large")
        return [line for line in lines if line.strip()]


class ChatDecoder:
    """Turns the lines of one streamed chat response into model events.

    A response that is one JSON object is a stream of one line. Calls have no ids on this wire,
    so each gets one that no other call of any conversation has.
    """

    def __init__(self, provider: str, secrets: Sequence[str] = (), *, ref: str = "") -> None:
        self.done = False
        self._provider = provider
        self._secrets = secrets
        self._ref = ref
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._calls: list[ToolCall] = []
        self._thinking: list[str] = []

    @property
    def answered(self) -> bool:
        """True once the last line is here."""
        return self.done

    def feed(self, payload: bytes) -> list[ModelEvent]:
        """The deltas in one line. The last one sets ``done``.

        :raises ProviderError: PROTOCOL, or what the provider reports inside the stream.
        """
        if self.done or not payload.strip():
            return []
        line = parse_event(self._provider, payload)
        if error := line.get("error"):
            raise classify_event(self._provider, error, secrets=self._secrets)
        if line.get("done") is True:
            self._end(line)
        return self._take(as_object(line.get("message")))

    def finish(self) -> ModelDone:
        """The terminal event, when the stream has ended.

        :raises ProviderError: TRUNCATED, the stream ended before the answer did.
        """
        thinking = "".join(self._thinking)
        thoughts = thoughts_of(self._ref, [{"thinking": thinking}] if thinking else [])
        return conclude(self._provider, self._reason, self._calls, self._usage, thoughts)

    def _end(self, line: dict[str, JsonValue]) -> None:
        self.done = True
        self._reason = "length" if line.get("done_reason") == "length" else "stop"
        read, written = as_count(line.get("prompt_eval_count")), as_count(line.get("eval_count"))
        self._usage = Usage(read, written) if read or written else None

    def _take(self, message: dict[str, JsonValue]) -> list[ModelEvent]:
        events: list[ModelEvent] = []
        if thinking := as_text(message.get("thinking")):
            self._thinking.append(thinking)
            events.append(ReasoningDelta(thinking))
        if text := as_text(message.get("content")):
            events.append(TextDelta(text))
        if isinstance(calls := message.get("tool_calls"), list):
            self._calls += [_called(as_object(as_object(call).get("function"))) for call in calls]
        return events


def _called(function: dict[str, JsonValue]) -> ToolCall:
    arguments = dumps(as_object(function.get("arguments"))).decode()
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", as_text(function.get("name")), arguments)


# --- the request ---


def _system(text: str) -> list[JsonValue]:
    return [{"role": "system", "content": text}] if text else []


def _message(message: Message) -> JsonValue:
    if isinstance(message, UserMessage):
        images: list[JsonValue] = [image.data for image in message.images]
        return {"role": "user", "content": message.text} | ({"images": images} if images else {})
    if isinstance(message, ToolMessage):
        return {"role": "tool", "tool_name": message.name, "content": message.text}
    return _assistant(message)


def _assistant(message: AssistantMessage) -> JsonValue:
    turn: dict[str, JsonValue] = {"role": "assistant", "content": message.text}
    for thought in message.thoughts.items if message.thoughts else ():
        turn |= thought
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    return turn


def _call(call: ToolCall) -> JsonValue:
    try:
        arguments = as_object(loads(call.arguments.encode()))
    except InvalidJson:
        arguments = {}
    return {"function": {"name": call.name, "arguments": arguments}}


def _tool(tool: ToolSpec) -> JsonValue:
    function: dict[str, JsonValue] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": function}


def _options(params: SamplingParams, window: int | None) -> dict[str, JsonValue]:
    fields: dict[str, JsonValue] = {
        "num_ctx": window,
        "num_predict": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
        "stop": list(params.stop) or None,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _think(effort: str | None, info: ModelInfo) -> bool | str | None:
    """Whether to think, or how much if the model says that it has levels."""
    if effort is None or info.reasoning is False:
        return None
    if effort == "none":
        return False
    return level_for(effort, info) if info.levels else True


def _format(stated: JsonObject) -> JsonValue:
    """The schema of a ``response_format``, or the word for JSON of any kind."""
    return as_object(stated.get("json_schema")).get("schema") or "json"
