"""OpenAI's chat completion request: JSON in, a frozen :class:`ChatRequest` out. Pure.

The rules are those of OpenAI's API reference. What the gateway does not serve is refused by
name; fields that nobody knows are ignored, and the caller is told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ...agents.client_tools import NO_CLIENT_TOOLS, ClientTools
from ...errors import InvalidRequest
from ...messages import JsonObject, JsonValue, Message, SamplingParams
from .attachments import Attachments
from .content import parse_conversation
from .fields import boolean, invalid, string
from .parameters import parse_metadata, without_effect
from .sampling import parse_sampling
from .tools import is_legacy, parse_client_tools

_LONGEST_MODEL = 256
_LONGEST_CACHE_KEY = 256


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request.

    :ivar model: as the client wrote it, to be echoed; ``openclaw`` when absent.
    :ivar user: trimmed; None when absent or blank.
    :ivar include_reasoning: show what the model thinks; None leaves it to the configuration.
    :ivar store: the answer is to be kept, to be asked for later, together with ``metadata``.
    :ivar cache_key: the same for requests that share their beginning; "" if the caller does not say.
    :ivar ignored: parameters that have no effect whichever model answers.
    :ivar system: all system and developer text, joined by blank lines.
    :ivar messages: the conversation without system text; empty if there was only that.
    :ivar legacy: the tools came as ``functions``, and are called by a ``function_call``.
    """

    model: str
    messages: tuple[Message, ...]
    system: str
    params: SamplingParams
    stream: bool = False
    include_usage: bool = False
    user: str | None = None
    include_reasoning: bool | None = None
    store: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    cache_key: str = ""
    ignored: tuple[str, ...] = ()
    client_tools: ClientTools = NO_CLIENT_TOOLS
    legacy: bool = False


def parse_chat_request(body: JsonValue, attachments: Attachments | None = None) -> ChatRequest:
    """The request that ``body`` describes.

    :param attachments: reads its images and files, by default only inline ones.
    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    ignored = without_effect(body)
    params, client_tools = parse_sampling(body), parse_client_tools(body)
    options = _stream_options(body)
    # Behind what costs nothing: no image is fetched for a request that is wrong elsewhere.
    system, messages = parse_conversation(body, attachments)
    return ChatRequest(
        model=_model(body),
        messages=messages,
        system=system,
        params=params,
        stream=boolean(body, "stream"),
        include_usage=boolean(options, "include_usage", "stream_options.include_usage"),
        include_reasoning=_maybe(body, "include_reasoning"),
        user=(string(body, "user") or "").strip() or None,
        store=boolean(body, "store"),
        metadata=parse_metadata(body),
        cache_key=_cache_key(body),
        ignored=ignored,
        client_tools=client_tools,
        legacy=is_legacy(body),
    )


def with_reasoning(asked: ChatRequest, setting: Literal["off", "request", "on"]) -> ChatRequest:
    """The request with ``include_reasoning`` settled as the configuration has it."""
    if setting == "off" and asked.include_reasoning:
        return replace(asked, include_reasoning=False, ignored=(*asked.ignored, "include_reasoning"))
    if setting == "on" and asked.include_reasoning is None:
        return replace(asked, include_reasoning=True)
    return asked


def _model(body: JsonObject) -> str:
    model = string(body, "model") or "openclaw"
    if len(model) > _LONGEST_MODEL:  # every chunk of the answer repeats it
        raise invalid("model", f"is longer than {_LONGEST_MODEL} characters")
    return model


def _maybe(body: JsonObject, name: str) -> bool | None:
    return None if body.get(name) is None else boolean(body, name)


def _cache_key(body: JsonObject) -> str:
    key = string(body, "prompt_cache_key") or ""
    if len(key) > _LONGEST_CACHE_KEY:
        raise invalid("prompt_cache_key", f"is longer than {_LONGEST_CACHE_KEY} characters")
    return key


def _stream_options(body: JsonObject) -> JsonObject:
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise invalid("stream_options", "must be an object")
    return options or {}
