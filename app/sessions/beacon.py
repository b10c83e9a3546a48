"""Where the gateway of a state directory can be reached: a small file, locked for as long as it is true."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..wire import InvalidJson, dumps, loads

FILE_NAME = "gateway.json"

_LONGEST = 4_096


@dataclass(frozen=True, slots=True)
class Beacon:
    """A gateway that serves: its process, its address for this machine, its release."""

    pid: int
    url: str
    version: str

    def __str__(self) -> str:
        return f"{self.url} (process {self.pid})"


def light(directory: Path, beacon: Beacon) -> Callable[[], None]:
    """Say in ``directory`` where its gateway is, until the returned function is called or this process dies.

    Several workers of one gateway may do so together.

    :raises OSError: the file cannot be written.
    """
    descriptor = _open_locked(directory / FILE_NAME)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, dumps(asdict(beacon)), 0)
    return lambda: _put_out(directory / FILE_NAME, descriptor)


def seen(directory: Path) -> Beacon | None:
    """The gateway that serves from ``directory`` at this moment; None if there is none that says so."""
    try:
        descriptor = os.open(directory / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _parsed(os.read(descriptor, _LONGEST)) if _is_held(descriptor) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """The file, with a share in its lock. Whoever leaves last removes it, so that it may vanish meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _put_out(path: Path, descriptor: int) -> None:
    """Give up the share, and remove the file if nobody else has one. Only the first call counts."""
    with suppress(OSError):  # closed before
        if _lock_alone(descriptor):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_held(descriptor: int) -> bool:
    """True if somebody has a share in the lock."""
    return not _lock_alone(descriptor)


def _lock_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(data: bytes) -> Beacon | None:
    try:
        value = loads(data)
    except InvalidJson:
        return None
    match value:
        case {"pid": int(pid), "url": str(url), "version": str(version)}:
            return Beacon(pid, url, version)
    return None
