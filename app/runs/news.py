"""What happened in a session while nobody was talking in it, kept for its next turn."""

from __future__ import annotations

import threading
from collections import OrderedDict

_LINES, _SESSIONS, _LENGTH = 20, 1_000, 2_000


class NewsBoard:
    """A few lines per session, handed out once. In memory; any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _lines
        self._lines: OrderedDict[str, list[str]] = OrderedDict()

    def post(self, session_key: str, line: str) -> None:
        """Leave a line; the oldest lines and the longest untouched sessions make room."""
        with self._lock:
            lines = self._lines.setdefault(session_key, [])
            lines.append(line[:_LENGTH])
            del lines[:-_LINES]
            self._lines.move_to_end(session_key)
            while len(self._lines) > _SESSIONS:
                self._lines.popitem(last=False)

    def take(self, session_key: str) -> list[str]:
        """All lines of a session, which are then gone."""
        with self._lock:
            return self._lines.pop(session_key, [])
