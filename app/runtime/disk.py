"""Whether the state will still be there tomorrow: platforms have disks that go with the process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

# File systems of containers, and of memory.
_FLEETING = {"overlay", "aufs", "tmpfs", "ramfs"}
# Platforms whose machines start from an image each time; what is mounted on them stays.
_PLATFORMS = {
    "RENDER": "Render",
    "FLY_APP_NAME": "Fly",
    "RAILWAY_ENVIRONMENT_ID": "Railway",
    "K_SERVICE": "Cloud Run",
}
_MOUNTS = Path("/proc/self/mounts")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def disk_warning(directory: Path, env: Mapping[str, str]) -> str | None:
    """A sentence for the operator, if what is kept in ``directory`` is lost with the next restart."""
    try:
        mounts = _MOUNTS.read_text(errors="replace")
    except OSError:  # not Linux
        mounts = ""
    return fleeting(directory.resolve(), mounts, env)


def fleeting(directory: Path, mounts: str, env: Mapping[str, str]) -> str | None:
    """As :func:`disk_warning`. :param mounts: what is mounted where, as in ``/proc/mounts``."""
    point, kind = mount_of(directory, mounts)
    platform = next((name for variable, name in _PLATFORMS.items() if env.get(variable)), None)
    if env.get("DYNO"):
        why = "a dyno of Heroku starts with an empty disk"
    elif kind in _FLEETING:
        why = (
            f"{point} is {'memory' if kind in ('tmpfs', 'ramfs') else 'a disk that goes with its container'}"
        )
    elif platform and point in ("", "/"):
        why = f"on {platform} only volumes last"
    else:
        return None
    return (
        f"the state in {directory} will be lost with the next restart ({why}): give the gateway a Postgres "
        "database (DATABASE_URL), or a volume and a directory on it (OPENCLAW_STATE_DIR)"
    )


def mount_of(directory: Path, mounts: str) -> tuple[str, str]:
    """Where the file system of ``directory`` is mounted, and of which kind it is."""
    holding = ((point, kind) for point, kind in _mounted(mounts) if directory.is_relative_to(point))
    found = ("", "")
    for point, kind in holding:  # of two in the same place the later one hides the earlier one
        if len(point) >= len(found[0]):
            found = (point, kind)
    return found


def _mounted(mounts: str) -> Iterator[tuple[str, str]]:
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2:
            yield _ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields[1]), fields[2]
