"""A run's request as text, for a run that waits in the store, and back. Pure."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from ..agents.client_tools import NO_CLIENT_TOOLS, ClientTools
from ..messages import JsonValue, SamplingParams
from ..providers.base import ToolChoice, ToolSpec
from ..sessions.entries import UnreadableEntry, decode, encode
from ..wire import InvalidJson, dumps, loads
from .run import RunRequest


class UnreadableRequest(ValueError):
    """The text is not a request that this version of the gateway can read."""


def pack(request: RunRequest) -> str:
    """``request`` as JSON."""
    plain = {field.name: getattr(request, field.name) for field in fields(request)}
    packed = {
        "messages": [encode(message) for message in request.messages],
        "params": asdict(request.params),
        "client_tools": asdict(request.client_tools),
    }
    return dumps(plain | packed).decode()


def unpack(text: str) -> RunRequest:
    """The request that :func:`pack` wrote.

    :raises UnreadableRequest: anything else.
    """
    try:
        return _request(loads(text.encode()))
    except (InvalidJson, UnreadableEntry, TypeError, KeyError, UnicodeEncodeError) as error:
        raise UnreadableRequest(str(error)) from None


def _request(value: JsonValue) -> RunRequest:
    others: dict[str, Any] = dict(value) if isinstance(value, dict) else {}
    match others.pop("messages", None), others.pop("params", None), others.pop("client_tools", {}):
        case [*messages], dict(params), dict(tools):
            return RunRequest(
                messages=tuple(map(decode, messages)),
                params=_params(params),
                client_tools=_client_tools(tools),
                **others,
            )
    raise UnreadableRequest("not a request")


def _params(value: dict[str, Any]) -> SamplingParams:
    return SamplingParams(**{**value, "stop": tuple(value.get("stop") or ())})


def _client_tools(value: dict[str, Any]) -> ClientTools:
    if not value:  # packed by a gateway that knew of none
        return NO_CLIENT_TOOLS
    specs = tuple(ToolSpec(**spec) for spec in value["specs"])
    return ClientTools(specs, ToolChoice(**value["choice"]), value["parallel"])
