"""OpenClaw's clients as a person has them: published packages, from npm with a Node of their own.

Everything is installed once, below ``OPENCLAW_CLIENTS_DIR`` or else the user's cache directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyte
import pytest

from tests.e2e.gateway_process import TOKEN, GatewayProcess

_NODE = "24.16.0"  # what both releases accept; the newest takes nothing older
# Packages as they are published; nothing of theirs runs while they are installed.
_NPM_OPTIONS = ("--ignore-scripts", "--omit=dev", "--legacy-peer-deps", "--no-audit", "--no-fund")


@dataclass(frozen=True)
class Release:
    """A published version of ``openclaw``.

    :ivar overrides: stand in for dependencies that are no npm packages.
    :ivar beside: npm packages that are installed with it.
    """

    version: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.version


OLD = Release("2026.1.30", overrides={"libsignal": "2.0.1"})  # protocol 3
NEW = Release("2026.9.6", beside={"openclaw-node": "0.14.0"})  # protocol 4
PYTHON_CLIENTS = ("openclaw-sdk==2.1.0", "agentwatch-cli==0.2.0", "cryptography==50.0.2")


def install(release: Release) -> Path:
    """The directory of the installed release; skips the test without npm, or without a Node for it."""
    node = _node_package()
    npm = shutil.which("npm") or pytest.skip("npm is not installed")
    packages = {"openclaw": release.version, node: _NODE, **release.beside}
    manifest = json.dumps({"private": True, "dependencies": packages, "overrides": dict(release.overrides)})

    def fill(place: Path) -> None:
        (place / "package.json").write_text(manifest)
        _check([npm, "install", *_NPM_OPTIONS], place)
        (place / "node").symlink_to(f"node_modules/{node}/bin/node")

    return _installed(f"npm-{release}", manifest, fill)


def install_python_clients() -> Path:
    """A Python that has the clients written in Python, apart from this project's own packages."""

    def fill(place: Path) -> None:
        _check([sys.executable, "-m", "venv", "--without-pip", "."], place)
        libraries = place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _check([*pip, "--target", str(libraries), *PYTHON_CLIENTS], place)

    return _installed("python", " ".join((sys.version, *PYTHON_CLIENTS)), fill) / "bin" / "python"


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


class OpenClaw:
    """The ``openclaw`` of a release, configured for one gateway and at home in ``home``.

    It has no model and no key: what a local agent of its own would need.
    """

    def __init__(self, installed: Path, home: Path, gateway: GatewayProcess, token: str = TOKEN) -> None:
        state = home / ".openclaw"
        state.mkdir(mode=0o700)
        auth = {"mode": "token", "token": token}
        config = {
            "gateway": {"mode": "local", "port": gateway.port, "auth": auth},
            "plugins": {"enabled": False},  # the old one compiles them at its first start, for a minute
        }
        (state / "openclaw.json").write_text(json.dumps(config))
        self._command = [str(installed / "node"), str(installed / "node_modules/openclaw/openclaw.mjs")]
        self._env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "TERM": "xterm-256color",
            "NO_COLOR": "1",
            "NODE_COMPILE_CACHE": str(installed / "compile-cache"),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``openclaw ARGUMENTS`` to its end."""
        return subprocess.run(
            [*self._command, *arguments],
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def terminal(self, *arguments: str) -> Terminal:
        """``openclaw ARGUMENTS`` in a terminal."""
        return Terminal([*self._command, *arguments], self._env)


class Terminal:
    """A program in a terminal of 100 by 40 characters: what is typed, and what the screen shows."""

    _COLUMNS, _LINES = 100, 40

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        self._command = command
        self._env = env
        self._screen = pyte.Screen(self._COLUMNS, self._LINES)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Self:
        self._master, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", self._LINES, self._COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            self._command,
            env=dict(self._env),
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        os.close(self._master)

    @property
    def screen(self) -> str:
        """What is to be seen now."""
        return "\n".join(line.rstrip() for line in self._screen.display).strip()

    def type(self, text: str) -> None:
        """Press the keys one by one."""
        for key in text:
            os.write(self._master, key.encode())

    def wait_for(self, *texts: str, without: str | None = None, timeout: float = 60.0) -> str:
        """The screen once it shows all of ``texts``, and nothing of ``without``; fails the test after
        ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not all(text in self.screen for text in texts) or (without and without in self.screen):
            assert time.monotonic() < deadline, f"the screen never showed {texts}\n{self.screen}"
            if select.select([self._master], [], [], 0.1)[0]:
                self._stream.feed(os.read(self._master, 65536))
        return self.screen
