"""What form an answer is to have: ``response_format``, and the Responses API's ``text.format``."""

from __future__ import annotations

import re

from ...agents.schemas import schema_fault
from ...messages import JsonObject, JsonValue
from .fields import boolean, choice, invalid, is_deeper, string

_KINDS = ("text", "json_object", "json_schema")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_LONGEST_DESCRIPTION = 4096
_DEEPEST = 100


def parse_response_format(value: JsonValue) -> JsonObject | None:
    """The ``response_format`` of a chat completion, with nothing in it that is not known; None for text.

    A large schema is checked in a process of its own.

    :raises InvalidRequest: it is wrong, or has a schema that answers cannot be judged by.
    """
    stated, kind = _stated(value, "response_format")
    if kind != "json_schema":
        return {"type": kind} if kind else None
    wrapped = stated.get("json_schema")
    if not isinstance(wrapped, dict):
        raise invalid("response_format.json_schema", "must be an object")
    return {"type": kind, "json_schema": _json_schema(wrapped, "response_format.json_schema")}


def parse_text_format(value: JsonValue) -> JsonObject | None:
    """The ``text.format`` of the Responses API as the ``response_format`` that says the same; None for text.

    :raises InvalidRequest: as :func:`parse_response_format` does.
    """
    stated, kind = _stated(value, "text.format")
    if kind != "json_schema":
        return {"type": kind} if kind else None
    return {"type": kind, "json_schema": _json_schema(stated, "text.format")}


def _stated(value: JsonValue, where: str) -> tuple[JsonObject, str | None]:
    """The object, and its type; None if any text will do."""
    if value is None:
        return {}, None
    if not isinstance(value, dict):
        raise invalid(where, "must be an object")
    if is_deeper(value, _DEEPEST):  # JSON that can be read but not be written again
        raise invalid(where, "is nested too deeply")
    kind = choice(value, "type", _KINDS, f"{where}.type")
    if kind is None:
        raise invalid(f"{where}.type", "must be text, json_object or json_schema")
    return value, None if kind == "text" else kind


def _json_schema(stated: JsonObject, where: str) -> dict[str, JsonValue]:
    name = string(stated, "name", f"{where}.name")
    if name is None or not _NAME.fullmatch(name):
        raise invalid(f"{where}.name", "must be 1 to 64 of the characters a-z, A-Z, 0-9, _ and -")
    description = string(stated, "description", f"{where}.description")
    if description and len(description) > _LONGEST_DESCRIPTION:
        raise invalid(f"{where}.description", f"is longer than {_LONGEST_DESCRIPTION} characters")
    fields: dict[str, JsonValue] = {
        "name": name,
        "description": description,
        "schema": _schema(stated, f"{where}.schema"),
        "strict": None if stated.get("strict") is None else boolean(stated, "strict", f"{where}.strict"),
    }
    return {field: entry for field, entry in fields.items() if entry is not None}


def _schema(stated: JsonObject, where: str) -> dict[str, JsonValue] | None:
    schema = stated.get("schema")
    if schema is None:
        return None
    if not isinstance(schema, dict):
        raise invalid(where, "must be an object")
    if fault := schema_fault(schema):
        raise invalid(where, f"is not a JSON schema (Draft 2020-12) that can be used: {fault[:-1]}")
    return schema
