"""Answers in JSON: whether a text is what a ``response_format`` asks for."""

from __future__ import annotations

import re

from ..cancel import CancelToken
from ..messages import JsonObject, JsonValue
from ..wire import InvalidJson, clean, loads
from .schemas import value_fault

_FENCED = re.compile(r"```\w*[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
_BRACKET = re.compile(r"[][{}]")


class OutputViolation(Exception):
    """The text is not what was asked for; says why, to the model."""


def checked_output(response_format: JsonObject | None, text: str, cancel: CancelToken) -> str:
    """The JSON in ``text``, bare, if it is what ``response_format`` asks for.

    A fence around it, and words before and after, are left out if it is the only JSON there.

    :raises OutputViolation: it is not.
    :raises Cancelled: ``cancel`` fired while a large or intricate answer was being checked.
    """
    bare, value = _json_in(clean(text).removeprefix("\ufeff").strip())
    schema = _schema(response_format)
    if schema is None:
        if not isinstance(value, dict):
            raise OutputViolation("It has to be one JSON object.")
    elif fault := value_fault(schema, value, cancel):
        raise OutputViolation(fault)
    return bare


def _schema(response_format: JsonObject | None) -> JsonObject | None:
    """The schema to be met; without one any object will do."""
    stated = (response_format or {}).get("json_schema")
    schema = stated.get("schema") if isinstance(stated, dict) else None
    return schema if isinstance(schema, dict) else None


def _json_in(text: str) -> tuple[str, JsonValue]:
    """The one JSON value in ``text``: as it is written, and what it says."""
    try:
        return text, loads(text.encode())
    except InvalidJson as error:
        fault = error
    for part in _candidates(text):
        try:
            return part, loads(part.encode())
        except InvalidJson:
            continue
    raise OutputViolation(f"It is not JSON: {fault}.")


def _candidates(text: str) -> list[str]:
    """What may be the JSON in a text that is more than JSON: all that is fenced or bracketed."""
    found = []
    if fenced := _FENCED.fullmatch(text):
        found.append(fenced[1].strip())
    begin = min((at for at in map(text.find, _CLOSING) if at >= 0), default=-1)
    if begin >= 0:
        end = text.rfind(_CLOSING[text[begin]]) + 1
        if not _BRACKET.search(text, end):
            found.append(text[begin:end])
    return found
