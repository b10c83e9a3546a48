"""Pages that were read a moment ago."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """What the model gets to see of a web address, before it is cut to length.

    :ivar url: where it came from after all redirects.
    """

    url: str
    status: int
    title: str
    text: str


class PageCache:
    """Keeps pages for a while; the ones not asked for longest go when space runs out. Any thread."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # guards the two below
        self._pages: OrderedDict[tuple[str, str], tuple[float, int, Page]] = OrderedDict()
        self._bytes = 0

    def get(self, url: str, mode: str) -> Page | None:
        """The page, unless it is too old."""
        with self._lock:
            kept = self._pages.get((url, mode))
            if kept is None:
                return None
            if time.monotonic() >= kept[0]:
                self._drop((url, mode))
                return None
            self._pages.move_to_end((url, mode))
            return kept[2]

    def put(self, url: str, mode: str, page: Page) -> None:
        """Keep a page; one that is larger than the whole cache is not kept."""
        size = 2 * len(page.text)  # most text takes one or two bytes a character
        with self._lock:
            if (url, mode) in self._pages:
                self._drop((url, mode))
            if self._seconds <= 0 or size > self._max_bytes:
                return
            self._pages[url, mode] = (time.monotonic() + self._seconds, size, page)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._pages)))

    def _drop(self, key: tuple[str, str]) -> None:
        self._bytes -= self._pages.pop(key)[1]
