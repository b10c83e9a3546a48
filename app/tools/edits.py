"""Replacing text that occurs exactly once, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from .registry import ToolError

_MAX_DIFF_LINES = 60
_MAX_DIFF_CHARS = 4_000


def replace_once(path: str, text: str, old: str, new: str) -> tuple[str, str]:
    """``text`` with ``old`` replaced by ``new``, and what that changes as lines of a diff.

    :param path: the file's name, for what the model is told.
    :raises ToolError: ``old`` is not in the text exactly once.
    """
    if not old:
        raise ToolError("oldText must not be empty; use write for a new file.")
    if old == new:
        raise ToolError("oldText and newText are the same.")
    if old not in text and "\r\n" in text:  # models see and write plain line ends
        old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
    start = text.find(old)
    if start < 0:
        raise ToolError(
            f"{path}: 0 matches. oldText must be exactly as in the file, white space included; read it again."
        )
    if text.find(old, start + 1) >= 0:
        raise ToolError(
            f"{path}: {max(2, text.count(old))} matches. Add text around it until there is only one."
        )
    after = text[:start] + new + text[start + len(old) :]
    return after, _changed_lines(text, after, start, len(old), len(new))


def _changed_lines(before: str, after: str, start: int, old_size: int, new_size: int) -> str:
    """A unified diff without context of one replacement."""
    begin = before.rfind("\n", 0, start) + 1
    old = _lines_to(before, begin, start + old_size)
    new = _lines_to(after, begin, start + new_size)
    line = before.count("\n", 0, begin) + 1
    same = _common(old, new)
    old, new, line = old[same:], new[same:], line + same
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    head = f"@@ -{line},{len(old)} +{line},{len(new)} @@"
    return "\n".join([head, *(f"-{text}" for text in old), *(f"+{text}" for text in new)])


def _common(old: Sequence[str], new: Sequence[str]) -> int:
    """How many lines both begin with."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(old), len(new)))


def _lines_to(text: str, begin: int, end: int) -> list[str]:
    """The lines from ``begin`` to the end of the line that ``end`` is in."""
    newline = text.find("\n", end)
    return text[begin : newline if newline >= 0 else len(text)].split("\n")


def shortened(changes: Sequence[str]) -> str:
    """All ``changes`` below each other, or as much of them as a model needs to see."""
    lines = "\n".join(changes).split("\n")
    shown = "\n".join(lines[:_MAX_DIFF_LINES])[:_MAX_DIFF_CHARS]
    whole = len(lines) <= _MAX_DIFF_LINES and len(shown) < _MAX_DIFF_CHARS
    return shown if whole else f"{shown}\n[… and so on]"
