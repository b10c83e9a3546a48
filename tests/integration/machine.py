"""A home directory with a configuration and state, and the command run in it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from click import ClickException
from click.testing import CliRunner

from app.cli import openclaw
from app.errors import GatewayError
from app.sessions.sqlite import FILE_NAME
from tests.e2e.gateway_process import CHECKOUT

# What this machine happens to have set must not be seen.
_ALONE: dict[str, str | None] = {
    name: None for name in os.environ if name.endswith(("_API_KEY", "_URL")) or "OPENCLAW" in name
}
SECRET = "sk-very-secret-indeed"
CONFIG = {
    "gateway": {"auth": {"token": SECRET}},
    "agents": {"list": [{"id": "main"}]},
    "models": {"providers": {"own": {"baseUrl": "http://127.0.0.1:9/v1", "apiKeys": [SECRET + "2"]}}},
}


class Machine:
    """A home directory with a configuration, where the command can be run."""

    def __init__(self, home: Path, config: dict[str, Any] | None = CONFIG) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        self.state = home / "state"
        self.config = home / "openclaw.json"
        if config is not None:
            self.config.write_text(json.dumps(config))
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "OPENCLAW_STATE_DIR": str(self.state),
            "OPENCLAW_CONFIG_PATH": str(self.config),
        }

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "app", *args],
            cwd=CHECKOUT,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """The command as its entry point runs it, without the price of a process."""
        done = CliRunner().invoke(openclaw, args, env=_ALONE | self.env, standalone_mode=False)
        if done.exception is None or isinstance(done.exception, SystemExit):
            return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)
        if not isinstance(done.exception, GatewayError | ClickException):
            raise done.exception
        return subprocess.CompletedProcess(args, 1, done.stdout, f"{done.stderr}openclaw: {done.exception}\n")

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        with contextlib.closing(sqlite3.connect(self.state / FILE_NAME)) as db:
            db.text_factory = bytes
            return {
                table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
                for table in ("sessions", "messages", "runs", "responses")
            }

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.state.rglob("*") if path.is_file())
        named = {str(path.relative_to(self.state)): path.read_bytes() for path in found}
        return {name: data for name, data in named.items() if not name.startswith(("gateway.", "before-"))}

    def write(self, name: str, text: str) -> Path:
        path = self.state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path
