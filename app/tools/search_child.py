"""The process that searches files for the tools ``grep`` and ``find``.

A program, not a module: it is run by its path and imports nothing of the package. The job is
JSON on standard input, the answer JSON on standard output. Directories are opened one below
the other and links are never followed, so it cannot leave the directory it is given.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import stat
import sys
import time
from itertools import islice
from typing import Any

_SKIPPED = {".git", "node_modules"}
_DEEPEST = 100
_MAX_FILE = 10 << 20
_MAX_TEXT = 50 << 10
_MAX_LINE = 500
_SNIFFED = 8192
_GLOB_PIECE = re.compile(r"\*\*/|\*\*|\[!?\]?[^\]/]*\]|.", re.DOTALL)
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:"}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW


def main() -> None:
    """One job, one answer."""
    job = json.load(sys.stdin)
    try:
        answer = search(job)
    except OSError as error:
        answer = {"error": f"{job['name']}: {error.strerror}"}
    except re.error as error:
        answer = {"error": f"The pattern cannot be understood: {error}."}
    except (MemoryError, RecursionError):
        answer = {"error": "The search needs too much memory; narrow it."}
    json.dump(answer, sys.stdout)


def search(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``job``."""
    searching = Search(job)
    stopped = None
    try:
        begin(job, searching)
    except Stopped as reason:
        stopped = str(reason)
    return {"lines": searching.lines, "stopped": stopped, "huge": searching.huge}


class Stopped(Exception):
    """Enough was found, or enough time spent; ``str`` says which."""


class Search:
    """What is looked for, and what was found."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.lines: list[str] = []
        self.huge = 0
        self._name = job["name"]
        self._deadline = time.monotonic() + job["seconds"]
        self._left = job["limit"]
        self._room = _MAX_TEXT
        self._context = job.get("context", 0)
        self._glob = re.compile(glob_expression(job["glob"] or "*"), re.DOTALL)
        self._regex = line_expression(job) if job["kind"] == "grep" else None

    def tree(self, top: int) -> None:
        """Search all that lies below the directory ``top``."""
        for directory, folders, files, fd in os.fwalk(".", dir_fd=top):
            folders[:] = sorted(set(folders) - _SKIPPED)
            names = [(name, "/") for name in folders] + [(name, "") for name in files]
            for name, slash in sorted(names):
                self._check_time()
                path = posixpath.normpath(posixpath.join(directory, name))
                if not self._glob.fullmatch(path):
                    continue
                if self._regex is None:
                    self._add([self._label(path) + slash])
                elif not slash:
                    self.file(fd, name, path)
            if directory.count("/") >= _DEEPEST:
                folders.clear()

    def file(self, directory: int, name: str, path: str) -> None:
        """Search one file; ``path`` is what comes below the name that was asked for."""
        if self._regex is None:
            self._add([self._label(path)])
            return
        lines = (self._text(directory, name) or "").split("\n")
        if not lines[-1]:
            lines.pop()  # the end of the last line begins no other
        hits = (number for number, line in enumerate(lines) if self._regex.search(line))
        self._show(lines, list(islice(hits, self._left + 1)), self._label(path))

    def _text(self, directory: int, name: str) -> str | None:
        """The file's text; None if it is none, or cannot be opened."""
        try:
            fd = os.open(name, _FILE, dir_fd=directory)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_size > _MAX_FILE:
                self.huge += 1
                return None
            with open(fd, "rb", closefd=False) as file:
                data = file.read(_MAX_FILE)
        except OSError:
            return None
        finally:
            os.close(fd)
        return None if b"\0" in data[:_SNIFFED] else data.decode(errors="replace").replace("\r\n", "\n")

    def _show(self, lines: list[str], hits: list[int], label: str) -> None:
        shown = 0  # how many lines of the file have had their turn
        for hit, following in zip(hits, [*hits, len(lines)][1:], strict=True):
            start = max(shown, hit - self._context)
            end = min(following, hit + self._context + 1)
            block = [_line(label, number, lines[number], number == hit) for number in range(start, end)]
            apart = self._context > 0 and self.lines and (start > shown or shown == 0)
            self._add(["--", *block] if apart else block)
            shown = end

    def _add(self, lines: list[str]) -> None:
        self._left -= 1
        self._room -= sum(len(line.encode()) + 1 for line in lines)
        if self._left < 0 or self._room < 0:
            raise Stopped("limit" if self._left < 0 else "size")
        self.lines += lines

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise Stopped("time")

    def _label(self, path: str) -> str:
        return printable(posixpath.normpath(posixpath.join(self._name, path)))


def begin(job: dict[str, Any], searching: Search) -> None:
    """Open what is to be searched, a directory or a file, and search it."""
    top = os.open(job["root"], _DIRECTORY)
    if not job["parts"]:
        searching.tree(top)
        return
    *above, leaf = job["parts"]
    for part in above:
        top = os.open(part, _DIRECTORY, dir_fd=top)
    mode = os.stat(leaf, dir_fd=top, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        searching.tree(os.open(leaf, _DIRECTORY, dir_fd=top))
    elif stat.S_ISREG(mode):
        searching.file(top, leaf, "")
    else:
        raise OSError(0, "not a regular file")


def line_expression(job: dict[str, Any]) -> re.Pattern[str]:
    """What a line is searched for."""
    pattern = re.escape(job["pattern"]) if job["literal"] else job["pattern"]
    return re.compile(pattern, re.IGNORECASE if job["ignore_case"] else 0)


def glob_expression(glob: str) -> str:
    """A regular expression for whole paths. Without a slash ``glob`` is about the last name only."""
    parts = [] if "/" in glob else ["(?:.*/)?"]
    depth = 0
    for piece in _GLOB_PIECE.findall(glob.removeprefix("./").removeprefix("/")):
        if piece == "{":
            depth += 1
        elif piece == "}" and depth:
            depth -= 1
            parts.append(")")
            continue
        parts.append("|" if piece == "," and depth else _translated(piece))
    if depth:
        raise re.error("a brace is not closed")
    return "".join(parts)


def _translated(piece: str) -> str:
    if piece in _GLOB:
        return _GLOB[piece]
    if len(piece) > 2 and piece.startswith("["):
        inner = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(piece)


def _line(label: str, number: int, text: str, hit: bool) -> str:
    shown = text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]} […]"
    return f"{label}:{number + 1}: {shown}" if hit else f"{label}-{number + 1}- {shown}"


def printable(name: str) -> str:
    """A file's name on one line, and as something that can be encoded."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


if __name__ == "__main__":
    main()
