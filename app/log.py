"""Logging: standard library loggers under ``openclaw``, configured only by a stand-alone host.

A host application that embeds the gateway keeps its own set-up; nothing here touches the
root logger. What a line is about, besides its words, is in the record: a mapping of plain values as
its attribute ``fields`` (``extra={"fields": {...}}``), and what the thread works for in its context.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from . import context

_ROOT = "openclaw"
# Its warnings would go to stderr as they are else, headers of clients and of collectors among them.
_LIBRARY = "opentelemetry"
# A shorter one occurs in many a harmless word, and masking it would ruin every line.
_SHORTEST_SECRET = 8
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_MESSAGE = "%(message)s"
_KEPT_BYTES = 2**20
_LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "silent": logging.CRITICAL + 1,
        "fatal": logging.CRITICAL,
        "error": logging.ERROR,
        "warn": logging.WARNING,
        "info": logging.INFO,
        "debug": logging.DEBUG,
        "trace": logging.DEBUG,
    }
)
_LONGEST_LINE = 16_000  # characters of what was said in one of the lines that are kept
# Whoever gets text into a line must not make it look like two, or command a terminal.
_HARMLESS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\t"): "\t",
    ord("\n"): "\n  ",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def get_logger(area: str) -> logging.Logger:
    """The logger of one area of the gateway, ``openclaw.<area>``."""
    return logging.getLogger(f"{_ROOT}.{area}")


def configure_logging(secrets: Iterable[str] = (), level: str = "info", *, as_json: bool = False) -> None:
    """Send the gateway's log lines to stderr and keep the newest, with every one of ``secrets`` masked.

    Secrets shorter than 8 characters are not masked.
    For the stand-alone host only. Calling it again replaces the former set-up.

    :param level: OpenClaw's: ``silent``, ``fatal``, ``error``, ``warn``, ``info``, ``debug`` or ``trace``.
    :param as_json: an object a line, for programs; else text for people.
    """
    masked = tuple(secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Objects(_MESSAGE, masked) if as_json else _Lines(_FORMAT, masked))
    kept = LogRing(_KEPT_BYTES)
    kept.setFormatter(_Redacting(_MESSAGE, masked))
    for name, lowest in ((_ROOT, logging.NOTSET), (_LIBRARY, logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler, kept]
        logger.setLevel(max(_LEVELS[level], lowest))
        logger.propagate = False


def mask(secrets: Iterable[str]) -> None:
    """Mask these secrets, too, wherever :func:`configure_logging` has set logging up."""
    for handler in logging.getLogger(_ROOT).handlers:
        if isinstance(handler.formatter, _Redacting):
            handler.formatter.mask(secrets)


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

    def __init__(self, fmt: str, secrets: Iterable[str]) -> None:
        super().__init__(fmt)
        self._secrets: tuple[str, ...] = ()
        self.mask(secrets)

    def mask(self, secrets: Iterable[str]) -> None:
        """Mask these, too, and as JSON writes them."""
        long = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]
        escaped = (json.dumps(secret)[1:-1] for secret in long)
        # The longest first: one may be the beginning of another, whose end would be left.
        self._secrets = tuple(sorted({*self._secrets, *long, *escaped}, key=len, reverse=True))

    def format(self, record: logging.LogRecord) -> str:
        line = self._written(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line

    def _written(self, record: logging.LogRecord) -> str:
        return super().format(record)


class _Lines(_Redacting):
    """Text. A line that does not say itself for whom it was written says so at its end.

    Only the first line of a record begins at the margin.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if line.isprintable() else line.translate(_HARMLESS)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        line = super().formatMessage(record)
        about = context.current()
        if about.run_id:
            return line if about.run_id in record.message else f"{line} (run {about.run_id})"
        if about.request_id and about.request_id not in record.message:
            return f"{line} (request {about.request_id})"
        return line


class _Objects(_Redacting):
    """JSON, an object a line."""

    def _written(self, record: logging.LogRecord) -> str:
        about = context.current()
        shown: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        known = {"request_id": about.request_id, "run_id": about.run_id, "agent": about.agent_id}
        shown |= {name: value for name, value in known.items() if value}
        shown |= getattr(record, "fields", {})
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown, default=str)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


@lru_cache(maxsize=100)
def _named(area: str) -> str:
    return json.dumps({"subsystem": area})


_compact = json.JSONEncoder(separators=(",", ":")).encode


def _as_json(record: logging.LogRecord, said: str) -> str:
    moment = _moment(record)
    area = record.name.removeprefix(f"{_ROOT}.")
    meta = {"logLevelName": record.levelname, "date": moment, "name": _named(area)}
    return _compact({"0": said, "_meta": meta, "time": moment})


def _size(line: str) -> int:
    return len(line) + 1  # a line is ASCII, and has an end
