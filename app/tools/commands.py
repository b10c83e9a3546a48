"""Shell command lines, read far enough to say which programs they run.

Reading a shell's language to its end is hopeless, so this understands a small part of it -
words, quotes, and programs joined by ``|``, ``&&``, ``||`` and ``;`` - and calls everything else
doubtful. What it does understand it *pins*: each program's name is replaced by the path that was
judged, so no builtin, keyword, alias or other ``PATH`` can come between the judgement and the run.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+)
      | (?P<operator>&&|\|\||[|;])
      | (?P<single>'[^']*')
      | (?P<double>"(?:[^"\\$`]|\\[^\n])*")
      | (?P<escape>\\[^\n])
      | (?P<bare>(?:[\w%+,./:=@^!~*?\[\]{}-]|[^\x00-\x7f])+)""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r'\\(["\\$`])')  # inside double quotes; any other backslash stands for itself
_EXPANDED = re.compile(r"[~*?\[\]{}]")
_PROGRAM = re.compile(r"[A-Za-z0-9_+.@/-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command. ``plain`` if the shell passes exactly ``text`` on."""

    text: str
    plain: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """One program and its arguments; ``start`` and ``end`` of its name in the command line."""

    program: str
    arguments: tuple[Word, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Executable:
    """A program as it was found, and the file that this is in the end."""

    location: Path
    real: Path


def parse(command: str) -> list[Segment] | None:
    """The programs that a shell would start for ``command``, or None where there is a doubt."""
    if any(not c.isprintable() and c not in "\n\t" for c in command):
        return None
    segments: list[Segment] = []
    words: list[tuple[Word, int, int]] = []
    for token in _tokens(command):
        if token is None:
            return None
        if isinstance(token, str):  # an operator
            segment = _segment(words)
            if segment is None:
                return None
            segments.append(segment)
            words = []
        else:
            words.append(token)
    last = _segment(words)
    return None if last is None else [*segments, last]


def judge(command: str, patterns: Iterable[str], path: str) -> str | None:
    """``command`` with its programs pinned if each of them is allowed, else None.

    Allowed is a program that matches one of ``patterns``, or a harmless filter (``wc``, ``head``,
    …) that is used without naming a file. A pattern with a slash is a path: ``*`` and ``?`` stop at
    a slash, ``**`` does not, and case does not matter; it is held against the real file, or
    equals the place where the program was found. One without a slash is the name of a program
    in ``path``. What an allowed program does with its arguments is up to whoever allowed it.

    :param path: the ``PATH`` that the command will have.
    """
    found = _located(command, path)
    if found is None:
        return None
    wanted = tuple(patterns)
    if not all(_is_filter(s) or any(_matches(e, p, path) for p in wanted) for s, e in found):
        return None
    return _pinned(command, found)


def executables(command: str, path: str) -> list[Executable] | None:
    """The programs of ``command`` in order, or None where there is a doubt or one is missing."""
    found = _located(command, path)
    return None if found is None else [executable for _, executable in found]


def _tokens(command: str) -> Iterator[tuple[Word, int, int] | str | None]:
    """Words with their place, operators, and None at the first thing that is not understood."""
    position = start = 0
    text, plain = "", True
    while position < len(command):
        match = _TOKEN.match(command, position)
        if match is None:
            yield None
            return
        kind, piece = match.lastgroup, match.group()
        if kind in {"blank", "operator"}:
            if position > start:
                yield Word(text, plain), start, position
            if kind == "operator":
                yield piece
            start, text, plain = match.end(), "", True
        else:
            text += _unquoted(kind, piece)
            plain = plain and not (kind == "bare" and _EXPANDED.search(piece))
        position = match.end()
    if position > start:
        yield Word(text, plain), start, position


def _unquoted(kind: str | None, piece: str) -> str:
    if kind == "single":
        return piece[1:-1]
    if kind == "double":
        return _ESCAPED.sub(r"\1", piece[1:-1])
    return piece[1:] if kind == "escape" else piece


def _segment(words: list[tuple[Word, int, int]]) -> Segment | None:
    if not words:
        return None
    (program, start, end), *arguments = words
    if not program.plain or not _PROGRAM.fullmatch(program.text):
        return None
    return Segment(program.text, tuple(word for word, _, _ in arguments), start, end)


def _located(command: str, path: str) -> list[tuple[Segment, Executable]] | None:
    found = []
    for segment in parse(command) or ():
        executable = _locate(segment.program, path)
        if executable is None:
            return None
        found.append((segment, executable))
    return found or None


def _locate(program: str, path: str) -> Executable | None:
    if "/" in program:
        return _executable(program) if program.startswith("/") else None
    for directory in path.split(":"):
        if not directory.startswith("/"):
            return None  # the shell would look into its working directory here
        if executable := _executable(f"{directory}/{program}"):
            return executable
    return None


def _executable(location: str) -> Executable | None:
    file = Path(location)
    try:
        usable = file.is_file() and os.access(file, os.X_OK)
        return Executable(file, file.resolve()) if usable else None
    except OSError:  # a name too long, a directory that may not be entered
        return None


def _matches(executable: Executable, pattern: str, path: str) -> bool:
    if "/" in pattern:
        pattern = str(Path(pattern).expanduser())
        return pattern == str(executable.location) or _glob(pattern, str(executable.real))
    # By name and by file: on some systems one file is a hundred programs and looks at its name.
    name = executable.location.name
    same = _locate(name, path)
    return _glob(pattern, name) and same is not None and same.real == executable.real


def _glob(pattern: str, text: str) -> bool:
    wild = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = (wild.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", pattern))
    return re.fullmatch("".join(parts), text, re.IGNORECASE | re.DOTALL) is not None


def _pinned(command: str, found: list[tuple[Segment, Executable]]) -> str:
    pieces, position = [], 0
    for segment, executable in found:
        pieces += [command[position : segment.start], shlex.quote(str(executable.location))]
        position = segment.end
    return "".join([*pieces, command[position:]])


# Filters of standard input and the arguments, joined by NUL, with which they can neither open a
# file nor start a program. `uniq A B` writes to B, `sort -o` and `--compress-program` do worse, so
# only what is listed here is harmless.
_FILTERS = {
    "cut": r"(-[bcf]\0?[0-9,-]+|-d\0?[^\0]|-s)(\0(-[bcf]\0?[0-9,-]+|-d\0?[^\0]|-s))*",
    "grep": r"(-[EFGcinovwx]+\0)*[^-\0][^\0]*",
    "head": r"(-[0-9]+|-[nc]\0?-?[0-9]+)?",
    "sort": r"(-[bdfghiMnrRuV]+(\0-[bdfghiMnrRuV]+)*)?",
    "tail": r"(-[0-9]+|-[nc]\0?[+-]?[0-9]+)?",
    "tr": r"(-[cCdst]+\0)?[^-\0][^\0]*(\0[^-\0][^\0]*)?",
    "uniq": r"(-[cdiu]+)?",
    "wc": r"(-[clmwL]+(\0-[clmwL]+)*)?",
}


def _is_filter(segment: Segment) -> bool:
    """True for a filter by name, as ``PATH`` finds it, whose arguments are harmless."""
    harmless = _FILTERS.get(segment.program)
    if harmless is None or not all(word.plain for word in segment.arguments):
        return False
    return re.fullmatch(harmless, "\0".join(word.text for word in segment.arguments)) is not None
