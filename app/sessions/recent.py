"""Conversations that were read lately, so that a turn reads only what is new in its own."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from .records import Entry

_MOST = 16 * 1024 * 1024


class Known(NamedTuple):
    """What is known of a session: its entries from ``first`` on, and how many characters they are."""

    first: int
    entries: tuple[Entry, ...]
    size: int


NOTHING = Known(0, (), 0)


class Recent:
    """The entries of the sessions that were read last. Any thread may call any method.

    An entry never changes, and a session's id is never given out twice: what is kept can only be too
    little, unless a database has lost what it had confirmed. Whoever reads on has to look out for that.
    """

    def __init__(self, most: int = _MOST) -> None:
        """:param most: characters of all that is kept."""
        self._most = most
        self._lock = threading.Lock()  # guards everything below
        self._kept: OrderedDict[str, Known] = OrderedDict()  # by session id; the last one read comes last
        self._size = 0

    def known(self, session_id: str, first: int) -> Known:
        """What is kept of a session, if that begins with the entry ``first``."""
        with self._lock:
            kept = self._kept.get(session_id, NOTHING)
            return kept if kept.first == first else NOTHING

    def keep(self, session_id: str, known: Known) -> None:
        """Keep this of a session, and nothing else; those that were not read for the longest time go."""
        with self._lock:
            self._size += known.size - self._kept.pop(session_id, NOTHING).size
            self._kept[session_id] = known
            while self._size > self._most:
                self._size -= self._kept.popitem(last=False)[1].size
