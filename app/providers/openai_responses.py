"""Providers that speak OpenAI's ``POST /responses``.

A conversation is a list of items here: messages, calls, their results, and the model's
reasoning. Nothing is kept by the server, so the reasoning comes encrypted and is handed back
where it stood, before the calls that it led to.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType

from ..cancel import CancelToken
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
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from .base import ModelDone, ModelEvent, ModelInfo, ModelRequest, ToolSpec
from .classify import classify_event
from .embeddings import OpenAIEmbeddings
from .stops import until_stop
from .streaming import (
    CallIds,
    as_count,
    as_object,
    as_text,
    cache_key,
    conclude,
    level_for,
    parse_event,
    plain,
    thoughts_of,
    unique,
    unknown,
    with_own_thoughts,
)
from .transport import HttpClient

_LEAST_OUTPUT = 16
_TEXT = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
_INCOMPLETE: Mapping[str, FinishReason] = MappingProxyType(
    {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter"}
)
# The codes of failures that are not the request's own fault.
_SERVERS_FAULT = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"})


class OpenAIResponses(OpenAIEmbeddings):
    """One server, reached at ``base_url`` (which ends before ``/responses``).

    The parameters are those of :class:`~.streaming.StreamingProvider`.
    """

    lacks = frozenset({"frequency_penalty", "presence_penalty", "seed", "logit_bias", "prediction"})

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
    ) -> None:
        super().__init__(
            id,
            url=f"{base_url.rstrip('/')}/responses",
            api_keys=api_keys,
            headers=headers,
            models=models,
            lookup=lookup,
            default=default,
            http=http,
        )
        self._embeddings_url = f"{base_url.rstrip('/')}/embeddings"

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Generator[ModelEvent, None, None]:
        """See :meth:`~.streaming.StreamingProvider.stream`.

        The API has no stop sequences: they are watched for here.
        """
        events = super().stream(request, cancel)
        return until_stop(events, request.params.stop) if request.params.stop else events

    def _body(self, request: ModelRequest) -> dict[str, JsonValue]:
        self._refuse_unknown({}, request)
        return build_body(request, self.info(request.model), f"{self.id}/{request.model}")

    def _decoder(self, ref: str) -> ResponseDecoder:
        return ResponseDecoder(self.id, self._secrets, ref=ref)


def build_body(
    request: ModelRequest,
    info: ModelInfo = ModelInfo(),  # noqa: B008 - it is frozen
    ref: str = "",
) -> dict[str, JsonValue]:
    """The JSON body of a call. ``request.extra`` is merged last and wins.

    :param ref: the model called; only its own reasoning is handed back.
    """
    body: dict[str, JsonValue] = {
        "model": request.model,
        "input": [*_input(with_own_thoughts(request.messages, ref)), *_word_of_json(request.params)],
        "stream": True,
        "store": False,
    }
    if request.system:
        body["instructions"] = request.system
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body |= _calling(request)
    if request.cache_key:
        body["prompt_cache_key"] = cache_key(request.cache_key)
    return body | _reasoning(request.params, info) | _sampling(request.params) | dict(request.extra)


class ResponseDecoder:
    """Turns the events of one streamed response into model events.

    A whole ``response`` object is understood too. Events and items of unknown type are skipped.
    """

    def __init__(self, provider: str, secrets: Sequence[str] = (), *, ref: str = "") -> None:
        self.done = False
        self._provider = provider
        self._secrets = secrets
        self._ref = ref
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._items: dict[int, _Item] = {}

    @property
    def answered(self) -> bool:
        """True once the response is over: nothing follows."""
        return self._reason is not None

    def feed(self, payload: bytes) -> list[ModelEvent]:
        """The deltas in one event's data. The response's end sets ``done``.

        :raises ProviderError: PROTOCOL, or what the provider reports inside the stream.
        """
        payload = payload.strip()
        if self.done or not payload or payload == b"[DONE]":
            return []
        event = parse_event(self._provider, payload)
        kind, index = as_text(event.get("type")), as_count(event.get("output_index"))
        if kind == "error" or (event.get("error") and not kind):
            self._fail(event.get("error") or event)
        if kind in _TEXT:
            return _delta(TextDelta, event.get("delta"))
        if kind in _REASONING:
            return _delta(ReasoningDelta, event.get("delta"))
        if kind == "response.reasoning_summary_part.added" and event.get("summary_index"):
            return [ReasoningDelta("\n\n")]
        if kind in {"response.output_item.added", "response.output_item.done"}:
            self._item(index).take(as_object(event.get("item")))
        elif kind.startswith("response.function_call_arguments."):
            self._item(index).continue_arguments(event)
        elif kind in _LAST:
            self._end(as_object(event.get("response")))
        return self._whole(event) if event.get("object") == "response" else []

    def finish(self) -> ModelDone:
        """The terminal event, when the stream has ended.

        :raises ProviderError: TRUNCATED, the stream ended before the response did.
        """
        items = [item for _, item in sorted(self._items.items())]
        taken: set[str] = set()
        for number, item in enumerate(items):
            if item.kind == "function_call":
                item.call_id = unique(item.call_id or f"call_{number}", taken)
        calls = [item.call() for item in items if item.kind == "function_call"]
        return conclude(
            self._provider, self._reason, calls, self._usage, thoughts_of(self._ref, _order(items))
        )

    def _item(self, index: int) -> _Item:
        return self._items.setdefault(index, _Item())

    def _end(self, response: dict[str, JsonValue]) -> None:
        if response.get("error") or response.get("status") == "failed":
            self._fail(response.get("error"))
        if isinstance(usage := response.get("usage"), dict):
            self._usage = _usage(usage)
        why = as_text(as_object(response.get("incomplete_details")).get("reason"))
        self._reason = _INCOMPLETE.get(why, "length" if response.get("status") == "incomplete" else "stop")
        self.done = True

    def _fail(self, error: JsonValue) -> None:
        details = as_object(error)
        code = as_text(details.get("code"))
        if code and code not in _SERVERS_FAULT and not details.get("type"):
            error = {**details, "type": "invalid_request_error"}
        raise classify_event(self._provider, error, secrets=self._secrets)

    def _whole(self, response: dict[str, JsonValue]) -> list[ModelEvent]:
        output = response.get("output")
        events: list[ModelEvent] = []
        for index, item in enumerate(output if isinstance(output, list) else []):
            self._item(index).take(as_object(item))
            events += _shown(as_object(item))
        if response.get("status") != "in_progress":
            self._end(response)
        return events


class _Item:
    """One item of the output, put together from its events."""

    def __init__(self) -> None:
        self.kind = ""
        self.call_id = ""
        self._name = ""
        self._arguments: list[str] = []
        self._wire: dict[str, JsonValue] = {}

    def take(self, item: dict[str, JsonValue]) -> None:
        """What the item looks like when it begins, and again when it is done."""
        self._wire = item
        self.kind = as_text(item.get("type"))
        self.call_id = as_text(item.get("call_id")) or self.call_id
        self._name = as_text(item.get("name")) or self._name
        if arguments := as_text(item.get("arguments")):
            self._arguments = [arguments]

    def continue_arguments(self, event: dict[str, JsonValue]) -> None:
        """More of a call's arguments, or all of them."""
        if "arguments" in event:
            self._arguments = [as_text(event["arguments"])]
        else:
            self._arguments.append(as_text(event.get("delta")))

    def call(self) -> ToolCall:
        """The tool call that the item is."""
        return ToolCall(self.call_id, self._name, "".join(self._arguments) or "{}")

    def thought(self) -> JsonObject | None:
        """Reasoning as it is handed back, or of a message or a call the place where it stood."""
        if self.kind == "reasoning" and self._wire.get("encrypted_content"):
            names = ("type", "id", "summary", "encrypted_content")
            return {"summary": []} | {name: self._wire[name] for name in names if name in self._wire}
        if self.kind == "function_call":
            return {"type": self.kind, "call_id": self.call_id}
        if self.kind == "message":
            phase = self._wire.get("phase")
            return {"type": self.kind} | ({"phase": phase} if phase else {})
        return None


def _order(items: Sequence[_Item]) -> list[JsonObject]:
    """The reasoning and the places of everything else; nothing if there is no reasoning."""
    thoughts = [thought for item in items if (thought := item.thought())]
    return thoughts if any(thought["type"] == "reasoning" for thought in thoughts) else []


def _delta(kind: type[TextDelta | ReasoningDelta], text: JsonValue) -> list[ModelEvent]:
    return [kind(text)] if isinstance(text, str) and text else []


def _shown(item: dict[str, JsonValue]) -> list[ModelEvent]:
    """What an item of a whole response shows of itself."""
    if item.get("type") == "reasoning":
        return _delta(ReasoningDelta, as_text(item.get("summary")))
    content = item.get("content")
    parts = [as_object(part) for part in (content if isinstance(content, list) else [])]
    return [
        event
        for part in parts
        for event in _delta(TextDelta, as_text(part.get("text")) or as_text(part.get("refusal")))
    ]


def _usage(usage: dict[str, JsonValue]) -> Usage:
    read, written = (
        as_object(usage.get("input_tokens_details")),
        as_object(usage.get("output_tokens_details")),
    )
    return Usage(
        input=as_count(usage.get("input_tokens")),
        output=as_count(usage.get("output_tokens")),
        cached=as_count(read.get("cached_tokens")),
        reasoning=as_count(written.get("reasoning_tokens")),
        cache_write=as_count(read.get("cache_write_tokens")),
    )


# --- the request ---


def _input(messages: Sequence[Message]) -> list[JsonValue]:
    ids = CallIds()
    return [item for message in messages for item in _items(message, ids)]


def _items(message: Message, ids: CallIds) -> list[JsonValue]:
    if isinstance(message, UserMessage):
        return [{"role": "user", "content": _user_content(message)}]
    if isinstance(message, ToolMessage):
        call_id = ids.of_result(message.call_id)
        return [{"type": "function_call_output", "call_id": call_id, "output": message.text}]
    return _assistant(message, ids)


def _user_content(message: UserMessage) -> JsonValue:
    return [_part(part) for part in message.parts] if message.images else message.text


def _part(part: TextPart | ImagePart) -> JsonValue:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    url = f"data:{part.mime};base64,{part.data}"
    return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}


def _assistant(message: AssistantMessage, ids: CallIds) -> list[JsonValue]:
    """The items of a turn, each piece of reasoning where it stood."""
    said: list[dict[str, JsonValue]] = []
    if message.text:
        said.append({"role": "assistant", "content": message.text})
    calls = {call.id: _call(call, ids) for call in message.tool_calls}
    items: list[JsonValue] = []
    for thought in message.thoughts.items if message.thoughts else ():
        if thought["type"] == "reasoning":
            items.append(dict(thought))
        elif thought["type"] == "message":
            phase = {"phase": thought["phase"]} if "phase" in thought else {}
            items += [{**one, **phase} for one in said]
            said = []
        elif call := calls.pop(as_text(thought["call_id"]), None):
            items.append(call)
    return [*items, *said, *calls.values()]


def _call(call: ToolCall, ids: CallIds) -> JsonValue:
    return {
        "type": "function_call",
        "call_id": ids.of_call(call.id),
        "name": plain(call.name),
        "arguments": call.arguments,
    }


def _tool(tool: ToolSpec) -> JsonValue:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
        "strict": bool(tool.strict),
    }


def _calling(request: ModelRequest) -> dict[str, JsonValue]:
    """Whether tools have to be called, and how many at a time, where that is not left to the model."""
    choice = request.tool_choice
    fields: dict[str, JsonValue] = {}
    if choice.name is not None:
        fields["tool_choice"] = {"type": "function", "name": choice.name}
    elif choice.required:
        fields["tool_choice"] = "required"
    if not request.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _reasoning(params: SamplingParams, info: ModelInfo) -> dict[str, JsonValue]:
    """How much to think, and the wish for the reasoning itself, which other models refuse."""
    level = level_for(params.reasoning_effort, info)
    fields: dict[str, JsonValue] = {}
    if level == "none":
        fields["reasoning"] = {"effort": level}
    elif level:
        fields["reasoning"] = {"effort": level, "summary": "auto"}
    if level or info.reasoning:
        fields["include"] = ["reasoning.encrypted_content"]
    return fields


def _sampling(params: SamplingParams) -> dict[str, JsonValue]:
    text: dict[str, JsonValue] = {}
    if params.response_format:
        text["format"] = _format(params.response_format)
    if params.verbosity:
        text["verbosity"] = params.verbosity
    fields: dict[str, JsonValue] = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_output_tokens": params.max_tokens and max(params.max_tokens, _LEAST_OUTPUT),
        "service_tier": params.service_tier,
        "text": text or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _word_of_json(params: SamplingParams) -> list[JsonValue]:
    """The API refuses to answer in JSON where the input, whatever the instructions, does not ask for it."""
    if (params.response_format or {}).get("type") != "json_object":
        return []
    return [{"role": "developer", "content": "Answer in JSON."}]


def _format(stated: JsonObject) -> JsonValue:
    """A ``response_format`` of chat completions, which wrap the schema once more."""
    return {"type": stated.get("type"), **as_object(stated.get("json_schema"))}
