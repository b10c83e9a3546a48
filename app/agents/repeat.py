"""Notices when a model calls the same tools over and over and learns nothing new from them."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from typing import Literal, TypeAlias

from ..messages import JsonValue
from ..wire import InvalidJson, loads

Verdict: TypeAlias = Literal["fine", "notice", "stop"]

# Rounds of the same calls with the same results after which a model is told, and stopped.
_PATIENCE = (3, 5)
_PATIENCE_WITH_POLLERS = (20, 30)
# A call repeated, and two calls in turn.
_PERIODS = (1, 2)


class RepeatGuard:
    """Watches the tool calls of one turn, in one thread."""

    def __init__(self) -> None:
        longest = max(_PERIODS) * _PATIENCE_WITH_POLLERS[1]
        self._seen: deque[tuple[bytes, bool]] = deque(maxlen=longest)

    def seen(self, name: str, arguments: str, result: str) -> Verdict:
        """Take note of a call and its result, and say what to do about it.

        :param arguments: JSON text; spelling does not matter, what it says does.
        :param result: as the tool gave it, without any notice of ours.
        """
        value = _value(arguments)
        call = repr((name, _canonical(value, arguments), result)).encode(errors="replace")
        self._seen.append((hashlib.sha256(call).digest(), _is_poller(name, value)))
        verdicts = [self._verdict(period) for period in _PERIODS]
        return max(verdicts, key=("fine", "notice", "stop").index)

    def _verdict(self, period: int) -> Verdict:
        rounds = self._repeated(period) // period
        polling = any(poller for _, poller in list(self._seen)[-period:])
        notice, stop = _PATIENCE_WITH_POLLERS if polling else _PATIENCE
        if rounds >= stop:
            return "stop"
        return "notice" if rounds >= notice else "fine"

    def _repeated(self, period: int) -> int:
        """How many of the latest calls are the same ``period`` calls, again and again."""
        calls = [digest for digest, _ in self._seen]
        count = min(period, len(calls))
        while count < len(calls) and calls[-count - 1] == calls[-count - 1 + period]:
            count += 1
        return count


def _value(arguments: str) -> JsonValue:
    try:
        return loads(arguments.encode(errors="replace"))
    except InvalidJson:
        return arguments


def _canonical(value: JsonValue, text: str) -> str:
    """The same text for all spellings of ``value``; ``text`` itself if it is nested too deeply."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return text


def _is_poller(name: str, arguments: JsonValue) -> bool:
    """True for a call whose purpose is to be made again until something has changed."""
    if name == "process":
        return isinstance(arguments, dict) and arguments.get("action") == "poll"
    return name == "sessions_history"
