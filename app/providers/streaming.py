"""What providers share that stream their answer as server-sent events over HTTP.

The answer is always asked for as a stream: silence is noticed, the call can be cancelled,
and what came before a failure is not lost.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Protocol

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from ..messages import FinishReason, JsonValue, ToolCall, Usage
from ..wire import InvalidJson, dumps, loads
from .base import ModelDone, ModelEvent, ModelInfo, ModelRequest, Provider
from .classify import classify_response
from .sse import SseParser
from .transport import HttpClient, HttpResponse

_ERROR_BODY_LIMIT = 64 * 1024
_JSON_BODY_LIMIT = 16 * 1024 * 1024
_MOST_TOKENS = 2**31 - 1

_HEADERS = MappingProxyType(
    {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "user-agent": "openclaw-gateway",
    }
)


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

    :param credentials: headers of the wire format, the one with the key among them.
    :param headers: sent with every request; they win over all others.
    :param api_key: never shown in an error text, nor are the values of ``headers``.
    :param models: what is known about some models; ``default`` holds for the others.
    :param http: belongs to this provider from now on and is closed with it.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        url: str,
        api_key: str | None,
        credentials: Mapping[str, str],
        headers: Mapping[str, str],
        models: Mapping[str, ModelInfo],
        default: ModelInfo,
        http: HttpClient,
    ) -> None:
        self.id = id
        self._url = url
        self._headers = {**_HEADERS, **credentials, **{name.lower(): headers[name] for name in headers}}
        self._secrets = [*([api_key] if api_key else []), *(v for v in headers.values() if len(v) >= 8)]
        self._models = models
        self._default = default
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
            body=dumps(self._body(request)),
            timeouts=request.timeouts,
            cancel=cancel,
            provider=self.id,
        ) as response:
            decoder = self._decoder()
            if self._is_event_stream(response):
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
    def _decoder(self) -> AnswerDecoder:
        """A decoder for one answer."""

    def _is_event_stream(self, response: HttpResponse) -> bool:
        """False for one JSON body, which servers send that do not know ``stream``.

        :raises ProviderError: it is neither, or the status is not 2xx.
        """
        if not 200 <= response.status < 300:
            raise self._refusal(response)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in {"text/event-stream", "application/json", ""}:
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
    provider: str, reason: FinishReason | None, calls: Sequence[ToolCall], usage: Usage | None
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
    return ModelDone(reason, tuple(calls), usage)


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
