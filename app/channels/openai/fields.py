"""Typed fields of a JSON request; what is wrong is named by its place. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import InvalidRequest
from ...messages import JsonObject, JsonValue


def string(body: JsonObject, name: str, where: str | None = None) -> str | None:
    """A text, or None where there is none.

    :param where: its place, if ``name`` alone does not tell.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(where or name, "must be a string")
    return value


def boolean(body: JsonObject, name: str, where: str | None = None) -> bool:
    """A truth value; what is absent is false.

    :param where: its place, if ``name`` alone does not tell.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(where or name, "must be a boolean")
    return bool(value)


def number(body: JsonObject, name: str, low: float, high: float) -> float | None:
    """A number within its bounds, or None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, "must be a number")
    if not low <= value <= high:
        raise invalid(name, f"must be between {low} and {high}")
    return value


def integer(body: Mapping[str, JsonValue], name: str, low: int, high: int) -> int | None:
    """JSON knows no integers: 5.0 is one, true is not."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise invalid(name, "must be an integer")
    if not low <= value <= high:
        raise invalid(name, f"must be at least {low}" if value < low else f"must be at most {high}")
    return int(value)


def is_deeper(value: JsonValue, levels: int) -> bool:
    """True if objects and arrays in ``value`` are nested more than ``levels`` deep."""
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_deeper(item, levels - 1) for item in items)


def choice(body: JsonObject, name: str, values: Sequence[str], where: str | None = None) -> str | None:
    """One of ``values``, or None where there is none.

    :param where: its place, if ``name`` alone does not tell.
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or value not in values:
        *most, last = values
        raise invalid(where or name, f"must be {', '.join(most)} or {last}")
    return value


def invalid(param: str, problem: str, *, code: str = "invalid_value") -> InvalidRequest:
    """The refusal of a field that is wrong."""
    return InvalidRequest(f"`{param}` {problem}.", param=param, code=code)


def unserved(param: str, message: str) -> InvalidRequest:
    """The refusal of what this gateway does not do."""
    return InvalidRequest(message, param=param, code="unsupported_value")
