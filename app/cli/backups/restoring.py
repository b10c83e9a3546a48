"""Putting an unpacked backup in the place of what is there, which is moved aside and never deleted.

Until everything is unpacked and known to be whole, nothing that is there is touched. A store that is a file
comes last, in one step: whoever is interrupted before has the old one. A database comes before the files,
in one transaction; what it held is saved beside them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from ...config import Config
from ...errors import GatewayError, StoreError
from ...sessions import sqlite
from ...sessions.database import twice_is_once
from ...sessions.export import (
    check_schema,
    clear,
    import_rows,
    is_empty,
    open_rows,
    settle_imported,
    users,
)
from .places import ASIDE, CONFIG_NAME, STAGING, STORE_FILES, Places, find_places, is_state_entry
from .reading import Manifest, unpack
from .writing import Writer, new_file


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done.

    :ivar aside: where the old state is now; None if there was none.
    :ivar config: the configuration file, if it was restored.
    """

    manifest: Manifest
    aside: Path | None
    config: Path | None


def restore(archive: Path, config: Config, *, force: bool) -> Restored:
    """Restore a backup.

    :param force: even if there is state already.
    :raises GatewayError: the backup cannot be used, a gateway is running, or there is state already.
    """
    places, place = find_places(config), config.store_place
    now = time.time()
    aside = _Aside(_free(places.state / f"{ASIDE}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"))
    with ExitStack() as steps:
        steps.enter_context(_explained())
        steps.enter_context(sqlite.hold(places.state))
        unused = _is_unused(place) and not any(map(_has_files, _replaced(places)))
        if not unused and not force:
            raise GatewayError("There is state here already. With --force it is moved aside first.")
        staging = steps.enter_context(_staging(places.state))
        if isinstance(place, str):
            _save_rows(place, aside)
            manifest = _unpack(archive, staging, place, int(now * 1000))
        else:
            manifest = _unpack(archive, staging, staging / "rows", int(now * 1000))
        restored_config = _swap_config(staging, places, aside, secrets=manifest.secrets)
        _swap_workspaces(staging, places, aside)
        _swap_state(staging / "state", places.state, aside)
        if not isinstance(place, str):
            _swap_store(staging / "rows" / sqlite.FILE_NAME, places.state, aside)
    return Restored(manifest, aside.path if aside.path.exists() else None, restored_config)


def _unpack(archive: Path, staging: Path, place: Path | str, now: int) -> Manifest:
    """Unpack the files, and write the rows in the place of all that are there."""

    def work(db: Connection) -> Manifest:
        for left in staging.iterdir():  # of an attempt before, if the database went away
            if left != place:
                shutil.rmtree(left)
        clear(db)
        manifest = unpack(archive, staging, lambda table, rows: import_rows(db, table, rows))
        check_schema(manifest.schema)
        settle_imported(db, now)
        return manifest

    with closing(open_rows(place, readonly=False)) as database:
        return database.write(work, twice_is_once)


def _save_rows(url: str, aside: _Aside) -> None:
    """A backup of what the database holds, if it holds anything."""
    with closing(open_rows(url, readonly=False)) as database:
        if not database.read(is_empty):
            with new_file(aside.made() / "database.tar.gz", overwrite=True) as file:
                writer = Writer(file, lambda _: None)
                database.read(writer.add_rows)
                writer.finish(with_secrets=False)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GatewayError(f"The state cannot be restored: {error.strerror or error}.") from error


@contextmanager
def _staging(state: Path) -> Iterator[Path]:
    """A directory on the same disk; what an earlier attempt has left is removed."""
    for left in state.glob(f"{STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    path = state / f"{STAGING}{os.getpid()}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _is_unused(place: Path | str) -> bool:
    """True if the store holds nothing that anybody would miss.

    :raises GatewayError: a gateway is using it.
    """
    if isinstance(place, Path):
        try:
            with closing(open_rows(place, readonly=True)) as database:
                return database.read(is_empty)
        except StoreError:  # none yet, or one that somebody may want to repair
            return not (place / sqlite.FILE_NAME).stat().st_size
    with closing(open_rows(place, readonly=False)) as database:
        if names := database.read(users):
            raise GatewayError(f"A gateway is using the database: {', '.join(names)}. Stop it first.")
        return database.read(is_empty)


def _replaced(places: Places) -> Iterator[Path]:
    for name, root in places.roots.items():
        if name != "state":
            yield root
        else:
            yield from (path for path in root.iterdir() if is_state_entry(path.name))


def _has_files(path: Path) -> bool:
    return path.is_file() or any(not one.is_dir() for one in path.rglob("*"))


def _free(path: Path) -> Path:
    """``path``, with a number if there is such a thing: two attempts may fall into one second."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not one.exists())


class _Aside:
    """A directory for what was there, made when it is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def made(self) -> Path:
        """The directory, which is there now."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        return self.path

    def take(self, path: Path) -> None:
        """Move ``path`` here, if there is such a thing."""
        if path.exists() or path.is_symlink():
            path.rename(self.made() / path.name)

    def link(self, path: Path) -> None:
        """Have ``path`` here, too."""
        os.link(path, self.made() / path.name)


def _swap_config(staging: Path, places: Places, aside: _Aside, *, secrets: bool) -> Path | None:
    """A configuration without its secrets does not take the place of one that has them."""
    new, path = staging / "config" / CONFIG_NAME, places.config
    if not new.exists() or (path.exists() and not secrets):
        return None
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f"{STAGING}{path.name}")
    shutil.copyfile(new, beside)
    beside.chmod(0o600)
    if path.exists():
        shutil.copy2(path, aside.made() / path.name)
    beside.replace(path)
    return path


def _swap_workspaces(staging: Path, places: Places, aside: _Aside) -> None:
    """Workspaces outside of the state directory; of an agent that is not configured, inside of it."""
    folder = staging / "workspaces"
    for new in sorted(folder.iterdir()) if folder.is_dir() else ():
        place = places.roots.get(f"workspaces/{new.name}")
        if place is None:
            staging.joinpath("state").mkdir(exist_ok=True)
            new.rename(staging / "state" / f"workspace-{new.name}")
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}{STAGING}{os.getpid()}")
        shutil.copytree(new, beside, symlinks=True)
        if place.exists():
            place.rename(place.with_name(f"{place.name}.{aside.path.name}"))
        beside.rename(place)


def _swap_state(new: Path, state: Path, aside: _Aside) -> None:
    for old in sorted(state.iterdir()):
        if is_state_entry(old.name):
            aside.take(old)
    for one in sorted(new.iterdir()) if new.is_dir() else ():
        aside.take(state / one.name)  # .env, which is not moved otherwise
        one.rename(state / one.name)


def _swap_store(new: Path, state: Path, aside: _Aside) -> None:
    old = state / sqlite.FILE_NAME
    if old.exists():
        _gather(old)
        for name in sorted(STORE_FILES - {old.name}):
            aside.take(state / name)  # there only if the old store is damaged
        if old.stat().st_size:
            aside.link(old)
    new.replace(old)
    descriptor = os.open(state, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gather(store: Path) -> None:
    """Let the store be one file, as far as it can be read."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(store)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
