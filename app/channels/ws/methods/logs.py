"""The newest log lines."""

from __future__ import annotations

from ....log import LogTail, kept_lines
from ....messages import JsonValue
from ..context import Channel
from ..protocol import Call, Method, Methods, count
from ..views import Json

_NAME = "openclaw.log"  # there is no file; clients show this where they show its name
_LINES, _MOST_LINES = 500, 5_000
_BYTES, _MOST_BYTES = 250_000, 1_000_000


def methods(_: Channel) -> Methods:
    """The log's end."""
    return {"logs.tail": Method("operator.read", _tail)}


def _tail(call: Call) -> Json:
    cursor = count(call.params, "cursor", call.method, default=-1, most=2**53)
    limit = count(call.params, "limit", call.method, default=_LINES, most=_MOST_LINES, least=1)
    size = count(call.params, "maxBytes", call.method, default=_BYTES, most=_MOST_BYTES, least=1)
    kept = kept_lines()
    if kept is None:  # the application has a log of its own
        tail = LogTail((), 0, truncated=False, reset=cursor > 0)
    else:
        tail = kept.tail(None if cursor < 0 else cursor, lines=limit, size=size)
    lines: list[JsonValue] = list(tail.lines)
    return {
        "file": _NAME,
        "cursor": tail.cursor,
        "size": tail.cursor,
        "lines": lines,
        "truncated": tail.truncated,
        "reset": tail.reset,
    }
