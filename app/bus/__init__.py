"""What the workers of one gateway tell each other.

The store holds what must not be lost; the bus only makes others look sooner, follow a run live, and
count together. Whatever is said while its engine is away is lost, and nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

# Called in a thread of the bus, one message after the other. Must be quick and must not raise.
Hear: TypeAlias = Callable[[bytes], None]


class Bus(Protocol):
    """Topics, logs, claims, counters and presence, named by plain texts. Any thread may call any method.

    Nothing here raises because the engine is away, and nothing waits for it longer than half a second:
    what is said is lost, what is asked is answered as if this process were alone.

    :ivar shared: other processes may be on it.
    """

    shared: bool

    @property
    def published(self) -> int:
        """How much was to be told to other processes so far, for those who watch."""

    @property
    def dropped(self) -> int:
        """How much of that was lost because it came faster than it went, or the engine was away."""

    @property
    def healthy(self) -> bool:
        """False while others cannot be told or heard."""

    def publish(self, topic: str, message: bytes) -> None:
        """Tell all who listen to ``topic``, here and in every other process.

        Those of this process hear it at once, in the calling thread. What one thread says is heard in
        its order everywhere.
        """

    def subscribe(self, topic: str, hear: Hear) -> Callable[[], None]:
        """Hear what is said on ``topic`` from now on; returns a function that ends it, safe to repeat.

        What others say after this has returned is heard, so that whoever listens first and looks then
        misses nothing. After the end nothing is heard any more, but by a thread that was about to.
        """

    def wanted(self, topic: str) -> bool:
        """True if somebody may be listening in another process. Costs nothing: it may be some seconds old."""

    def record(self, log: str, entries: Sequence[bytes], seconds: float) -> None:
        """Add to a log that is kept for ``seconds`` after the last addition, its newest entries at least.

        A log belongs to the process that has begun it: no other one adds to it. Its entries are numbered
        from 1 without gaps, and keep their numbers if the engine has forgotten them.
        """

    def replay(self, log: str, after: int = 0) -> list[tuple[int, bytes]]:
        """The numbered entries of a log behind number ``after``, which begins with 1.

        The first one may have a later number: then what lies between is not kept any more.
        """

    def claim(self, name: str, value: bytes, seconds: float) -> bytes | None:
        """Take ``name`` for so long, unless somebody has it: then what they have taken it with, else None.

        Who takes it again with the same value has it for so long from now.
        """

    def held(self, name: str) -> bytes | None:
        """What ``name`` was taken with; None if nobody has it."""

    def release(self, name: str, value: bytes) -> None:
        """Give up ``name`` if it was taken with ``value``."""

    def count(self, name: str, seconds: float, more: int = 1) -> int:
        """Add ``more`` to a counter that starts anew ``seconds`` after its first addition; its new value."""

    def forget(self, name: str) -> None:
        """Set a counter back to nothing."""

    def announce(self, group: str, members: Mapping[str, bytes], seconds: float) -> None:
        """Say who of ``group`` is with this process, in place of what it has said before; holds so long."""

    def present(self, group: str) -> dict[str, bytes]:
        """Who is in ``group`` by what all processes have said last."""

    def close(self) -> None:
        """Say no more, and give connections back; safe to repeat."""
