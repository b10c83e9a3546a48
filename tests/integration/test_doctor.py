"""Each thing that can be wrong with a gateway is broken for real, and found."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli.checks.state import network_file_system
from app.sessions.beacon import Beacon, light
from app.sessions.sql import open_store
from app.sessions.sqlite import FILE_NAME
from tests.e2e.gateway_process import free_port
from tests.engines import postgres_server
from tests.integration.machine import Machine
from tests.redis_engine import RedisEngine
from tests.scripted_provider import ScriptedProvider, Status

TOKEN = "a-long-and-random-enough-token-8f7e"


def settings(**gateway: Any) -> dict[str, Any]:
    http = {"endpoints": {"chatCompletions": {"enabled": True}}}
    return {"gateway": {"auth": {"token": TOKEN}, "http": http} | gateway}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Where all is well."""
    machine = Machine(tmp_path / "home", settings())
    machine.config.chmod(0o600)
    machine.env["PORT"] = str(free_port())
    with contextlib.closing(open_store(machine.state)):
        pass
    return machine


def findings(machine: Machine, *flags: str, code: int | None = None) -> list[dict[str, Any]]:
    done = machine.run("doctor", "--json", *flags)
    assert code is None or done.returncode == code, done.stdout
    found = json.loads(done.stdout)
    assert found["ok"] is (done.returncode != 1)
    return list(found["findings"])


def wrong(machine: Machine, *flags: str) -> list[tuple[str, str]]:
    """What is not as it should be; the disk of the tests is what it is."""
    found = findings(machine, *flags)
    return [
        (one["check"], one["level"])
        for one in found
        if one["level"] != "ok" and one["check"] not in ("file system", "free space", "open files")
    ]


def test_where_all_is_well_nothing_is_found(machine: Machine) -> None:
    assert wrong(machine) == []
    told = machine.run("doctor").stdout
    assert "✓ Clients need the gateway's token." in told
    assert TOKEN not in told


def test_on_a_bare_machine_the_doctor_says_how_to_begin(tmp_path: Path) -> None:
    bare = Machine(tmp_path / "bare", None)
    bare.env["PORT"] = str(free_port())
    done = bare.run("doctor")
    assert done.returncode == 1
    assert "✗ No token is set.\n    → Set OPENCLAW_GATEWAY_TOKEN or run `openclaw init`." in done.stdout
    assert not bare.state.exists()


def break_syntax(machine: Machine) -> None:
    machine.config.write_text("{ gateway: ")


def break_keys(machine: Machine) -> None:
    machine.config.write_text("{ gatway: {}, agents: { lst: [] } }")


def break_model(machine: Machine) -> None:
    agents = {"list": [{"id": "main", "model": "nosuch/model", "tools": {"allow": ["nosuch_tool"]}}]}
    machine.config.write_text(json.dumps(settings() | {"agents": agents}))


def break_model_path(machine: Machine) -> None:
    provider = {"embedded": {"api": "embedded", "modelPath": "/nosuch.gguf"}}
    machine.config.write_text(json.dumps(settings() | {"models": {"providers": provider}}))


def open_the_file(machine: Machine) -> None:
    machine.config.chmod(0o644)


def guess_the_token(machine: Machine) -> None:
    machine.config.write_text(json.dumps(settings(auth={"token": "hunter2"})))


def guess_the_token_from_anywhere(machine: Machine) -> None:
    machine.config.write_text(json.dumps(settings(auth={"token": "hunter2"}, bind="lan")))


def need_no_token(machine: Machine) -> None:
    machine.config.write_text(json.dumps(settings(auth={"mode": "none"})))


def switch_the_endpoint_off(machine: Machine) -> None:
    machine.config.write_text(json.dumps(settings(http={})))


def stand_behind_a_router(machine: Machine) -> None:
    machine.env["DYNO"] = "web.1"


def wish_for_workers(machine: Machine) -> None:
    machine.env["WEB_CONCURRENCY"] = "4"


def lack_a_key(machine: Machine) -> None:
    agents = {"list": [{"id": "main", "model": "openai/gpt-6.1-terra"}]}
    providers = {"openai": {"api": "openai-responses"}}
    machine.config.write_text(json.dumps(settings() | {"agents": agents, "models": {"providers": providers}}))


def put_a_file_in_the_place_of_the_workspace(machine: Machine) -> None:
    (machine.state / "workspace").write_text("")


def damage_the_store(machine: Machine) -> None:
    path = machine.state / FILE_NAME
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 3] = os.urandom(4096)
    path.write_bytes(data)


def truncate_the_store(machine: Machine) -> None:
    (machine.state / FILE_NAME).write_bytes(b"not a database" * 100)


def come_from_the_future(machine: Machine) -> None:
    with contextlib.closing(sqlite3.connect(machine.state / FILE_NAME)) as db:
        db.execute("PRAGMA user_version = 1000")


def let_others_read(machine: Machine) -> None:
    (machine.state / FILE_NAME).chmod(0o640)


def let_others_in(machine: Machine) -> None:
    machine.state.chmod(0o755)


def leave_a_restore(machine: Machine) -> None:
    (machine.state / ".restore-1").mkdir()


def leave_a_beacon(machine: Machine) -> None:
    (machine.state / "gateway.json").touch(mode=0o600)


def turn_the_clock_back(machine: Machine) -> None:
    os.utime(machine.state, (time.time() + 86_400,) * 2)


def ask_for_no_port(machine: Machine) -> None:
    machine.env["PORT"] = "http"


@pytest.mark.parametrize(
    ("spoil", "check", "level"),
    [
        (break_syntax, "configuration", "problem"),
        (break_keys, "configuration", "problem"),
        (break_model, "configuration", "problem"),
        (break_model_path, "configuration", "problem"),
        (open_the_file, "configuration file", "warning"),
        (guess_the_token, "access", "warning"),
        (guess_the_token_from_anywhere, "access", "problem"),
        (need_no_token, "access", "warning"),
        (switch_the_endpoint_off, "endpoints", "warning"),
        (stand_behind_a_router, "platform", "warning"),
        (wish_for_workers, "workers", "warning"),
        (lack_a_key, "agents", "warning"),
        (put_a_file_in_the_place_of_the_workspace, "workspaces", "problem"),
        (damage_the_store, "store", "problem"),
        (truncate_the_store, "store", "problem"),
        (come_from_the_future, "store", "problem"),
        (let_others_read, "store files", "warning"),
        (let_others_in, "state directory", "warning"),
        (leave_a_restore, "leftovers", "warning"),
        (leave_a_beacon, "leftovers", "warning"),
        (turn_the_clock_back, "clock", "warning"),
        (ask_for_no_port, "port", "problem"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_wrong_is_found(
    machine: Machine, spoil: Callable[[Machine], None], check: str, level: str
) -> None:
    spoil(machine)
    found = wrong(machine)
    assert set(found) == {(check, level)}
    plain = machine.run("doctor")
    assert plain.returncode == (1 if level == "problem" else 0)
    assert "hunter2" not in plain.stdout
    assert machine.run("doctor", "--strict").returncode == (1 if level == "problem" else 2)


def test_what_the_doctor_may_not_look_at_is_a_finding_and_the_others_are_told(machine: Machine) -> None:
    machine.env["OPENCLAW_STATE_DIR"] = str(machine.home / ("x" * 300))
    done = machine.run("doctor", "--json")
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 1
    assert "cannot be looked at: File name too long." in done.stdout
    assert findings[-1]["check"] == "port"


def test_every_mistake_in_the_configuration_is_told_at_once(machine: Machine) -> None:
    break_keys(machine)
    texts = [one["text"] for one in findings(machine) if one["check"] == "configuration"]
    assert texts == [
        'agents.lst: unknown key; did you mean "list"?',
        'gatway: unknown key; did you mean "gateway"?',
    ]


def test_what_leads_nowhere_is_told_at_once_too(machine: Machine) -> None:
    agents = {"list": [{"id": "main", "model": "nosuch/model"}, {"id": "beta", "model": "bare/model"}]}
    providers = {"bare": {}, "embedded": {"api": "embedded", "modelPath": "/nosuch.gguf"}}
    tools = {"allow": ["nosuch_tool"]}
    sections = {"agents": agents, "models": {"providers": providers}, "tools": tools}
    machine.config.write_text(json.dumps(settings() | sections))
    texts = [one["text"] for one in findings(machine) if one["check"] == "configuration"]
    assert [text.split(":")[0].split(" ")[0] for text in texts] == [
        "models.providers.bare.baseUrl",
        "models.providers.embedded.modelPath",
        "tools.allow",
        "agents.main.model",
    ]
    assert all(text in machine.run("config", "check").stderr for text in texts)


@pytest.mark.parametrize(
    "spoil", [open_the_file, let_others_read, let_others_in, leave_a_restore, leave_a_beacon]
)
def test_what_is_safe_to_mend_is_mended(machine: Machine, spoil: Callable[[Machine], None]) -> None:
    spoil(machine)
    told = machine.run("doctor", "--fix")
    assert "Fixed." in told.stdout
    assert wrong(machine) == []


def test_the_state_directory_is_made_when_asked_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "home", settings())
    machine.run("doctor", "--fix")
    assert stat.S_IMODE(machine.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(machine.config.stat().st_mode) == 0o600


def test_looking_changes_nothing(machine: Machine) -> None:
    def everything() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mode, path.stat().st_mtime_ns) for path in machine.home.rglob("*")}

    for spoil in (let_others_in, leave_a_restore, damage_the_store):
        spoil(machine)
    before = everything()
    findings(machine)
    assert everything() == before


# the port


def test_a_program_that_is_no_gateway_is_found_at_the_port(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", int(machine.env["PORT"]))):
        # It never answers, and the doctor does not wait for ever.
        assert wrong(machine) == [("port", "problem")]


def test_an_address_that_is_not_ours_is_found(machine: Machine) -> None:
    machine.env["OPENCLAW_GATEWAY_HOST"] = "192.0.2.1"
    assert ("port", "problem") in wrong(machine)


def test_a_gateway_that_has_gone_away_since_is_not_believed_in(machine: Machine) -> None:
    leave = light(machine.state, Beacon(1, f"http://127.0.0.1:{machine.env['PORT']}", "1"))
    try:
        assert not [one for one in findings(machine) if "takes runs" in one["text"]]
    finally:
        leave()


def test_few_files_are_found(machine: Machine) -> None:
    with machine.start("doctor", "--json") as process:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (512, 512))
        out, _ = process.communicate(timeout=60)
    (found,) = [one for one in json.loads(out)["findings"] if one["check"] == "open files"]
    assert found["level"] == "warning"


# models


@pytest.fixture
def provider() -> Any:
    with ScriptedProvider() as provider:
        yield provider


def use(machine: Machine, provider: ScriptedProvider) -> None:
    providers = {"scripted": {"baseUrl": provider.base_url, "apiKey": "sk-scripted-secret"}}
    agents = {"defaults": {"model": "scripted/model"}, "list": [{"id": "main"}, {"id": "beta"}]}
    machine.config.write_text(json.dumps(settings() | {"agents": agents, "models": {"providers": providers}}))


def test_models_are_only_called_when_asked_for(machine: Machine, provider: ScriptedProvider) -> None:
    use(machine, provider)
    assert wrong(machine) == []
    assert provider.requests == []
    assert wrong(machine, "--online") == []
    assert len(provider.requests) == 1


def test_a_key_that_is_refused_is_found(machine: Machine, provider: ScriptedProvider) -> None:
    use(machine, provider)
    provider.script(Status(401, {"error": {"message": "Incorrect API key provided: sk-scripted-secret"}}))
    done = machine.run("doctor", "--online")
    assert done.returncode == 1
    assert "✗ scripted/model does not answer" in done.stdout
    assert "Set a key that the provider takes." in done.stdout
    assert "sk-scripted-secret" not in done.stdout


def test_an_mcp_server_that_cannot_be_started_is_found(machine: Machine) -> None:
    servers = {"broken": {"command": "/nosuch/program"}}
    machine.config.write_text(json.dumps(settings() | {"mcp": {"servers": servers}}))
    assert wrong(machine) == []
    found = [one for one in findings(machine, "--deep") if one["check"] == "MCP servers"]
    assert [one["level"] for one in found] == ["problem"]
    assert "broken" in found[0]["text"]


# engines


def test_a_database_and_a_redis_that_answer_are_timed(machine: Machine) -> None:
    with postgres_server().database() as database, RedisEngine() as redis:
        with contextlib.closing(open_store(database)) as store:
            store.count_sessions()
        machine.env |= {"DATABASE_URL": database, "REDIS_URL": redis.url}
        assert wrong(machine) == []
        told = machine.run("doctor").stdout
    assert "The database answers in " in told
    assert "Redis answers in " in told
    assert database not in told


def test_a_database_that_was_never_used_is_found(machine: Machine) -> None:
    with postgres_server().database() as database:
        machine.env["DATABASE_URL"] = database
        assert wrong(machine) == [("database", "problem")]


def test_engines_that_are_away_are_found_without_their_passwords(machine: Machine) -> None:
    port = free_port()
    machine.env["DATABASE_URL"] = f"postgres://me:secret-of-mine@127.0.0.1:{port}/x"
    machine.env["REDIS_URL"] = f"redis://:secret-of-mine@127.0.0.1:{port}/0"
    assert wrong(machine) == [("database", "problem"), ("Redis", "problem")]
    assert "secret-of-mine" not in machine.run("doctor").stdout


def test_a_redis_alone_is_found_to_be_of_no_use(machine: Machine) -> None:
    machine.env["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    assert wrong(machine) == [("Redis", "warning")]


# file systems


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", ""), ("/data/x", "nfs4"), ("/data 2/y", "cifs"), ("/database", ""), ("/data/inner/z", "")],
)
def test_a_network_file_system_is_that_of_the_nearest_mount(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n//server/y /data\\0402 cifs rw 0 0\n"
        "/dev/b /data/inner xfs rw 0 0\n"
    )
    assert network_file_system(Path(path), mounts) == kind
