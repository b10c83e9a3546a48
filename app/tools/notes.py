"""An agent's notes: the Markdown files it keeps what it knows in, and their pieces for a search."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from .files import read_inside
from .registry import ToolError

MAX_FILES = 1_000
MAX_BYTES = 20 * 2**20
MAX_FILE_BYTES = 2**20
MAX_LINES = 2_000

_TOP = ("MEMORY.md", "memory.md")
_MAX_FOLDERS = 1_000
_CHUNK_CHARS = 1_500
_HEADING_CHARS = 200
_SHOWN_CHARS = 50_000

_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")

Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Note:
    """A file as a directory shows it; ``stamp`` changes with its content."""

    name: str
    stamp: Stamp
    size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A few paragraphs below one heading; ``place`` are the headings above it."""

    first: int
    last: int
    place: str
    text: str


def find_notes(workspace: Path) -> list[Note]:
    """All notes, the newest first; directories that are links are not entered."""
    names = [*_TOP]
    folder = workspace / "memory"
    if os.path.realpath(folder).startswith(f"{os.path.realpath(workspace)}/"):
        for directory, _, files in islice(os.walk(folder), _MAX_FOLDERS):
            inside = os.path.relpath(directory, workspace)
            names += [f"{inside}/{file}" for file in files if file.endswith(".md")]
    notes = (_note(workspace, name) for name in names)
    return sorted((note for note in notes if note), key=lambda note: note.stamp, reverse=True)


def _note(workspace: Path, name: str) -> Note | None:
    try:
        name.encode()
        status = (workspace / name).stat()
    except (OSError, ValueError):
        return None
    return Note(name, (status.st_mtime_ns, status.st_size, status.st_ino), status.st_size)


def within_limits(notes: Sequence[Note]) -> tuple[dict[str, Note], list[str]]:
    """The newest notes that fit, and the names of the others."""
    taken: dict[str, Note] = {}
    left_out: list[str] = []
    left = MAX_BYTES
    for note in notes:
        if note.size > min(left, MAX_FILE_BYTES) or len(taken) == MAX_FILES:
            left_out.append(note.name)
        else:
            taken[note.name] = note
            left -= note.size
    return taken, left_out


def note_name(path: str, workspace: Path) -> str:
    """The name, relative to ``workspace``, of the note that ``path`` means.

    :raises ToolError: it is not that of a note.
    """
    name = os.path.normpath(os.path.relpath(path, workspace) if path.startswith("/") else path)
    if name in _TOP or (name.startswith("memory/") and name.endswith(".md")):
        return name
    raise ToolError(f"{path}: not a note; notes are MEMORY.md and the .md files in memory/")


def read_chunks(workspace: Path, name: str) -> list[Chunk]:
    """The note in pieces; none if it cannot be read."""
    try:
        return list(_chunks(read_inside(workspace, name, MAX_FILE_BYTES).decode(errors="replace")))
    except ToolError:  # a link that leads out, or gone meanwhile
        return []


def _chunks(text: str) -> Iterator[Chunk]:
    """Pieces of Markdown, small enough to be shown: whole paragraphs, and never of two sections."""
    for place, section in _sections(text):
        for piece in _pieces(section):
            numbers = [number for number, line in piece if line.strip()]
            if numbers:
                yield Chunk(numbers[0], numbers[-1], place, "\n".join(line for _, line in piece).strip())


_Numbered: TypeAlias = tuple[int, str]


def _sections(text: str) -> Iterator[tuple[str, list[_Numbered]]]:
    """The lines below each heading with their numbers, after the headings that they are under."""
    trail: dict[int, str] = {}
    section: list[_Numbered] = []
    in_code = False
    for number, line in enumerate(text.split("\n"), 1):
        in_code ^= line.lstrip().startswith("```")
        heading = None if in_code else _HEADING.match(line)
        if heading:
            yield " ".join(trail.values()), section
            level = len(heading[1])
            trail = {above: title for above, title in trail.items() if above < level}
            trail[level] = heading[2][:_HEADING_CHARS].rstrip()
            section = []
        section += [(number, line[at : at + _CHUNK_CHARS]) for at in range(0, len(line) or 1, _CHUNK_CHARS)]
    yield " ".join(trail.values()), section


def _pieces(section: Sequence[_Numbered]) -> Iterator[list[_Numbered]]:
    """The section cut at blank lines, or anywhere if there is none for too long."""
    piece: list[_Numbered] = []
    size = 0
    for number, line in section:
        if size > 2 * _CHUNK_CHARS or (size > _CHUNK_CHARS and not line.strip()):
            yield piece
            piece, size = [], 0
        piece.append((number, line))
        size += len(line) + 1
    yield piece


def read_lines(workspace: Path, name: str, first: int, count: int) -> str:
    """``count`` lines of a note from ``first`` on, and how to go on if there are more.

    :raises ToolError: it cannot be read.
    """
    lines = StringIO(read_inside(workspace, name, MAX_BYTES).decode(errors="replace")).readlines()
    shown = "".join(lines[first - 1 : first - 1 + count])
    if len(shown) > _SHOWN_CHARS:
        kept = shown[:_SHOWN_CHARS]
        shown = kept[: kept.rfind("\n") + 1] or kept
    next_line = first + shown.count("\n")
    if shown.endswith("\n") and next_line <= len(lines):
        shown += f"[{len(lines) - next_line + 1} more lines; continue with from={next_line}]"
    return shown
