"""What a command has written: the beginning, the end, and a file for all of it."""

from __future__ import annotations

import os
from codecs import utf_8_decode
from pathlib import Path

_PIECE = 1 << 16  # bytes of a file written in one go: other streams wait for it
_CONTINUATION = bytes(range(0x80, 0xC0))


class Output:
    """Takes any amount of bytes and keeps ``limit`` of them in memory, half from each end.

    As soon as it has more than that, everything goes to ``file`` too, up to ``file_limit`` bytes.
    Not thread-safe.

    :param file: created when needed, with its directory, for this user alone; None for no file.
    """

    def __init__(self, limit: int, file: Path | None, file_limit: int) -> None:
        self._half = max(1, limit // 2)
        self._path = file
        self._room = file_limit
        self._file: int | None = None
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """More of it."""
        if self.total <= 2 * self._half < self.total + len(data):
            self._open_file()
            self._spill(bytes(self._head + self._tail))
        self._spill(data)
        self.total += len(data)
        taken = max(0, self._half - len(self._head))
        self._head += data[:taken]
        self._tail += data[taken:][-2 * self._half :]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def close(self) -> None:
        """There is no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def text(self) -> str:
        """What is kept; a line in brackets stands for what is missing."""
        missing = self.total - 2 * self._half
        if missing <= 0:
            return _text(self._head + self._tail)
        head, tail = _text(self._head, cut=True), _text(self._tail[-self._half :], begun=True)
        return f"{head}\n[… {missing:,} bytes are left out here; {self._whereabouts()} …]\n{tail}"

    def end(self, size: int) -> str:
        """The last ``size`` bytes at most."""
        kept = self._head + self._tail if self.total <= 2 * self._half else self._tail
        return _text(kept[-size:], cut=True, begun=len(kept) > size)

    def since(self, position: int) -> tuple[str, int]:
        """What came after ``position`` as far as it is kept, and the position after that."""
        start = self.total - len(self._tail)
        kept, note = self._tail, ""
        if start == len(self._head):  # nothing is missing yet
            start, kept = 0, self._head + self._tail
        elif position < start:
            note = f"[… {start - position:,} bytes are left out here; {self._whereabouts()} …]\n"
            position = start
        text, read = utf_8_decode(kept[position - start :], "replace", False)
        return note + text.replace("\0", ""), position + read

    def _whereabouts(self) -> str:
        if self._path is None:
            return "they were not kept"
        if self._room == 0:
            return f"the first part of the output is in {self._path}"
        return f"the whole output is in {self._path}"

    def _open_file(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:  # the command matters more than a copy of its output
            self._path = None

    def _spill(self, data: bytes) -> None:
        if self._file is None:
            return
        kept = memoryview(data)[: self._room]
        try:
            for start in range(0, len(kept), _PIECE):
                self._room -= os.write(self._file, kept[start : start + _PIECE])
        except OSError:  # a full disk
            self._room = 0
        if self._room == 0:
            self.close()


def _text(data: bytes | bytearray, *, cut: bool = False, begun: bool = False) -> str:
    """UTF-8 as far as it is; half a character at an end where it was ``cut`` is left out."""
    if begun:
        data = data.lstrip(_CONTINUATION)
    text, _ = utf_8_decode(data, "replace", not cut)
    return text.replace("\0", "")
