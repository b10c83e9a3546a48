"""Logs in memory: numbered entries, the newest of them kept for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

MOST_ENTRIES = 2_000
MOST_BYTES = 4 * 2**20

_TOTAL_BYTES = 32 * 2**20
_LOG_BYTES, _ENTRY_BYTES = 400, 50  # what they take besides their contents, about


@dataclass(slots=True)
class _Log:
    until: float
    last: int = 0  # the number of the newest entry
    size: int = _LOG_BYTES
    entries: deque[bytes] = field(default_factory=deque)

    @property
    def lost(self) -> int:
        """The number of the newest entry that was dropped."""
        return self.last - len(self.entries)

    def add(self, entry: bytes) -> None:
        self.entries.append(entry)
        self.last += 1
        self.size += len(entry) + _ENTRY_BYTES
        while len(self.entries) > 1 and (len(self.entries) > MOST_ENTRIES or self.size > MOST_BYTES):
            self.size -= len(self.entries.popleft()) + _ENTRY_BYTES

    def after(self, number: int) -> list[tuple[int, bytes]]:
        skip = max(0, number - self.lost)
        return list(enumerate(islice(self.entries, skip, None), self.lost + skip + 1))


class Logs:
    """Logs by name, bounded in memory. Not thread-safe; the caller tells the time."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}  # the longest untouched first
        self._size = 0

    def __len__(self) -> int:
        return len(self._logs)

    def __contains__(self, name: str) -> bool:
        return name in self._logs

    def add(self, name: str, entries: Sequence[bytes], until: float, now: float) -> tuple[int, int]:
        """Add to a log; the number before the first of ``entries``, and the newest that is not kept."""
        log = self._pop(name, now) or _Log(until)
        before = log.last
        log.until = until
        for entry in entries:
            log.add(entry)
        self._logs[name] = log
        self._size += log.size
        self._make_room(now)
        return before, log.lost

    def after(self, name: str, number: int, now: float) -> list[tuple[int, bytes]]:
        """The numbered entries behind ``number``."""
        log = self._logs.get(name)
        return log.after(number) if log is not None and log.until > now else []

    def kept(self, now: float) -> Iterator[tuple[str, int, float]]:
        """Name, number of the newest entry and seconds left of every log."""
        logs = list(self._logs.items())
        return ((name, log.last, log.until - now) for name, log in logs if log.until > now)

    def _pop(self, name: str, now: float) -> _Log | None:
        log = self._logs.pop(name, None)
        if log is not None:
            self._size -= log.size
        return log if log is not None and log.until > now else None

    def _make_room(self, now: float) -> None:
        while len(self._logs) > 1:
            name, oldest = next(iter(self._logs.items()))
            if oldest.until > now and self._size <= _TOTAL_BYTES:
                return
            self._pop(name, now)
