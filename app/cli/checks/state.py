"""Checks of the state directory and of the store in it. None of them changes anything."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from ...runtime.disk import disk_warning, mount_of
from ...sessions.beacon import FILE_NAME as BEACON
from ...sessions.beacon import seen
from ...sessions.sqlite import FILE_NAME, LOCK_NAME
from ...sessions.tables import SCHEMA_VERSION
from ..backups.places import STAGING
from .finding import Finding, Site, mode_finding

_MEGABYTE = 10**6
_LITTLE, _VERY_LITTLE = 1_000 * _MEGABYTE, 100 * _MEGABYTE
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse"})


def directory(site: Site) -> Iterator[Finding]:
    """Whether the state directory can be used."""
    state = site.state
    if not state.exists():
        yield from _missing(state)
    elif not (state.is_dir() and os.access(state, os.R_OK | os.W_OK | os.X_OK)):
        yield Finding(
            "problem",
            f"{state} cannot be written.",
            "Give it to the user of the gateway, or set OPENCLAW_STATE_DIR.",
        )
    else:
        yield Finding("ok", f"State is in {state}.")
        yield from mode_finding(state, 0o700)


def space(site: Site) -> Iterator[Finding]:
    """Whether the disk has room."""
    try:
        free = shutil.disk_usage(_nearest(site.state)).free
    except OSError:
        return
    if free < _LITTLE:
        yield Finding(
            "problem" if free < _VERY_LITTLE else "warning",
            f"The disk of {site.state} has {free // _MEGABYTE} MB left.",
            "Free some space: what cannot be stored is refused.",
        )


def file_system(site: Site) -> Iterator[Finding]:
    """Whether the disk keeps what is written, and locks hold there."""
    if site.config is not None and site.config.state.database:
        return
    place = _nearest(site.state)
    if lost := disk_warning(place, site.env):
        told, _, fix = lost.partition(": ")
        yield Finding("warning", f"{told[0].upper()}{told[1:]}.", f"{fix[0].upper()}{fix[1:]}.")
    kind = network_file_system(place, Path("/proc/self/mounts"))
    if kind:
        yield Finding(
            "warning",
            f"{site.state} is on a network file system ({kind}), where locks may not hold.",
            "Put it on a local disk, or use Postgres (DATABASE_URL).",
        )


def store(site: Site) -> Iterator[Finding]:
    """Whether the store is whole, and of this release."""
    path = site.state / FILE_NAME
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(_readable(path), uri=True, timeout=2)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            damage = [row[0] for row in db.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
    except sqlite3.Error as error:
        damage, version = [str(error)], 0
    if damage:
        yield Finding(
            "problem",
            f"{path} is damaged: {'; '.join(damage)}.",
            "Stop the gateway and restore a backup: `openclaw restore FILE --force` keeps the old one.",
        )
    elif version > SCHEMA_VERSION:
        yield Finding("problem", f"{path} was made by a newer release.", "Install that release again.")
    elif version < SCHEMA_VERSION:
        yield Finding("ok", f"{path} is of an older release: the next start brings it up to date.")
    else:
        size = path.stat().st_size / _MEGABYTE
        yield Finding("ok", f"The store is whole ({size:.1f} MB, schema {version}).")


def store_files(site: Site) -> Iterator[Finding]:
    """Whether other users can read conversations."""
    for name in (FILE_NAME, f"{FILE_NAME}-wal", LOCK_NAME, "exec-approvals.json", ".env"):
        yield from mode_finding(site.state / name, 0o600)


def leftovers(site: Site) -> Iterator[Finding]:
    """What processes that were killed have left behind."""
    for path in sorted(site.state.glob(f"{STAGING}*")) if site.state.is_dir() else ():
        yield Finding(
            "warning",
            f"{path} is of a restore that was interrupted.",
            "Remove it, or run the restore again.",
            partial(shutil.rmtree, path),
        )
    beacon = site.state / BEACON
    if beacon.exists() and seen(site.state) is None:
        yield Finding("warning", f"{beacon} is of a gateway that was killed.", f"rm {beacon}", beacon.unlink)


def network_file_system(path: Path, mounts: Path) -> str:
    """The kind of network file system that ``path`` is on; "" for any other."""
    try:
        _, kind = mount_of(path.resolve(), mounts.read_text(errors="replace"))
    except OSError:  # not Linux
        return ""
    return kind if kind in _REMOTE else ""


def _readable(path: Path) -> str:
    """The store's address for a reader that leaves no files of its own, where nobody is writing."""
    alone = not path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}?{'immutable=1' if alone else 'mode=ro'}"


def _missing(state: Path) -> Iterator[Finding]:
    if os.access(_nearest(state), os.W_OK | os.X_OK):
        yield Finding(
            "ok",
            f"{state} is not there yet: the first start makes it.",
            "",
            lambda: state.mkdir(0o700, parents=True),
        )
    else:
        yield Finding("problem", f"{state} is not there and cannot be made.", "Set OPENCLAW_STATE_DIR.")


def _nearest(path: Path) -> Path:
    """``path``, or what there is of the way to it."""
    return path if path.exists() or path == path.parent else _nearest(path.parent)
