"""A shop with a gateway in it, pip-installed, under every server that people run Flask applications with."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.sessions.sql import open_store
from tests.e2e.gateway_process import CHECKOUT, free_port, wait_until
from tests.scripted_provider import Reply, ScriptedProvider, call

SHOP = CHECKOUT / "tests" / "hosts" / "shop"
PATIENCE = 30.0
GUNICORN = ("-m", "gunicorn", "-b", "127.0.0.1:{port}", "app:create_app()")
SERVERS: dict[str, Sequence[str]] = {
    "gunicorn sync": (*GUNICORN, "-k", "sync", "-c", "hooks.conf.py"),
    "gunicorn gthread": (*GUNICORN, "-k", "gthread", "--threads", "8", "-c", "hooks.conf.py"),
    "gunicorn gthread, preloaded, no hooks": (
        *GUNICORN, "-k", "gthread", "--threads", "8", "--preload"),
    "gunicorn gevent": (*GUNICORN, "-k", "gevent", "-c", "gevent.conf.py"),
    "waitress": ("-m", "waitress", "--listen=127.0.0.1:{port}", "--call", "app:create_app"),
    "flask run": ("-m", "flask", "--app", "app", "run", "-p", "{port}"),
    "flask run --debug": ("-m", "flask", "--app", "app", "run", "--debug", "-p", "{port}"),
}  # fmt: skip
NO_WEBSOCKETS = ("gunicorn sync", "waitress")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution as pip installs it, in a directory of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(CHECKOUT / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "openclaw_gunicorn.py"):
        shutil.copy(CHECKOUT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--target", target, source], check=True, timeout=300)
    return target


@dataclass
class Shop:
    """One server with the shop."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    environment: dict[str, str]

    @property
    def state(self) -> Path:
        return Path(self.environment["OPENCLAW_STATE_DIR"])

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            if body is not None and not isinstance(body, str):
                body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()

    def chat(self, text: str, *, key: str = "key-of-ann", **fields: Any) -> str:
        body = {"model": "openclaw", "messages": [{"role": "user", "content": text}], **fields}
        status, _, answer = self.request("POST", "/ai/v1/chat/completions", body, X_Api_Key=key)
        assert status == 200, (answer, self.log)
        return str(json.loads(answer)["choices"][0]["message"]["content"])

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.request("GET", "/")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # a reloader's children may outlive it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


def start(
    name: str,
    arguments: Sequence[str],
    installed: Path,
    provider: ScriptedProvider,
    directory: Path,
    **env: str,
) -> Shop:
    port = free_port()
    log_path = directory / "log"
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": f"{installed}{os.pathsep}{SHOP}",
        "PYTHONDONTWRITEBYTECODE": "1", "OPENCLAW_STATE_DIR": str(directory / "state"),
        "SHOP_DATABASE": f"sqlite:///{directory / 'shop.db'}", "SHOP_MODEL": provider.base_url, **env,
    }  # fmt: skip
    command = [sys.executable, *(argument.format(port=port) for argument in arguments)]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=SHOP, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    return Shop(name, port, process, log_path, environment)


@pytest.fixture(scope="module")
def shops(
    installed: Path, provider_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Shop]]:
    """The shop under all servers at once, so that they start side by side."""
    started: dict[str, Shop] = {}
    try:
        with ScriptedProvider(port=provider_port) as provider:
            for name, arguments in SERVERS.items():
                started[name] = start(name, arguments, installed, provider, tmp_path_factory.mktemp("shop"))
        for shop in started.values():
            wait_until(shop.is_up, 60, f"the start of {shop.name}")
        yield started
    finally:
        for shop in started.values():
            shop.kill()


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest, shops: dict[str, Shop]) -> Shop:
    """The shop under one of the servers."""
    return shops[request.param]


def test_pages_users_and_errors_of_the_shop_are_as_they_were(shop: Shop) -> None:
    assert shop.request("GET", "/")[2] == b"welcome to the shop"
    assert shop.request("GET", "/openai/")[2] == b"the shop's own idea of openai"
    assert shop.request("GET", "/json")[1]["content-type"] == "application/vnd.shop+json"
    assert shop.request("GET", "/nowhere")[::2] == (404, b"<h1>sorry: NotFound</h1>")
    assert shop.request("GET", "/broken")[::2] == (500, b"<h1>sorry: InternalServerError</h1>")
    assert shop.request("GET", "/mine")[::2] == (401, b"please log in")
    assert shop.request("POST", "/login", "x" * 300)[0] == 413
    assert [shop.request("GET", "/rare")[0] for _ in range(2)] == [200, 429]


def test_errors_of_the_gateway_are_its_own_and_hooks_of_the_shop_see_them(shop: Shop) -> None:
    status, headers, body = shop.request(
        "GET", "/ai/v1/nothing", X_Api_Key="key-of-ann", Origin="https://shop.example"
    )

    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
    assert headers["x-shop"] == "/ai/v1/nothing"
    assert headers["access-control-allow-origin"] == "https://shop.example"


def test_an_answer_is_longer_than_the_shops_forms_and_reads_the_shops_table(
    shop: Shop, provider: ScriptedProvider
) -> None:
    provider.script(
        Reply(tool_calls=[call("parcel", {"number": 7}, "a"), call("parcel", {"number": 8}, "b")]),
        Reply("It is in Ulm."),
    )

    assert shop.chat("Where is parcel 7? " + "x" * 300) == "It is in Ulm."
    said = [m["content"] for m in provider.requests[-1].body["messages"] if m["role"] == "tool"]
    assert said == ["in Ulm, says ann", "There is no parcel 8."]


def open_stream(shop: Shop) -> http.client.HTTPResponse:
    """A stream of an answer that has begun; closing it closes its connection."""
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=PATIENCE)
    body = {"stream": True, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"X-Api-Key": "key-of-ann", "Content-Type": "application/json", "Connection": "close"}
    connection.request("POST", "/ai/v1/chat/completions", json.dumps(body), headers)
    return connection.getresponse()


def read_until(response: http.client.HTTPResponse, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        line = response.readline()
        assert line, seen
        seen += line
    return seen


def test_a_stream_comes_while_the_model_still_speaks(shop: Shop, provider: ScriptedProvider) -> None:
    gate = threading.Event()
    provider.script(Reply(chunks=["first ", "then ", "last"], gate=gate, gate_at=1))
    with open_stream(shop) as response:
        assert response.getheader("Content-Type", "").startswith("text/event-stream")
        seen = read_until(response, b"first")
        gate.set()
        seen += response.read()

    deltas = [json.loads(line[6:]) for line in seen.splitlines() if line.startswith(b"data: {")]
    assert "".join(delta["choices"][0]["delta"].get("content", "") for delta in deltas) == "first then last"
    assert seen.rstrip().endswith(b"data: [DONE]")


def test_a_browser_that_has_logged_in_needs_no_key(shop: Shop) -> None:
    _, headers, _ = shop.request(
        "POST", "/login", "name=bob", Content_Type="application/x-www-form-urlencoded"
    )
    cookie = headers["set-cookie"].partition(";")[0]
    body = {"messages": [{"role": "user", "content": "hi"}]}
    path = "/ai/v1/chat/completions"

    assert shop.request("GET", "/mine", Cookie=cookie)[2] == b"bob"
    assert shop.request("POST", path, body, Cookie=cookie)[0] == 200
    assert shop.request("POST", path, body)[0] == 401
    assert shop.request("POST", path, body, Cookie=cookie, Origin="https://evil.example")[0] == 403
    assert shop.request("POST", path, json.dumps(body), Cookie=cookie, Content_Type="text/plain")[0] == 415


def test_web_sockets_are_served_or_refused_with_a_reason(shop: Shop) -> None:
    address = f"ws://127.0.0.1:{shop.port}/ai"
    headers = {"X-Api-Key": "key-of-root"}
    if shop.name in NO_WEBSOCKETS:
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(address, proxy=None, additional_headers=headers),
        ):
            pass
        assert refused.value.response.status_code == 501
        assert "gevent and gthread workers can" in json.loads(refused.value.response.body)["error"]["message"]
        return
    with connect(address, proxy=None, additional_headers=headers) as socket:
        assert json.loads(socket.recv(PATIENCE))["event"] == "connect.challenge"
        client = {"id": "test", "version": "1", "platform": "linux", "mode": "test"}
        params = {"minProtocol": 4, "maxProtocol": 4, "client": client, "scopes": ["operator.admin"]}
        socket.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": params}))
        assert json.loads(socket.recv(PATIENCE))["ok"]
    with connect(address, proxy=None, additional_headers={"X-Api-Key": "key-of-ann"}) as socket:
        socket.recv(PATIENCE)
        socket.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": params}))
        refused_frame = json.loads(socket.recv(PATIENCE))
        assert refused_frame["error"]["code"] == "FORBIDDEN"
        assert "operator.admin" in refused_frame["error"]["message"]
    assert shop.chat("still there?") == "echo: still there?"


def test_commands_that_import_the_application_leave_the_state_alone(shop: Shop) -> None:
    assert shop.chat("hi") == "echo: hi"

    routes = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "routes"],
        cwd=SHOP, env=shop.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert routes.returncode == 0, routes.stderr
    assert "/ai/v1/chat/completions" in routes.stdout


def test_a_shop_that_stops_lets_answers_end_and_gives_the_state_back(
    shop: Shop, provider: ScriptedProvider
) -> None:
    if not shop.name.startswith("gunicorn"):
        shop.stop()
    else:
        gate = threading.Event()
        provider.script(Reply(chunks=["first ", "last"], gate=gate, gate_at=1))
        with open_stream(shop) as response:
            read_until(response, b"first")
            shop.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Handling signal: term" in shop.log)
            gate.set()
            rest = response.read()
        assert b"last" in rest
        assert rest.rstrip().endswith(b"data: [DONE]")
        assert shop.process.wait(PATIENCE) == 0, shop.log
    shop.kill()

    assert "Traceback" not in shop.log, shop.log
    open_store(shop.state).close()


@pytest.mark.parametrize("name", ["gunicorn sync", "gunicorn gthread", "gunicorn gevent"])
def test_control_c_does_not_wait_for_answers_but_ends_them_properly(
    installed: Path, provider: ScriptedProvider, tmp_path: Path, name: str
) -> None:
    shop = start(name, SERVERS[name], installed, provider, tmp_path)
    try:
        wait_until(shop.is_up, 60, "the start")
        provider.script(Reply(chunks=["first ", "last"], hang_after=1))
        with open_stream(shop) as response:
            read_until(response, b"first")
            os.killpg(shop.process.pid, signal.SIGINT)
            rest = response.read()
        status = shop.process.wait(PATIENCE)
    finally:
        shop.kill()

    assert b'"error"' in rest
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert status == 0, shop.log
    assert "Traceback" not in shop.log, shop.log


def test_two_worker_processes_do_not_start_with_the_hooks(
    installed: Path, provider: ScriptedProvider, tmp_path: Path
) -> None:
    arguments = (*GUNICORN, "-k", "gthread", "-w", "2", "-c", "hooks.conf.py")
    shop = start("two workers", arguments, installed, provider, tmp_path)
    try:
        status = shop.process.wait(PATIENCE)
    finally:
        shop.kill()

    assert status != 0
    assert "run one worker process, or give it a database and Redis" in shop.log
    assert "Traceback" not in shop.log


def test_two_worker_processes_without_the_hooks_refuse_what_they_cannot_serve(
    installed: Path, provider: ScriptedProvider, tmp_path: Path
) -> None:
    arguments = (*GUNICORN, "-k", "gthread", "--threads", "4", "-w", "2")
    shop = start("two workers", arguments, installed, provider, tmp_path)
    try:
        wait_until(shop.is_up, 60, "the start")
        answers = [
            shop.request("POST", "/ai/v1/chat/completions", {"messages": []}, X_Api_Key="key-of-ann")
            for _ in range(8)
        ]
    finally:
        shop.kill()

    assert {status for status, _, _ in answers} == {503}
    assert all(b"run one worker process" in body for _, _, body in answers)
    assert not shop.state.exists()
