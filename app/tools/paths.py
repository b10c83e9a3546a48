"""Files below a directory, and never anywhere else.

A name is resolved first, links and ``..`` included, and the result compared with the
directories that are allowed. Then it is opened again from the top, one step after the other
and without following links: whoever swaps a directory for a link in between gets an error,
not a way out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from .registry import ToolContext, ToolError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# NONBLOCK: opening a FIFO must not wait for its writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is, or would be.

    :ivar name: as the model wrote it, for what it is told.
    :ivar root: the allowed directory it lies in, resolved.
    :ivar parts: the way from there; no link and no ``..`` when it was resolved.
    """

    name: str
    root: Path
    parts: tuple[str, ...]


def readable_roots(context: ToolContext) -> list[Path]:
    """The directories a run may read from, its workspace first."""
    scratch = [] if context.scratch is None else [context.scratch]
    return [context.workspace, *context.readable, *scratch]


def locate(roots: Sequence[Path], name: str) -> Place:
    """The place called ``name``, relative to the first of ``roots``.

    :raises ToolError: it is in none of them, or there is no such name.
    """
    with explained(name):
        bases = [root.resolve() for root in roots]
        real = (bases[0] / name).resolve()
    for base in bases:
        if real.is_relative_to(base):
            return Place(name, base, real.relative_to(base).parts)
    raise ToolError(f"{name}: outside the workspace")


def locate_tree(roots: Sequence[Path], name: str) -> Place:
    """As :func:`locate`; a workspace that is not there yet is made, for it is empty and not missing.

    :raises ToolError: as there, or it cannot be made.
    """
    place = locate(roots, name)
    if not place.parts:
        with explained(name), suppress(FileExistsError):  # a root may be a single file
            place.root.mkdir(parents=True, exist_ok=True)
    return place


def read_file(place: Place, limit: int, *, from_end: bool = False) -> bytes:
    """At most ``limit`` bytes of a regular file, the first or the last ones.

    :raises ToolError: missing, unreadable, or not a regular file.
    """
    with explained(place.name), _parent(place) as (directory, leaf):
        fd = os.open(leaf, _FILE, dir_fd=directory)
        try:
            opened = os.fstat(fd)
            if not stat.S_ISREG(opened.st_mode):
                raise ToolError(f"{place.name}: not a regular file")
            # Not earlier: a file object cannot be made of a directory.
            with os.fdopen(fd, "rb", closefd=False) as file:
                if from_end:
                    file.seek(max(0, opened.st_size - limit))
                return file.read(limit)
        finally:
            os.close(fd)


@contextmanager
def opened_directory(place: Place) -> Iterator[int]:
    """A descriptor of a directory.

    :raises ToolError: missing, unreadable, or not a directory.
    """
    with explained(place.name):
        fd = _descend(place.root, place.parts)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def staged(place: Place, data: bytes, *, mode: int | None = None) -> Iterator[Callable[[], None]]:
    """A new version of a file, written beside it; what is yielded puts it in place, at once.

    Missing directories are created. A file that exists keeps its mode, a new one gets ``mode``.
    Without the call nothing changes.

    :raises ToolError: cannot be written, is read-only, or is no regular file.
    """
    with explained(place.name), _parent(place, create=True) as (directory, leaf):
        if (existing := _mode(directory, leaf)) is not None:
            mode = _writable(place, existing)
        beside = f".{token_hex(8)}.tmp"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                if mode is not None:
                    os.fchmod(fd, stat.S_IMODE(mode) & 0o777)

            def commit() -> None:
                with explained(place.name):
                    os.rename(beside, leaf, src_dir_fd=directory, dst_dir_fd=directory)

            yield commit
        finally:
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=directory)


def exists(place: Place) -> bool:
    """True if there is anything with this name.

    :raises ToolError: nobody can tell.
    """
    with explained(place.name):
        try:
            with _parent(place) as (directory, leaf):
                return _mode(directory, leaf) is not None
        except FileNotFoundError:
            return False


def writable_mode(place: Place) -> int:
    """The mode of a regular file that may be changed.

    :raises ToolError: missing, read-only, or not a regular file.
    """
    with explained(place.name), _parent(place) as (directory, leaf):
        return _writable(place, os.stat(leaf, dir_fd=directory, follow_symlinks=False).st_mode)


def remove(place: Place) -> None:
    """Delete a file.

    :raises ToolError: missing, or cannot be deleted.
    """
    with explained(place.name), _parent(place) as (directory, leaf):
        os.unlink(leaf, dir_fd=directory)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Errors of the operating system become sentences for the model."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _refusal(name, error) from None


def _refusal(name: str, error: Exception) -> ToolError:
    reason = error.strerror if isinstance(error, OSError) else "not a usable file name"
    return ToolError(f"{name}: {reason or 'cannot be used'}")


@contextmanager
def _parent(place: Place, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """The directory of a file and the file's name in it."""
    if not place.parts:
        raise ToolError(f"{place.name}: not a regular file")
    if create:
        place.root.mkdir(parents=True, exist_ok=True)
    fd = _descend(place.root, place.parts[:-1], create=create)
    try:
        yield fd, place.parts[-1]
    finally:
        os.close(fd)


def _descend(root: Path, parts: Sequence[str], *, create: bool = False) -> int:
    fd = os.open(root, _DIRECTORY)
    for part in parts:
        above = fd
        try:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=above)
            fd = os.open(part, _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return fd


def _mode(directory: int, leaf: str) -> int | None:
    try:
        return os.stat(leaf, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _writable(place: Place, mode: int) -> int:
    """``mode``, if it is that of a file that somebody may write."""
    if not stat.S_ISREG(mode):
        raise ToolError(f"{place.name}: not a regular file")
    if not mode & 0o222:
        raise ToolError(f"{place.name}: read-only")
    return mode
