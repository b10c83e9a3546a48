"""The ``openclaw`` command and the connection it talks to a gateway by: where it goes, what it asks,
and what becomes of a turn when the connection or the gateway dies."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from flask import Flask
from werkzeug.serving import make_server

from app import Gateway
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import (
    CHECKOUT,
    TOKEN,
    GatewayProcess,
    free_port,
    gateway_config,
    wait_until,
)
from tests.e2e.http_client import chat
from tests.e2e.tool_runs import asking
from tests.scripted_provider import Hang, Reply, ScriptedProvider

PATIENCE = 20.0
Env = dict[str, str]


def beside(gateway: GatewayProcess, **more: str) -> Env:
    """The environment of somebody on the gateway's machine."""
    home = gateway.state_dir.parent
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PORT": str(gateway.port),
        "OPENCLAW_CONFIG_PATH": str(home / "openclaw.json"),
        "OPENCLAW_STATE_DIR": str(gateway.state_dir),
        **more,
    }


@pytest.fixture
def elsewhere(tmp_path: Path, provider_port: int) -> Env:
    """The environment of a machine that knows the secret and has no gateway of its own."""
    config = tmp_path / "openclaw.json"
    config.write_text(json.dumps(gateway_config(f"http://127.0.0.1:{provider_port}/v1")))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PORT": str(free_port()),
        "OPENCLAW_CONFIG_PATH": str(config),
        "OPENCLAW_STATE_DIR": str(tmp_path / "state"),
    }


@contextlib.contextmanager
def running(env: Env, *args: str) -> Iterator[subprocess.Popen[str]]:
    """``openclaw ARGS`` in a process of its own, which is gone afterwards."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-m", "app", *args], cwd=CHECKOUT, env=env, text=True, **pipes
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def openclaw(env: Env, *args: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    with running(env, *args) as process:
        out, err = process.communicate(typed, PATIENCE)
    return subprocess.CompletedProcess(args, process.returncode, out, err)


class Relay:
    """A way to the gateway that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.silent_after = 0  # pieces of the first connection; from then on it hears no answer

    def cut(self) -> None:
        """Cut what is connected now; the next connection gets through."""
        pairs, self._pairs = self._pairs, []
        for side in (side for pair in pairs for side in pair):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self.connections += 1
                self._pairs.append((near, far))
                thread = threading.Thread(target=self._carry, args=(near, far, self.connections))
                self._threads.append(thread)
                thread.start()

    def _carry(self, near: socket.socket, far: socket.socket, number: int) -> None:
        pieces = 0
        with near, far, contextlib.suppress(OSError):
            while True:
                for side in select.select([near, far], [], [])[0]:
                    data = side.recv(65_536)
                    if not data:
                        return
                    pieces += side is near
                    deaf = number == 1 and self.silent_after and pieces >= self.silent_after
                    if side is near:
                        far.sendall(data)
                    elif not deaf:
                        near.sendall(data)


# a turn whose connection or gateway dies


def test_a_turn_whose_connection_is_lost_goes_on_and_its_answer_is_whole(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    more = threading.Event()
    provider.script(Reply(chunks=["some", " of", " it"], gate=more, gate_at=1))
    key = "agent:main:cut"
    with (
        Relay(gateway.port) as relay,
        running(beside(gateway), "agent", "-m", "hi", "--session-key", key, "--url", relay.url) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.read(4) == "some"
        relay.cut()
        wait_until(lambda: relay.connections == 2, PATIENCE, "another connection")
        more.set()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "some" + out, err) == (0, "some of it\n", "")
    assert len(provider.requests) == 1


@pytest.mark.parametrize("over", [True, False])
def test_a_turn_that_was_begun_but_never_acknowledged_is_not_begun_twice(
    gateway: GatewayProcess, provider: ScriptedProvider, over: bool
) -> None:
    more = threading.Event()
    provider.script(Reply(chunks=["the", " answer"], gate=more, gate_at=1))
    key = f"agent:main:unheard-{int(over)}"
    with Relay(gateway.port) as relay:
        relay.silent_after = 3  # the upgrade, the hello, the question
        with running(
            beside(gateway), "agent", "-m", "hi", "--session-key", key, "--url", relay.url
        ) as process:
            assert provider.wait_for_requests(1, PATIENCE)
            if over:
                more.set()
                wait_until(lambda: answered(gateway, key), PATIENCE, "the end of the run")
            relay.cut()
            wait_until(lambda: relay.connections == 2, PATIENCE, "another connection")
            more.set()
            out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "the answer\n", "")
    assert len(provider.requests) == 1


def answered(gateway: GatewayProcess, key: str) -> bool:
    with contextlib.closing(gateway.store()) as store:
        session = store.session(key)
    return session is not None and session.message_count == 2


def test_a_question_that_never_arrived_is_asked_again(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as lost:
        port = lost.getsockname()[1]
        with running(beside(gateway), "status", "--url", f"ws://127.0.0.1:{port}") as process:
            connection, _ = lost.accept()
            connection.close()
            _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err == f"openclaw: The gateway at ws://127.0.0.1:{port} did not answer.\n"
    assert provider.requests == []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_turn_that_a_crash_has_ended_is_told_and_not_begun_again(
    start_gateway: StartGateway, provider: ScriptedProvider, as_json: bool
) -> None:
    gateway = start_gateway()
    provider.script(Reply(chunks=["some", "never"], hang_after=1))
    flags = ["--json"] if as_json else []
    with running(beside(gateway), "agent", "-m", "hello", *flags) as process:
        assert provider.wait_for_requests(1, PATIENCE)
        gateway.kill9()
        gateway.start()
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    told = json.loads(out)["error"]["message"] if as_json else err
    assert "The gateway stopped before the run was over." in told
    if as_json:
        assert json.loads(out)["error"]["code"] == "interrupted"
    with contextlib.closing(gateway.store()) as store:
        assert [run.status for run in store.list_runs("agent:main:main", 10)] == ["failed"]
    assert len(provider.requests) == 1


def test_a_chat_goes_on_after_a_restart_of_its_gateway(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    with running(beside(gateway), "chat") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("before\n")
        process.stdin.flush()
        assert process.stdout.readline() == "echo: before\n"
        gateway.stop()
        gateway.start()
        out, err = process.communicate("after\n", PATIENCE)
    assert (process.returncode, out, err) == (0, "echo: after\n", "")


def test_an_interrupted_turn_is_stopped_for_everybody(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    key = "agent:main:interrupted"
    with running(beside(gateway), "agent", "-m", "hello", "--session-key", key) as process:
        assert provider.wait_for_requests(1, PATIENCE)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "\n")
    assert provider.wait_for_disconnect()
    after = chat(gateway, "still there?", headers={"x-openclaw-session-key": key})
    assert after.text == "echo: still there?"


# where the gateway is


def test_the_flag_names_the_gateway_before_the_environment_and_that_before_the_configuration(
    gateway: GatewayProcess, elsewhere: Env
) -> None:
    there, nowhere = f"http://127.0.0.1:{gateway.port}/", f"ws://127.0.0.1:{free_port()}"
    by_environment = openclaw(elsewhere | {"OPENCLAW_GATEWAY_URL": there}, "status", "--json")
    by_flag = openclaw(elsewhere | {"OPENCLAW_GATEWAY_URL": nowhere}, "status", "--json", "--url", there)
    by_neither = openclaw(elsewhere, "status", "--json")
    for found in (by_environment, by_flag):
        assert json.loads(found.stdout)["url"] == f"ws://127.0.0.1:{gateway.port}"
    assert json.loads(by_neither.stdout) == {
        "reachable": False,
        "url": f"ws://127.0.0.1:{elsewhere['PORT']}",
        "error": f"No gateway answers at ws://127.0.0.1:{elsewhere['PORT']}.",
    }
    assert [done.returncode for done in (by_environment, by_flag, by_neither)] == [0, 0, 1]


@pytest.mark.parametrize(
    "args",
    [
        ["agent", "-m", "hi"],
        ["chat"],
        ["sessions", "list"],
        ["sessions", "delete", "agent:main:main"],
        ["usage"],
    ],
)
def test_a_gateway_that_was_named_is_not_replaced_by_this_machine(
    elsewhere: Env, provider: ScriptedProvider, args: list[str]
) -> None:
    assert openclaw(elsewhere, "agent", "-m", "hello", "--local").returncode == 0
    named = f"ws://127.0.0.1:{free_port()}"
    done = openclaw(elsewhere, *args, "--url", named, typed="hi\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"openclaw: No gateway answers at {named}.\n"
    assert len(provider.requests) == 1
    assert "agent:main:main" in openclaw(elsewhere, "sessions", "list").stdout


@pytest.mark.parametrize(
    "url",
    [
        "localhost:18789",
        "ftp://host/",
        "ws://",
        "ws://host:none",
        "ws://me:s3cret@host",
        "ws://h/?token=s3cret",
    ],
)
def test_an_address_that_is_none_is_refused_without_being_repeated(elsewhere: Env, url: str) -> None:
    done = openclaw(elsewhere, "status", "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "must be like ws://host:18789" in done.stderr
    assert "s3cret" not in done.stderr


def test_a_gateway_under_a_prefix_is_found_there(elsewhere: Env, provider_port: int, tmp_path: Path) -> None:
    host = Flask("host")
    config = gateway_config(f"http://127.0.0.1:{provider_port}/v1")
    env = {"OPENCLAW_STATE_DIR": str(tmp_path / "embedded")}
    runtime = Gateway().init_app(host, config=config, env=env, url_prefix="/ai/agents")
    server = make_server("127.0.0.1", 0, host, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/ai/agents"
    try:
        answer = openclaw(elsewhere, "agent", "-m", "hello", "--url", url)
        beside_it = openclaw(elsewhere, "agent", "-m", "hello", "--url", url.removesuffix("/ai/agents"))
    finally:
        runtime.close()
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "echo: hello\n", "")
    assert beside_it.returncode == 1
    assert beside_it.stderr.startswith(
        f"openclaw: There is no gateway at ws://127.0.0.1:{server.server_port}."
    )


def test_a_wrong_secret_is_told_and_never_shown(gateway: GatewayProcess, elsewhere: Env) -> None:
    config = Path(elsewhere["OPENCLAW_CONFIG_PATH"])
    config.write_text(config.read_text().replace(TOKEN, "another-token"))
    for args in (["status"], ["sessions", "list"], ["logs"], ["approvals"]):
        done = openclaw(elsewhere, *args, "--url", f"ws://127.0.0.1:{gateway.port}")
        assert (done.returncode, done.stdout) == (1, "")
        assert "unauthorized: gateway token mismatch" in done.stderr
        assert "another-token" not in done.stderr


# openclaw status


def test_the_status_tells_what_is_going_on(start_gateway: StartGateway, provider: ScriptedProvider) -> None:
    gateway = start_gateway(tools={"profile": "coding", "exec": {"ask": "always"}})
    env = beside(gateway)
    idle = json.loads(openclaw(env, "status", "--json").stdout)
    provider.script(asking(("exec", {"command": "printf x"})), Reply("done"))
    with running(env, "agent", "-m", "run it") as process:
        busy = wait_until(lambda: _waiting(env), PATIENCE, "a command that waits")
        shown = openclaw(env, "status").stdout
        openclaw(
            env,
            "approvals",
            "allow",
            json.loads(openclaw(env, "approvals", "--json").stdout)["approvals"][0]["id"],
        )
        process.communicate(timeout=PATIENCE)
    assert (idle["reachable"], idle["draining"]) == (True, False)
    assert (idle["agent"], idle["model"]) == ("main", "scripted/model")
    assert (idle["runs"], idle["approvals"]) == (0, 0)
    assert 0 <= idle["uptimeMs"] < 60_000
    assert idle["connections"] == 1
    assert (busy["runs"], busy["sessions"], busy["approvals"], busy["connections"]) == (1, 1, 1, 2)
    lines = dict(line.split(":", 1) for line in shown.splitlines())
    assert lines["Gateway"].strip() == f"ws://127.0.0.1:{gateway.port}, running"
    assert lines["Runs"].strip() == "1 under way"
    assert lines["Approvals"].strip() == "1 waiting; see openclaw approvals"


def _waiting(env: Env) -> Any:
    found = json.loads(openclaw(env, "status", "--json").stdout)
    return found if found["approvals"] else None


def test_the_version_is_told_without_a_gateway(elsewhere: Env) -> None:
    done = openclaw(elsewhere, "--version")
    name, _, number = done.stdout.strip().partition(" ")
    assert (done.returncode, name) == (0, "openclaw")
    assert number[0].isdigit()


# openclaw logs


def test_the_log_is_shown_for_people_and_for_programs(gateway: GatewayProcess) -> None:
    assert chat(gateway, "hello").status == 200
    (line,) = openclaw(beside(gateway), "logs", "--limit", "1").stdout.splitlines()
    assert " INFO    ws: connection " in line
    as_json = [json.loads(one) for one in openclaw(beside(gateway), "logs", "--json").stdout.splitlines()]
    assert any(one["0"].startswith("run ") and "completed" in one["0"] for one in as_json)


def test_whoever_follows_the_log_sees_new_lines_once(gateway: GatewayProcess) -> None:
    with running(beside(gateway), "logs", "--follow", "--limit", "1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        run_id = chat(gateway, "hello").json["id"]
        lines = []
        while not lines or run_id not in lines[-1]:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "\n")
    assert sum(f"run {run_id} " in line for line in (*lines, *rest.splitlines())) == 1


# openclaw chat and sessions


def test_a_chat_obeys_what_is_said_to_the_gateway(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    key = "agent:main:obeying"
    typed = "stop\n/new and hello\n/whoami\n"
    done = openclaw(beside(gateway), "chat", "--session-key", key, typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Nothing is running.",
        "New session started.",
        "echo: and hello",
        "Agent: main",
        f"Session: {key}",
        "Channel: chat",
    ]


def test_a_main_session_can_be_deleted_by_its_operator(gateway: GatewayProcess) -> None:
    key = "agent:beta:main"
    assert openclaw(beside(gateway), "agent", "-m", "hello", "--agent", "beta").returncode == 0
    assert key in openclaw(beside(gateway), "sessions", "list").stdout
    done = openclaw(beside(gateway), "sessions", "delete", key)
    assert (done.returncode, done.stdout) == (0, f"Deleted {key}.\n")
    assert key not in openclaw(beside(gateway), "sessions", "list").stdout


def test_a_long_transcript_is_shown_whole(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    key = "agent:main:lengthy"
    provider.script(Reply("x" * 1_500_000))
    done = openclaw(beside(gateway), "agent", "-m", "hello", "--session-key", key)
    assert done.stdout == "x" * 1_500_000 + "\n"
    shown = openclaw(beside(gateway), "sessions", "show", key)
    assert (shown.returncode, shown.stdout.count("x")) == (0, 1_500_000)
