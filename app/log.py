"""Logging: standard library loggers under ``openclaw``, configured only by a stand-alone host.

A host application that embeds the gateway keeps its own set-up; nothing here touches the
root logger.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

_ROOT = "openclaw"
# A shorter one occurs in many a harmless word, and masking it would ruin every line.
_SHORTEST_SECRET = 8
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_KEPT_BYTES = 2**20
_LONGEST_LINE = 16_000  # characters of what was said in one of the lines that are kept


def get_logger(area: str) -> logging.Logger:
    """The logger of one area of the gateway, ``openclaw.<area>``."""
    return logging.getLogger(f"{_ROOT}.{area}")


def configure_logging(secrets: Iterable[str] = (), level: int = logging.INFO) -> None:
    """Send the gateway's log lines to stderr and keep the newest, with every one of ``secrets`` masked.

    Secrets shorter than 8 characters are not masked.
    For the stand-alone host only. Calling it again replaces the former set-up.
    """
    masked = tuple(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(_FORMAT, masked))
    kept = LogRing(_KEPT_BYTES)
    kept.setFormatter(_Redacting("%(message)s", masked))
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler, kept]
    root.setLevel(level)
    root.propagate = False


def kept_lines() -> LogRing | None:
    """The newest log lines; None in an application that has a logging set-up of its own."""
    handlers = logging.getLogger(_ROOT).handlers
    return next((handler for handler in handlers if isinstance(handler, LogRing)), None)


@dataclass(frozen=True, slots=True)
class LogTail:
    """Some of the newest lines.

    :ivar cursor: where to go on reading; positions are bytes since the first line.
    :ivar truncated: there were more lines than were asked for.
    :ivar reset: the lines do not follow on those that the reader has seen.
    """

    lines: tuple[str, ...]
    cursor: int
    truncated: bool
    reset: bool


class LogRing(logging.Handler):
    """Keeps the newest lines in memory, as a log file of OpenClaw's would have them.

    A line is a JSON object: what was said is under ``0``, the rest under ``_meta`` and ``time``.
    """

    def __init__(self, capacity: int) -> None:
        """:param capacity: bytes of lines to keep, at most."""
        super().__init__()
        self._capacity = capacity
        # Guarded by the handler's own lock, which whoever calls emit() holds.
        self._lines: deque[str] = deque()
        self._start = 0
        self._end = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; the oldest make room for it."""
        try:
            line = _as_json(record, self.format(record)[:_LONGEST_LINE])
        except Exception:  # as every handler: a bad log call must not end who made it
            self.handleError(record)
            return
        self._lines.append(line)
        self._end += _size(line)
        while self._end - self._start > self._capacity:
            self._start += _size(self._lines.popleft())

    def tail(self, cursor: int | None, *, lines: int, size: int) -> LogTail:
        """What came after ``cursor``, or without one the newest lines. Any thread may call this.

        :param lines: how many at most.
        :param size: bytes at most.
        """
        self.acquire()
        try:
            known = cursor is not None and self._start <= cursor <= self._end
            first = cursor if known and cursor is not None else self._start
            kept, reached = self._newest(first, lines, size)
            end = self._end
        finally:
            self.release()
        cut = reached > first
        return LogTail(kept, end, truncated=cut, reset=cursor is not None and (cut or not known))

    def _newest(self, first: int, lines: int, size: int) -> tuple[tuple[str, ...], int]:
        """The newest lines that begin at or after ``first``, and where the first of them begins."""
        taken: list[str] = []
        position = self._end
        for line in reversed(self._lines):
            begin = position - _size(line)
            if begin < first or len(taken) == lines or self._end - begin > size:
                break
            taken.append(line)
            position = begin
        return tuple(reversed(taken)), position


class _Redacting(logging.Formatter):
    """Masks secrets in the finished line, so that tracebacks are covered too."""

    def __init__(self, fmt: str, secrets: tuple[str, ...]) -> None:
        super().__init__(fmt)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


def _as_json(record: logging.LogRecord, said: str) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    area = record.name.removeprefix(f"{_ROOT}.")
    meta = {"logLevelName": record.levelname, "date": moment, "name": json.dumps({"subsystem": area})}
    return json.dumps({"0": said, "_meta": meta, "time": moment}, separators=(",", ":"))


def _size(line: str) -> int:
    return len(line) + 1  # a line is ASCII, and has an end
