"""What providers share that stream their answer over HTTP.

The answer is always asked for as a stream: silence is noticed, the call can be cancelled,
and what came before a failure is not lost.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import ClassVar, Protocol

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from ..messages import (
    AssistantMessage,
    FinishReason,
    JsonObject,
    JsonValue,
    Message,
    SamplingParams,
    Thoughts,
    ToolCall,
    Usage,
    UserMessage,
)
from ..wire import InvalidJson, dumps, loads
from .base import EmbeddingRequest, ModelDone, ModelEvent, ModelInfo, ModelRequest, Provider, ToolChoice
from .classify import classify_response
from .formats import weaker
from .hints import missed, unheeded, without
from .sse import SseParser
from .transport import HttpClient, HttpResponse

_ERROR_BODY_LIMIT = 64 * 1024
_JSON_BODY_LIMIT = 16 * 1024 * 1024
_STREAM_LIMIT = 128 * 1024 * 1024  # some 400 bytes for each token of the longest answer there is
_MOST_TOKENS = 2**31 - 1
_LENGTH_OF_KEY = 32  # APIs take 64
_MOST_OF_ID = 56  # of the 64 characters that APIs take; the rest is for a number

_HEADERS = MappingProxyType({"content-type": "application/json", "user-agent": "openclaw-gateway"})
_STREAMS = frozenset({"text/event-stream", "application/x-ndjson", ""})

# All levels of thinking, from none at all upwards, and those of a model nobody knows more about.
LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_USUAL_LEVELS = ("low", "medium", "high")
# How providers name what they object to: a demand for tools, a form, strict tools, the thinking. Some take
# no such demand while the model thinks: then the demand is what goes.
_FORCE = re.compile(r"tool[_ ]?choice|forces? tool")
_FORMAT = re.compile(r"response_?format|output_(config|format)|(text\.|for )format|json|structured|grammar")
_STRICT = re.compile(r"strict|schema|grammar|additionalproperties")
_THINKING = re.compile(r"reasoning|thinking|effort|encrypted")


class StreamParser(Protocol):
    """Cuts the bytes of one stream into events."""

    def feed(self, data: bytes) -> list[bytes]:
        """The payload of every event that ``data`` completes.

        :raises ProviderError: PROTOCOL, an event over the limit.
        """


class AnswerDecoder(Protocol):
    """Turns the events of one answer, in its wire format, into model events.

    :ivar done: nothing follows; the stream need not be read any further.
    """

    done: bool

    @property
    def answered(self) -> bool:
        """True once the answer is complete: only token counts may follow."""

    def feed(self, payload: bytes) -> list[ModelEvent]:
        """The deltas in one event's data, or in a whole answer that is one JSON object.

        :raises ProviderError: PROTOCOL, or what the provider reports inside the stream.
        """

    def finish(self) -> ModelDone:
        """The terminal event, when the stream has ended.

        :raises ProviderError: TRUNCATED, the stream ended before the answer did.
        """


class StreamingProvider(Provider):
    """One server, called at one URL. A subclass knows its wire format.

    :param api_keys: tried one after the other; none if the server wants none. Never shown in
        an error text, nor are the values of ``headers``.
    :param headers: sent with every request; they win over all others.
    :param models: what the configuration says about some models. For the others ``lookup``
        is asked, and for models that it does not know either ``default`` holds.
    :param http: belongs to this provider from now on and is closed with it.
    :ivar lacks: the hints that its API does not have.
    """

    wire_headers: ClassVar[Mapping[str, str]] = MappingProxyType({"accept": "text/event-stream"})
    lacks: Collection[str] = frozenset()

    def __init__(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        url: str,
        api_keys: Sequence[str],
        headers: Mapping[str, str],
        models: Mapping[str, ModelInfo],
        lookup: Callable[[str], ModelInfo | None],
        default: ModelInfo,
        http: HttpClient,
    ) -> None:
        self.id = id
        self.credentials = max(1, len(api_keys))
        self._url = url
        self._api_keys = tuple(api_keys)
        self._headers = {name.lower(): headers[name] for name in headers}
        self._secrets = [*api_keys, *(v for v in headers.values() if len(v) >= 8)]
        self._models = models
        self._lookup = lookup
        self._default = default
        self._http = http

    def info(self, model: str) -> ModelInfo:
        """What ``model`` can do: as configured, else as the catalogue has it, else the default."""
        return self._models.get(model) or self._lookup(model) or self._default

    def ignores(self, model: str, params: SamplingParams) -> tuple[str, ...]:
        """What calls of ``model`` leave out of ``params``, if that makes a difference."""
        return missed(params, self._unheeded(model, params))

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Generator[ModelEvent, None, None]:
        """See :meth:`Provider.stream`. The call begins with the first ``next``.

        A server that objects to the thinking, to the form of the answer, or to what is said of
        how to call tools, is asked once more without it.
        """
        cancel.raise_if_cancelled()
        with self._open(request, cancel) as response:
            decoder = self._decoder(f"{self.id}/{request.model}")
            if self._is_stream(response):
                yield from self._read_stream(response, decoder)
                response.drain()
            else:
                yield from self._read_whole(response, decoder)
            yield decoder.finish()

    def close(self) -> None:
        """Close all connections; calls under way fail."""
        self._http.close()

    @abstractmethod
    def _body(self, request: ModelRequest) -> dict[str, JsonValue]:
        """The JSON body of a call.

        :raises ProviderError: FORMAT, the request asks for what the API does not have.
        """

    @abstractmethod
    def _decoder(self, ref: str) -> AnswerDecoder:
        """A decoder for one answer of the model ``ref``."""

    def _unheeded(self, model: str, params: SamplingParams) -> tuple[str, ...]:
        """The hints that a call has to leave out."""
        return unheeded(params, self.info(model), self.lacks)

    def _parser(self) -> StreamParser:
        return SseParser(self.id)

    def _authorization(self, api_key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {api_key}"}

    def _open(self, request: ModelRequest, cancel: CancelToken) -> HttpResponse:
        while True:
            try:
                return self._post(request, cancel)
            except ProviderError as error:
                milder = _milder(request, error)
                if milder == request:
                    raise
                request = milder

    def _post(self, request: ModelRequest, cancel: CancelToken) -> HttpResponse:
        params = without(request.params, self._unheeded(request.model, request.params))
        body = self._body(request if params is request.params else replace(request, params=params))
        return self._send(self._url, body, request, cancel, self.wire_headers)

    def _send(
        self,
        url: str,
        body: Mapping[str, JsonValue],
        request: ModelRequest | EmbeddingRequest,
        cancel: CancelToken,
        headers: Mapping[str, str],
    ) -> HttpResponse:
        """Call, and return the response if its status is 2xx."""
        response = self._http.post(
            url,
            headers=self._request_headers(request.credential, headers),
            body=dumps(body),
            timeouts=request.timeouts,
            cancel=cancel,
            provider=self.id,
        )
        if 200 <= response.status < 300:
            return response
        with response:
            raise self._refusal(response)

    def _request_headers(self, credential: int, headers: Mapping[str, str]) -> dict[str, str]:
        key = self._authorization(self._api_keys[credential]) if self._api_keys else {}
        return {**_HEADERS, **headers, **key, **self._headers}

    def _refuse_unknown(self, asked: Mapping[str, bool], request: ModelRequest) -> None:
        """Raise FORMAT for the first parameter that was asked for and that the API does not have."""
        effort = request.params.reasoning_effort
        name = next((f"the parameter {name!r}" for name in asked if asked[name]), None)
        if effort is not None and effort not in LEVELS:
            name = f"the reasoning_effort {effort!r}; it knows {', '.join(LEVELS)}"
        if name:
            text = f"Provider {self.id!r} does not support {name}."
            raise ProviderError(ProviderReason.FORMAT, text, provider=self.id)

    def _is_stream(self, response: HttpResponse) -> bool:
        """False for one JSON body, which servers send that do not know ``stream``.

        :raises ProviderError: it is neither.
        """
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _STREAMS and kind != "application/json":
            raise protocol_error(self.id, "answered with something that is not a chat completion")
        return kind != "application/json"

    def _refusal(self, response: HttpResponse) -> ProviderError:
        body = b""
        response.expect_end()
        with suppress(ProviderError):  # the status says enough
            body = response.read(_ERROR_BODY_LIMIT)
        return classify_response(
            self.id, response.status, response.headers, body, now=datetime.now(UTC), secrets=self._secrets
        )

    def _read_stream(self, response: HttpResponse, decoder: AnswerDecoder) -> Iterator[ModelEvent]:
        parser = self._parser()
        waiting, size = True, 0
        while not decoder.done and (data := self._more(response, decoder)):
            size += len(data)
            if size > _STREAM_LIMIT:
                raise protocol_error(self.id, "sent an answer that is too large")
            payloads = parser.feed(data)
            if payloads and waiting:
                waiting = False
                response.expect_stall()
            for payload in payloads:
                yield from decoder.feed(payload)
            if decoder.answered:
                response.expect_end()

    def _more(self, response: HttpResponse, decoder: AnswerDecoder) -> bytes:
        """More of the stream; a failure after the whole answer is as good as its end."""
        try:
            return response.read1()
        except ProviderError:
            if decoder.answered:
                return b""
            raise

    def _read_whole(self, response: HttpResponse, decoder: AnswerDecoder) -> Iterator[ModelEvent]:
        body = response.read(_JSON_BODY_LIMIT + 1)
        if len(body) > _JSON_BODY_LIMIT:
            raise protocol_error(self.id, "sent an answer that is too large")
        yield from decoder.feed(body)
        if not decoder.answered:
            raise protocol_error(self.id, "answered with something that is not a chat completion")


def unknown(model: str) -> ModelInfo | None:  # noqa: ARG001
    """The ``lookup`` of a provider without a catalogue."""
    return None


def level_for(effort: str | None, info: ModelInfo) -> str | None:
    """The level of thinking to ask a model for: ``effort``, or the next lower one that it has.

    None leaves it to the model. "none" comes out only for a model that says it takes it.
    """
    if effort is None or info.reasoning is False:
        return None
    known = info.levels or _USUAL_LEVELS
    if effort == "none":
        return effort if effort in known else None
    awake = [level for level in LEVELS[1:] if level in known]
    lower = [level for level in awake if LEVELS.index(level) <= LEVELS.index(effort)]
    return next(iter((*reversed(lower), *awake)), None)


def with_own_thoughts(
    messages: Sequence[Message], ref: str, *, all_turns: bool = False
) -> tuple[Message, ...]:
    """``messages`` with the thoughts that the model ``ref`` had since the user last spoke, and no others.

    Another model cannot read them, and few APIs need those of earlier turns: ``all_turns``.
    """
    users = [i for i, message in enumerate(messages) if isinstance(message, UserMessage)]
    spoken = users[-1] if users and not all_turns else -1
    return tuple(
        _without_thoughts(message, unless_of=ref if index > spoken else None)
        for index, message in enumerate(messages)
    )


def _without_thoughts(message: Message, *, unless_of: str | None = None) -> Message:
    if isinstance(message, AssistantMessage) and message.thoughts and message.thoughts.ref != unless_of:
        return replace(message, thoughts=None)
    return message


def _without_thinking(request: ModelRequest) -> ModelRequest:
    return replace(
        request,
        params=replace(request.params, reasoning_effort=None),
        messages=tuple(_without_thoughts(message) for message in request.messages),
    )


def _milder(request: ModelRequest, error: ProviderError) -> ModelRequest:
    """The request without what the provider objects to, if its caller can do without; else as it is.

    The agent loop checks itself whether the tools were called as demanded, and whether the answer
    has the form that it has to have.
    """
    said = str(error).partition(":")[2].lower() if error.reason is ProviderReason.FORMAT else ""
    if request.tool_choice.required and _FORCE.search(said):
        return replace(request, tool_choice=ToolChoice())
    if not request.parallel_tool_calls and "parallel" in said:
        return replace(request, parallel_tool_calls=True)
    if request.params.response_format and _FORMAT.search(said):
        return weaker(request)
    if any(tool.strict for tool in request.tools) and _STRICT.search(said):
        return replace(request, tools=tuple(replace(tool, strict=None) for tool in request.tools))
    return _without_thinking(request) if _THINKING.search(said) else request


def parse_event(provider: str, payload: bytes) -> dict[str, JsonValue]:
    """The JSON object in one event's data.

    :raises ProviderError: PROTOCOL, it is none.
    """
    try:
        event = loads(payload)
    except InvalidJson:
        event = None
    if not isinstance(event, dict):
        raise protocol_error(provider, "sent something that is not a chat completion")
    return event


def conclude(
    provider: str,
    reason: FinishReason | None,
    calls: Sequence[ToolCall],
    usage: Usage | None,
    thoughts: Thoughts | None = None,
) -> ModelDone:
    """The terminal event of an answer that ended for ``reason``; None if it never ended.

    :raises ProviderError: TRUNCATED, or PROTOCOL for a tool call without a name.
    """
    if reason is None:
        raise ProviderError(
            ProviderReason.TRUNCATED, f"Provider {provider!r} broke off its answer.", provider=provider
        )
    if not all(call.name for call in calls):
        raise protocol_error(provider, "sent a tool call without a name")
    if reason in {"stop", "tool_calls"}:  # some servers say "stop" after tool calls
        reason = "tool_calls" if calls else "stop"
    return ModelDone(reason, tuple(calls), usage, thoughts)


def thoughts_of(ref: str, items: Sequence[JsonObject]) -> Thoughts | None:
    """``items`` to be handed back to the model ``ref``, None if there are none."""
    return Thoughts(ref, tuple(items)) if items else None


def cache_key(name: str) -> str:
    """``name`` as servers take it for a key of their cache, and without telling them what it is."""
    return sha256(name.encode()).hexdigest()[:_LENGTH_OF_KEY]


class CallIds:
    """The ids of calls on a wire that wants them unique and plain.

    A result has the id of the latest call that had its id.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._current: dict[str, str] = {}

    def of_call(self, call_id: str) -> str:
        """The id of the next call."""
        self._current[call_id] = unique(plain(call_id)[:_MOST_OF_ID], self._taken)
        return self._current[call_id]

    def of_result(self, call_id: str) -> str:
        """The id of the call that a result belongs to."""
        return self._current.get(call_id) or plain(call_id)[:_MOST_OF_ID]


def plain(name: str) -> str:
    """``name`` in the characters that strict APIs take in ids and names of tools, 64 at most."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "_"


def unique(call_id: str, taken: set[str]) -> str:
    """``call_id``, numbered if it is in ``taken``; the result is added there."""
    candidate, number = call_id, 2
    while candidate in taken:
        candidate, number = f"{call_id}_{number}", number + 1
    taken.add(candidate)
    return candidate


def as_object(value: JsonValue) -> dict[str, JsonValue]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_text(value: JsonValue) -> str:
    """A text; a list of content parts counts as the text of its text parts."""
    if isinstance(value, list):
        return "".join(as_text(as_object(part).get("text")) for part in value)
    return value if isinstance(value, str) else ""


def as_count(value: JsonValue) -> int:
    """``value`` if it is a positive integer, else 0; cut to what every database can store."""
    return min(value, _MOST_TOKENS) if isinstance(value, int) and value > 0 else 0


def protocol_error(provider: str, what: str) -> ProviderError:
    """The error of a provider that ``what``, a phrase beginning with a verb."""
    return ProviderError(ProviderReason.PROTOCOL, f"Provider {provider!r} {what}.", provider=provider)
