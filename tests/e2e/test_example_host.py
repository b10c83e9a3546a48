"""examples/flask_host as its README has it: users of a shop talk to its agent in a browser."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.e2e.gateway_process import CHECKOUT, free_port, wait_until
from tests.scripted_provider import Reply, ScriptedProvider, call

EXAMPLE = CHECKOUT / "examples" / "flask_host"
PATIENCE = 30.0


class Browser:
    """Keeps its cookie."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cookie = ""

    def request(
        self, method: str, path: str, body: str = "", kind: str = "", **headers: str
    ) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as connection:
            sent = {"Cookie": self._cookie, "Content-Type": kind, **headers}
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            self._cookie = response.getheader("Set-Cookie", self._cookie).partition(";")[0]
            return response.status, response.read().decode()

    def log_in(self, name: str, password: str) -> int:
        form = urlencode({"name": name, "password": password})
        return self.request("POST", "/login", form, "application/x-www-form-urlencoded")[0]

    def ask(self, text: str) -> tuple[int, str]:
        """The words of the streamed answer, as the page puts them together."""
        body = {"model": "openclaw", "stream": True, "messages": [{"role": "user", "content": text}]}
        page = {"X-OpenClaw-Session-Key": "chat", "Origin": f"http://127.0.0.1:{self._port}"}
        status, answer = self.request(
            "POST", "/ai/v1/chat/completions", json.dumps(body), "application/json", **page
        )
        chunks = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        deltas: list[Any] = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        return status, "".join(delta.get("content") or "" for delta in deltas)


@pytest.fixture(scope="module")
def port(provider_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory, port = tmp_path_factory.mktemp("shop"), free_port()
    provider = {"baseUrl": f"http://127.0.0.1:{provider_port}/v1", "models": [{"id": "m"}]}
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": str(CHECKOUT),
        "SECRET_KEY": "of the cookies",
        "SHOP_DATABASE": str(directory / "shop.db"),
        "OPENCLAW_STATE_DIR": str(directory / "state"),
        "OPENCLAW__MODELS__PROVIDERS": json.dumps({"scripted": provider}),
    }
    log_path = directory / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}"],
            cwd=EXAMPLE, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: process.poll() is not None or is_up(port), 60, "the start")
        assert process.poll() is None, log_path.read_text()
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log_path.read_text()
    finally:
        process.kill()
        process.wait(PATIENCE)


def is_up(port: int) -> bool:
    try:
        return Browser(port).request("GET", "/")[0] == 200
    except OSError:
        return False


def test_who_is_logged_in_asks_for_their_order(port: int, provider: ScriptedProvider) -> None:
    ann = Browser(port)
    assert ann.ask("Where is order 7?")[0] == 401
    assert (ann.log_in("ann", "wrong"), ann.log_in("ann", "ann-secret")) == (401, 302)
    assert "Hello ann" in ann.request("GET", "/")[1]
    provider.script(
        Reply(
            tool_calls=[call("order_status", {"number": 7}, "a"), call("order_status", {"number": 8}, "b")]
        ),
        Reply("Your kettle is on its way."),
    )

    assert ann.ask("Where is order 7? And 8?") == (200, "Your kettle is on its way.")
    body = provider.requests[-1].body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["order_status"]
    own, other = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    assert json.loads(own) == {"number": 7, "item": "a kettle", "status": "on its way"}
    assert other == "The user has no order 8."


def test_a_conversation_goes_on_for_its_user_and_nobody_else(port: int, provider: ScriptedProvider) -> None:
    ann, bob = Browser(port), Browser(port)
    ann.log_in("ann", "ann-secret")
    bob.log_in("bob", "bob-secret")
    ann.ask("My word is xylophone.")

    ann.ask("Which one?")
    assert "xylophone" in json.dumps(provider.requests[-1].body)
    bob.ask("Which one?")
    assert "xylophone" not in json.dumps(provider.requests[-1].body)


def test_the_readme_names_what_is_there() -> None:
    text = Path(EXAMPLE, "README.md").read_text()

    assert len(text.splitlines()) <= 12
    assert all(name in text for name in ("gunicorn", "shop.py", "ann-secret", "flask --app shop run --debug"))
