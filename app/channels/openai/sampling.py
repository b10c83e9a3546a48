"""Sampling parameters of a request. Pure."""

from __future__ import annotations

from ...messages import JsonObject, JsonValue, SamplingParams
from .fields import integer, invalid, number, string

_SAFE_INTEGER = 2**53 - 1
_DEEPEST_SCHEMA = 100


def parse_sampling(body: JsonObject) -> SamplingParams:
    """How the caller wants the model to write."""
    longest = integer(body, "max_completion_tokens", 1, _SAFE_INTEGER)
    legacy = integer(body, "max_tokens", 1, _SAFE_INTEGER)
    return SamplingParams(
        temperature=number(body, "temperature", 0, 2),
        top_p=number(body, "top_p", 0, 1),
        max_tokens=legacy if longest is None else longest,
        frequency_penalty=number(body, "frequency_penalty", -2, 2),
        presence_penalty=number(body, "presence_penalty", -2, 2),
        seed=integer(body, "seed", -(2**63), 2**63 - 1),
        stop=_stop(body.get("stop")),
        response_format=_response_format(body.get("response_format")),
        reasoning_effort=string(body, "reasoning_effort"),
    )


def _stop(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ()
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise invalid("stop", "must be a string or an array of strings")
    if len(entries) > 4:
        raise invalid("stop", "supports at most 4 sequences")
    if not all(isinstance(entry, str) and entry for entry in entries):
        raise invalid("stop", "entries must be non-empty strings")
    return tuple(str(entry) for entry in entries)


def _response_format(value: JsonValue) -> JsonObject | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid("response_format", "must be an object")
    kind = value.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise invalid("response_format.type", "must be text, json_object or json_schema")
    if kind == "json_schema" and not isinstance(value.get("json_schema"), dict):
        raise invalid("response_format.json_schema", "must be an object")
    if _is_deeper(value, _DEEPEST_SCHEMA):  # JSON that can be read but not be written again
        raise invalid("response_format", "is nested too deeply")
    return None if kind == "text" else value


def _is_deeper(value: JsonValue, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)
