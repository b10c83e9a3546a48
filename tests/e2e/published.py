"""Published packages as a person has them: from npm and PyPI, each client apart from all others.

Everything is installed once, below ``OPENCLAW_CLIENTS_DIR`` or else the user's cache directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

_NODE = "24.16.0"  # what all clients accept
# Packages as they are published; nothing of theirs runs while they are installed.
_NPM_OPTIONS = ("--ignore-scripts", "--omit=dev", "--legacy-peer-deps", "--no-audit", "--no-fund")


def npm_packages(name: str, packages: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Path:
    """The directory with ``node_modules`` and ``node``, a Node of its own.

    Skips the test without npm, or without a Node for this machine.

    :param packages: names and versions.
    :param overrides: stand in for dependencies that are no npm packages.
    """
    node = _node_package()
    npm = shutil.which("npm") or pytest.skip("npm is not installed")
    wanted = {"dependencies": {**packages, node: _NODE}, "overrides": dict(overrides or {})}
    manifest = json.dumps({"private": True, **wanted})

    def fill(place: Path) -> None:
        (place / "package.json").write_text(manifest)
        _check([npm, "install", *_NPM_OPTIONS], place)
        (place / "node").symlink_to(f"node_modules/{node}/bin/node")

    return _installed(f"npm-{name}", manifest, fill)


def python_with(name: str, *requirements: str) -> Path:
    """A Python that has these, apart from this project's own packages. Programs are run with ``-m``."""

    def fill(place: Path) -> None:
        _check([sys.executable, "-m", "venv", "--without-pip", "."], place)
        libraries = place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _check([*pip, "--target", str(libraries), *requirements], place)

    return _installed(name, " ".join((sys.version, *requirements)), fill) / "bin" / "python"


def _installed(name: str, contents: str, fill: Callable[[Path], None]) -> Path:
    """The directory that holds ``contents``; if there is none, ``fill`` makes it, whole or not at all."""
    place = _clients_directory() / f"{name}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=place.parent))
        try:
            fill(fresh)
            with suppress(OSError):  # somebody else was faster
                fresh.rename(place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return place


def _check(command: list[str], where: Path) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{command} failed\n{done.stderr[-2000:]}"


def _node_package() -> str:
    """The npm package that has Node for this machine."""
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine())
    if sys.platform not in {"linux", "darwin"} or machine is None:
        pytest.skip(f"npm has no Node for {sys.platform} on {platform.machine()}")
    return f"node-{sys.platform}-{machine}"


def _clients_directory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OPENCLAW_CLIENTS_DIR") or Path(cache, "openclaw-clients"))


def run_client(command: Sequence[str], home: Path, env: Mapping[str, str] | None = None) -> Any:
    """What a client prints last, as JSON. It is at home in ``home`` and knows no other environment."""
    done = run_program(command, home, env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_program(
    command: Sequence[str], home: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program to its end."""
    return subprocess.run(
        command,
        cwd=home,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
