"""A host whose worker stops: the gateway goes first, the pages of the host end as they would without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.gateway_process import GatewayProcess, gateway_config, wait_until
from tests.e2e.http_client import Connection, request_bytes, send

HOST = """
import time
from pathlib import Path
from flask import Flask, Response, request
from app import Gateway

app = Flask(__name__)
Gateway().init_app(app)


@app.post("/upload")
def upload():
    return {"bytes": len(request.get_data())}


@app.get("/feed")
def feed():
    def told():
        while not Path(__file__).with_name("stop-feeding").exists():
            yield "still here\\n"
            time.sleep(0.1)

    return Response(told())
"""
SETTINGS = """
from gevent import monkey; monkey.patch_all()
from openclaw_gunicorn import child_exit, graceful_timeout, on_exit, on_reload, on_starting, post_worker_init

worker_class = "gevent"
keepalive = 95
"""
READY = request_bytes(method="GET", path="/readyz")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "host.py").write_text(HOST)
    (tmp_path / "gunicorn.conf.py").write_text(SETTINGS)
    return tmp_path


def host(directory: Path, *arguments: str) -> GatewayProcess:
    settings = ("-c", str(directory / "gunicorn.conf.py"), "--pythonpath", str(directory))
    way = ("-m", "gunicorn", *settings, *arguments, "host:app")
    return GatewayProcess(gateway_config("http://127.0.0.1:9/v1"), directory, way=way).start()


@pytest.fixture
def gateway(directory: Path) -> Iterator[GatewayProcess]:
    started = host(directory)
    yield started
    if started.alive:
        started.kill9()


def refused(gateway: GatewayProcess) -> bool:
    try:
        Connection(gateway).close()
    except OSError:  # in the moment of closing it is a reset
        return True
    return False


def test_an_upload_that_is_on_its_way_arrives_whole(gateway: GatewayProcess) -> None:
    with Connection(gateway) as upload:
        head = request_bytes(b"x" * 30, path="/upload").removesuffix(b"x" * 30)
        upload.send(head + b"x" * 10)
        gateway.terminate()
        wait_until(lambda: refused(gateway), 10, "the worker to close its door")
        for _ in range(2):
            time.sleep(1)  # longer than an idle connection is left open
            upload.socket.sendall(b"x" * 10)
        assert upload.read().json == {"bytes": 30}
        assert upload.at_end()
    assert gateway.wait(10) == 0


def test_whoever_comes_while_a_page_of_the_host_is_still_answered_is_refused_at_once(
    gateway: GatewayProcess, directory: Path
) -> None:
    with Connection(gateway) as feed:
        feed.send(request_bytes(method="GET", path="/feed")).read_head()
        gateway.terminate()
        wait_until(lambda: refused(gateway), 10, "the worker to close its door")
        (directory / "stop-feeding").touch()
        assert list(feed.lines())[-1] == "still here"
    assert gateway.wait(10) == 0


def test_connections_on_which_nothing_is_said_hold_nobody_up(gateway: GatewayProcess) -> None:
    with ExitStack() as connections:
        silent = [connections.enter_context(Connection(gateway)) for _ in range(20)]
        half = connections.enter_context(Connection(gateway)).send(READY[:20])
        kept = connections.enter_context(Connection(gateway)).send(READY)
        assert kept.read().status == 200
        gateway.terminate()
        assert gateway.wait(10) == 0
        assert all(one.at_end() for one in (*silent, half, kept))


@pytest.mark.parametrize("kind", ["gthread", "sync"])
def test_other_workers_may_run_on_a_patched_standard_library(directory: Path, kind: str) -> None:
    gateway = host(directory, "-k", kind, "--threads", "4")
    try:
        assert send(gateway, method="GET", path="/readyz").status == 200
    finally:
        gateway.stop()
