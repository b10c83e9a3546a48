"""What an agent has written down: search in ``MEMORY.md`` and ``memory/`` of its workspace, by words.

The index is SQLite's full text search in a private temporary database: it is made again after
a restart, kept in step with the files before each search, and small ones never touch the disk.
Everything that takes long is done in pieces, through ``offload``, so that other users'
work gets its turn between two of them.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from pydantic import Field

from ..cancel import CancelToken
from ..log import get_logger
from .notes import (
    MAX_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_LINES,
    Note,
    Stamp,
    find_notes,
    note_name,
    read_chunks,
    read_lines,
    within_limits,
)
from .registry import Tool, ToolContext, ToolError
from .signature import tool
from .untrusted import fenced

_BATCH = 200
_SNIPPET_CHARS = 700
_MAX_TERMS = 16
_NAMED = 10
_PATIENCE = 0.2

# Words, and words joined without a space (`read_inside`, `app.tools`, `2026-11-23`), which are
# looked for as a phrase.
_TERM = re.compile(r"[^\W_]\w*(?:[-._:/@+'’]+\w+)*")

_log = get_logger("memory")

T = TypeVar("T")


class Offload(Protocol):
    """Runs a piece of blocking work somewhere else and waits for it.

    One piece at a time, in any thread; the work's result or exception comes back.
    """

    def __call__(self, work: Callable[[], T], /) -> T:
        """Return what ``work`` returns."""


def _here(work: Callable[[], T], /) -> T:
    return work()


class Memory:
    """The tools ``memory_search`` and ``memory_get``, and one index per workspace behind them.

    Any thread may call any method and the tools.
    """

    def __init__(self, *, offload: Offload | None = None) -> None:
        """:param offload: where files are read and the index is worked on; by default the calling thread."""
        self._offload = offload or _here
        self._lock = threading.Lock()  # guards _indexes and _closed
        self._indexes: dict[Path, _Index] = {}
        self._closed = False

    def tools(self) -> tuple[Tool, Tool]:
        """``memory_search`` and ``memory_get``."""
        return (
            tool(name="memory_search", parallel=True)(self._search),
            tool(name="memory_get", parallel=True)(self._get),
        )

    def close(self) -> None:
        """Give the indexes back; safe to repeat. A search that comes later is a ToolError."""
        with self._lock:
            self._closed = True
            indexes = list(self._indexes.values())
            self._indexes.clear()
        for index in indexes:
            index.close()

    def _search(
        self,
        context: ToolContext,
        query: Annotated[str, Field(min_length=1, description="Words to look for.")],
        limit: Annotated[int, Field(alias="maxResults", ge=1, le=50)] = 6,
        min_score: Annotated[
            float, Field(alias="minScore", ge=0, le=1, description="1 is as good as the best result.")
        ] = 0.0,
    ) -> str:
        """Search your notes (MEMORY.md and memory/*.md) by words, best first.

        Results name the file and the lines, which memory_get shows in full.
        """
        index = self._index(context.workspace)
        try:
            with index.held(context.cancel):
                left_out = index.refresh(context.cancel)
                hits = index.search(query, limit)
        except sqlite3.Error as error:
            self._discard(context.workspace, index)
            _log.warning("the index of notes cannot be used: %s", error)
            raise ToolError("The notes cannot be searched now; read their files instead.") from None
        return _report([hit for hit in hits if hit.score >= min_score], left_out)

    def _get(
        self,
        context: ToolContext,
        path: Annotated[str, Field(min_length=1, description="As memory_search names it.")],
        first: Annotated[int, Field(alias="from", ge=1, description="First line, from 1.")] = 1,
        count: Annotated[int, Field(alias="lines", ge=1, description="Number of lines.")] = MAX_LINES,
    ) -> str:
        """Read lines of one of your notes: MEMORY.md or a file in memory/."""
        name = note_name(path, context.workspace)
        shown = self._offload(lambda: read_lines(context.workspace, name, first, min(count, MAX_LINES)))
        return fenced(shown, name)

    def _index(self, workspace: Path) -> _Index:
        with self._lock:
            if self._closed:
                raise ToolError("The gateway is shutting down.")
            if workspace not in self._indexes:
                self._indexes[workspace] = _Index(workspace, self._offload)
            return self._indexes[workspace]

    def _discard(self, workspace: Path, index: _Index) -> None:
        with self._lock:
            if self._indexes.get(workspace) is index:
                del self._indexes[workspace]
        index.close()


@dataclass(frozen=True, slots=True)
class _Hit:
    name: str
    first: int
    last: int
    snippet: str
    score: float


@dataclass(frozen=True, slots=True)
class _Indexed:
    """Which rows belong to a note; without a stamp they are not complete."""

    stamp: Stamp | None
    rows: range


class _Index:
    """The notes of one workspace in full text search. All but :meth:`close` wants :meth:`held`."""

    def __init__(self, workspace: Path, offload: Offload) -> None:
        self._workspace = workspace
        self._offload = offload
        self._lock = threading.Lock()  # guards everything below, the database above all
        self._database: sqlite3.Connection | None = None
        self._notes: dict[str, _Indexed] = {}
        self._next_row = 1
        self._closed = False

    @contextmanager
    def held(self, cancel: CancelToken) -> Iterator[None]:
        """Nobody else may use the index in the block. Waits its turn.

        :raises Cancelled: the run ended meanwhile.
        """
        while not self._lock.acquire(timeout=_PATIENCE):
            cancel.raise_if_cancelled()
        try:
            yield
        finally:
            self._lock.release()

    def refresh(self, cancel: CancelToken) -> list[str]:
        """Bring the index up to date with the files; returns the names of those that are too much for it.

        :raises Cancelled: the run ended meanwhile; what is indexed stays, the next search goes on.
        """
        notes, left_out = self._offload(lambda: within_limits(find_notes(self._workspace)))
        for name in self._notes.keys() - notes.keys():
            self._forget(name)
        for name, note in notes.items():
            known = self._notes.get(name)
            if known is None or known.stamp != note.stamp:
                cancel.raise_if_cancelled()
                self._forget(name)
                self._add(note, cancel)
        return left_out

    def search(self, query: str, limit: int) -> list[_Hit]:
        """The best places for the words of ``query``, best first."""
        terms = list(dict.fromkeys(_TERM.findall(query)))[:_MAX_TERMS]
        return (
            self._match(" AND ".join(map(_quoted, terms)), limit)
            or self._match(" OR ".join(map(_beginning, terms)), limit)
            or self._contains(query, limit)
        )

    def close(self) -> None:
        """Give the database back. Waits for whoever holds it."""
        with self._lock:
            self._closed = True
            database, self._database = self._database, None
        if database is not None:
            self._offload(database.close)

    def _match(self, expression: str, limit: int) -> list[_Hit]:
        return self._find(_MATCH, (expression, limit)) if expression else []

    def _contains(self, text: str, limit: int) -> list[_Hit]:
        """For scripts that put no space between words, and for anything that is no word."""
        # To SQLite, a text ends at NUL; and every text contains an empty one.
        text = text.partition("\0")[0].strip()
        return self._find(_CONTAINS, (text, _SNIPPET_CHARS, limit)) if text else []

    def _find(self, statement: str, values: Sequence[str | int]) -> list[_Hit]:
        database = self._opened()
        rows = self._offload(lambda: database.execute(statement, values).fetchall())
        best = rows[0][-1] if rows else 0.0
        return [
            _Hit(name, first, last, snippet[:_SNIPPET_CHARS], score / best if best else 1.0)
            for name, first, last, snippet, score in rows
        ]

    def _add(self, note: Note, cancel: CancelToken) -> None:
        chunks = self._offload(lambda: read_chunks(self._workspace, note.name))
        rows = range(self._next_row, self._next_row + len(chunks))
        self._next_row = rows.stop
        self._notes[note.name] = _Indexed(None, rows)
        numbered = [
            (row, note.name, chunk.first, chunk.last, f"{note.name} {chunk.place}", chunk.text)
            for row, chunk in zip(rows, chunks, strict=True)
        ]
        for start in range(0, len(numbered), _BATCH):
            cancel.raise_if_cancelled()
            self._change(_INSERT, numbered[start : start + _BATCH])
        self._notes[note.name] = _Indexed(note.stamp, rows)

    def _forget(self, name: str) -> None:
        if name in self._notes:
            rows = self._notes[name].rows
            for start in range(rows.start, rows.stop, _BATCH):
                self._change(_DELETE, [(start, min(start + _BATCH, rows.stop))])
            del self._notes[name]

    def _change(self, statement: str, values: Sequence[Sequence[str | int]]) -> None:
        database = self._opened()

        def work() -> None:
            with database:
                database.executemany(statement, values)

        self._offload(work)

    def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise ToolError("The notes were just being put away; search again.")
        if self._database is None:
            self._database = self._offload(_open)
        return self._database


# "" is a database of its own that moves to a temporary file, already deleted, when it grows.
def _open() -> sqlite3.Connection:
    database = sqlite3.connect("", check_same_thread=False)
    database.execute(
        "CREATE VIRTUAL TABLE notes USING fts5(name UNINDEXED, first UNINDEXED, last UNINDEXED, place, text,"
        " tokenize = 'porter unicode61 remove_diacritics 2')"
    )
    return database


_INSERT = "INSERT INTO notes (rowid, name, first, last, place, text) VALUES (?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM notes WHERE rowid >= ? AND rowid < ?"
# A word in a heading says more about a place than one in the text.
_MATCH = (
    "SELECT name, first, last, snippet(notes, 4, '', '', '…', 64), -bm25(notes, 0, 0, 0, 2, 1) AS score"
    " FROM notes WHERE notes MATCH ? ORDER BY score DESC, rowid LIMIT ?"
)
_CONTAINS = (
    "SELECT name, first, last, substr(text, max(1, instr(lower(text), lower(?1)) - 200), ?2), 1.0"
    " FROM notes WHERE instr(lower(text), lower(?1)) ORDER BY rowid LIMIT ?3"
)


def _quoted(term: str) -> str:
    return f'"{term}"'


def _beginning(term: str) -> str:
    return f'"{term}"*' if len(term) > 2 else f'"{term}"'


def _report(hits: Sequence[_Hit], left_out: Sequence[str]) -> str:
    if not hits and not left_out:
        return "Nothing in your notes has these words."
    found = [
        f"{hit.name}, lines {hit.first}-{hit.last} (score {hit.score:.2f}):\n{hit.snippet}" for hit in hits
    ]
    if left_out:
        named = ", ".join(left_out[:_NAMED])
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        found.append(
            f"[Not searched: {named}{more}. Notes may have {MAX_FILE_BYTES // 2**20} MB each, and the newest"
            f" {MAX_FILES} of them, up to {MAX_BYTES // 2**20} MB, are searched.]"
        )
    return fenced("\n\n".join(found), "your notes")
