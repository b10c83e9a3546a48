"""Values that are forgotten after a while, without a thread that would do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_FEW = 64


class Expiring(Generic[T]):
    """Values by name, each until its time. Not thread-safe; the caller tells the time.

    What has expired is dropped as others come, at the cost of a constant per value.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: values; beyond it the quarter that was put first goes."""
        self._limit = limit
        self._crowd = _FEW
        self._values: dict[str, tuple[float, T]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str, now: float) -> T | None:
        """The value, unless it has expired or was never there."""
        until, value = self._values.get(name, (now, None))
        return value if until > now else None

    def left(self, name: str, now: float) -> float:
        """The seconds for which the value is still there, at least 0."""
        return max(0.0, self._values[name][0] - now) if name in self._values else 0.0

    def put(self, name: str, value: T, until: float, now: float) -> None:
        """Keep a value, in place of an earlier one, until ``until``."""
        self._values.pop(name, None)
        self._values[name] = (until, value)
        if len(self._values) > self._crowd:
            self._sweep(now)

    def drop(self, name: str) -> None:
        """Forget a value, if it is there."""
        self._values.pop(name, None)

    def items(self, now: float) -> Iterator[tuple[str, T, float]]:
        """Name, value and seconds left of all that have not expired."""
        return ((n, value, until - now) for n, (until, value) in list(self._values.items()) if until > now)

    def _sweep(self, now: float) -> None:
        alive = [(name, entry) for name, entry in self._values.items() if entry[0] > now]
        self._values = dict(alive[self._limit // 4 :] if len(alive) >= self._limit else alive)
        self._crowd = min(self._limit, max(_FEW, 2 * len(self._values)))
