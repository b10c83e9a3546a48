"""What a check is given, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ...agents.registry import AgentRegistry
from ...config import Config

Level: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Site:
    """Where the checks look.

    :ivar config: None if it cannot be used at all; then ``mistakes`` says why.
    :ivar agents: None if they cannot be had; then ``mistakes`` says why.
    :ivar online: call models, too.
    :ivar deep: start MCP servers and load the built-in model, too.
    """

    env: Mapping[str, str]
    state: Path
    config_path: Path
    config: Config | None
    agents: AgentRegistry | None
    mistakes: tuple[str, ...]
    online: bool = False
    deep: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that is so.

    :ivar text: what is so, a sentence without secrets.
    :ivar fix: what to do about it.
    :ivar mend: does it, where that is safe. May raise OSError.
    """

    level: Level
    text: str
    fix: str = ""
    mend: Callable[[], object] | None = None


Check: TypeAlias = Callable[[Site], Iterator[Finding]]


def mode_finding(path: Path, wanted: int) -> Iterator[Finding]:
    """A finding if others than its owner can read or change ``path``."""
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:
        return
    if mode & 0o077:
        yield Finding(
            "warning",
            f"{path} is open to other users of this machine ({mode:03o}).",
            f"chmod {wanted:o} {path}",
            lambda: path.chmod(wanted),
        )
