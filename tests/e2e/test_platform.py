"""Where platforms run it: Procfiles, the image's content, the unit, and their routers."""

from __future__ import annotations

import fnmatch
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any, Self

import pytest

from app.config import load_config
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import CHECKOUT, TOKEN, free_port, wait_until
from tests.e2e.http_client import Connection, chat, chat_body, request_bytes, send
from tests.scripted_provider import Hang, ScriptedProvider

BIN = Path(sys.executable).parent
ENABLED = "OPENCLAW__GATEWAY__HTTP__ENDPOINTS__CHAT_COMPLETIONS__ENABLED"
Env = dict[str, str]


class Started:
    """A line of a Procfile, or another command, as a platform starts it: by a shell, as a group."""

    def __init__(self, line: str, directory: Path, env: Env) -> None:
        self.port = int(env["PORT"])
        self.log_path = Path(env["HOME"], "web.log")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", line], cwd=directory, env=env, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until_ready(self) -> Self:
        wait_until(lambda: self.process.poll() is not None or self._answers(), 30, "/readyz")
        assert self.process.poll() is None, self.log
        return self

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self.wait_until_ready()

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)  # every process, as dynos get it
        try:
            assert self.process.wait(30) in (0, -signal.SIGTERM), self.log
            wait_until(lambda: not group_alive(self.process.pid), 20, "the end of the server")
        except BaseException:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def procfile(directory: Path) -> dict[str, str]:
    lines = (directory / "Procfile").read_text().splitlines()
    return {kind: line.strip() for kind, _, line in (line.partition(":") for line in lines)}


@pytest.fixture
def env(tmp_path: Path, provider: ScriptedProvider, provider_port: int) -> Env:
    """What a platform gives: a port, a token, and the model by variables alone."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "PORT": str(free_port()),
        "OPENCLAW_GATEWAY_TOKEN": TOKEN,
        "OPENCLAW__MODELS__PROVIDERS__SCRIPTED__BASE_URL": f"http://127.0.0.1:{provider_port}/v1",
        "OPENCLAW__MODELS__PROVIDERS__SCRIPTED__API_KEY": "sk-scripted",
        "OPENCLAW__AGENTS__DEFAULTS__MODEL": "scripted/model",
    }


def streamed(gateway: Any) -> str:
    answer = chat(gateway, "hello", stream=True)
    assert answer.status == 200, answer
    return answer.text


# --- Procfiles ---


def test_the_procfile_serves_the_checkout_with_nothing_but_variables(env: Env) -> None:
    lines = procfile(CHECKOUT)
    release = subprocess.run(
        ["bash", "-c", lines["release"]], cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=60
    )
    assert release.returncode == 0, release.stderr

    with Started(lines["web"], CHECKOUT, env | {"WEB_CONCURRENCY": "2"}) as web:
        assert streamed(web) == "echo: hello"
        assert f"Listening at: http://0.0.0.0:{env['PORT']} " in web.log
        assert web.log.count("Booting worker") == 1


def test_the_procfile_refuses_to_serve_without_a_token(env: Env) -> None:
    del env["OPENCLAW_GATEWAY_TOKEN"]
    web = Started(procfile(CHECKOUT)["web"], CHECKOUT, env)
    assert web.process.wait(30) != 0
    assert "no token is set: set gateway.auth.token or OPENCLAW_GATEWAY_TOKEN" in web.log
    assert "Traceback" not in web.log


def test_the_example_for_heroku_runs_with_the_settings_of_its_app_json(env: Env, tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKOUT / "examples" / "heroku", tmp_path / "pushed")
    settings = json.loads((folder / "app.json").read_text())["env"]
    given = {name: setting["value"] for name, setting in settings.items() if "value" in setting}
    assert settings["OPENCLAW_GATEWAY_TOKEN"] == {"description": "What clients send.", "generator": "secret"}
    env |= given | {"OPENCLAW_STATE_DIR": str(tmp_path / "state"), "DYNO": "web.1"}
    lines = procfile(folder)
    release = subprocess.run(
        ["bash", "-c", lines["release"]], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert release.returncode == 0, release.stderr

    with Started(lines["web"], folder, env) as web:
        assert streamed(web) == "echo: hello"
        assert "a dyno of Heroku starts with an empty disk" in web.log
        agents = send(web, method="GET", path="/v1/models").json["data"]  # type: ignore[arg-type]
        assert "openclaw/main" in [agent["id"] for agent in agents]


def test_the_check_of_the_configuration_names_the_variables_and_not_what_they_hold(env: Env) -> None:
    env |= {
        "OPENCLAW_CONFIG_JSON": '{ gateway: { auth: { token: "${OPENCLAW_GATEWAY_TOKEN}" } } }',
        ENABLED: "true",
    }
    checked = subprocess.run(
        ["openclaw", "config", "check"], env=env, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    *_, told = checked.stdout.splitlines()
    names = [name for name in sorted(env) if name.startswith("OPENCLAW__")]
    assert told.startswith("From the environment: OPENCLAW_CONFIG_JSON, OPENCLAW__")
    assert sorted(told.removeprefix("From the environment: ").rstrip(".").split(", ")) == [
        "OPENCLAW_CONFIG_JSON",
        *names,
    ]
    assert TOKEN not in checked.stdout + checked.stderr


def test_what_is_pushed_names_its_python_and_no_old_file_contradicts() -> None:
    for folder in (CHECKOUT, CHECKOUT / "examples" / "heroku"):
        assert re.fullmatch(r"3\.11\n", (folder / ".python-version").read_text())
        assert not (folder / "runtime.txt").exists(), "it would win over .python-version, and is deprecated"
        assert json.loads((folder / "app.json").read_text())["buildpacks"] == [{"url": "heroku/python"}]


# --- routers ---


def test_a_router_with_time_limits_gets_its_first_byte_at_once_and_then_signs_of_life(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    """The defaults leave room: a first byte within 30 s, then never 55 s of silence."""
    assert load_config({}, {"HOME": "/h"}, require_auth=False).gateway.http.keep_alive_seconds <= 55 / 2
    provider.on("silence", Hang())
    gateway = start_gateway(
        gateway={"http": {"keepAliveSeconds": 0.3, "endpoints": {"responses": {"enabled": True}}}}
    )
    for path, body in (
        ("/v1/chat/completions", chat_body("silence", stream=True)),
        ("/v1/responses", {"input": "silence", "stream": True}),
    ):
        started = time.monotonic()
        with Connection(gateway) as stream:
            stream.send(request_bytes(body, path=path)).read_head()
            lines = stream.lines()
            next(lines)
            assert time.monotonic() - started < 5, "the first byte must not wait for the model"
            comments = (line for line in lines if line.startswith(":"))
            for _ in range(3):
                before = time.monotonic()
                next(comments)
                assert time.monotonic() - before < 5
    gateway.stop()


def test_whoever_guesses_the_token_behind_the_router_locks_out_only_themselves(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(env={"OPENCLAW__GATEWAY__TRUSTED_PROXIES": '["127.0.0.0/8"]'})
    stranger, owner = {"X-Forwarded-For": "192.0.2.66"}, {"X-Forwarded-For": "192.0.2.66, 198.51.100.7"}
    body = chat_body("hello")
    for _ in range(10):
        assert send(gateway, body, token="wrong", headers=stranger).status == 401
    assert send(gateway, body, headers=stranger).status == 429
    assert send(gateway, body, headers=owner).text == "echo: hello"
    assert "trustedProxies" not in gateway.log
    gateway.stop()


def test_a_proxy_that_nobody_has_named_is_pointed_out(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    send(gateway, chat_body("hello"), token="wrong", headers={"X-Forwarded-For": "192.0.2.66"})
    told = (
        "wrong secret from 127.0.0.1 (1 lately); is that a proxy? Then gateway.trustedProxies should name it"
    )
    wait_until(lambda: told in gateway.log)
    gateway.stop()


# --- the image ---


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE))
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        yield word, re.sub(r"\s+", " ", rest.strip())


def in_context(path: str) -> bool:
    """What ``.dockerignore`` lets in; the last pattern that matches decides."""
    inside = True
    for pattern in filter(None, (CHECKOUT / ".dockerignore").read_text().splitlines()):
        if not pattern.startswith("#"):
            bare = pattern.lstrip("!")
            parts = Path(path).parts
            heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
            matches = any(fnmatch.fnmatch(head, bare) for head in heads)
            matches |= bare.startswith("**/") and any(fnmatch.fnmatch(part, bare[3:]) for part in parts)
            inside = pattern.startswith("!") if matches else inside
    return inside


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, dict[str, list[str]]]:
    """A directory with what the image has at /gateway, and the Dockerfile's instructions."""
    root = tmp_path / "gateway"
    words: dict[str, list[str]] = {}
    for word, rest in instructions(CHECKOUT / "Dockerfile"):
        words.setdefault(word, []).append(rest)
        if word == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                place = root / target / Path(source).name if target == "./" else root / target
                place.parent.mkdir(parents=True, exist_ok=True)
                copy_context(source, place)
    return root, words


def copy_context(source: str, place: Path) -> None:
    assert in_context(source), f".dockerignore keeps {source} out"
    if (CHECKOUT / source).is_file():
        shutil.copy(CHECKOUT / source, place)
        return
    for file in sorted((CHECKOUT / source).rglob("*")):
        inner = file.relative_to(CHECKOUT / source)
        if file.is_file() and in_context(f"{source}/{inner}"):
            (place / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / inner)


def test_the_image_holds_what_it_takes_to_answer_and_finds_itself_healthy(
    image: tuple[Path, dict[str, list[str]]], env: Env
) -> None:
    root, words = image
    settings = dict(part.split("=", 1) for part in shlex.split(" ".join(words["ENV"])))
    assert settings.pop("PATH") == "/venv/bin:$PATH"
    assert settings.pop("OPENCLAW_STATE_DIR") == "/state"
    config = settings.pop("OPENCLAW_CONFIG_PATH")
    settings["OPENCLAW_CONFIG_PATH"] = str(root / Path(config).relative_to("/gateway"))
    (command,) = words["CMD"]
    (health,) = words["HEALTHCHECK"]
    probe = json.loads(health.partition("CMD ")[2])

    assert subprocess.run(probe, env=env, capture_output=True, timeout=30).returncode != 0
    with Started(shlex.join(json.loads(command)), root, env | settings) as web:
        assert subprocess.run(probe, env=env, timeout=30).returncode == 0
        assert streamed(web) == "echo: hello"
        assert f"Listening at: http://0.0.0.0:{env['PORT']} " in web.log
        assert send(web, {"input": "hello"}, path="/v1/responses").status == 200  # type: ignore[arg-type]


def test_the_image_is_small_in_what_it_copies_and_runs_as_nobody_special(
    image: tuple[Path, dict[str, list[str]]],
) -> None:
    root, words = image
    assert words["USER"] == ["10001"]
    assert all("--no-cache-dir" in line for line in words["RUN"] if "pip install" in line)
    assert all(base.startswith("python:3.11-slim") for base in words["FROM"])
    strays = [path for path in root.rglob("*") if path.name in ("tests", ".git", "__pycache__", ".venv")]
    assert strays == []
    assert (root / "packages" / "smollm2_weights" / "pyproject.toml").is_file()


# --- the unit ---


def test_the_unit_of_systemd_is_right_and_stops_later_than_the_gateway(tmp_path: Path) -> None:
    text = (CHECKOUT / "deploy" / "openclaw-gateway.service").read_text()
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    service = unit["Service"]
    settings = subprocess.run(
        [sys.executable, "-c", "import openclaw_gunicorn as g; print(g.graceful_timeout)"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(service["TimeoutStopSec"]) > float(settings.stdout)
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    here = tmp_path / "openclaw-gateway.service"
    here.write_text(
        text.replace("/opt/openclaw-gateway/.venv/bin", str(BIN))
        .replace("/opt/openclaw-gateway", str(CHECKOUT))
        .replace("/etc/openclaw-gateway.env", "/dev/null")
    )
    checked = subprocess.run([analyze, "verify", str(here)], capture_output=True, text=True, timeout=30)
    assert (checked.returncode, checked.stderr) == (0, "")
