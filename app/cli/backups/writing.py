"""Writing an archive: rows, files, and at its end the list of what must be in it."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from gzip import GzipFile
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from pydantic import SecretStr
from sqlalchemy import Connection

from ...config import Config
from ...config.problems import key_path
from ...config.schema import Document
from ...errors import GatewayError
from ...sessions.export import TABLES, export_rows
from ...sessions.tables import SCHEMA_VERSION
from ...version import version
from ...wire import dumps
from .places import CONFIG_NAME, kept_entries

FORMAT = 1
MANIFEST = "manifest.json"
# Directories in one another, at most: what walks through them goes one call deeper with each.
DEEPEST = 100

# Rows are gathered to about so many bytes a member, so that memory stays small.
_MEMBER = 4 * 2**20
_SECRET = object()
# One file cannot be read, or has become something else since it was listed; the others can be.
_UNREADABLE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
)


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file that is there, whole and for its owner only, once the block has ended well.

    :raises GatewayError: there is one already, or it cannot be written, or the block has met an OSError.
    """
    if path.exists() and not overwrite:
        raise GatewayError(f"{path} is there already. Use --force to replace it.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with ExitStack() as on_failure:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            on_failure.callback(partial.unlink, missing_ok=True)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            on_failure.pop_all()
    except OSError as error:
        own = error.filename in (None, os.fspath(partial))
        failed = f"{path} cannot be written" if own else f"{error.filename} cannot be read"
        raise GatewayError(f"{failed}: {error.strerror or error}.") from error


class Writer:
    """Writes one archive. Not for more than one thread."""

    def __init__(self, file: IO[bytes], warn: Callable[[str], None]) -> None:
        """:param warn: told what is left out."""
        # Two objects, because the library's "w|gz" writes once more when a failed backup is thrown away.
        self._gzip = GzipFile("", "wb", fileobj=file)
        self._tar = tarfile.open(fileobj=self._gzip, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by finish
        self._own = os.fstat(file.fileno())
        self._warn = warn
        self._files: dict[str, dict[str, Any]] = {}
        self._omitted: list[str] = []
        self.counts: dict[str, int] = {}

    @property
    def files(self) -> int:
        """How many files there are so far, besides rows and configuration."""
        return sum(not name.startswith(("store/", "config/")) for name in self._files)

    def add_rows(self, db: Connection) -> None:
        """All rows of all tables, as lines of JSON.

        :raises GatewayError: called a second time, because the database went away during the first.
        """
        if self.counts:
            raise GatewayError("The database went away while it was read. Please try again.")
        for table in TABLES:
            self.counts[table] = 0
            for number, text in enumerate(self._members(db, table), 1):
                self._add_bytes(f"store/{table}/{number:06}.jsonl", text)

    def add_config(self, config: Config, *, with_secrets: bool) -> None:
        """The configuration: its file, or all that is served of it but its secrets."""
        if not with_secrets:
            self._add_bytes(f"config/{CONFIG_NAME}", _without_secrets(config, self._omitted))
        elif config.path is not None:
            text = config.path.read_bytes()
            if b"$include" in text:
                self._warn("the files that the configuration includes are not part of the backup")
            self._add_bytes(f"config/{CONFIG_NAME}", text)
        elif config.variables:
            self._warn("the configuration is in variables of the environment and not part of the backup")

    def add_files(self, name: str, root: Path, *, with_secrets: bool) -> None:
        """The files below ``root``, as far as they are state."""
        for entry in kept_entries(root, is_state=name == "state", with_secrets=with_secrets):
            self._add_entry(entry, f"{name}/{entry.name}", root)

    def finish(self, *, with_secrets: bool) -> None:
        """Write what must be in the archive, and close it."""
        manifest = {
            "format": FORMAT,
            "version": version(),
            "schema": SCHEMA_VERSION,
            "createdAt": int(time.time() * 1000),
            "rows": self.counts,
            "files": self._files,
            "omitted": self._omitted,
            "secrets": with_secrets,
        }
        # As ASCII: names of files that are not UTF-8 are in it as they are.
        self._add_bytes(MANIFEST, json.dumps(manifest).encode())
        self._tar.close()
        self._gzip.close()

    def _members(self, db: Connection, table: str) -> Iterator[bytes]:
        lines = bytearray()
        for rows in export_rows(db, table):
            self.counts[table] += len(rows)
            for row in rows:
                lines += dumps(row) + b"\n"
                if len(lines) > _MEMBER:
                    yield bytes(lines)
                    lines.clear()
        if lines:
            yield bytes(lines)

    def _add_entry(self, entry: os.DirEntry[str], name: str, root: Path) -> None:
        try:
            if name.count("/") > DEEPEST:
                self._warn(f"{name[:80]}… is nested too deeply and is left out")
            elif entry.is_symlink():
                self._add_link(Path(entry.path), name, root)
            elif entry.is_dir(follow_symlinks=False):
                self._add_directory(Path(entry.path), name, root)
            elif entry.is_file(follow_symlinks=False):
                self._add_file(Path(entry.path), name)
            else:
                self._warn(f"{name} is no file and is left out")
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            self._warn(f"{name} is left out: {(error.strerror or 'it is gone').lower()}")

    def _add_directory(self, path: Path, name: str, root: Path) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, path.stat().st_mode & 0o777, path.stat().st_mtime
        inside = sorted(os.scandir(path), key=lambda entry: entry.name)
        self._tar.addfile(info)
        for entry in inside:
            self._add_entry(entry, f"{name}/{entry.name}", root)

    def _add_link(self, path: Path, name: str, root: Path) -> None:
        """A link within the directory; one that leads out of it means nothing elsewhere."""
        target = path.readlink()
        if target.is_absolute() or not is_within(path, root):
            self._warn(f"{name} is a link that leads elsewhere and is left out")
            return
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, str(target)
        self._tar.addfile(info)

    def _add_file(self, path: Path, name: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if os.path.samestat(found, self._own) or not stat.S_ISREG(found.st_mode):
                return
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = found.st_size, found.st_mode & 0o777, found.st_mtime
            reader = _Exactly(file, found.st_size)
            self._tar.addfile(info, reader)
        if reader.missing:
            self._warn(f"{name} has become shorter while it was read")
        self._files[name] = {"size": info.size, "sha256": reader.digest}

    def _add_bytes(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
        self._tar.addfile(info, io.BytesIO(data))
        if name != MANIFEST:
            self._files[name] = {"size": len(data), "sha256": sha256(data).hexdigest()}


def is_within(path: Path, root: Path) -> bool:
    """True if ``path`` does not lead out of ``root`` by links; one that leads to itself leads nowhere."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _without_secrets(config: Config, omitted: list[str]) -> bytes:
    """All that is served of the configuration but its secrets; where those were is added to ``omitted``."""
    sections = {name: getattr(config, name) for name in Document.model_fields if hasattr(config, name)}
    stated = {name: keys.model_dump(by_alias=True, exclude_unset=True) for name, keys in sections.items()}
    shown = _public({name: keys for name, keys in stated.items() if keys}, (), omitted)
    return json.dumps(shown, indent=2, default=str, ensure_ascii=False).encode()


def _public(value: Any, steps: tuple[str | int, ...], omitted: list[str]) -> Any:
    if isinstance(value, dict):
        pairs = {key: _public(item, (*steps, key), omitted) for key, item in value.items()}
        return {key: item for key, item in pairs.items() if item is not _SECRET}
    if isinstance(value, list | tuple):
        items = [_public(item, (*steps, number), omitted) for number, item in enumerate(value)]
        return [item for item in items if item is not _SECRET]
    if isinstance(value, SecretStr):
        omitted.append(key_path(steps))
        return _SECRET
    return value


class _Exactly(io.RawIOBase):
    """So many bytes of a file that somebody may be writing: no more, and zeros for what is gone."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self._hash = sha256()
        self.missing = 0

    @property
    def digest(self) -> str:
        """Of what was read so far."""
        return self._hash.hexdigest()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        self.missing += wanted - len(data)
        data += bytes(wanted - len(data))
        self._left -= wanted
        self._hash.update(data)
        return data
