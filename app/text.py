"""Text that grows."""

from __future__ import annotations

_FRESH = 64


class GrowingText:
    """A text that comes a few letters at a time, in little more memory than its letters take.

    One thread adds; any thread may read.
    """

    __slots__ = ("_length", "_packed", "_pieces")

    def __init__(self, text: str = "") -> None:
        self._pieces = [text]
        self._packed = 1  # so many of them are long
        self._length = len(text)

    def add(self, piece: str) -> None:
        """Put ``piece`` at the end."""
        self._length += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) - self._packed >= _FRESH:  # their objects take more room than their letters
            self._pieces[self._packed :] = ["".join(self._pieces[self._packed :])]
            self._packed += 1

    def __str__(self) -> str:
        return "".join(self._pieces)

    def __len__(self) -> int:
        return self._length
