"""Searching the agent's files: ``grep`` in what they say, ``find`` in what they are called.

The search itself is in ``search_child.py`` and runs in a process of its own, so that a tree
or a pattern that takes forever takes only its own time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..messages import JsonValue
from .child import run_child
from .paths import Place, locate_tree, readable_roots
from .registry import ToolContext, ToolError
from .signature import tool
from .untrusted import fenced

_PROGRAM = Path(__file__).with_name("search_child.py")
_SEARCH_SECONDS = 15.0  # then it comes back with what it has found
_TIMEOUT = 20.0  # for a pattern that is stuck in one line

_NOTES = {
    "limit": "[More matches were left out; narrow the search or raise the limit.]",
    "size": "[More matches were left out, there is too much text; narrow the search.]",
    "time": f"[Stopped after {_SEARCH_SECONDS:g} seconds; narrow the search.]",
}

_Directory = Annotated[str, Field(min_length=1, description="Relative to the workspace.")]


@tool(name="grep", parallel=True)
def _grep(
    run: ToolContext,
    pattern: Annotated[str, Field(min_length=1, max_length=2_000, description="Python regular expression.")],
    path: Annotated[str, Field(min_length=1, description="File or directory in the workspace.")] = ".",
    glob: Annotated[
        str, Field(max_length=500, description="Only these files, such as *.py or src/**/*.ts.")
    ] = "",
    ignore_case: Annotated[bool, Field(validation_alias="ignoreCase")] = False,
    literal: Annotated[bool, Field(description="The pattern is plain text.")] = False,
    context: Annotated[int, Field(ge=0, le=20, description="Lines shown around each match.")] = 0,
    limit: Annotated[int, Field(ge=1, le=1_000, description="Most matches.")] = 100,
) -> str:
    """Search the lines of text files. Leaves out .git, node_modules, binary and huge files."""
    job: dict[str, JsonValue] = {
        "kind": "grep",
        "pattern": pattern,
        "glob": glob,
        "ignore_case": ignore_case,
        "literal": literal,
        "context": context,
        "limit": limit,
    }
    found, notes = _searched(run, path, job)
    if not found:
        return "\n".join(["No matches.", *notes])
    source = "files of the workspace" if path == "." else path
    return "\n".join([fenced("\n".join(found), source), *notes])


@tool(name="find", parallel=True)
def _find(
    run: ToolContext,
    pattern: Annotated[
        str,
        Field(min_length=1, max_length=500, description="Glob, such as *.py, src/**/*.ts or *.{yml,yaml}."),
    ],
    path: _Directory = ".",
    limit: Annotated[int, Field(ge=1, le=5_000)] = 1_000,
) -> str:
    """Find files and directories by name. Leaves out .git and node_modules."""
    found, notes = _searched(run, path, {"kind": "find", "glob": pattern, "limit": limit})
    return "\n".join([*(found or ["Nothing found."]), *notes])


def _searched(run: ToolContext, path: str, job: dict[str, JsonValue]) -> tuple[list[str], list[str]]:
    """What the child found, line by line, and what is to be said about it."""
    place = locate_tree(readable_roots(run), path)
    answer = run_child(_PROGRAM, job | _where(place), timeout=_TIMEOUT, cancel=run.cancel)
    match answer:
        case {"error": str(error)}:
            raise ToolError(error)
        case {"lines": list(lines), "stopped": stopped, "huge": int(huge)}:
            notes = [_NOTES[stopped]] if isinstance(stopped, str) else []
            if huge:
                notes.append(f"[{huge} files were too large to be searched.]")
            return [str(line) for line in lines], notes
    raise ToolError("The search gave no usable answer.")


def _where(place: Place) -> dict[str, JsonValue]:
    return {
        "root": str(place.root),
        "parts": list(place.parts),
        "name": place.name,
        "seconds": _SEARCH_SECONDS,
    }


GREP, FIND = _grep, _find
