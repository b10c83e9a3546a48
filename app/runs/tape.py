"""A run's events in order, packed small, and the oldest dropped when they take too much room."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from sys import getsizeof

from ..events import ReasoningDelta, RunEvent, TextDelta

_BLOCK_EVENTS = 256
_BLOCK_BYTES = 64 * 1024

_OTHER, _TEXT, _REASONING = range(3)


class Tape:
    """Events numbered from 1, in the order of their coming. Not thread-safe.

    A model's answer comes a few letters at a time, and an object for each would take many times the
    room of the letters: blocks of events keep their texts as one and remember where each ended.

    :ivar size: about how many bytes of memory the events take.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: bytes; beyond it the oldest events go, the newest stays whatever its size."""
        self.size = 0
        self._limit = limit
        self._blocks: list[_Block] = []
        self._fresh: list[RunEvent] = []  # those that are not packed yet
        self._fresh_size = 0
        self._packed = 0  # the number of the last event that is in a block, or was

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._packed + len(self._fresh)

    @property
    def lost(self) -> int:
        """The number of the newest event that was dropped, 0 if all are there."""
        return self._blocks[0].before if self._blocks else self._packed

    def append(self, event: RunEvent) -> None:
        """Add the next event."""
        size = _size_of(event)
        self._fresh.append(event)
        self._fresh_size += size
        self.size += size
        if len(self._fresh) >= _BLOCK_EVENTS or self._fresh_size >= _BLOCK_BYTES:
            self._pack()
        if self.size > self._limit:
            self.trim(self._limit)

    def after(self, number: int) -> list[RunEvent]:
        """Some of the events that follow event ``number``, in order; none only if there are none.

        :raises LookupError: the next one was dropped.
        """
        if number < self.lost:
            raise LookupError(number)
        if number >= self._packed:
            return self._fresh[number - self._packed :]
        block = self._blocks[bisect_right(self._blocks, number, key=lambda block: block.before) - 1]
        return block.events()[number - block.before :]

    def trim(self, size: int) -> None:
        """Drop the oldest events until the others take ``size`` bytes, or only the newest are left."""
        dropped = 0
        while self.size > size and dropped < len(self._blocks) - (not self._fresh):
            self.size -= self._blocks[dropped].size
            dropped += 1
        del self._blocks[:dropped]

    def _pack(self) -> None:
        block = _Block(self._packed, self._fresh)
        self._blocks.append(block)
        self._packed += len(self._fresh)
        self.size += block.size - self._fresh_size
        self._fresh, self._fresh_size = [], 0


class _Block:
    """Consecutive events; ``before`` is the number of the one before the first."""

    __slots__ = ("_ends", "_kinds", "_others", "_text", "before", "size")

    def __init__(self, before: int, events: Sequence[RunEvent]) -> None:
        self.before = before
        self._kinds = bytes(_kind_of(event) for event in events)
        self._ends = array("Q")
        self._others = [event for event in events if _kind_of(event) == _OTHER]
        pieces: list[str] = []
        end = 0
        for event in events:
            if isinstance(event, TextDelta | ReasoningDelta):
                pieces.append(event.text)
                end += len(event.text)
            self._ends.append(end)
        self._text = "".join(pieces)
        self.size = getsizeof(self._text) + 9 * len(events) + 400 + sum(map(_size_of, self._others))

    def events(self) -> list[RunEvent]:
        """The events, as they were."""
        others = iter(self._others)
        start = 0
        events: list[RunEvent] = []
        for kind, end in zip(self._kinds, self._ends, strict=True):
            if kind == _OTHER:
                events.append(next(others))
            else:
                text = self._text[start:end]
                events.append(TextDelta(text) if kind == _TEXT else ReasoningDelta(text))
            start = end
        return events


def _kind_of(event: RunEvent) -> int:
    if isinstance(event, TextDelta):
        return _TEXT
    return _REASONING if isinstance(event, ReasoningDelta) else _OTHER


def _size_of(value: object) -> int:
    """About how many bytes an event, or a part of it, takes."""
    if isinstance(value, str):
        return getsizeof(value)
    if isinstance(value, tuple):
        return 64 + sum(map(_size_of, value))
    return 64 + sum(_size_of(getattr(value, name)) for name in getattr(type(value), "__slots__", ()))
