"""Reading an archive that may be cut short, damaged, or made by somebody who means harm."""

from __future__ import annotations

import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from ...errors import GatewayError
from ...sessions.export import TABLES, Row
from ...wire import InvalidJson, loads
from .places import CONFIG_NAME, is_state_entry
from .writing import DEEPEST, FORMAT, MANIFEST, is_within

# Takes rows of a table as they are read, before it is known whether the archive is whole.
TakeRows = Callable[[str, list[Row]], None]

_ROWS = re.compile(rf"store/({'|'.join(TABLES)})/[0-9]{{6}}\.jsonl")
_ROOT = re.compile(r"state|workspaces/[a-z0-9][a-z0-9_-]{0,63}")
_CONFIG = f"config/{CONFIG_NAME}"
_PIECE = 2**18
# Rows are gathered to 4 MiB a member, so that only one very long row makes it longer.
_LONGEST_MEMBER = 256 * 2**20
_ROWS_AT_ONCE = 500
# What precedes a member with a long name. The library reads it in one piece, whatever its length.
_EXTENSIONS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)
_LONGEST_EXTENSION = 2**16
_END_OF_TIME = 253_402_300_800_000  # the year 10000, Unix milliseconds


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says about itself.

    :ivar secrets: its configuration is whole.
    :ivar omitted: the keys of the configuration that were left out else.
    """

    version: str
    schema: int
    created_at: int
    secrets: bool
    omitted: tuple[str, ...]
    rows: dict[str, int]
    files: dict[str, dict[str, Any]] = field(repr=False)


def unpack(archive: Path, directory: Path, take_rows: TakeRows) -> Manifest:
    """Unpack everything into ``directory`` and make sure that it is whole.

    :raises GatewayError: it is not, or it holds what no backup holds. Some of it may have been unpacked.
    """
    reader = _Reader(directory, take_rows)
    try:
        with tarfile.open(archive, mode="r|gz", tarinfo=_Member) as tar:
            for member in tar:
                reader.take(tar, member)
        return reader.finish(archive.name)
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise _damaged(archive.name) from error
    except OSError as error:  # a gzip that is none has no number
        if error.errno is None:
            raise _damaged(archive.name) from error
        raise GatewayError(f"{archive.name} cannot be unpacked: {error.strerror}.") from error


class _Member(tarfile.TarInfo):
    """A member of an archive that may mean harm."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As the library does it."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENSIONS and member.size > _LONGEST_EXTENSION:
            raise tarfile.ReadError("a header is too long")
        return member

    def isreg(self) -> bool:
        """True for a file as we write them: each of its bytes is in the archive."""
        return super().isreg() and not self.issparse()


class _Reader:
    def __init__(self, directory: Path, take_rows: TakeRows) -> None:
        self._directory = directory
        self._take_rows = take_rows
        self._read: dict[str, dict[str, Any]] = {}
        self._links: list[tuple[Path, str, Path]] = []
        self._manifest: Manifest | None = None

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name
        if self._manifest is not None or name in self._read:
            raise _foreign(name)
        if table := _ROWS.fullmatch(name):
            for rows in _parsed_rows(self._text(tar, member)):
                self._take_rows(table[1], rows)
        elif name == MANIFEST:
            self._manifest = _parsed_manifest(self._text(tar, member))
        elif name == _CONFIG and member.isreg():
            self._take_file(tar, member, self._directory / name)
        else:
            self._take_entry(tar, member)

    def finish(self, name: str) -> Manifest:
        """Create the links, which nothing was written through, and compare what there is."""
        for path, target, _ in self._links:
            path.symlink_to(target)
        for path, _, root in self._links:  # where one leads depends on the others
            if not is_within(path, root):
                raise _foreign(path.name)
        manifest = self._manifest
        self._read.pop(MANIFEST, None)
        if manifest is None or manifest.files != self._read:
            raise _damaged(name)
        return manifest

    def _take_entry(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        root, path = self._place(member.name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if member.isdir():
            path.mkdir(mode=0o700, exist_ok=True)
        elif member.issym():
            self._links.append((path, member.linkname, root))
        elif member.isreg():
            self._take_file(tar, member, path)
        else:
            raise _foreign(member.name)

    def _place(self, name: str) -> tuple[Path, Path]:
        """Where an entry belongs, and the directory that it must not leave."""
        parts = PurePosixPath(name).parts
        depth = 1 if parts[:1] == ("state",) else 2
        root = "/".join(parts[:depth])
        usable = "/".join(parts) == name and ".." not in parts and "\0" not in name and len(parts) > depth
        if not usable or len(parts) > DEEPEST + 1 or not _ROOT.fullmatch(root):
            raise _foreign(name)
        if depth == 1 and not is_state_entry(parts[1]) and parts[1:] != (".env",):
            raise _foreign(name)
        return self._directory / root, self._directory / name

    def _take_file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # New, so that no name comes twice and no link is followed.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in self._pieces(tar, member):
                file.write(piece)
            file.flush()
            os.fsync(descriptor)
            os.fchmod(descriptor, member.mode & 0o777 | 0o600)
        os.utime(path, (member.mtime, member.mtime))

    def _text(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        if not member.isreg() or member.size > _LONGEST_MEMBER:
            raise _foreign(member.name)
        return b"".join(self._pieces(tar, member))

    def _pieces(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
        file: IO[bytes] | None = tar.extractfile(member)
        digest, size = sha256(), 0
        while file and (piece := file.read(_PIECE)):
            digest.update(piece)
            size += len(piece)
            yield piece
        self._read[member.name] = {"size": size, "sha256": digest.hexdigest()}


def _parsed_rows(text: bytes) -> Iterator[list[Row]]:
    """The rows of a member, some at a time: short ones take much more room than their text."""
    lines = BytesIO(text)
    while rows := [_parsed_row(line) for line in islice(lines, _ROWS_AT_ONCE)]:
        yield rows


def _parsed_row(line: bytes) -> Row:
    try:
        row = loads(line)
    except InvalidJson:
        row = None
    if not isinstance(row, dict):
        raise GatewayError("The backup holds rows that cannot be read.")
    return dict(row)


def _parsed_manifest(text: bytes) -> Manifest:
    try:
        value = json.loads(text)  # and not wire.loads: names of files need not be UTF-8
    except (ValueError, RecursionError):
        value = None
    match value:
        case {"format": int(number)} if number > FORMAT:
            raise GatewayError("The backup was made by a newer version of the gateway.")
        case {
            "format": int(),
            "version": str(version),
            "schema": int(schema),
            "createdAt": int(created_at),
            "secrets": bool(secrets),
            "omitted": list(omitted),
            "rows": dict(rows),
            "files": dict(files),
        } if 0 <= created_at < _END_OF_TIME and all(isinstance(count, int) for count in rows.values()):
            return Manifest(version, schema, created_at, secrets, tuple(map(str, omitted)), rows, files)
    raise GatewayError("This is no backup of a gateway.")


def _damaged(name: str) -> GatewayError:
    return GatewayError(f"{name} is damaged, cut short or no backup. Nothing was restored.")


def _foreign(name: str) -> GatewayError:
    return GatewayError(f"The backup holds {name[:80]!r}, which no backup holds. Nothing was restored.")
