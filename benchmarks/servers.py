"""Starts what is measured: the provider, the relay and the gateway, each in processes of its own."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.messages import AssistantMessage, Usage, UserMessage
from app.sessions.records import NewEntry, RunEnd, RunStart
from app.sessions.sql import open_store

ROOT = Path(__file__).parents[1]
TOKEN = "token-of-the-benchmark"
_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready. ``start_seconds`` went by from its start to its first 200."""

    name: str
    port: int
    process: psutil.Process
    start_seconds: float = 0.0

    @property
    def pids(self) -> tuple[int, ...]:
        """The process and its children."""
        return (self.process.pid, *(child.pid for child in self.process.children(recursive=True)))

    @property
    def resident_mb(self) -> float:
        """Memory of all processes in megabytes; a page they share counts once."""
        return sum(psutil.Process(pid).memory_full_info().pss for pid in self.pids) / 1e6


@contextmanager
def provider() -> Iterator[Server]:
    """The fast provider, alone."""
    port = _free_port()
    with _process([sys.executable, "-m", "benchmarks.provider", str(port)], {}) as process:
        _wait_until_open(process, port)
        yield Server("direct", port, process)


@contextmanager
def relay(upstream: Server) -> Iterator[Server]:
    """The minimal relay in front of ``upstream``."""
    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "--worker-connections", "5000"]
    command += ["--keep-alive", "5", "--no-control-socket", "-b", f"127.0.0.1:{port}", "benchmarks.relay:app"]
    env = {"BENCH_PROVIDER": f"http://127.0.0.1:{upstream.port}/v1"}
    with _http_server("relay", command, env, port) as server:
        yield server


@contextmanager
def gateway(upstream: Server, state: Path, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The gateway as it is shipped, with its state in ``state``, in front of ``upstream``.

    :param env: more of its environment.
    """
    port = _free_port()
    state.mkdir(exist_ok=True)
    config = state / "openclaw.json"
    config.write_text(json.dumps(_config(upstream)))
    own = {"OPENCLAW_STATE_DIR": str(state), "OPENCLAW_CONFIG_PATH": str(config), "PORT": str(port)}
    command = [sys.executable, "-m", "app", "gateway"]
    with _http_server("gateway", command, own | dict(env or {}), port) as server:
        yield server


def store_sessions(state: Path, count: int) -> None:
    """Fill the store in ``state`` with ``count`` conversations of one turn."""
    state.mkdir(exist_ok=True)
    store = open_store(state)
    for number in range(count):
        key, ids = f"agent:main:openai-user:seed-{number}", f"seed-{number}"
        store.begin(RunStart(ids, key, ids, "main", "openai", "bench/bench", number), [UserMessage.of("hi")])
        end = RunEnd(ids, "completed", "stop", Usage(9, 9), "bench/bench", None, None, number, 1)
        store.finish(end, [NewEntry(AssistantMessage("Hello, how are you?"), "stop")])
    store.close()


def _config(upstream: Server) -> dict[str, object]:
    bench = {
        "baseUrl": f"http://127.0.0.1:{upstream.port}/v1",
        "apiKey": "key-of-the-benchmark",
        "models": [{"id": "bench"}],
    }
    return {
        "gateway": {
            "auth": {"mode": "token", "token": TOKEN},
            "http": {"endpoints": {"chatCompletions": {"enabled": True}}},
        },
        "agents": {"defaults": {"model": "bench/bench", "maxConcurrent": 3000, "maxPending": 3000}},
        "models": {"providers": {"bench": bench}},
    }


@contextmanager
def _http_server(name: str, command: list[str], env: Mapping[str, str], port: int) -> Iterator[Server]:
    started = time.monotonic()
    with _process(command, env) as process:
        _wait_until_ready(process, port)
        yield Server(name, port, process, time.monotonic() - started)


@contextmanager
def _process(command: list[str], env: Mapping[str, str]) -> Iterator[psutil.Process]:
    env = _clean_environment() | dict(env)
    with tempfile.TemporaryFile() as log:
        process = psutil.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        try:
            yield process
        except RuntimeError as error:
            log.seek(0)
            error.add_note(log.read()[-2000:].decode(errors="replace"))
            raise
        finally:
            _stop(process)


def _stop(process: psutil.Process) -> None:
    process.terminate()
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(10)


def _clean_environment() -> dict[str, str]:
    """This process's environment without what would make the gateway find another provider."""
    unwanted = ("OPENCLAW_", "GUNICORN_", "WEB_CONCURRENCY")
    keys = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return {name: value for name, value in keys.items() if not name.startswith(unwanted)}


def _wait_until_ready(process: psutil.Process, port: int) -> None:
    def is_ready() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)

    _wait(process, is_ready)


def _wait_until_open(process: psutil.Process, port: int) -> None:
    def is_open() -> bool:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True

    _wait(process, is_open)


def _wait(process: psutil.Process, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.status() != psutil.STATUS_ZOMBIE:
        try:
            if condition():
                return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError("A server did not start.")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
