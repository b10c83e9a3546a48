"""Files of the agent's workspace, and of no other place."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from ..messages import JsonValue
from .registry import Tool, ToolContext, ToolError

MAX_LINES = 2_000
MAX_BYTES = 50 * 1024


def read_inside(root: Path, name: str, limit: int) -> bytes:
    """At most ``limit`` bytes of a regular file inside ``root``.

    What was opened is checked, not what was asked for: symbolic links and ``..`` may be
    used as long as the file they lead to lies inside.

    :raises ToolError: outside, missing, unreadable, or not a regular file.
    """
    base = root.resolve()
    try:
        real = (base / name).resolve()
        if not real.is_relative_to(base):
            raise ToolError(f"{name}: outside the workspace")
        # NONBLOCK: opening a FIFO must not wait for its writer. NOFOLLOW: `real` has no
        # links left, so a link here was put in after it was resolved.
        fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else "not a usable file name"
        raise ToolError(f"{name}: {reason or 'cannot be opened'}") from None
    try:
        opened = os.fstat(fd)
        if not stat.S_ISREG(opened.st_mode):
            raise ToolError(f"{name}: not a regular file")
        if not _still_inside(base, real, opened):
            raise ToolError(f"{name}: outside the workspace")
        # Not earlier: a file object cannot be made of a directory.
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(fd)


def _still_inside(base: Path, real: Path, opened: os.stat_result) -> bool:
    """True if the path still leads, without links, to the file that was opened."""
    try:
        again = real.resolve()
        return again.is_relative_to(base) and os.path.samestat(again.stat(), opened)
    except OSError:
        return False


def _read(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
    path = arguments.get("path", arguments.get("file_path"))
    if not isinstance(path, str) or not path:
        raise ToolError("path: a file name is required")
    offset = _positive(arguments, "offset", 1)
    count = min(_positive(arguments, "limit", MAX_LINES), MAX_LINES)
    text = read_inside(context.workspace, path, 32 * 2**20).decode(errors="replace")
    lines = StringIO(text).readlines()  # only \n ends a line, whatever else str.splitlines knows
    shown = _cut("".join(lines[offset - 1 : offset - 1 + count]))
    left = len(lines) - (offset - 1) - shown.count("\n")
    if shown.endswith("\n") and left > 0:
        shown += f"[{left} more lines; continue with offset={len(lines) - left + 1}]"
    return shown


def _cut(text: str) -> str:
    data = text.encode()
    if len(data) <= MAX_BYTES:
        return text
    kept = data[:MAX_BYTES].decode(errors="ignore")
    head, newline, _ = kept.rpartition("\n")
    return head + newline if newline else kept


def _positive(arguments: Mapping[str, JsonValue], name: str, default: int) -> int:
    value = arguments.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 or value < 1:
        raise ToolError(f"{name}: a whole number of at least 1 is required")
    return int(value)


READ = Tool(
    name="read",
    description="Read a text file of the workspace.",
    parameters={
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Relative to the workspace."},
            "offset": {"type": "integer", "minimum": 1, "description": "First line, from 1."},
            "limit": {"type": "integer", "minimum": 1, "description": "Number of lines."},
        },
        "required": ["path"],
    },
    function=_read,
)
