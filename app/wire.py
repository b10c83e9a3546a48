"""JSON at the edges: strict on what comes in, compact UTF-8 on what goes out.

orjson does the work. Where it refuses what other JSON writers produce (a lone surrogate
escape, an integer over 64 bits), the standard library takes over and lone surrogates
become U+FFFD, so that every string inside the gateway can be encoded.
"""

from __future__ import annotations

import json
from math import isinf
from typing import Any, NoReturn

import orjson

from .messages import JsonValue

_BOM = b"\xef\xbb\xbf"


class InvalidJson(ValueError):
    """The text is not JSON; the message says where, in words of our own."""


def loads(data: bytes) -> JsonValue:
    """Parse UTF-8 JSON; a byte-order mark is allowed, NaN and Infinity are not.

    :raises InvalidJson: not UTF-8, not JSON, or nested too deeply.
    """
    data = data.removeprefix(_BOM)
    try:
        return orjson.loads(data)  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        return _loads_leniently(data)


def dumps(value: Any) -> bytes:
    """Compact UTF-8 JSON. ``value`` holds plain JSON types; lone surrogates are replaced."""
    try:
        return orjson.dumps(value)
    except TypeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return clean(text).encode()


def canonical(value: Any) -> bytes:
    """JSON that is the same for equal values of plain JSON types, whatever the order of their keys.

    :raises RecursionError: nested too deeply.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, sort_keys=True).encode()


def clean(text: str) -> str:
    """``text`` with every lone surrogate replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _loads_leniently(data: bytes) -> JsonValue:
    try:
        text = data.decode()
        return _cleaned(
            json.loads(text, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_finite)
        )
    except UnicodeDecodeError as error:
        raise InvalidJson(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidJson(f"{error.msg.lower()} at {where}") from None
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidJson(str(error)) from None


def _cleaned(value: Any) -> JsonValue:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(item) for key, item in value.items()}
    return value  # type: ignore[no-any-return]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts
        raise ValueError("a number is too large") from None


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):  # no other JSON writer could send it on
        raise ValueError("a number is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
