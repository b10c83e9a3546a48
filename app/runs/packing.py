"""A run's request as text, for a run that waits in the store, and back. Pure."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from ..messages import JsonValue, SamplingParams
from ..sessions.entries import UnreadableEntry, decode, encode
from ..wire import InvalidJson, dumps, loads
from .run import RunRequest


class UnreadableRequest(ValueError):
    """The text is not a request that this version of the gateway can read."""


def pack(request: RunRequest) -> str:
    """``request`` as JSON."""
    plain = {field.name: getattr(request, field.name) for field in fields(request)}
    packed = {"messages": [encode(message) for message in request.messages], "params": asdict(request.params)}
    return dumps(plain | packed).decode()


def unpack(text: str) -> RunRequest:
    """The request that :func:`pack` wrote.

    :raises UnreadableRequest: anything else.
    """
    try:
        return _request(loads(text.encode()))
    except (InvalidJson, UnreadableEntry, TypeError, UnicodeEncodeError) as error:
        raise UnreadableRequest(str(error)) from None


def _request(value: JsonValue) -> RunRequest:
    others: dict[str, Any] = dict(value) if isinstance(value, dict) else {}
    match others.pop("messages", None), others.pop("params", None):
        case [*messages], dict(params):
            return RunRequest(messages=tuple(map(decode, messages)), params=_params(params), **others)
    raise UnreadableRequest("not a request")


def _params(value: dict[str, Any]) -> SamplingParams:
    return SamplingParams(**{**value, "stop": tuple(value.get("stop") or ())})
