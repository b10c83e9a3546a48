"""The events of a response as server-sent events, numbered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ....events import TERMINAL, RunEvent
from ....wire import dumps
from ..chunks import DONE
from .answer import Answer, WireEvent


class EventWriter:
    """Writes the events of one response for one reader.

    :param after: the number of the last event that the reader has; -1 if it has none.
    """

    def __init__(self, answer: Answer, after: int = -1) -> None:
        self._answer = answer
        self._after = after
        self._number = -1

    def opening(self) -> bytes:
        """The events before anything has happened."""
        return self._write(self._answer.opening())

    def encode(self, events: Sequence[RunEvent]) -> bytes:
        """The events for what has happened in the run; after the last one comes ``[DONE]``.

        OpenAI itself ends without it, but the Open Responses specification demands it, and no SDK minds.
        """
        written = b"".join(self._write(self._answer.feed(event)) for event in events)
        return written + DONE if events and isinstance(events[-1], TERMINAL) else written

    def _write(self, events: Iterable[WireEvent]) -> bytes:
        return b"".join(self._numbered(kind, fields) for kind, fields in events)

    def _numbered(self, kind: str, fields: dict[str, Any]) -> bytes:
        self._number += 1
        if self._number <= self._after:
            return b""
        data = dumps({"type": kind, "sequence_number": self._number, **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
