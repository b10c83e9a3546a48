"""OpenClaw's clients as a person has them: published packages, from npm with a Node of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.published import npm_packages, python_with
from tests.e2e.terminal import Terminal


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
    packages = {"openclaw": release.version, **release.beside}
    return npm_packages(str(release), packages, release.overrides)


def install_python_clients() -> Path:
    """A Python that has the clients written in Python."""
    return python_with("python", *PYTHON_CLIENTS)


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
