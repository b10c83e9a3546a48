"""What a model wrote as the arguments of its tool calls, made fit to run and to send back.

Small models forget how JSON escapes a line break or leave a comma behind. What they meant is
read where that is beyond doubt; everything else goes back to them with the place of the
mistake. The calls that stay in the conversation are always valid JSON: a provider that gets
its own model's broken text back refuses the whole conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import pyjson5

from ..messages import JsonValue, ToolCall
from ..providers.streaming import unique
from ..tools.registry import ToolError
from ..wire import InvalidJson, clean, dumps, loads

_JSON5_LIMIT = 256_000
_AROUND = 40

# JSON5 drops the backslash of an escape it does not know, and of a line's end: a regular
# expression or a path would silently become another one.
_UNKNOWN_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*\\(?![\\/"'bfnrtu])""")
# Read without complaint, but not by every provider: surrogates, escaped or not, and a byte-order mark.
_UNUSUAL = re.compile("\\\\u[dD][89a-fA-F]|[\ud800-\udfff]|^\ufeff")


def parse_arguments(text: str) -> dict[str, JsonValue]:
    """The arguments in ``text``; blank text stands for none.

    Line breaks inside of texts, trailing commas, comments, single quotes and bare names are
    understood. Nothing is completed that was cut off.

    :raises ToolError: it is not an object, or not readable; says where.
    """
    value = _read(text) if text.strip() else {}
    if not isinstance(value, dict):
        raise ToolError("The arguments must be one JSON object. Send the call again with such arguments.")
    return value


def clean_calls(calls: Sequence[ToolCall]) -> tuple[tuple[ToolCall, ...], dict[str, str]]:
    """The same calls, each with an id of its own and a JSON object as its arguments.

    Returns them and what is wrong with some, by their new ids: the arguments of such a call
    are empty, it must not be run, and the text is its result.
    """
    taken: set[str] = set()
    problems: dict[str, str] = {}
    cleaned: list[ToolCall] = []
    for number, call in enumerate(calls, 1):
        call_id = unique(call.id or f"call_{number}", taken)
        try:
            arguments = _as_json(call.arguments)
        except ToolError as error:
            arguments, problems[call_id] = "{}", str(error)
        cleaned.append(replace(call, id=call_id, arguments=arguments))
    return tuple(cleaned), problems


def _as_json(text: str) -> str:
    """``text`` as it is if everybody can read it, else the same arguments in strict JSON."""
    arguments = parse_arguments(text)
    try:
        loads(clean(text).encode())
    except InvalidJson:
        return dumps(arguments).decode()
    return dumps(arguments).decode() if _UNUSUAL.search(text) else text


def _read(text: str) -> JsonValue:
    try:
        return loads(clean(text).encode())
    except InvalidJson as error:
        return _read_leniently(text, str(error))


def _read_leniently(text: str, fault: str) -> JsonValue:
    """:param fault: what a strict reader says of it."""
    try:
        return _plain(json.loads(text, strict=False, parse_constant=_refuse))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        near = text[max(0, error.pos - _AROUND) : error.pos + _AROUND]
        fault = f"{error.msg.removesuffix(' at').lower()} at {place}, near {clean(near)!r}"
    except (ValueError, RecursionError):
        pass  # a number or a depth that nobody can read: the strict reader has said so
    try:
        return _read_json5(text)
    except (ValueError, RecursionError, pyjson5.Json5Exception):
        raise ToolError(
            f"The arguments are not valid JSON: {fault}. Send the call again, corrected."
        ) from None


def _read_json5(text: str) -> JsonValue:
    if len(text) > _JSON5_LIMIT or _UNKNOWN_ESCAPE.search(text):
        raise ValueError("not to be guessed at")
    return _plain(pyjson5.decode(text))


def _plain(value: object) -> JsonValue:
    """``value`` as strict JSON has it.

    :raises ValueError: it holds a number that is none in JSON.
    """
    return loads(json.dumps(value, allow_nan=False).encode())


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
