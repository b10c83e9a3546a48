"""Patches in the form that language models write, read and applied as pure functions.

::

    *** Begin Patch
    *** Add File: notes/new.txt
    +first line
    *** Update File: app/old.py
    *** Move to: app/new.py
    @@ def greet():
     unchanged line
    -old line
    +new line
    *** End of File
    *** Delete File: gone.txt
    *** End Patch
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Literal, TypeAlias

from .registry import ToolError

_BEGIN, _END = "*** Begin Patch", "*** End Patch"
_ADD, _UPDATE, _DELETE = "*** Add File: ", "*** Update File: ", "*** Delete File: "
_MOVE, _END_OF_FILE = "*** Move to: ", "*** End of File"

# Models also write the line numbers of other formats, which are wrong more often than not.
_LINE_NUMBERS = re.compile(r"-\d+(?:,\d+)? \+\d+(?:,\d+)? @@ ?")

Sign: TypeAlias = Literal[" ", "-", "+"]


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines to be replaced in one place of a file.

    :ivar anchors: lines above the place, outermost first; the place is searched for below them.
    :ivar lines: what is kept (" "), taken out ("-") and put in ("+"), in order.
    :ivar at_end: the place is the end of the file.
    """

    anchors: tuple[str, ...]
    lines: tuple[tuple[Sign, str], ...]
    at_end: bool = False

    @property
    def old(self) -> tuple[str, ...]:
        """The lines that must be there."""
        return tuple(line for sign, line in self.lines if sign != "+")


@dataclass(frozen=True, slots=True)
class AddFile:
    """A new file and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """A file to be removed."""

    path: str


@dataclass(frozen=True, slots=True)
class UpdateFile:
    """Changes of a file, from its top to its end, and perhaps a new name for it."""

    path: str
    hunks: tuple[Hunk, ...]
    move_to: str | None = None


Change: TypeAlias = AddFile | DeleteFile | UpdateFile


def parse_patch(text: str) -> tuple[Change, ...]:
    """The changes of a patch, in order.

    :raises ToolError: the text is not a patch; says at which line.
    """
    lines = text.replace("\r\n", "\n").strip().split("\n")
    if lines[0].rstrip() != _BEGIN or lines[-1].rstrip() != _END:
        raise ToolError(f'A patch begins with the line "{_BEGIN}" and ends with "{_END}".')
    return _Parser(lines[1:-1]).changes()


def apply_hunks(text: str, hunks: Sequence[Hunk]) -> str:
    """``text`` with every hunk applied.

    Lines are compared exactly, then without white space at their ends; what is kept stays as it
    is in ``text``. So do the kind of line ends and whether there is one after the last line.

    :raises ToolError: a hunk has no place, or more than one.
    """
    windows = "\r\n" in text and text.count("\r\n") == text.count("\n")
    end = "\r\n" if windows else "\n"
    lines = text.split(end)
    closed = lines[-1] == ""
    if closed:
        lines.pop()
    file = _File(lines)
    result: list[str] = []
    done = 0
    for number, hunk in enumerate(hunks, 1):
        start = _place(file, hunk, done, number)
        result += lines[done:start]
        result += _replacement(lines, start, hunk)
        done = start + len(hunk.old)
    result += lines[done:]
    return end.join([*result, ""] if closed and result else result)


class _Parser:
    """Goes through the lines between the first and the last one."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._next = 0

    def changes(self) -> tuple[Change, ...]:
        changes: list[Change] = []
        while (line := self._peek()) is not None:
            if line.strip():
                changes.append(self._change(line))
            else:
                self._next += 1
        if not changes:
            raise ToolError("The patch changes nothing.")
        return tuple(changes)

    def _change(self, line: str) -> Change:
        self._next += 1
        for header, parse in (
            (_ADD, self._add),
            (_UPDATE, self._update),
            (_DELETE, DeleteFile),
        ):
            if line.startswith(header) and (path := line.removeprefix(header).strip()):
                change: Change = parse(path)
                return change
        raise self._wrong(
            'a line with "*** Add File: ", "*** Update File: " or "*** Delete File: " and a path'
        )

    def _add(self, path: str) -> AddFile:
        lines = [line.removeprefix("+") for line in self._while(lambda line: line.startswith("+"))]
        return AddFile(path, "".join(f"{line}\n" for line in lines))

    def _update(self, path: str) -> UpdateFile:
        move_to = None
        if (line := self._peek()) is not None and line.startswith(_MOVE):
            self._next += 1
            move_to = line.removeprefix(_MOVE).strip()
        hunks: list[Hunk] = []
        self._while(_is_empty)
        while (line := self._peek()) is not None and not line.startswith((_ADD, _UPDATE, _DELETE)):
            hunks.append(self._hunk())
        if not hunks and not move_to:
            raise self._wrong(f"changes of {path}")
        return UpdateFile(path, tuple(hunks), move_to)

    def _hunk(self) -> Hunk:
        headers = self._while(lambda line: line.rstrip() == "@@" or line.startswith("@@ "))
        # An empty line is a kept one whose leading space was forgotten.
        lines = self._while(lambda line: not line or line[0] in " -+")
        at_end = (line := self._peek()) is not None and line.rstrip() == _END_OF_FILE
        if at_end:
            self._next += 1
            self._while(_is_empty)
        else:
            while lines and not lines[-1]:  # these rather keep two parts of the patch apart
                lines.pop()
        if not any(line.startswith(("-", "+")) for line in lines):
            raise self._wrong('lines that begin with "-" or "+"')
        anchors = (_LINE_NUMBERS.sub("", header[3:], count=1) for header in headers)
        return Hunk(
            tuple(anchor for anchor in anchors if anchor.strip()),
            tuple((_sign(line), line[1:]) for line in lines),
            at_end,
        )

    def _peek(self) -> str | None:
        return self._lines[self._next] if self._next < len(self._lines) else None

    def _while(self, wanted: Callable[[str], bool]) -> list[str]:
        start = self._next
        while (line := self._peek()) is not None and wanted(line):
            self._next += 1
        return self._lines[start : self._next]

    def _wrong(self, expected: str) -> ToolError:
        # The last line that was read; "Begin Patch" is not among those counted.
        return ToolError(f"The patch is wrong near its line {self._next + 1}: expected {expected}.")


def _sign(line: str) -> Sign:
    return "-" if line.startswith("-") else "+" if line.startswith("+") else " "


def _is_empty(line: str) -> bool:
    return not line


class _File:
    """Finds blocks of lines, in linear time whatever the lines are."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._forms: dict[Callable[[str], str], _Searchable] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def places(self, block: Sequence[str], start: int, normal: Callable[[str], str]) -> Iterator[int]:
        """Where ``block`` is in the lines from ``start``; only if nowhere, where its ``normal`` form is."""
        found = False
        for form in (str, normal):
            for place in self._searchable(form).places([form(line) for line in block], start):
                found = True
                yield place
            if found:
                return

    def _searchable(self, form: Callable[[str], str]) -> _Searchable:
        if form not in self._forms:
            self._forms[form] = _Searchable([form(line) for line in self._lines])
        return self._forms[form]


class _Searchable:
    """Lines as one text, because searching a text is fast."""

    def __init__(self, lines: list[str]) -> None:
        self._text = "".join(f"\n{line}" for line in lines) + "\n"
        self._starts = [0, *accumulate(len(line) + 1 for line in lines)]  # of each line's "\n"

    def places(self, block: Sequence[str], start: int) -> Iterator[int]:
        wanted = "".join(f"\n{line}" for line in block) + "\n"
        at = self._text.find(wanted, self._starts[start])
        while at >= 0:
            yield bisect_left(self._starts, at)
            at = self._text.find(wanted, at + 1)


def _place(file: _File, hunk: Hunk, start: int, number: int) -> int:
    """Index of the line, at or after ``start``, where ``hunk`` begins."""
    for anchor in hunk.anchors:
        found = next(file.places((anchor,), start, str.strip), None)
        if found is None:
            raise ToolError(f'Hunk {number}: no line is "{anchor}" (after the hunk before, if there is one).')
        start = found + 1
    old = hunk.old
    if hunk.at_end or not (old or hunk.anchors):
        start = max(start, len(file) - len(old))
    if not old:
        return start
    places = list(islice(file.places(old, start, str.rstrip), 2))
    if not places:
        raise ToolError(f"Hunk {number}: {_missing(hunk)}:\n" + "\n".join(old))
    if len(places) > 1 and not hunk.anchors:
        raise ToolError(
            f"Hunk {number}: its lines are in the file more than once. Add unchanged lines around "
            'the change, or above it a line "@@ " with a line of the file that comes before.'
        )
    return places[0]


def _missing(hunk: Hunk) -> str:
    if hunk.at_end:
        return "the file does not end with these lines"
    return "these lines are not in the file (or not below the @@ line or the hunk before)"


def _replacement(lines: list[str], start: int, hunk: Hunk) -> Iterator[str]:
    for sign, line in hunk.lines:
        if sign == "+":
            yield line
            continue
        if sign == " ":
            yield lines[start]
        start += 1
