"""A request of OpenAI's Responses API: JSON in, a frozen :class:`ResponseRequest` out. Pure.

What the gateway does not serve is refused by name; fields that nobody knows are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ....agents.client_tools import ClientTools
from ....errors import InvalidRequest
from ....messages import JsonObject, JsonValue, SamplingParams
from ....providers.streaming import LEVELS
from ..attachments import Attachments
from ..fields import boolean, choice, integer, invalid, number, string, unserved
from ..formats import parse_text_format
from ..parameters import parse_metadata
from ..tools import parse_flat_client_tools
from .items import FindItem, Input, parse_input

_LONGEST = 256
_SAFE_INTEGER = 2**53 - 1
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
_SUMMARIES = ("auto", "concise", "detailed")
_INCLUDED = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs", "reasoning.encrypted_content",
)  # fmt: skip

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "Prompt templates are not served; send the text itself.",
        "context_management": "The agent itself sees to it that the conversation fits its model.",
        "max_tool_calls": "How many tools an agent calls is not limited by the request.",
        "moderation": "Moderation of requests and answers is not served.",
    }
)
_KNOWN = frozenset(
    (
        *(
            "model",
            "input",
            "instructions",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "text",
            "reasoning",
        ),
        *("max_output_tokens", "temperature", "top_p", "top_logprobs", "user", "safety_identifier"),
        *("metadata", "store", "include", "prompt_cache_key", "prompt_cache_retention"),
        *("prompt_cache_options", "truncation", "service_tier", "client_metadata", "stream"),
        *("stream_options", "background", "previous_response_id", "conversation"),
    )
)
# Taken, and without effect on the run.
_IDLE = ("safety_identifier", "prompt_cache_retention", "prompt_cache_options", "client_metadata")


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A valid request.

    :ivar model: as the client wrote it, to be echoed; ``openclaw`` when absent.
    :ivar user: trimmed; None when absent or blank.
    :ivar previous_id: the response that this one follows.
    :ivar conversation: the id of the conversation that this response is a part of.
    :ivar show_reasoning: the model's reasoning is to be part of the output.
    :ivar ignored: the names of fields that have no effect.
    :ivar echo: those fields of the response that repeat the request.
    """

    model: str
    instructions: str
    input: Input
    params: SamplingParams
    client_tools: ClientTools
    stream: bool
    store: bool
    background: bool
    previous_id: str | None
    conversation: str | None
    user: str | None
    cache_key: str
    show_reasoning: bool
    ignored: tuple[str, ...]
    echo: JsonObject

    @property
    def system(self) -> str:
        """All system text of the request."""
        return "\n\n".join(text for text in (self.instructions, self.input.system) if text)


def parse_response_request(
    body: JsonValue, find: FindItem, attachments: Attachments | None = None
) -> ResponseRequest:
    """The request that ``body`` describes.

    :param find: the stored item that an ``item_reference`` means.
    :param attachments: reads its images and files, by default only inline ones.
    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    _refuse_unserved(body)
    request = ResponseRequest(
        model=_short(body, "model") or "openclaw",
        instructions=_instructions(body),
        params=_parse_sampling(body),
        client_tools=parse_flat_client_tools(body),
        stream=boolean(body, "stream"),
        store=body.get("store") is None or boolean(body, "store"),
        background=boolean(body, "background"),
        previous_id=string(body, "previous_response_id") or None,
        conversation=_conversation(body.get("conversation")),
        user=(string(body, "user") or "").strip() or None,
        cache_key=_short(body, "prompt_cache_key"),
        show_reasoning=_object(body, "reasoning").get("summary") is not None,
        ignored=_ignored(body),
        echo=_echo(body),
        # Last: no image is fetched for a request that is wrong elsewhere.
        input=parse_input(body.get("input"), find, attachments),
    )
    _check(request)
    return request


def _check(request: ResponseRequest) -> None:
    """Refuse what does not go together."""
    if request.background and not request.store:
        raise invalid("background", "needs a response that is stored")
    if request.previous_id and request.conversation:
        raise invalid("previous_response_id", "cannot stand beside `conversation`")
    goes_on = request.previous_id or request.conversation
    if not request.input.messages and (goes_on or not request.system):
        raise invalid("input", "must hold at least one item with content", code="empty_conversation")


def _refuse_unserved(body: JsonObject) -> None:
    for name, why in _REFUSED.items():
        if body.get(name) is not None:
            raise unserved(name, why)
    if integer(body, "top_logprobs", 0, 20):
        raise unserved("top_logprobs", "Log probabilities are not served.")
    include = body.get("include")
    if include is not None and not isinstance(include, list):
        raise invalid("include", "must be an array")
    for index, wanted in enumerate(include or ()):
        if not isinstance(wanted, str):
            raise invalid(f"include[{index}]", "must be a string")
        if wanted not in _INCLUDED:
            raise unserved(f"include[{index}]", f"{wanted[:100]!r} cannot be included.")


def _parse_sampling(body: JsonObject) -> SamplingParams:
    text, reasoning = _object(body, "text"), _object(body, "reasoning")
    choice(reasoning, "summary", _SUMMARIES, "reasoning.summary")
    tier = choice(body, "service_tier", _TIERS)
    return SamplingParams(
        temperature=number(body, "temperature", 0, 2),
        top_p=number(body, "top_p", 0, 1),
        max_tokens=integer(body, "max_output_tokens", 1, _SAFE_INTEGER),
        response_format=parse_text_format(text.get("format")),
        reasoning_effort=choice(reasoning, "effort", LEVELS, "reasoning.effort"),
        verbosity=choice(text, "verbosity", ("low", "medium", "high"), "text.verbosity"),
        service_tier=None if tier == "auto" else tier,
    )


def _object(body: JsonObject, name: str) -> JsonObject:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise invalid(name, "must be an object")
    return value or {}


def _short(body: JsonObject, name: str) -> str:
    text = string(body, name) or ""
    if len(text) > _LONGEST:
        raise invalid(name, f"is longer than {_LONGEST} characters")
    return text


def _instructions(body: JsonObject) -> str:
    value = body.get("instructions")
    if value is not None and not isinstance(value, str):
        raise invalid("instructions", "must be a string")
    return value or ""


def _conversation(value: JsonValue) -> str | None:
    if value is None:
        return None
    found = value.get("id") if isinstance(value, dict) else value
    if not isinstance(found, str) or not found:
        raise invalid("conversation", "must be an id or an object with an id")
    return found


def _ignored(body: JsonObject) -> tuple[str, ...]:
    unknown = (n for n in body if n not in _KNOWN and n not in _REFUSED and _NAME.fullmatch(n))
    cut = ("truncation",) if body.get("truncation") == "disabled" else ()  # long conversations are summed up
    return (*(name for name in _IDLE if body.get(name) is not None), *cut, *unknown)[:20]


def _echo(body: JsonObject) -> dict[str, Any]:
    """The fields of a response that repeat its request, with what holds where the request is silent."""
    text, reasoning = _object(body, "text"), _object(body, "reasoning")
    conversation = _conversation(body.get("conversation"))
    echo: dict[str, Any] = {
        "background": boolean(body, "background"),
        "conversation": {"id": conversation} if conversation else None,
        "frequency_penalty": 0.0,
        "instructions": body.get("instructions"),
        "max_output_tokens": integer(body, "max_output_tokens", 1, _SAFE_INTEGER),
        "max_tool_calls": None,
        "metadata": parse_metadata(body),
        "model": _short(body, "model") or "openclaw",
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "presence_penalty": 0.0,
        "previous_response_id": string(body, "previous_response_id") or None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": _identifier(body),
        "service_tier": body.get("service_tier") or "default",
        "store": body.get("store") is not False,
        "temperature": body.get("temperature"),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_shown_tool(tool) for tool in _list(body, "tools")],
        "top_logprobs": 0,
        "top_p": body.get("top_p"),
        "truncation": choice(body, "truncation", ("auto", "disabled")) or "auto",
    }
    return echo if body.get("user") is None else {**echo, "user": body["user"]}


def _identifier(body: JsonObject) -> str | None:
    identifier = string(body, "safety_identifier")
    if identifier is not None and len(identifier) > 64:
        raise invalid("safety_identifier", "is longer than 64 characters")
    return identifier


def _list(body: JsonObject, name: str) -> list[JsonValue]:
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise invalid(name, "must be an array")
    return value or []


def _shown_tool(tool: JsonValue) -> dict[str, Any]:
    """A tool as the vendor repeats it: with everything that may be left out."""
    stated: Mapping[str, Any] = tool if isinstance(tool, dict) else {}
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", **{name: stated.get(name) for name in names}}
