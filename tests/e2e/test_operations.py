"""Looking after a gateway that runs: its configuration, its state, its place."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway_process import CHECKOUT, TOKEN, GatewayProcess, free_port, gateway_config, wait_until
from tests.e2e.http_client import chat
from tests.scripted_provider import Reply, ScriptedProvider

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture
def own(provider_port: int, tmp_path: Path) -> Any:
    """A gateway of the test's own, whose configuration it may change."""
    with GatewayProcess(gateway_config(f"http://127.0.0.1:{provider_port}/v1"), tmp_path) as gateway:
        yield gateway


def home(gateway: GatewayProcess) -> Path:
    return gateway.state_dir.parent


def change(gateway: GatewayProcess, /, **sections: Any) -> None:
    path = home(gateway) / "openclaw.json"
    settings = json.loads(path.read_text()) | sections
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(settings))
    fresh.replace(path)


def agents(*ids: str, model: str = "scripted/model") -> dict[str, Any]:
    return {"defaults": {"model": model}, "list": [{"id": name} for name in ids]}


def switch_watching_off(gateway: GatewayProcess) -> None:
    """For tests of other ways, which the file's own way would overtake."""
    gateway.stop()
    settings = json.loads((home(gateway) / "openclaw.json").read_text())
    change(gateway, gateway=settings["gateway"] | {"reload": {"mode": "off"}})
    gateway.start()


def run(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *args],
        cwd=CHECKOUT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


# the configuration


@pytest.mark.parametrize("way", ["file", "command", "signal"])
def test_a_change_of_the_configuration_cuts_no_stream_and_holds_for_the_next_run(
    own: GatewayProcess, provider: ScriptedProvider, way: str
) -> None:
    if way != "file":
        switch_watching_off(own)
    gate = threading.Event()
    provider.script(Reply(chunks=["be", "gun"], gate=gate, gate_at=1))
    answers: list[str] = []
    worker = own.worker_pid
    asker = threading.Thread(target=lambda: answers.append(chat(own, "hello").text))
    asker.start()
    assert provider.wait_for_requests(1, 20)
    change(own, agents=agents("main", model="scripted/second"))
    if way == "command":
        done = own.command("config", "reload")
        assert "These hold from now on:" in done.stdout, done
    elif way == "signal":
        os.kill(worker, signal.SIGHUP)
    wait_until(lambda: "config change applied" in own.log or way == "command", 15)
    gate.set()
    asker.join(20)
    assert answers == ["begun"]
    assert chat(own, "again").text == "echo: again"
    assert [request.body["model"] for request in provider.requests] == ["model", "second"]
    assert own.worker_pid == worker


def test_a_broken_configuration_is_refused_as_a_whole(own: GatewayProcess) -> None:
    change(own, agents=agents("main", model="nosuch/model"))
    done = own.command("config", "reload")
    assert done.returncode == 1
    assert 'The model "nosuch/model" names no known provider' in done.stderr
    assert chat(own, "hello").text == "echo: hello"
    wait_until(lambda: "the configuration was not reloaded, the old one holds" in own.log, 15)


# the place


def test_the_command_finds_a_gateway_on_another_port(gateway: GatewayProcess) -> None:
    env = gateway._env | {"PORT": str(free_port())}
    done = run(env, "status")
    assert done.returncode == 0
    assert f"ws://127.0.0.1:{gateway.port}, running" in done.stdout
    assert json.loads((gateway.state_dir / "gateway.json").read_text())["pid"] == gateway.pid


def test_a_second_gateway_on_the_same_state_is_told_where_the_first_one_is(gateway: GatewayProcess) -> None:
    done = run(gateway._env | {"PORT": str(free_port())}, "gateway")
    assert done.returncode != 0
    assert f"It is http://127.0.0.1:{gateway.port} (process {gateway.pid})." in done.stderr


def test_a_second_gateway_on_the_same_port_is_told_that_it_runs_already(gateway: GatewayProcess) -> None:
    done = run(gateway._env, "gateway")
    assert done.returncode == 1
    assert (
        f"This gateway is running already: http://127.0.0.1:{gateway.port} (process {gateway.pid})."
        in done.stderr
    )


def test_a_port_that_another_program_has_is_named(gateway: GatewayProcess, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = run(gateway._env | {"PORT": port, "OPENCLAW_STATE_DIR": str(tmp_path / "other")}, "gateway")
    assert done.returncode == 1
    assert f"Another program listens at 127.0.0.1:{port}." in done.stderr


def test_after_a_stop_nothing_says_that_there_is_a_gateway(provider_port: int, tmp_path: Path) -> None:
    gateway = GatewayProcess(gateway_config(f"http://127.0.0.1:{provider_port}/v1"), tmp_path)
    with gateway:
        assert (gateway.state_dir / "gateway.json").exists()
    assert not (gateway.state_dir / "gateway.json").exists()


def test_a_wrong_token_is_told_with_the_file_that_it_is_from(gateway: GatewayProcess, tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    path.write_text((home(gateway) / "openclaw.json").read_text().replace(TOKEN, "another-token-5566"))
    done = run(gateway._env | {"OPENCLAW_CONFIG_PATH": str(path)}, "status")
    assert done.returncode == 1
    assert "gateway token mismatch" in done.stderr
    assert f"The secret that was used is from {path}." in done.stderr
    assert "another-token-5566" not in done.stderr


# the state


def test_a_running_gateway_can_be_backed_up_and_the_backup_restored(
    own: GatewayProcess, provider_port: int, tmp_path: Path
) -> None:
    chat(own, "remember me", headers={"x-openclaw-session-key": "agent:main:kept"})
    archive = tmp_path / "backup.tar.gz"
    done = own.command("backup", str(archive), "--with-secrets")
    assert done.returncode == 0, done.stderr
    refused = own.command("restore", str(archive), "--force")
    assert "Another gateway is using this state directory." in refused.stderr

    (tmp_path / "second").mkdir()
    second = GatewayProcess(gateway_config(f"http://127.0.0.1:{provider_port}/v1"), tmp_path / "second")
    assert second.command("restore", str(archive)).returncode == 0
    with second:
        assert "remember me" in second.command("sessions", "show", "agent:main:kept").stdout


def test_the_doctor_finds_the_running_gateway_and_nothing_wrong(gateway: GatewayProcess) -> None:
    (home(gateway) / "openclaw.json").chmod(0o600)
    done = gateway.command("doctor")
    assert done.returncode == 0, done.stdout
    assert (
        f"A gateway answers at http://127.0.0.1:{gateway.port} (process {gateway.pid}) and takes runs."
        in done.stdout
    )


def test_old_sessions_can_be_pruned_while_the_gateway_runs(own: GatewayProcess) -> None:
    chat(own, "hello", headers={"x-openclaw-session-key": "agent:main:old"})
    change(own, session={"maintenance": {"pruneAfter": "1s"}})
    own.command("config", "reload")
    wait_until(lambda: "Would delete 1 sessions" in own.command("sessions", "prune", "--dry-run").stdout, 15)
    assert "Deleted 1 sessions" in own.command("sessions", "prune").stdout
    assert "agent:main:old" not in own.command("sessions", "list").stdout
