"""Answers in JSON: how a model is asked for them in words, and how much less a provider can be asked for.

A ``response_format`` is as OpenAI's chat completions have it. Whatever a provider makes of it,
the agent loop checks the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..messages import JsonObject, JsonValue
from ..wire import dumps
from .base import ModelRequest

_OBJECT = "Your final answer is read by a program: it has to be one JSON object"
_SCHEMA = "Your final answer is read by a program: it has to be JSON that is valid against the schema below"
_BARE = ", and nothing else. No code fence, no words before or after it."

_KEPT = frozenset({"description", "title", "default", "$ref", "type"})
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)


def in_words(response_format: JsonObject) -> str:
    """What is said to a model that nothing else holds to the format."""
    schema = schema_of(response_format)
    if schema is None:
        return _OBJECT + _BARE
    stated = response_format["json_schema"]
    about = stated.get("description") if isinstance(stated, Mapping) else None
    lines = (_SCHEMA + _BARE, about, dumps(schema).decode())
    return "\n".join(line for line in lines if isinstance(line, str))


def schema_of(response_format: JsonObject | None) -> dict[str, JsonValue] | None:
    """The schema that an answer has to fit, if there is one."""
    stated = (response_format or {}).get("json_schema")
    schema = stated.get("schema") if isinstance(stated, dict) else None
    return schema if isinstance(schema, dict) else None


def told(request: ModelRequest) -> ModelRequest:
    """The request with its format in the system text, at the end; once only."""
    wish = in_words(request.params.response_format) if request.params.response_format else ""
    if wish in request.system:
        return request
    return replace(request, system=f"{request.system}\n\n{wish}".lstrip())


def weaker(request: ModelRequest) -> ModelRequest:
    """The request for a provider that objects to its format: without the schema, then without any."""
    stated = request.params.response_format or {}
    schema = schema_of(stated)
    objects = stated.get("type") == "json_schema" and (schema is None or schema.get("type") == "object")
    params = replace(request.params, response_format={"type": "json_object"} if objects else None)
    return replace(told(request), params=params)


class _Inexpressible(Exception):
    """The schema needs what the narrow dialect does not have."""


def narrowed(schema: JsonObject) -> tuple[dict[str, JsonValue] | None, bool]:
    """The schema in the dialect that Anthropic's models are held to, and whether it says all of it.

    Objects in it have no properties but those that are named, and nothing refers to itself. What
    is allowed by it may be forbidden by the schema, where bounds had to be left out; None if
    nothing can be said in it.
    """
    narrowing = _Narrowing()
    try:
        return narrowing.of(schema), narrowing.whole
    except (_Inexpressible, RecursionError):
        return None, False


class _Narrowing:
    """:ivar whole: nothing was left out so far."""

    def __init__(self) -> None:
        self.whole = True
        self._root: Any = None
        self._followed: dict[str, bool] = {}  # whether to the end

    def of(self, schema: Any) -> dict[str, JsonValue]:
        if not isinstance(schema, dict) or not schema:
            raise _Inexpressible
        self._root = self._root or schema
        self._follow(schema.get("$ref"))
        made: dict[str, JsonValue] = {}
        for name, value in schema.items():
            if name in _KEPT:
                made[name] = value
            elif name in ("$defs", "definitions", "properties"):
                made[name] = {key: self.of(inner) for key, inner in value.items()}
            elif name in ("anyOf", "oneOf"):
                made["anyOf"] = [self.of(inner) for inner in value]
                self.whole = self.whole and name == "anyOf"
            elif name == "items":
                made[name] = self.of(value)
            elif name in ("enum", "const"):
                made[name] = _scalars(value if name == "enum" else [value], value)
            elif name in ("allOf", "prefixItems", "patternProperties"):
                raise _Inexpressible
            elif not self._bounded(name, value, made):
                self.whole = False
        return self._closed(schema, made)

    def _bounded(self, name: str, value: Any, made: dict[str, JsonValue]) -> bool:
        """Take over a bound, if the dialect has it."""
        has = (name == "minItems" and value in (0, 1)) or (name == "format" and value in _FORMATS)
        if has:
            made[name] = value
        return has or name in ("required", "additionalProperties", "$schema", "$id", "examples")

    def _closed(self, schema: dict[str, Any], made: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """An object gets no properties that are not named."""
        kind, named = schema.get("type"), schema.get("properties") or {}
        if kind != "object" and "object" not in (kind or ()) and not named:
            return made
        required = schema.get("required", [])
        if isinstance(schema.get("additionalProperties"), dict) or not set(required) <= named.keys():
            raise _Inexpressible
        if not named and schema.get("additionalProperties") is not False:
            raise _Inexpressible
        return made | {"additionalProperties": False} | ({"required": required} if required else {})

    def _follow(self, ref: Any) -> None:
        """Make sure that a reference does not come back to itself."""
        if ref is None or self._followed.get(ref):
            return
        place, _, name = str(ref).rpartition("/")
        target = self._root.get(place.removeprefix("#/"), {}).get(name)
        if place not in ("#/$defs", "#/definitions") or ref in self._followed or not isinstance(target, dict):
            raise _Inexpressible
        self._followed[ref] = False
        self.of(target)
        self._followed[ref] = True


def _scalars(entries: list[Any], value: JsonValue) -> JsonValue:
    if any(isinstance(entry, dict | list) for entry in entries):
        raise _Inexpressible
    return value
