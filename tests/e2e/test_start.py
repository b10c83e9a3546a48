"""Starting and stopping: what a gateway says about itself, and how it refuses to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway_process import (
    CHECKOUT,
    TOKEN,
    GatewayProcess,
    free_port,
    wait_until,
)
from tests.e2e.http_client import chat, open_stream, send
from tests.scripted_provider import Reply, ScriptedProvider, Status

StartGateway = Callable[..., GatewayProcess]
Env = dict[str, str]

WAYS = {
    "openclaw gateway": ["-m", "app", "gateway"],
    "gunicorn wsgi:app": ["-m", "gunicorn", "wsgi:app"],
}
MINIMAL = {
    "gateway": {
        "auth": {"mode": "token", "token": TOKEN},
        "http": {"endpoints": {"chatCompletions": {"enabled": True}}},
    }
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> list[str]:
    """The arguments of one way to start a gateway."""
    return WAYS[request.param]


@pytest.fixture
def env(tmp_path: Path) -> Env:
    """The environment of a machine with nothing on it; ``write_config`` changes that."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PORT": str(free_port()),
        "OPENCLAW_STATE_DIR": str(tmp_path / "state"),
    }


def write_config(env: Env, config: Any) -> Path:
    path = Path(env["OPENCLAW_STATE_DIR"], "openclaw.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def refusal(way: list[str], env: Env) -> str:
    """What a gateway says that does not start. It must end by itself, in failure, without a traceback."""
    done = subprocess.run(
        [sys.executable, *way], cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=30
    )
    told = done.stdout + done.stderr
    assert done.returncode not in (0, None), told
    assert "Traceback" not in told
    assert told.count("Booting worker") <= 1, told
    return told


def first_words(command: list[str], env: Env, cwd: Path = CHECKOUT) -> str:
    """What a gateway says until it serves. It is stopped then and must end in order."""
    told = ""
    with subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in iter(process.stderr.readline, ""):
                told += line
                if "state: " in line:
                    break
        finally:
            process.terminate()
            process.stderr.read()
    assert process.returncode == 0, told
    return told


# refusals


def test_without_a_secret_it_refuses_and_says_how_to_fix_that(way: list[str], env: Env) -> None:
    write_config(env, {"agents": {"list": [{"id": "main"}]}})
    told = refusal(way, env)
    assert "set gateway.auth.token or OPENCLAW_GATEWAY_TOKEN, or run `openclaw init`" in told


def test_with_no_file_at_all_it_refuses_too(way: list[str], env: Env) -> None:
    assert "run `openclaw init`" in refusal(way, env)


def test_a_broken_configuration_is_refused_with_every_mistake_and_no_secret(way: list[str], env: Env) -> None:
    broken = {"gateway": {"prot": 1, "auth": {"token": TOKEN, "mode": TOKEN}}, "agents": {"lst": []}}
    path = write_config(env, broken)
    told = refusal(way, env)
    assert f"The configuration in {path} cannot be used:" in told
    assert '- gateway.prot: unknown key; did you mean "port"?' in told
    assert "- gateway.auth.mode: must be" in told
    assert '- agents.lst: unknown key; did you mean "list"?' in told
    assert TOKEN not in told


def test_a_file_that_is_not_json5_is_refused_with_the_place_of_the_mistake(way: list[str], env: Env) -> None:
    path = write_config(env, "{\n  gateway: {\n    port: 1 2,\n  },\n}")
    told = refusal(way, env)
    assert str(path) in told
    assert "line 3" in told


def test_a_model_that_leads_nowhere_is_refused_by_name(way: list[str], env: Env) -> None:
    write_config(env, MINIMAL | {"agents": {"defaults": {"model": "nosuch/model"}}})
    assert "nosuch/model" in refusal(way, env)


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("PROMETHEUS_MULTIPROC_DIR=/dev/null", "PROMETHEUS_MULTIPROC_DIR: nothing can be written in"),
        ("OTEL_BSP_MAX_QUEUE_SIZE=0", "Traces cannot be sent as the variables OTEL_* say"),
    ],
)
def test_what_looks_on_and_cannot_is_refused_in_a_sentence(
    way: list[str], env: Env, variable: str, told: str
) -> None:
    write_config(env, MINIMAL)
    name, _, value = variable.partition("=")
    assert told in refusal(way, env | {name: value, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})


def test_a_damaged_store_is_refused_and_left_as_it_is(way: list[str], env: Env) -> None:
    store = write_config(env, MINIMAL).with_name("gateway.sqlite3")
    damaged = b"SQLite format 3\0" + os.urandom(8_192)
    store.write_bytes(damaged)
    told = refusal(way, env)
    assert "is damaged or not a database. Nothing was changed or deleted." in told
    assert store.read_bytes() == damaged


def test_a_state_directory_that_cannot_be_one_is_refused(way: list[str], env: Env, tmp_path: Path) -> None:
    config = write_config(env, MINIMAL).rename(tmp_path / "elsewhere.json")
    Path(env["OPENCLAW_STATE_DIR"]).rmdir()
    Path(env["OPENCLAW_STATE_DIR"]).write_text("a file")
    told = refusal(way, env | {"OPENCLAW_CONFIG_PATH": str(config)})
    assert "state directory cannot be used" in told


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with pytest.raises(OSError, match="No space left"):
            (disk / "ballast").write_bytes(b"x" * 100_000)
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_and_a_start_succeeds_once_there_is_room(
    full_disk: Path, way: list[str], env: Env
) -> None:
    env["OPENCLAW_CONFIG_PATH"] = str(write_config(env, MINIMAL))
    env["OPENCLAW_STATE_DIR"] = str(full_disk)
    assert "The disk is full: nothing was stored." in refusal(way, env)
    (full_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=10m", str(full_disk)], check=True)
    assert f"state: {full_disk}" in first_words([sys.executable, *way], env)


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1", "8080x"])
def test_a_port_that_is_none_is_refused(env: Env, port: str) -> None:
    write_config(env, MINIMAL)
    told = refusal(WAYS["openclaw gateway"], env | {"PORT": port})
    assert told == "openclaw: PORT must be a port, a number from 1 to 65535.\n"


def test_a_second_gateway_on_the_same_state_is_refused_and_the_first_goes_on(
    gateway: GatewayProcess, way: list[str], env: Env, provider: ScriptedProvider
) -> None:
    env["OPENCLAW_STATE_DIR"] = str(gateway.state_dir)
    env["OPENCLAW_CONFIG_PATH"] = str(gateway.state_dir.parent / "openclaw.json")
    assert "Another gateway is using this state directory." in refusal(way, env)
    assert chat(gateway, "still there?").text == "echo: still there?"


# what it says


def test_it_says_which_agent_model_configuration_and_state_it_uses(gateway: GatewayProcess) -> None:
    assert "agent: main (of main, beta)" in gateway.log
    assert "model: scripted/model\n" in gateway.log
    assert f"config: {gateway.state_dir.parent / 'openclaw.json'}" in gateway.log
    assert f"state: {gateway.state_dir}" in gateway.log


@pytest.fixture
def start_unconfigured(tmp_path: Path) -> Iterator[StartGateway]:
    """Starts a gateway whose configuration names no model."""
    started: list[GatewayProcess] = []

    def start(**env: str) -> GatewayProcess:
        started.append(GatewayProcess(MINIMAL, tmp_path, env=env))
        return started[-1].start()

    yield start
    for gateway in started:
        gateway.stop()


def test_a_key_in_the_environment_chooses_its_provider_and_is_not_logged(
    start_unconfigured: StartGateway,
) -> None:
    log = start_unconfigured(OPENAI_API_KEY="sk-from-the-environment").log
    assert "model: openai/gpt-6.1-terra (by the key in OPENAI_API_KEY)" in log
    assert "sk-from-the-environment" not in log


def test_without_any_key_the_built_in_model_answers_and_says_that_it_is_loading(
    start_unconfigured: StartGateway,
) -> None:
    pytest.importorskip("xllamacpp")
    gateway = start_unconfigured()
    assert "model: embedded/smollm2-135m (built in and small" in gateway.log
    assert chat(gateway, "Say hi.").text.strip()
    assert "loading smollm2-135m" in gateway.log
    assert "smollm2-135m ready in" in gateway.log


def test_no_secret_is_ever_logged_whatever_goes_wrong(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway(env={"GROQ_API_KEY": "gsk-never-to-be-seen"})
    echo = {"error": {"message": "Incorrect API key provided: sk-scripted, gsk-never-to-be-seen."}}
    for status in (401, 403, 400, 404):
        provider.script(Status(status, echo))
        assert chat(gateway).status >= 400
    provider.script(Reply(chunks=["x"], error_after=1, error=echo["error"]))
    assert chat(gateway).status >= 400
    assert send(gateway, b"{", token=TOKEN).status == 400
    assert send(gateway, b"{}", token=TOKEN + "x").status == 401
    wait_until(lambda: gateway.log.count(" failed (") >= 5, what="the runs' log lines")
    wait_until(lambda: "wrong secret from" in gateway.log, what="the guard's log line")
    for secret in (TOKEN, "sk-scripted", "gsk-never-to-be-seen"):
        assert secret not in gateway.log


# how it runs


def test_plain_gunicorn_serves_on_the_port_of_the_environment(env: Env) -> None:
    write_config(env, MINIMAL)
    told = first_words([sys.executable, *WAYS["gunicorn wsgi:app"]], env)
    assert f"Listening at: http://127.0.0.1:{env['PORT']} " in told
    assert f"state: {env['OPENCLAW_STATE_DIR']}\n" in told


def test_the_platforms_wish_for_more_workers_still_gives_one(start_gateway: StartGateway) -> None:
    gateway = start_gateway(env={"WEB_CONCURRENCY": "4"})
    assert len(gateway.workers) == 1
    assert gateway.log.count("Booting worker") == 1
    assert chat(gateway, "hello").text == "echo: hello"


def test_it_starts_from_any_directory_and_takes_relative_paths_from_there(tmp_path: Path, env: Env) -> None:
    (tmp_path / "wsgi.py").write_text("raise SystemExit('the wrong wsgi.py')")
    (tmp_path / "app.py").write_text("raise SystemExit('the wrong app')")
    write_config(env, MINIMAL)
    env["OPENCLAW_STATE_DIR"] = "state"
    told = first_words([str(Path(sys.executable).with_name("openclaw")), "gateway"], env, tmp_path)
    assert told.endswith(f"state: {tmp_path / 'state'}\n")


def test_a_hangup_replaces_the_worker_and_reads_the_configuration_again(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    before = gateway.workers
    config = gateway.state_dir.parent / "openclaw.json"
    config.write_text(config.read_text().replace('"Beta"', '"Better"').replace('"beta"', '"better"'))
    os.kill(gateway.pid, signal.SIGHUP)
    wait_until(lambda: "agent: main (of main, better)" in gateway.log, 30, "the second start")
    gateway.wait_until_ready()
    assert len(gateway.workers) == 1
    assert gateway.workers != before
    assert chat(gateway, "hello", model="openclaw/better").text == "echo: hello"


def test_a_hangup_lets_the_run_under_way_finish(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    provider.script(Reply(chunks=["slow", " but", " sure"], delay=0.5))
    with subprocess.Popen(
        [sys.executable, "-m", "app", "agent", "-m", "hello"],
        cwd=CHECKOUT,
        env={
            "PATH": os.environ["PATH"],
            "PORT": str(gateway.port),
            "OPENCLAW_CONFIG_PATH": str(gateway.state_dir.parent / "openclaw.json"),
            "OPENCLAW_STATE_DIR": str(gateway.state_dir),
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert provider.wait_for_requests(1, 20)
        os.kill(gateway.pid, signal.SIGHUP)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "slow but sure\n")
    wait_until(lambda: gateway.log.count("Booting worker") == 2, 30, "the new worker")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_when_the_platform_or_the_terminal_says_so(
    start_gateway: StartGateway, number: int
) -> None:
    gateway = start_gateway()
    chat(gateway)
    os.killpg(gateway.pid, number)  # a terminal sends it to master and worker
    assert gateway.wait() == 0
    assert "Traceback" not in gateway.log
    assert "exited with code" not in gateway.log


def test_ctrl_c_ends_the_run_under_way_in_words_and_at_the_model(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    provider.script(Reply(chunks=["some", "never"], hang_after=1))
    with open_stream(gateway, "hello") as stream:
        events = stream.events()
        next(event for event in events if "some" in json.dumps(event))
        os.killpg(gateway.pid, signal.SIGINT)
        *_, error, done = events
    assert "shutting down" in error["error"]["message"]
    assert done == "[DONE]"
    assert provider.wait_for_disconnect()
    assert gateway.wait() == 0
