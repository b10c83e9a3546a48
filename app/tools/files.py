"""Files of the agent's workspace, and of no other place."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from ..wire import clean
from .edits import replace_once, shortened
from .patch import AddFile, Change, UpdateFile, apply_hunks, parse_patch
from .paths import (
    Place,
    exists,
    explained,
    locate,
    locate_tree,
    opened_directory,
    read_file,
    readable_roots,
    remove,
    staged,
    writable_mode,
)
from .registry import Tool, ToolContext, ToolError
from .search import FIND, GREP
from .signature import tool
from .untrusted import fenced

MAX_LINES = 2_000
MAX_BYTES = 50 * 1024

_MIB = 1 << 20
_MAX_READ = 32 * _MIB
_MAX_FILE = 10 * _MIB
_MAX_PATCHED = 2 * _MIB  # finding lines is slower than finding text, and everybody waits for it
_MAX_SCANNED = 20_000
_SNIFFED = 8192
_BLOCK = 1 << 16

_FileName = Annotated[
    str,
    Field(
        min_length=1,
        validation_alias=AliasChoices("path", "file_path"),
        description="Relative to the workspace.",
    ),
]
_OLD = Field(validation_alias=AliasChoices("oldText", "old_string"), description="Exactly as in the file.")
_NEW = Field(validation_alias=AliasChoices("newText", "new_string"))


def read_inside(root: Path, name: str, limit: int, *, from_end: bool = False) -> bytes:
    """At most ``limit`` bytes of a regular file inside ``root``, the first or the last ones.

    What was opened is checked, not what was asked for: symbolic links and ``..`` may be
    used as long as the file they lead to lies inside.

    :raises ToolError: outside, missing, unreadable, or not a regular file.
    """
    return read_file(locate([root], name), limit, from_end=from_end)


@tool(name="read", parallel=True)
def _read(
    context: ToolContext,
    path: _FileName,
    offset: Annotated[int, Field(ge=1, description="First line, from 1.")] = 1,
    limit: Annotated[int, Field(ge=1, description="Number of lines.")] = MAX_LINES,
) -> str:
    """Read a text file: up to 2000 lines or 50 KB at a time."""
    data = read_file(locate(readable_roots(context), path), _MAX_READ + 1)
    if b"\0" in data[:_SNIFFED]:
        raise ToolError(f"{path}: an image or other binary data, not text")
    text, notice = _page(data[:_MAX_READ], offset, min(limit, MAX_LINES))
    if len(data) > _MAX_READ:
        notice += "[The file goes on beyond 32 MB; read cannot show that part.]"
    return "\n".join(part for part in (fenced(text, path) if text else "", notice) if part)


@tool(name="write")
def _write(context: ToolContext, path: _FileName, content: str) -> str:
    """Write a file, new or in place of the old one. Missing directories are created."""
    data = _encoded(path, content)
    with staged(locate([context.workspace], path), data) as commit:
        commit()
    return f"Wrote {len(data)} bytes to {path}."


class _Edit(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    old_text: Annotated[str, _OLD]
    new_text: Annotated[str, _NEW]


@tool(name="edit")
def _edit(
    context: ToolContext,
    path: _FileName,
    old_text: Annotated[str | SkipJsonSchema[None], _OLD] = None,
    new_text: Annotated[str | SkipJsonSchema[None], _NEW] = None,
    edits: Annotated[
        tuple[_Edit, ...],
        Field(max_length=100, description="Several replacements, one after the other; all or none."),
    ] = (),
) -> str:
    """Replace text in a file. The old text must occur exactly once."""
    if (old_text is None) != (new_text is None):
        raise ToolError("oldText and newText belong together.")
    if old_text is not None and new_text is not None:
        edits = (_Edit(old_text=old_text, new_text=new_text), *edits)
    if not edits:
        raise ToolError("Nothing to do: give oldText and newText, or edits.")
    place = locate([context.workspace], path)
    text = _source(place, _MAX_FILE)
    changes = []
    for edit in edits:
        text, change = replace_once(path, text, edit.old_text, edit.new_text)
        changes.append(change)
    with staged(place, _encoded(path, text)) as commit:
        commit()
    return f"Edited {path}:\n{shortened(changes)}"


_PATCH_DESCRIPTION = """\
Add, change, move and delete files in one go; if a part does not fit, nothing is changed. Format:
*** Begin Patch
*** Add File: new.txt
+each line after a plus
*** Update File: old.py
*** Move to: optional/new_name.py
@@ optional line above the place, to find it
 unchanged line
-line to take out
+line to put in
*** Delete File: gone.txt
*** End Patch"""


@tool(name="apply_patch", description=_PATCH_DESCRIPTION)
def _apply_patch(
    context: ToolContext,
    input: Annotated[str, Field(description="From *** Begin Patch to *** End Patch.")],  # noqa: A002 - its name for models
) -> str:
    steps = [_planned(context.workspace, change) for change in parse_patch(input)]
    _refuse_repeats(place for step in steps for place in {step.target, step.gone} if place)
    with ExitStack() as stack:
        commits = [
            stack.enter_context(staged(step.target, step.data, mode=step.mode))
            for step in steps
            if step.target
        ]
        for commit in commits:
            commit()
        for step in steps:
            if step.gone:
                remove(step.gone)
    return "Applied the patch:\n" + "\n".join(step.summary for step in steps)


@tool(name="ls", parallel=True)
def _ls(
    context: ToolContext,
    path: Annotated[str, Field(min_length=1, description="Relative to the workspace.")] = ".",
    limit: Annotated[int, Field(ge=1, le=2_000)] = 500,
) -> str:
    """List a directory. Directories end with a slash, links with an at sign."""
    with opened_directory(locate_tree(readable_roots(context), path)) as directory:
        names = _entry_names(path, directory)
    if not names:
        return "[The directory is empty.]"
    shown = names[:limit]
    if len(names) == _MAX_SCANNED:
        shown.append(f"[A huge directory: only {_MAX_SCANNED} of its entries were looked at.]")
    if len(names) > limit:
        shown.append(f"[{len(names) - limit} more entries; ask with a higher limit or use find.]")
    return "\n".join(shown)


def _page(data: bytes, offset: int, count: int) -> tuple[str, str]:
    """The text of up to ``count`` lines from line ``offset``, and what to say about the rest."""
    start = _after_lines(data, offset - 1, 0)
    if start == len(data):
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        return "", f"[The file has {lines} lines.]" if data else "[The file is empty.]"
    end = _after_lines(data, count, start)
    notice = ""
    if end - start > MAX_BYTES:
        newline = data.rfind(b"\n", start, start + MAX_BYTES)
        if newline >= 0:
            end = newline + 1
        else:
            notice = f"[Line {offset} is longer than 50 KB and is cut here.]"
            end = _after_lines(data, 1, start)
    # Not `decode`: it would make a wrong character of one that is cut in two.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(
        data[start : min(end, start + MAX_BYTES)], final=not notice
    )
    if left := data.count(b"\n", end) + (end < len(data) and not data.endswith(b"\n")):
        following = offset + data.count(b"\n", start, end)
        notice += f"[{left} more lines; continue with offset={following}]"
    return text, notice


def _after_lines(data: bytes, count: int, start: int) -> int:
    """Where the text goes on after ``count`` lines from ``start``, or its end."""
    while start < len(data):
        newlines = data.count(b"\n", start, start + _BLOCK)
        if newlines >= count:
            for _ in range(count):
                start = data.find(b"\n", start) + 1
            return start
        count -= newlines
        start += _BLOCK
    return len(data)


def _encoded(path: str, text: str) -> bytes:
    data = clean(text).encode()
    if len(data) > _MAX_FILE:
        raise ToolError(f"{path}: more than {_MAX_FILE // _MIB} MB of text")
    return data


def _source(place: Place, limit: int) -> str:
    """The text of a file that is to be changed: whoever changes it must have all of it right."""
    data = read_file(place, limit + 1)
    if len(data) > limit:
        raise ToolError(f"{place.name}: larger than {limit // _MIB} MB, too large for this tool")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ToolError(f"{place.name}: not UTF-8 text (byte {error.start})") from None


@dataclass(frozen=True, slots=True)
class _Step:
    """What a part of a patch does: ``data`` goes to ``target``, ``gone`` goes away."""

    summary: str
    target: Place | None = None
    data: bytes = b""
    mode: int | None = None
    gone: Place | None = None


def _planned(workspace: Path, change: Change) -> _Step:
    place = locate([workspace], change.path)
    if isinstance(change, AddFile):
        _refuse_existing(place)
        return _Step(f"A {change.path}", place, _encoded(change.path, change.text))
    mode = writable_mode(place)
    if not isinstance(change, UpdateFile):
        return _Step(f"D {change.path}", gone=place)
    data = _patched(place, change)
    if change.move_to is None:
        return _Step(f"M {change.path}", place, data, mode)
    target = locate([workspace], change.move_to)
    _refuse_existing(target)
    return _Step(f"R {change.path} -> {change.move_to}", target, data, mode, gone=place)


def _patched(place: Place, change: UpdateFile) -> bytes:
    text = _source(place, _MAX_PATCHED)
    try:
        return _encoded(place.name, apply_hunks(text, change.hunks))
    except ToolError as error:
        raise ToolError(f"{place.name}: {error}") from None


def _refuse_existing(place: Place) -> None:
    if exists(place):
        raise ToolError(f"{place.name}: exists already")


def _refuse_repeats(places: Iterable[Place]) -> None:
    """Each part of a patch was checked by itself, so they must not get in each other's way."""
    ordered = sorted(places, key=lambda place: place.parts)
    for place, following in pairwise(ordered):
        if place.parts == following.parts[: len(place.parts)]:
            raise ToolError(f"{following.name}: in the patch twice; put all that concerns it into one part")


def _entry_names(path: str, directory: int) -> list[str]:
    with explained(path), os.scandir(directory) as entries:
        return sorted(_entry_name(entry) for entry in islice(entries, _MAX_SCANNED))


def _entry_name(entry: os.DirEntry[str]) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in entry.name)
    if entry.is_symlink():
        return f"{name}@"
    return f"{name}/" if entry.is_dir(follow_symlinks=False) else name


READ = _read

FILE_TOOLS: tuple[Tool, ...] = (READ, _write, _edit, _apply_patch, _ls, GREP, FIND)
