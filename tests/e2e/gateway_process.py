"""A real gateway for a test: ``openclaw gateway``, gunicorn and gevent included, on a port of its own."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from app.sessions.sql import open_store
from app.sessions.store import Store

TOKEN = "test-token-0123456789"
CHECKOUT = Path(__file__).parents[2]


def free_port() -> int:
    """A port nobody listens on, from below the range that outgoing connections take theirs from."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def gateway_config(provider_url: str, **sections: Any) -> dict[str, Any]:
    """A configuration with the endpoint on and agents ``main`` and ``beta`` on the scripted provider.

    ``sections`` are merged over it, object by object.
    """
    base = {
        "gateway": {
            "auth": {"mode": "token", "token": TOKEN},
            "http": {"endpoints": {"chatCompletions": {"enabled": True}}},
        },
        "agents": {
            "defaults": {"model": "scripted/model"},
            "list": [{"id": "main", "name": "Main", "default": True}, {"id": "beta", "name": "Beta"}],
        },
        "models": {"providers": {"scripted": {"baseUrl": provider_url, "apiKey": "sk-scripted"}}},
    }
    return _merged(base, sections)


def _merged(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in extra.items()
    }
    return base | both


def wait_until(condition: Callable[[], Any], timeout: float = 5.0, what: str = "the condition") -> Any:
    """The first true value of ``condition``; fails the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        time.sleep(0.01)
    return value


class GatewayProcess:
    """Starts and stops one gateway. The state directory survives a restart."""

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        way: Sequence[str] = ("-m", "app", "gateway"),
    ) -> None:
        """:param way: Python's arguments, to start it in another way."""
        self._way = way
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.state_dir = directory / "state"
        self._log_path = directory / "gateway.log"
        config_path = directory / "openclaw.json"
        config_path.write_text(json.dumps(config))
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PORT": str(self.port),
            "OPENCLAW_CONFIG_PATH": str(config_path),
            "OPENCLAW_STATE_DIR": str(self.state_dir),
            **(env or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """False before the start and after a stop or a kill."""
        return self._process is not None

    @property
    def alive(self) -> bool:
        """False as soon as the process is gone."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the gateway has written to stderr and stdout."""
        return self._log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process id of gunicorn's master."""
        return self._running.pid

    @property
    def workers(self) -> list[int]:
        """The process ids of gunicorn's workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    @property
    def worker_pid(self) -> int:
        """The process id of gunicorn's only worker; fails the test unless there is exactly one."""
        (pid,) = self.workers
        return pid

    def start(self) -> Self:
        """Start the process and wait until it is ready."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        """Start the process."""
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._way],
                cwd=CHECKOUT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Return once ``/readyz`` answers 200."""
        wait_until(self._ready_or_dead, timeout, "/readyz")
        assert self._running.poll() is None, self.log

    def terminate(self) -> None:
        """Send SIGTERM, as a platform does before a restart."""
        self._running.terminate()

    def wait(self, timeout: float = 30.0) -> int:
        """The exit status, once the process is gone."""
        try:
            return self._running.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"the gateway did not exit\n{self.log}") from None

    def stop(self) -> None:
        """SIGTERM; fails the test unless the gateway ends by itself and in order."""
        if self._process is None:
            return
        self.terminate()
        assert self.wait() == 0, self.log
        self._process = None

    def kill9(self) -> None:
        """Kill master and worker at once, as a crash of the machine would."""
        os.killpg(self.pid, signal.SIGKILL)
        self._running.wait(10)
        self._process = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``openclaw ARGUMENTS`` with this gateway's environment."""
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=CHECKOUT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def store(self) -> Store:
        """The gateway's state, to be read while it runs. The caller closes it."""
        return open_store(self.state_dir, readonly=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the gateway does not run"
        return self._process

    def _ready_or_dead(self) -> bool:
        return self._running.poll() is not None or self._is_ready()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
