"""From what the model wrote to what people read.

Models mark things for the gateway at the head of a message: reasoning in ``<think>``, a
``<final>`` wrapper, a reply tag, or the single word ``NO_REPLY``. The filter takes them out
while the text streams. It holds back only what may still turn out to be such a mark, so the
deltas it lets through always concatenate to the text a caller gets without streaming.
Marks in the middle of an answer are ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..events import ReasoningDelta, TextDelta

SILENT = "NO_REPLY"

_CLOSING = {"<think>": "</think>", "<thinking>": "</thinking>"}
_FINAL, _END_FINAL = "<final>", "</final>"
_REPLY_TAG = re.compile(r"\[\[reply_to(?:_current|:[^\]\n]{1,200})\]\]")
_REPLY_TAG_BEGINNING = re.compile(r"\[\[reply_to:[^\]\n]{0,200}\]?")
_HEAD_MARKS = (*_CLOSING, _FINAL, "[[reply_to_current]]", "[[reply_to:")


class ReplyFilter:
    """Filters one message of the model. Feed it deltas, then finish it."""

    def __init__(self) -> None:
        self._held = ""
        self._in_head = True
        self._closing: str | None = None
        self._wrapped = False

    def feed(self, text: str) -> Sequence[TextDelta | ReasoningDelta]:
        """What can be shown now that the model has also written ``text``."""
        self._held += text
        return [*self._head(), *self._body()] if self._in_head else self._body()

    def finish(self) -> Sequence[TextDelta | ReasoningDelta]:
        """What was held back and is, as it turned out, part of the message."""
        rest, self._held = self._held, ""
        if self._closing is not None:
            return [ReasoningDelta(rest)] if rest else []
        rest = rest.rstrip()
        if self._wrapped:
            rest = rest.removesuffix(_END_FINAL).rstrip()
        return [TextDelta(rest)] if rest and not (self._in_head and rest == SILENT) else []

    def _head(self) -> Iterator[ReasoningDelta]:
        """The reasoning at the head, as far as it is certain."""
        while self._in_head:
            if self._closing is not None:
                thought, done = self._split_thought(self._closing)
                if thought:
                    yield ReasoningDelta(thought)
                if not done:
                    return
            elif not self._take_mark():
                return

    def _take_mark(self) -> bool:
        """Take one mark off the head; False if more text is needed to decide."""
        held = self._held = self._held.lstrip()
        for mark, closing in _CLOSING.items():
            if held.startswith(mark):
                self._held, self._closing = held[len(mark) :], closing
                return True
        if held.startswith(_FINAL):
            self._held, self._wrapped = held[len(_FINAL) :], True
            return True
        if tag := _REPLY_TAG.match(held):
            self._held = held[tag.end() :]
            return True
        if _undecided(held):
            return False
        self._in_head = False
        return True

    def _split_thought(self, closing: str) -> tuple[str, bool]:
        """Reasoning that is certain, and whether it ends here."""
        thought, found, rest = self._held.partition(closing)
        if found:
            self._held, self._closing = rest, None
            return thought, True
        keep = _overlap(self._held, closing)
        self._held = thought[len(thought) - keep :]
        return thought[: len(thought) - keep], False

    def _body(self) -> Sequence[TextDelta]:
        """Everything but white space, and the end of a wrapper, that may end the message."""
        if self._in_head:
            return ()
        certain = self._held.rstrip()
        if self._wrapped:
            certain = certain[: len(certain) - _overlap(certain, _END_FINAL)].rstrip()
        if not certain:
            return ()
        self._held = self._held[len(certain) :]
        return (TextDelta(certain),)


def _undecided(held: str) -> bool:
    """True while the head may still become a mark or the silent word."""
    if not held or any(mark.startswith(held) for mark in _HEAD_MARKS):
        return True
    return SILENT.startswith(held.rstrip()) or _REPLY_TAG_BEGINNING.fullmatch(held) is not None


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``mark``."""
    longest = min(len(text), len(mark))
    return next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)
