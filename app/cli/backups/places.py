"""What belongs into a backup, and where it is on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...config import Config, config_path
from ...runtime import check_agents
from ...sessions.beacon import FILE_NAME as BEACON
from ...sessions.sqlite import FILE_NAME as STORE
from ...sessions.sqlite import LOCK_NAME

CONFIG_NAME = "openclaw.json"
ASIDE = "before-restore-"
STAGING = ".restore-"

STORE_FILES = frozenset({STORE, f"{STORE}-wal", f"{STORE}-shm", f"{STORE}-journal"})
# Of this machine or this moment: sockets, locks, long output that is thrown away after a week.
_PASSING = frozenset({"run", "scratch", LOCK_NAME, BEACON})
_ENV = ".env"


@dataclass(frozen=True)
class Places:
    """Where the state of one gateway is.

    :ivar roots: directories by the name they have in an archive: ``state``, and ``workspaces/<agent>``
        for a workspace that is elsewhere.
    :ivar config: where the configuration file is or would be.
    """

    roots: dict[str, Path]
    config: Path

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.roots["state"]


def find_places(config: Config) -> Places:
    """Where this configuration keeps its state.

    :raises ConfigError: the agents are not to be had from it.
    """
    state = config.state_dir
    roots = {"state": state}
    for agent in check_agents(config, os.environ):
        workspace = agent.workspace.resolve()
        if not workspace.is_relative_to(state.resolve()):
            roots[f"workspaces/{agent.id}"] = workspace
    return Places(roots, config.path or config_path(os.environ))


def kept_entries(root: Path, *, is_state: bool, with_secrets: bool) -> Iterator[os.DirEntry[str]]:
    """What of a directory's own entries is state, in a fixed order; nothing if there is no directory.

    The store's file is none of them: its rows are exported. Nor is the configuration, which need not be here.
    """
    try:
        found = sorted(os.scandir(root), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if not is_state or is_state_entry(entry.name) or (with_secrets and entry.name == _ENV):
            yield entry


def is_state_entry(name: str) -> bool:
    """True for a file or folder of the state directory that backups hold and restores replace."""
    return not (name in STORE_FILES | _PASSING | {CONFIG_NAME, _ENV} or name.startswith((ASIDE, STAGING)))
