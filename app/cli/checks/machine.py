"""Checks of the machine and of what is installed on it."""

from __future__ import annotations

import platform
import re
import resource
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ...version import version
from .finding import Finding, Site

_OLDEST = (3, 11)
# A stream takes two sockets: its client's and its provider's.
_FEW_FILES = 1_024
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
_BOUND = re.compile(r"(>=|==|<)\s*([0-9]+(?:\.[0-9]+)*)")
_REINSTALL = "pip install -r requirements.txt"


def release(_: Site) -> Iterator[Finding]:
    """Which release this is, on which Python."""
    told = f"openclaw {version()} on Python {platform.python_version()}"
    if sys.version_info < _OLDEST:
        yield Finding("problem", f"{told} is too old.", "Use Python 3.11 or newer.")
    else:
        yield Finding("ok", f"{told}.")


def packages(_: Site) -> Iterator[Finding]:
    """Whether all that is needed is installed, in versions that go together."""
    wrong = [complaint for text in _required() if (complaint := _complaint(text))]
    for complaint in wrong:
        yield Finding("problem", complaint, _REINSTALL)
    if not wrong:
        yield Finding("ok", "All packages that the gateway needs are installed.")


def server(_: Site) -> Iterator[Finding]:
    """Whether `openclaw gateway` has its server."""
    missing = [name for name in ("gunicorn", "gevent") if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        yield Finding("problem", f"{names} is missing, so `openclaw gateway` cannot start.", _REINSTALL)


def open_files(_: Site) -> Iterator[Finding]:
    """How many files and sockets the gateway may open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        yield Finding(
            "warning",
            f"This process may open {hard} files at most: about {hard // 3} streams at a time.",
            "Raise the limit: LimitNOFILE= in a systemd unit, or `ulimit -n`.",
        )


def clock(site: Site) -> Iterator[Finding]:
    """Whether the clock is before what was written by it."""
    for path in (Path(__file__), site.state):
        try:
            ahead = path.stat().st_mtime - time.time()
        except OSError:
            continue
        if ahead > 60:
            yield Finding(
                "warning",
                f"The clock is behind: {path} was changed {ahead:.0f} seconds in the future.",
                "Set the clock, best by NTP: time-outs, retention and devices go by it.",
            )


def _required() -> list[str]:
    try:
        stated = metadata.requires("openclaw-gateway") or []
    except metadata.PackageNotFoundError:
        return []
    return [text for text in stated if "extra ==" not in text]


def _complaint(requirement: str) -> str | None:
    """What is wrong with an installed package; None if it is as required."""
    name = _REQUIREMENT.match(requirement)
    if name is None:
        return None
    try:
        installed = metadata.version(name[0])
    except metadata.PackageNotFoundError:
        return f"The package {name[0]} is not installed."
    for relation, bound in _BOUND.findall(requirement):
        have, want = _numbers(installed), _numbers(bound)
        holds = {">=": have >= want, "<": have < want, "==": have[: len(want)] == want}[relation]
        if not holds:
            return f"The package {name[0]} is {installed}; the gateway needs {relation}{bound}."
    return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text))
