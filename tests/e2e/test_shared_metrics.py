"""gunicorn's hooks for several workers that are scraped as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.gateway_process import CHECKOUT, free_port, wait_until
from tests.e2e.scrape import Scrape

PATIENCE = 20.0
SETTINGS = """
import sys
sys.path.insert(0, {checkout!r})
from openclaw_gunicorn import child_exit, on_exit, on_starting
worker_class, workers, threads = "gthread", 2, 4
"""
# The metrics of a gateway and nothing else, with one connection in each worker.
APPLICATION = """
import os
from app.observe.metrics import Metrics

metrics = Metrics(os.environ["PROMETHEUS_MULTIPROC_DIR"])
metrics.series.sockets.set(1)
metrics.series.frames_dropped.inc(2)

def application(environ, start_response):
    body, kind = metrics.exposition("")
    start_response("200 OK", [("Content-Type", kind), ("X-Directory", metrics.directory)])
    return [body]
"""


@contextmanager
def served(directory: Path, port: int, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    (directory / "settings.py").write_text(SETTINGS.format(checkout=str(CHECKOUT)))
    (directory / "measured.py").write_text(APPLICATION)
    place = ["--bind", f"127.0.0.1:{port}", "--pythonpath", f"{directory},{CHECKOUT}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", str(directory / "settings.py"), *place, "measured"],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **env},
        cwd=directory,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def look(port: int) -> tuple[Scrape, Path] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return Scrape(answer.read().decode()), Path(answer.headers["X-Directory"])
    except OSError:
        return None


def shows(port: int, connections: int, dropped: int) -> tuple[Scrape, Path] | None:
    found = look(port)
    if found is None:
        return None
    now = found[0]("websocket_connections"), found[0]("websocket_frames_dropped_total")
    return found if now == (connections, dropped) else None


def test_a_worker_that_dies_takes_its_gauges_along_and_leaves_its_counters(tmp_path: Path) -> None:
    port = free_port()
    with served(tmp_path, port) as master:
        _, directory = wait_until(lambda: shows(port, 2, 4), PATIENCE, "two workers")
        workers = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
        os.kill(int(workers[0]), signal.SIGKILL)
        wait_until(lambda: shows(port, 2, 6), PATIENCE, "one in place of the dead one")
        assert len(list(directory.glob("counter_*.db"))) == 3
    assert not directory.exists()


def test_what_a_killed_server_has_left_behind_goes_with_the_next_start(tmp_path: Path) -> None:
    port = free_port()
    left = Path(tempfile.gettempdir(), f"openclaw-metrics-{2**22 + 1}-of-nobody")  # no process has this id
    left.mkdir()
    with served(tmp_path, port):
        wait_until(lambda: shows(port, 2, 4), PATIENCE, "two workers")
        assert not left.exists()


def test_a_directory_of_the_operators_is_cleared_at_the_start_and_kept(tmp_path: Path) -> None:
    port, shared = free_port(), tmp_path / "shared"
    shared.mkdir()
    (shared / "counter_1.db").write_bytes(b"of an earlier life")
    (shared / "notes.txt").write_text("not ours")
    with served(tmp_path, port, PROMETHEUS_MULTIPROC_DIR=str(shared)):
        _, directory = wait_until(lambda: shows(port, 2, 4), PATIENCE, "two workers")
        assert directory == shared
    assert (shared / "notes.txt").exists()
