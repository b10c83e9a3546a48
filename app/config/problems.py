"""Mistakes in the configuration, in words: where, what, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

from .schema import served_keys
from .unserved import UNSERVED, pattern_of

_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]*")
# A running gateway reads its configuration again, and each guess what was meant takes a millisecond.
_MOST = 100
_TEXTS = {
    "missing": "is required",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "mapping_type": "must be an object",
    "tuple_type": "must be a list",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}


def key_path(steps: Iterable[str | int]) -> str:
    """The way to a value as one would write it: `agents.list[0].model`."""
    path = "".join(_step(step) for step in steps)
    return path.removeprefix(".") or "the configuration"


def describe(error: ValidationError) -> list[str]:
    """One line per mistake, 100 of them at most; never a value, for a value may be a secret."""
    mistakes = error.errors(include_input=False, include_url=False)
    lines = [_line(mistake["loc"], mistake["type"], mistake["msg"]) for mistake in mistakes[:_MOST]]
    return lines if len(mistakes) <= _MOST else [*lines, f"{len(mistakes) - _MOST} more mistakes"]


def _line(loc: tuple[str | int, ...], kind: str, message: str) -> str:
    steps = loc[:-1] if loc and loc[-1] == "[key]" else loc
    if kind == "extra_forbidden":
        return f"{key_path(steps)}: unknown key{_suggestion(steps)}"
    text = _TEXTS.get(kind) or message.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{key_path(steps)}: {text}"


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _PLAIN_KEY.fullmatch(step) else f"[{step!r}]"


def _suggestion(steps: tuple[str | int, ...]) -> str:
    key = str(steps[-1])
    parent = pattern_of(steps[:-1])
    prefix = f"{parent}." if parent else ""
    served = served_keys()
    here = [name.removeprefix(prefix) for name in served if name.startswith(prefix)]
    known = {name.lower(): name for name in (*here, *UNSERVED.get(parent, ())) if not set(name) & set(".[*")}
    if close := get_close_matches(key.lower(), known, n=1):
        return f'; did you mean "{known[close[0]]}"?'
    elsewhere = [name for name in served if name.rpartition(".")[2] == key]
    return f"; did you mean {elsewhere[0]}?" if len(elsewhere) == 1 else ""
