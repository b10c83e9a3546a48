"""The ``openclaw`` command as a person or a script runs it: a process of its own, judged by its
exit status, what it prints, and what the model API and the store have seen."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway_process import (
    CHECKOUT,
    TOKEN,
    GatewayProcess,
    free_port,
    gateway_config,
    wait_until,
)
from tests.e2e.http_client import chat
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status

StartGateway = Callable[..., GatewayProcess]
Env = dict[str, str]


@pytest.fixture
def alone(tmp_path: Path, provider_port: int) -> Env:
    """The environment of a machine with a configuration and no gateway running."""
    config = tmp_path / "openclaw.json"
    config.write_text(json.dumps(gateway_config(f"http://127.0.0.1:{provider_port}/v1")))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PORT": str(free_port()),
        "OPENCLAW_CONFIG_PATH": str(config),
        "OPENCLAW_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.fixture
def bare(tmp_path: Path) -> Env:
    """The environment of a machine where nothing is configured yet."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PORT": str(free_port())}


@pytest.fixture(params=["through the gateway", "in process"])
def place(request: pytest.FixtureRequest) -> tuple[Env, list[str]]:
    """An environment and the flags to run a turn in it, by either way."""
    if request.param == "in process":
        return request.getfixturevalue("alone"), ["--local"]
    return beside(request.getfixturevalue("gateway")), []


def beside(gateway: GatewayProcess) -> Env:
    """The environment of somebody on the gateway's machine."""
    home = gateway.state_dir.parent
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PORT": str(gateway.port),
        "OPENCLAW_CONFIG_PATH": str(home / "openclaw.json"),
        "OPENCLAW_STATE_DIR": str(gateway.state_dir),
    }


def start(env: Env, *args: str, **streams: Any) -> subprocess.Popen[str]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen([sys.executable, "-m", "app", *args], cwd=CHECKOUT, env=env, text=True, **streams)


def run(env: Env, *args: str) -> subprocess.CompletedProcess[str]:
    with start(env, *args) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def records(state_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of the store, without what differs from run to run and the channel's name."""
    own = {"id", "session_id", "run_id", "channel", "created_at", "updated_at", "active_at", "ended_at"}
    with contextlib.closing(sqlite3.connect(state_dir / "gateway.sqlite3")) as db:
        db.row_factory = sqlite3.Row
        return {
            table: [
                {name: row[name] for name in row.keys() if name not in own}  # noqa: SIM118 - a Row is no dict
                for row in db.execute(f"SELECT * FROM {table}")
            ]
            for table in ("runs", "messages", "sessions")
        }


# answers


def test_the_answer_alone_goes_to_stdout(place: tuple[Env, list[str]], provider: ScriptedProvider) -> None:
    env, flags = place
    provider.script(Reply("Good morning – ☀."))
    done = run(env, "agent", "-m", "hello", *flags)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Good morning – ☀.\n", "")


def test_json_through_the_gateway_has_the_shape_of_openclaw(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("hi there"))
    done = run(beside(gateway), "agent", "-m", "hello", "--session-key", "agent:main:shape", "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    meta = shown["result"].pop("meta")
    assert shown == {
        "runId": shown["runId"],
        "status": "ok",
        "summary": "completed",
        "result": {"payloads": [{"text": "hi there", "mediaUrl": None}]},
    }
    agent = meta["agentMeta"]
    assert (agent["provider"], agent["model"]) == ("scripted", "model")
    assert agent["usage"] == {"input": 11, "output": 7, "cacheRead": 0, "cacheWrite": 0, "total": 18}
    assert meta["aborted"] is False
    assert 0 <= meta["durationMs"] < 60_000


def test_json_in_process_is_the_inner_object_only(alone: Env) -> None:
    done = run(alone, "agent", "-m", "hello", "--local", "--json")
    shown = json.loads(done.stdout)
    assert set(shown) == {"payloads", "meta"}
    assert shown["payloads"] == [{"text": "echo: hello", "mediaUrl": None}]
    assert "transport" not in shown["meta"]


def test_a_turn_leaves_the_same_records_as_the_same_request_over_http(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    over_cli, over_http = start_gateway(), start_gateway()
    for text in ("hi", "and again"):
        done = run(beside(over_cli), "agent", "--agent", "main", "--message", text, "--json")
        assert done.returncode == 0
        answer = chat(over_http, text, headers={"x-openclaw-session-key": "agent:main:main"})
        assert answer.status == 200
    kept = records(over_cli.state_dir)
    assert kept == records(over_http.state_dir)
    assert [len(kept[table]) for table in ("runs", "messages", "sessions")] == [2, 4, 1]
    first_cli, first_http, second_cli, second_http = (request.body for request in provider.requests)
    # The prompt names the workspace, which is not the same place.
    moved = [
        json.dumps(body).replace(str(over_http.state_dir), str(over_cli.state_dir))
        for body in (first_http, second_http)
    ]
    assert [json.dumps(first_cli), json.dumps(second_cli)] == moved


def test_thinking_reaches_the_model(place: tuple[Env, list[str]], provider: ScriptedProvider) -> None:
    env, flags = place
    run(env, "agent", "-m", "hello", "--thinking", "high", *flags)
    assert provider.requests[0].body["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ([], "agent:main:main"),
        (["--agent", "BETA"], "agent:beta:main"),
        (["--session-id", "Trip-1"], "agent:main:explicit:trip-1"),
        (["--agent", "beta", "--session-id", "x"], "agent:beta:explicit:x"),
        (["--session-key", "agent:beta:desk"], "agent:beta:desk"),
    ],
)
def test_the_flags_choose_the_session(alone: Env, flags: list[str], key: str) -> None:
    assert run(alone, "agent", "-m", "hello", "--local", *flags).returncode == 0
    assert [row["key"] for row in records(Path(alone["OPENCLAW_STATE_DIR"]))["sessions"]] == [key]


def test_a_timeout_of_zero_lifts_the_limit(hasty: GatewayProcess, provider: ScriptedProvider) -> None:
    slow = Reply(chunks=list("abcdefg"), delay=0.6)  # hasty's own limit is 3 s
    provider.script(slow)
    done = run(beside(hasty), "agent", "-m", "hello", "--timeout", "0")
    assert (done.returncode, done.stdout) == (0, "abcdefg\n")


def test_a_reader_that_has_seen_enough_causes_no_traceback(alone: Env) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        os.fdopen(writer, "w") as closed,
        start(alone, "agent", "-m", "hi", "--local", stdout=closed) as process,
    ):
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err


# the terminal


def test_a_terminal_shows_a_sign_of_progress_and_then_text_as_it_comes(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    after = threading.Event()
    provider.script(Reply(chunks=["one", " two"], gate=after, gate_at=1))
    master, terminal = pty.openpty()
    shown = _Terminal(master)
    env = beside(gateway) | {"TERM": "xterm"}
    process = start(env, "agent", "-m", "hello", stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    wait_until(lambda: "waiting for the agent" in shown.text, 20, "the sign of progress")
    wait_until(lambda: "one" in shown.text, 20, "the first piece")
    assert "two" not in shown.text
    after.set()
    assert process.wait(20) == 0
    shown.close()
    assert shown.text.endswith("one two\r\n")


class _Terminal:
    """Reads what a program writes to a pseudo terminal, so that it never waits for us."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._data = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace")

    def close(self) -> None:
        self._thread.join(10)
        os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the program has closed its side
            while data := os.read(self._master, 4096):
                self._data += data


# failures


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "Missing message"),
        (["-m", "  "], "Missing message"),
        (["-m", "x", "--agent", "nosuch"], 'nknown agent id "nosuch"'),
        (["-m", "x", "--thinking", "much"], "one of off, minimal, low, medium, high"),
        (["-m", "x", "--timeout", "-1"], "positive number of seconds"),
        (["-m", "x", "--session-id", "a", "--session-key", "b"], "either --session-id or --session-key"),
        (["-m", "x", "--session-key", "cron:nightly"], "reserved"),
    ],
)
def test_misuse_exits_1_with_the_reason_and_calls_no_model(
    place: tuple[Env, list[str]], provider: ScriptedProvider, flags: list[str], text: str
) -> None:
    env, local = place
    plain = run(env, "agent", *flags, *local)
    as_json = run(env, "agent", *flags, *local, "--json")
    assert (plain.returncode, plain.stdout) == (1, "")
    assert text in plain.stderr
    assert "Traceback" not in plain.stderr
    shown = json.loads(as_json.stdout)
    assert as_json.returncode == 1
    assert shown["ok"] is False
    assert text in shown["error"]["message"]
    assert provider.requests == []


@pytest.mark.parametrize("flags", [[], ["--local"]])
def test_an_unusable_configuration_is_reported_in_json_too(alone: Env, flags: list[str]) -> None:
    Path(alone["OPENCLAW_CONFIG_PATH"]).write_text("{ gatway: {} }")
    done = run(alone, "agent", "-m", "hello", "--json", *flags)
    shown = json.loads(done.stdout)
    assert (done.returncode, shown["ok"], shown["runId"]) == (1, False, None)
    assert 'gatway: unknown key; did you mean "gateway"?' in shown["error"]["message"]


def test_a_damaged_store_is_reported_and_left_as_it_is(alone: Env) -> None:
    state = Path(alone["OPENCLAW_STATE_DIR"])
    state.mkdir()
    (state / "gateway.sqlite3").write_bytes(b"not a database" * 1000)
    for args in (["agent", "-m", "hello", "--local"], ["sessions", "list"], ["sessions", "delete", "x"]):
        done = run(alone, *args)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is damaged or not a database" in done.stderr
        assert "Traceback" not in done.stderr
    assert (state / "gateway.sqlite3").read_bytes() == b"not a database" * 1000


@pytest.mark.parametrize(
    "args", [["agent", "--nosuch"], ["agent", "-m", "x", "--timeout", "soon"], ["nosuch"]]
)
def test_an_unknown_option_or_command_exits_1_with_a_hint(bare: Env, args: list[str]) -> None:
    done = run(bare, *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--help" in done.stderr


def test_a_model_failure_exits_1_and_is_reported_as_an_error_object(
    place: tuple[Env, list[str]], provider: ScriptedProvider
) -> None:
    env, flags = place
    provider.script(Status(401, {"error": {"message": "Incorrect API key provided: sk-scripted"}}))
    done = run(env, "agent", "-m", "hello", "--json", *flags)
    shown = json.loads(done.stdout)
    assert done.returncode == 1
    assert (shown["ok"], shown["status"], shown["error"]["code"]) == (False, "error", "provider_auth")
    assert shown["runId"].startswith("run-")
    assert "sk-scripted" not in done.stdout + done.stderr
    assert len(provider.requests) == 1


def test_a_model_failure_without_json_is_told_on_stderr_with_the_run(
    place: tuple[Env, list[str]], provider: ScriptedProvider
) -> None:
    env, flags = place
    provider.script(Status(401, {"error": {"message": "no"}}))
    done = run(env, "agent", "-m", "hello", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert "(run run-" in done.stderr


def test_a_timeout_exits_1_soon_after_one_model_call(
    place: tuple[Env, list[str]], provider: ScriptedProvider
) -> None:
    env, flags = place
    provider.script(Hang())
    done = run(env, "agent", "-m", "hello", "--timeout", "1", "--json", *flags)
    shown = json.loads(done.stdout)
    assert done.returncode == 1
    assert (shown["status"], shown["summary"]) == ("timeout", "aborted")
    assert shown["error"]["message"] == "The run did not finish within 1 seconds."
    assert shown["result"]["meta"]["durationMs"] < 4_000
    assert provider.wait_for_disconnect()
    assert len(provider.requests) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_turn_at_the_model_too(
    place: tuple[Env, list[str]], provider: ScriptedProvider, number: int, status: int
) -> None:
    env, flags = place
    provider.script(Reply(chunks=["some", "never"], hang_after=1))
    with start(env, "agent", "-m", "hello", *flags) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == "some"
        process.send_signal(number)
        assert process.wait(20) == status
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert provider.wait_for_disconnect()
    last = wait_until(lambda: _ended(records(Path(env["OPENCLAW_STATE_DIR"]))["runs"]), 10, "the run's end")
    assert last["status"] == "cancelled"


def _ended(runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    return runs[-1] if runs[-1]["status"] != "in_progress" else None


# with and without a gateway


def test_without_a_gateway_the_turn_runs_in_process_and_says_so(
    alone: Env, provider: ScriptedProvider
) -> None:
    done = run(alone, "agent", "-m", "hello", "--json")
    shown = json.loads(done.stdout)
    assert done.returncode == 0
    assert shown["result"]["payloads"][0]["text"] == "echo: hello"
    assert shown["result"]["meta"]["transport"] == "embedded"
    assert f"No gateway answers at ws://127.0.0.1:{alone['PORT']}" in done.stderr
    assert len(provider.requests) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_gateway_lost_in_the_middle_is_an_error_and_the_turn_is_not_repeated(
    start_gateway: StartGateway, provider: ScriptedProvider, as_json: bool
) -> None:
    gateway = start_gateway()
    provider.script(Reply(chunks=["some", "never"], hang_after=1))
    with start(beside(gateway), "agent", "-m", "hello", *(["--json"] if as_json else [])) as process:
        assert provider.wait_for_requests(1, 20)
        if not as_json:
            assert process.stdout is not None
            assert process.stdout.read(4) == "some"
        gateway.kill9()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    shown = json.loads(out) if as_json else None
    told = shown["error"]["message"] if shown else err
    assert "was lost; the turn was not repeated" in told
    assert (shown["runId"] if shown else err).count("run-") == 1
    assert len(provider.requests) == 1


def test_a_wrong_secret_is_refused_and_nothing_runs_in_process(
    gateway: GatewayProcess, alone: Env, provider: ScriptedProvider
) -> None:
    config = Path(alone["OPENCLAW_CONFIG_PATH"])
    config.write_text(config.read_text().replace(TOKEN, "another-token"))
    done = run(alone | {"PORT": str(gateway.port)}, "agent", "-m", "hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert "unauthorized" in done.stderr
    assert "another-token" not in done.stderr
    assert provider.requests == []


def test_local_is_refused_while_a_gateway_holds_the_state(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    done = run(beside(gateway), "agent", "-m", "hello", "--local")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Another gateway is using this state directory." in done.stderr
    assert provider.requests == []


# sessions


def test_sessions_can_be_listed_shown_and_deleted(place: tuple[Env, list[str]]) -> None:
    env, flags = place
    key = "agent:beta:holiday plans/2026"
    run(env, "agent", "-m", "where to?", "--session-key", key, *flags)

    listed = json.loads(run(env, "sessions", "list", "--agent", "beta", "--json").stdout)["sessions"]
    assert [row["messages"] for row in listed if row["key"] == key] == [2]
    assert "holiday" in run(env, "sessions", "list").stdout

    shown = run(env, "sessions", "show", key).stdout
    assert shown.index("where to?") < shown.index("echo: where to?")
    as_json = json.loads(run(env, "sessions", "show", key, "--json").stdout)
    assert [entry["message"]["role"] for entry in as_json["transcript"]] == ["user", "assistant"]

    assert run(env, "sessions", "delete", key).stdout == f"Deleted {key}.\n"
    for again in ("show", "delete"):
        done = run(env, "sessions", again, key)
        assert (done.returncode, done.stdout) == (1, "")
        assert "There is no session" in done.stderr


def test_a_long_session_key_is_listed_on_one_line(alone: Env) -> None:
    key = "agent:main:[bold]" + "k" * 200
    run(alone, "agent", "-m", "hello", "--session-key", key, "--local")
    assert key in run(alone, "sessions", "list").stdout


def test_before_the_first_turn_there_are_no_sessions(alone: Env) -> None:
    done = run(alone, "sessions", "list")
    assert done.returncode == 1
    assert "There is no session store yet" in done.stderr


# configuration

MISTAKES = """{
  gatway: {},
  gateway: {
    port: "18789", bind: "wan",
    auth: { mode: "tokn", token: "s3cret-value", pasword: "s3cret-value" },
    http: { maxBodyBytes: 0 },
  },
  agents: { defaults: { maxRounds: "many" }, list: [{ id: "-bad-" }] },
  models: { providers: { here: { baseUrl: "not an address" } } },
}"""
WRONG_KEYS = [
    "gatway", "gateway.port", "gateway.bind", "gateway.auth.mode", "gateway.auth.pasword",
    "gateway.http.maxBodyBytes", "agents.defaults.maxRounds", "agents.list[0].id",
    "models.providers.here.baseUrl", "session.mainKye",
]  # fmt: skip


def test_config_check_lists_all_ten_mistakes_and_no_secret(alone: Env) -> None:
    text = MISTAKES.rstrip("}") + ' session: { mainKye: "x" } }'
    Path(alone["OPENCLAW_CONFIG_PATH"]).write_text(text)
    done = run(alone, "config", "check")
    lines = [line for line in done.stderr.splitlines() if line.startswith("- ")]
    assert done.returncode == 1
    assert sorted(line[2:].partition(": ")[0] for line in lines) == sorted(WRONG_KEYS)
    assert '- gateway.auth.pasword: unknown key; did you mean "password"?' in lines
    assert "s3cret-value" not in done.stdout + done.stderr


def test_config_check_finds_a_model_of_an_unknown_provider(alone: Env, provider_port: int) -> None:
    config = gateway_config(
        f"http://127.0.0.1:{provider_port}/v1", agents={"defaults": {"model": "nosuch/m"}}
    )
    Path(alone["OPENCLAW_CONFIG_PATH"]).write_text(json.dumps(config))
    done = run(alone, "config", "check")
    assert done.returncode == 1
    assert "nosuch/m" in done.stderr


def test_config_check_names_the_agents_and_their_models(alone: Env) -> None:
    done = run(alone, "config", "check")
    assert done.returncode == 0
    assert "main (scripted/model), beta (scripted/model)" in done.stdout


# the first start


def test_init_writes_a_private_configuration_and_tells_the_token_once(bare: Env) -> None:
    first = run(bare, "init")
    path = Path(bare["HOME"], ".openclaw", "openclaw.json")
    text = path.read_text()
    token = first.stdout.partition("shown this once: ")[2].split()[0]
    assert len(token) >= 40
    assert token in text
    assert f"http://127.0.0.1:{bare['PORT']}/v1/chat/completions" in first.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    second = run(bare, "init")
    assert second.returncode == 0
    assert path.read_text() == text
    assert token not in second.stdout + second.stderr
    assert run(bare, "config", "check").returncode == 0


def test_init_does_not_copy_a_secret_that_the_environment_holds(bare: Env) -> None:
    env = bare | {"OPENCLAW_GATEWAY_TOKEN": "from-the-environment"}
    done = run(env, "init")
    written = Path(bare["HOME"], ".openclaw", "openclaw.json").read_text()
    assert "from-the-environment" not in written + done.stdout
    assert '"Authorization: Bearer $OPENCLAW_GATEWAY_TOKEN"' in done.stdout
    assert run(env, "config", "check").returncode == 0


def test_the_curl_command_that_init_prints_can_be_pasted(bare: Env) -> None:
    pytest.importorskip("xllamacpp")
    told = run(bare, "init").stdout
    curl = told[told.index("curl ") :]
    with start(bare, "gateway", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            answer = wait_until(lambda: _pasted(curl), 60, "an answer")
        finally:
            process.terminate()
            process.wait(30)
    assert json.loads(answer)["choices"][0]["message"]["content"]


def _pasted(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60).stdout


def test_init_says_plainly_when_it_cannot_write(bare: Env) -> None:
    Path(bare["HOME"], ".openclaw").write_text("a file where the directory belongs")
    done = run(bare, "init")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
