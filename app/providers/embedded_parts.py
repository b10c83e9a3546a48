"""Texts that the built-in model cannot embed in one piece: their parts, and the parts' mean. Pure.

llama.cpp reads a text that it embeds in one batch, and the batches of a shared server are small.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from math import ceil, hypot
from typing import TypeAlias

from ..messages import Usage
from .base import Embeddings
from .embedded_child import BATCH

# Texts that are embedded in one turn of the model: some seconds of a small machine at most.
PARTS_AT_ONCE = 4
# A token stands for a byte at least; some models add a few of their own.
_SURELY_SHORT = BATCH - 8

Part: TypeAlias = str | tuple[int, ...]


def parts_of(texts: Sequence[str], tokens: Callable[[str], Sequence[int]]) -> Iterator[tuple[int, Part]]:
    """Each text, or its tokens in parts of about the same length, with the text's number.

    :param tokens: cuts a text into the model's tokens; asked only about texts that may be too long.
    """
    for number, text in enumerate(texts):
        if len(text.encode()) <= _SURELY_SHORT or len(cut := tokens(text)) <= BATCH:
            yield number, text
            continue
        length = ceil(len(cut) / ceil(len(cut) / BATCH))
        for start in range(0, len(cut), length):
            yield number, tuple(cut[start : start + length])


class Means:
    """The vectors of ``count`` texts, as those of their parts come in."""

    def __init__(self, count: int) -> None:
        self._sums: list[array[float]] = [array("f")] * count
        self._usage = Usage()

    def add(self, numbers: Sequence[int], answer: Embeddings) -> None:
        """The vectors of further parts; ``numbers`` says of which texts."""
        self._usage += answer.usage or Usage()
        for number, vector in zip(numbers, answer.vectors, strict=True):
            known = self._sums[number]
            self._sums[number] = array("f", map(float.__add__, known, vector)) if known else vector

    def embeddings(self) -> Embeddings:
        """One vector of length 1 for each text."""
        return Embeddings(tuple(map(_normal, self._sums)), self._usage)


def _normal(vector: array[float]) -> array[float]:
    length = hypot(*vector) or 1.0
    return array("f", (number / length for number in vector))
