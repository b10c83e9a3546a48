"""What happened in a session while nobody was talking in it, kept for its next turn."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict

from ..bus import Bus
from ..wire import InvalidJson, dumps, loads

_LINES, _SESSIONS, _LENGTH = 20, 1_000, 2_000
_TOPIC = "news"


class NewsBoard:
    """A few lines per session, handed out once. In memory; any thread may call any method.

    Where several processes serve one gateway, all of them keep the lines: the next turn may be any one's.
    """

    def __init__(self, bus: Bus | None = None) -> None:
        """:param bus: on which the other processes are, if there may be some."""
        self._lock = threading.Lock()  # guards _lines
        self._lines: OrderedDict[str, list[str]] = OrderedDict()
        self._bus = bus if bus is not None and bus.shared else None
        self._me = uuid.uuid4().hex
        if self._bus is not None:
            self._bus.subscribe(_TOPIC, self._hear)

    def post(self, session_key: str, line: str) -> None:
        """Leave a line; the oldest lines and the longest untouched sessions make room."""
        self._keep(session_key, line[:_LENGTH])
        if self._bus is not None:
            self._bus.publish(_TOPIC, dumps([self._me, session_key, line[:_LENGTH]]))

    def take(self, session_key: str) -> list[str]:
        """All lines of a session, which are then gone."""
        lines = self._forget(session_key)
        if lines and self._bus is not None:
            self._bus.publish(_TOPIC, dumps([self._me, session_key]))
        return lines

    def _keep(self, session_key: str, line: str) -> None:
        with self._lock:
            lines = self._lines.setdefault(session_key, [])
            lines.append(line)
            del lines[:-_LINES]
            self._lines.move_to_end(session_key)
            while len(self._lines) > _SESSIONS:
                self._lines.popitem(last=False)

    def _forget(self, session_key: str) -> list[str]:
        with self._lock:
            return self._lines.pop(session_key, [])

    def _hear(self, message: bytes) -> None:
        """Another process has left a line, or taken those of a session."""
        try:
            said = loads(message)
        except InvalidJson:
            return
        match said:
            case [str(sender), *_] if sender == self._me:
                return
            case [_, str(session_key), str(line)]:
                self._keep(session_key, line)
            case [_, str(session_key)]:
                self._forget(session_key)
