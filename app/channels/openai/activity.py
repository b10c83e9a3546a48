"""What the agent does with its own tools, as lines of a stream that other clients do not see.

They are comments of server-sent events. A frame with an event type of its own would reach people as a
chunk without choices: official SDKs hand out every frame's data, whatever its type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from ...events import RunEvent, ToolFinished, ToolStarted
from ...wire import dumps

Encode: TypeAlias = Callable[[Sequence[RunEvent]], bytes]

_ACTIVITY = (ToolStarted, ToolFinished)


def shows_tools(headers: Mapping[str, str]) -> bool:
    """Whether ``x-openclaw-events``, a list of names, asks for it. Names that nobody knows ask for nothing.

    :param headers: names in lower case.
    """
    wanted = headers.get("x-openclaw-events")
    return wanted is not None and "tools" in (name.strip().lower() for name in wanted.split(","))


def with_tools(encode: Encode) -> Encode:
    """``encode``, and between its chunks a comment for each tool call that begins or ends."""

    def encode_all(events: Sequence[RunEvent]) -> bytes:
        pieces: list[bytes] = []
        for is_activity, group in groupby(events, lambda event: isinstance(event, _ACTIVITY)):
            alike = list(group)
            pieces += map(_comment, alike) if is_activity else [encode(alike)]
        return b"".join(pieces)

    return encode_all


def _comment(event: RunEvent) -> bytes:
    return b": openclaw " + dumps(_described(event)) + b"\n\n"


def _described(event: RunEvent) -> dict[str, Any]:
    if isinstance(event, ToolStarted):
        return {"type": "tool.started", "id": event.call_id, "name": event.name, "arguments": event.arguments}
    assert isinstance(event, ToolFinished)
    return {"type": "tool.finished", "id": event.call_id, "name": event.name, "is_error": event.is_error}
