"""JSON schemas of callers: judged here if that is quickly done, else in a process of its own.

A schema can be made to take for ever: by a pattern, or by parts that refer to others over and
over. How much work it is at most can be told from looking at it.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from ..cancel import CancelToken
from ..messages import JsonObject, JsonValue
from ..tools.child import run_child
from ..tools.registry import ToolError
from ..wire import dumps, loads
from . import schema_child

LARGEST = 128 * 1024  # bytes of a schema that is taken

_PROGRAM = Path(schema_child.__file__)
_SECONDS = 3.0
_TOO_MUCH = f"It cannot be checked within {_SECONDS:g} seconds."
# Bytes of a schema, and parts and values in it, that are checked within some ten milliseconds.
_QUICK_SCHEMA = 8 * 1024
_QUICK_PARTS = 200
_QUICK_VALUES = 400
_QUICK_VALUE = 15_000  # a value beside a part of a schema takes some three microseconds
_CHARACTERS = 64  # that cost as much as a value
_SLOW = {
    "pattern": str,
    "patternProperties": dict,
    "unevaluatedItems": bool | dict,
    "unevaluatedProperties": bool | dict,
}


def schema_fault(schema: JsonObject) -> str | None:
    """What is wrong with a schema, as a sentence; None if answers can be judged by it."""
    text = dumps(schema)
    if len(text) > LARGEST:
        return f"It is {len(text)} bytes long; at most {LARGEST} are taken."
    try:
        return _fault_of(text)
    except ToolError:
        return _TOO_MUCH


@lru_cache(maxsize=64)  # clients send the same few all the time; a usual one takes some milliseconds
def _fault_of(text: bytes) -> str | None:
    schema: Any = loads(text)
    if _is_quick(text):
        with suppress(schema_child.Intricate):
            return schema_child.schema_fault(schema, intricate=False)
    return _ask({"schema": schema}, CancelToken())


def _is_quick(text: bytes) -> bool:
    """True for a schema that is small, and has no pattern: to read one may take as long as to match it."""
    parts = sum(map(text.count, (b"{", b"true", b"false")))
    values = text.count(b",")
    small = len(text) <= _QUICK_SCHEMA and parts <= _QUICK_PARTS and values <= _QUICK_VALUES
    return small and b'"pattern' not in text


def value_fault(schema: JsonObject, value: JsonValue, cancel: CancelToken) -> str | None:
    """What of ``value`` is not as a schema without faults wants it; a short text for a model.

    :raises Cancelled: soon after ``cancel`` fires.
    """
    if _work(schema, value) <= _QUICK_VALUE:
        return schema_child.value_fault(dict(schema), value)
    try:
        return _ask({"schema": dict(schema), "value": value}, cancel)
    except ToolError:
        return _TOO_MUCH


def _ask(job: dict[str, JsonValue], cancel: CancelToken) -> str | None:
    """:raises ToolError: out of time or memory."""
    answer = run_child(_PROGRAM, job, timeout=_SECONDS, cancel=cancel)
    fault = answer.get("fault") if isinstance(answer, dict) else None
    return fault if isinstance(fault, str) else None


def _work(schema: JsonObject, value: JsonValue) -> float:
    """At most how often a part of the value is held against a part of the schema."""
    try:
        text = dumps(value)
        values = sum(map(text.count, (b",", b":", b"[", b"{"))) + len(text) // _CHARACTERS + 1
        return values * _Weight(schema).of(schema)
    except (RecursionError, LookupError):
        return inf


class _Weight:
    """Counts the parts of a schema, those it refers to as often as it does."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._known: dict[int, float] = {}  # by identity: one part may be referred to in many spellings

    def of(self, part: Any) -> float:
        """Infinite for what repeats itself or cannot be judged by its size."""
        if isinstance(part, list):
            return len(part) + sum(map(self.of, part))
        if not isinstance(part, dict):
            return 0
        if id(part) not in self._known:
            self._known[id(part)] = inf  # should it come back to itself
            self._known[id(part)] = self._weigh(part)
        return self._known[id(part)]

    def _weigh(self, part: dict[str, Any]) -> float:
        if any(isinstance(part.get(name), kind) for name, kind in _SLOW.items()):
            return inf
        ref = part.get("$ref")
        target = self.of(schema_child.target(self._root, ref)) if isinstance(ref, str) else 0
        return 1 + sum(map(self.of, part.values())) + target
