"""What waits for slow clients, over all connections of a gateway."""

from __future__ import annotations

import threading
from typing import Protocol


class Debtor(Protocol):
    """A client for whom bytes wait."""

    def give_up(self) -> None:
        """Let the client go, and what waits for it."""


class Backlog:
    """Adds up what waits for slow clients, and what they did not get.

    Any thread may call any method; none blocks.

    :ivar dropped: events that were left out because a client was slow.
    :ivar given_up: clients that were let go because they were too slow.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: bytes that may wait for all clients together."""
        self._limit = limit
        self._lock = threading.Lock()  # guards everything below; whoever has it takes no other
        self._sizes: dict[Debtor, int] = {}
        self._total = 0
        self.dropped = 0
        self.given_up = 0

    def note(self, debtor: Debtor, size: int) -> Debtor | None:
        """Take note that ``size`` bytes wait for a client now.

        :returns: who is to be given up, if too much waits for all together: the one with the most.
        """
        with self._lock:
            self._total += size - self._sizes.pop(debtor, 0)
            if size:
                self._sizes[debtor] = size
            return max(self._sizes, key=self._sizes.__getitem__) if self._total > self._limit else None

    def drop(self) -> None:
        """An event was left out."""
        with self._lock:
            self.dropped += 1

    def give_up(self) -> None:
        """A client was let go."""
        with self._lock:
            self.given_up += 1
