"""The chat surface over HTTP and in the terminal, and operators who answer commands that wait."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import CHECKOUT, GatewayProcess, free_port, wait_until
from tests.e2e.http_client import Answer, Connection, chat, request_bytes, send, stream_events
from tests.e2e.tool_runs import asking, results
from tests.scripted_provider import Hang, Reply, ScriptedProvider

PATIENCE = 20.0
LONG = "The ship is called Aurora and sails to Narvik. " * 40
MODELS = [{"id": "model"}, {"id": "deep", "reasoning": True}]
ASKING = {"profile": "coding", "exec": {"security": "allowlist", "ask": "on-miss", "allowlist": ["echo"]}}


@pytest.fixture(scope="module")
def surface(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """A gateway with two models, whose agents run ``echo`` and ask for everything else.

    Runs take at most 2 s; questions wait for a minute.
    """
    gateway = start_gateway(
        agents={
            "defaults": {"timeoutSeconds": 2},
            "list": [
                {"id": "main", "default": True},
                {"id": "beta", "model": "scripted/deep", "thinkingDefault": "high"},
            ],
        },
        models={"providers": {"scripted": {"models": MODELS}}},
        tools={**ASKING, "exec": {**ASKING["exec"], "approvalTimeoutSeconds": 60}},  # type: ignore[dict-item]
        gateway={"http": {"keepAliveSeconds": 0.2}},
    )
    yield gateway
    gateway.stop()


@pytest.fixture
def key() -> str:
    """A session that no other test uses."""
    return f"agent:main:{uuid.uuid4()}"


def say(gateway: GatewayProcess, key: str, message: str) -> list[Any]:
    """All events that a message in a chat is answered with."""
    answer = send(gateway, {"message": message, "sessionKey": key}, path="/api/chat")
    assert answer.status == 200, answer
    return stream_events(answer.body)


def text_of(events: list[Any]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text")


def open_chat(gateway: GatewayProcess, key: str, message: str) -> Connection:
    """A chat message whose answer has begun."""
    connection = Connection(gateway)
    connection.send(request_bytes({"message": message, "sessionKey": key}, path="/api/chat"))
    assert connection.read_head()[1] == 200
    return connection


def pending(gateway: GatewayProcess, key: str) -> list[Any]:
    answer = send(gateway, method="GET", path="/api/approvals")
    assert answer.status == 200, answer
    return [one for one in answer.json["approvals"] if one["sessionKey"] == key]


def answer_approval(gateway: GatewayProcess, approval_id: str, decision: Any) -> Answer:
    return send(gateway, {"decision": decision}, path=f"/api/approvals/{approval_id}")


def first(connection: Connection, kind: str) -> Any:
    """The next event of a kind."""
    return next(event for event in connection.events() if event["type"] == kind)


# commands over HTTP


def test_a_command_is_answered_with_its_text_and_an_end(surface: GatewayProcess, key: str) -> None:
    text, end = say(surface, key, "/whoami")
    assert text == {"type": "text", "text": f"Agent: main\nSession: {key}\nChannel: chat"}
    assert end == {
        "type": "end",
        "runId": None,
        "status": "ok",
        "summary": "completed",
        "result": {"payloads": [{"text": text["text"], "mediaUrl": None}], "meta": {}},
    }


def test_commands_change_what_the_next_model_call_is_like(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    say(surface, key, "/model scripted/deep")
    say(surface, key, "/think high")
    say(surface, key, "my name is Ada")
    say(surface, key, "/new")
    say(surface, key, "who am I?")
    chosen, anew = (received.body for received in provider.requests)
    assert (chosen["model"], chosen["reasoning_effort"]) == ("deep", "high")
    assert (anew["model"], anew.get("reasoning_effort")) == ("model", None)
    assert "Ada" not in str(anew)


def test_a_new_conversation_and_its_first_message_are_one_answer(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    say(surface, key, "hello")
    start, *texts, end = say(surface, key, "/new what is up?")
    assert start["type"] == "start"
    assert text_of(texts) == "New session started.\n\necho: what is up?"
    assert end["runId"] == start["runId"]
    assert end["result"]["payloads"] == [{"text": "echo: what is up?", "mediaUrl": None}]
    assert "hello" not in str(provider.requests[-1].body["messages"][1:])


def test_a_compaction_is_told_and_used(surface: GatewayProcess, key: str, provider: ScriptedProvider) -> None:
    say(surface, key, LONG)
    say(surface, key, "and on")
    provider.script(Reply("The ship Aurora is on its way to Narvik."))
    events = say(surface, key, "/compact")
    (compaction,) = (event for event in events if event["type"] == "compaction")
    before, after = compaction["tokensBefore"], compaction["tokensAfter"]
    assert text_of(events) == f"Compacted ({before:,} → {after:,} tokens)."
    say(surface, key, "where to?")
    texts = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert "on its way to Narvik" in texts[0]
    assert texts[1:] == ["and on", "echo: and on", "where to?"]


def test_a_line_about_usage_follows_every_answer_and_is_not_stored(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    say(surface, key, "/usage tokens")
    events = say(surface, key, "hello")
    assert [event["type"] for event in events[-2:]] == ["note", "end"]
    assert events[-2]["text"] == "11 in, 7 out"
    assert text_of(events) == "echo: hello"
    say(surface, key, "and on")
    assert "11 in" not in str(provider.requests[-1].body)


@pytest.mark.parametrize("word", ["/stop", "stop"])
def test_stop_ends_a_hanging_answer_without_waiting_for_it(
    surface: GatewayProcess, key: str, provider: ScriptedProvider, word: str
) -> None:
    provider.script(Hang())
    with open_chat(surface, key, "hello") as connection:
        assert provider.wait_for_requests(1)
        assert text_of(say(surface, key, word)) == "Stopped 1 run."
        end = first(connection, "end")
    assert (end["status"], end["summary"]) == ("error", "aborted")
    assert text_of(say(surface, key, "still there?")) == "echo: still there?"


def test_an_operator_can_stop_a_session(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    with open_chat(surface, key, "hello") as connection:
        run_id = first(connection, "start")["runId"]
        assert provider.wait_for_requests(1)
        answer = send(surface, path=f"/api/sessions/{key}/stop")
        assert answer.json == {"aborted": True, "runIds": [run_id]}
        assert first(connection, "end")["summary"] == "aborted"
    assert send(surface, path=f"/api/sessions/{key}/stop").json == {"aborted": False, "runIds": []}


def test_commands_are_text_for_the_model_where_nobody_chats(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    for command in ("/status", "/new", "stop"):
        answer = chat(surface, command, headers={"x-openclaw-session-key": key})
        assert answer.text == f"echo: {command}"
    done = surface.command("agent", "--session-key", key, "-m", "/reset")
    assert (done.returncode, done.stdout) == (0, "echo: /reset\n")
    said = [m["content"] for m in provider.requests[-1].body["messages"] if m["role"] == "user"]
    assert said == ["/status", "/new", "stop", "/reset"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/chat"),
        ("GET", "/api/approvals"),
        ("POST", "/api/approvals/x"),
        ("POST", "/api/sessions/x/stop"),
    ],
)
def test_none_of_it_is_open_to_strangers(surface: GatewayProcess, method: str, path: str) -> None:
    assert send(surface, {"message": "hello"}, method=method, path=path, token=None).status == 401


# approvals


def test_a_command_waits_until_an_operator_allows_it_and_the_wait_costs_no_time(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "echo one && printf two"})), Reply("done"))
    with open_chat(surface, key, "run it") as connection:
        shown = first(connection, "approval")
        (waiting,) = pending(surface, key)
        assert {name: waiting[name] for name in ("id", "command", "directory", "expiresAt")} == {
            name: shown[name] for name in ("id", "command", "directory", "expiresAt")
        }
        assert (waiting["agentId"], waiting["command"]) == ("main", "echo one && printf two")
        assert waiting["expiresAt"] - waiting["createdAt"] == 60_000
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 2.5, 5, "more time than a run may take")
        assert pending(surface, key) == [waiting]
        done = surface.command("approvals")
        assert waiting["id"] in done.stdout
        assert "echo one && printf two" in done.stdout
        done = surface.command("approvals", "allow", waiting["id"][:8])
        assert (done.returncode, done.stdout) == (0, f"allow-once: {waiting['id']}\n")
        events = list(connection.events())
    kinds = [event["type"] for event in events]
    assert kinds == ["decision", "result", "text", "end"]
    assert (events[0]["id"], events[0]["decision"]) == (waiting["id"], "allow-once")
    assert (events[1]["name"], events[1]["ok"], events[1]["text"]) == ("exec", True, "one\ntwo")
    assert events[-1]["status"] == "ok"
    assert results(provider.requests[-1]) == ["one\ntwo"]
    assert pending(surface, key) == []


def test_a_command_on_the_list_waits_for_nobody(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "echo one"})), Reply("done"))
    events = say(surface, key, "run it")
    assert [event["type"] for event in events] == ["start", "tool", "result", "text", "end"]
    assert results(provider.requests[-1]) == ["one\n"]


def test_a_denied_command_is_a_tool_error(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "touch denied"})), Reply("as you wish"))
    with open_chat(surface, key, "run it") as connection:
        shown = first(connection, "approval")
        assert surface.command("approvals", "deny", shown["id"]).returncode == 0
        events = list(connection.events())
    assert [event["decision"] for event in events if event["type"] == "decision"] == ["deny"]
    assert [event["ok"] for event in events if event["type"] == "result"] == [False]
    assert results(provider.requests[-1]) == ["The operator has denied this command."]
    assert not (surface.state_dir / "workspace" / "denied").exists()


def test_a_command_that_nobody_answers_is_a_tool_error_in_the_end(
    start_gateway: StartGateway, key: str, provider: ScriptedProvider
) -> None:
    policy: dict[str, Any] = {"profile": "coding", "exec": {"ask": "always", "approvalTimeoutSeconds": 1}}
    with_short_patience = start_gateway(tools=policy)
    provider.script(asking(("exec", {"command": "touch expired"})), Reply("a pity"))
    events = say(with_short_patience, key, "run it")
    assert [event["decision"] for event in events if event["type"] == "decision"] == ["expired"]
    (told,) = results(provider.requests[-1])
    assert "nobody answered within 1 seconds" in told
    assert events[-1]["status"] == "ok"
    with_short_patience.stop()
    assert not (with_short_patience.state_dir / "workspace" / "expired").exists()


def test_what_is_always_allowed_waits_only_once(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "basename /a/b"})), Reply("done"))
    with open_chat(surface, key, "run it") as connection:
        shown = first(connection, "approval")
        assert surface.command("approvals", "always", shown["id"]).returncode == 0
        assert first(connection, "end")["status"] == "ok"
    provider.script(asking(("exec", {"command": "basename /c/d"})), Reply("done"))
    assert [e for e in say(surface, key, "once more") if e["type"] == "approval"] == []
    assert results(provider.requests[-1]) == ["d\n"]


def test_stopping_a_run_takes_its_question_back(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "touch stopped"})))
    with open_chat(surface, key, "run it") as connection:
        shown = first(connection, "approval")
        say(surface, key, "/stop")
        assert first(connection, "end")["summary"] == "aborted"
    assert pending(surface, key) == []
    assert answer_approval(surface, shown["id"], "allow-once").status == 404
    assert not (surface.state_dir / "workspace" / "stopped").exists()


def test_an_answer_must_make_sense(surface: GatewayProcess) -> None:
    short = surface.command("approvals", "allow", "")
    assert (short.returncode, short.stderr) == (1, "openclaw: Give at least 4 characters of the ID.\n")
    unknown = answer_approval(surface, "nosuch", "deny")
    assert (unknown.status, unknown.error["code"]) == (404, "not_found")
    for decision in ("yes", None, ["deny"]):
        wrong = answer_approval(surface, "nosuch", decision)
        assert (wrong.status, wrong.error["param"]) == (400, "decision")
    done = surface.command("approvals", "allow", "nosuch")
    assert (done.returncode, done.stderr) == (1, "openclaw: No command waits under 'nosuch'.\n")


def test_openclaw_agent_tells_that_a_command_waits(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "printf x"})), Reply("done"))
    with running(surface, "agent", "--session-key", key, "-m", "run it") as process:
        (waiting,) = wait_until(lambda: pending(surface, key), PATIENCE, "the question")
        answer_approval(surface, waiting["id"], "allow-once")
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "done\n")
    assert "printf x" in err
    assert f"openclaw approvals allow|always|deny {waiting['id']}" in err


# openclaw agent


def test_a_model_can_be_named_for_one_turn(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    done = surface.command("agent", "--session-key", key, "-m", "hello", "--model", "scripted/deep")
    assert done.returncode == 0
    say(surface, key, "hello again")
    assert [received.body["model"] for received in provider.requests] == ["deep", "model"]
    done = surface.command("agent", "--session-key", key, "-m", "hello", "--model", "nope/x")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'The model "nope/x" names no known provider' in done.stderr


def test_thinking_can_be_switched_off_for_an_agent_that_usually_thinks(
    surface: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert surface.command("agent", "--agent", "beta", "-m", "hello", "--thinking", "off").returncode == 0
    assert send(surface, {"message": "hello", "agent": "beta"}, path="/api/agent").status == 200
    assert [received.body.get("reasoning_effort") for received in provider.requests] == [None, "high"]


# openclaw chat


def running(gateway: GatewayProcess, *args: str, **streams: Any) -> subprocess.Popen[str]:
    """``openclaw ARGS`` in a process of its own."""
    home = gateway.state_dir.parent
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PORT": str(gateway.port),
        "OPENCLAW_CONFIG_PATH": str(home / "openclaw.json"),
        "OPENCLAW_STATE_DIR": str(gateway.state_dir),
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen([sys.executable, "-m", "app", *args], cwd=CHECKOUT, env=env, text=True, **pipes)


def test_a_chat_in_the_terminal_goes_on_until_its_input_ends(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "echo one"})), Reply("It says one."))
    with running(surface, "chat", "--session-key", key) as process:
        out, err = process.communicate("run it\n\n/usage tokens\nhello\n/whoami\n", PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [
        '· exec {"command": "echo one"}',
        "It says one.",
        "Usage after each answer: tokens.",
        "echo: hello",
        "11 in, 7 out",
        "Agent: main",
        f"Session: {key}",
        "Channel: chat",
    ]


def test_a_chat_asks_whether_a_command_may_run_and_the_end_of_the_input_is_a_no(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    for number in range(3):
        provider.script(asking(("exec", {"command": f"printf {number}"})), Reply("done"))
    with running(surface, "chat", "--session-key", key) as process:
        out, err = process.communicate("run it\nperhaps\nY\nrun it\nno\nrun it\n", PATIENCE)
    assert (process.returncode, err) == (0, "")
    denied = "The operator has denied this command."
    assert [results(received) for received in provider.requests[1::2]] == [["0"], [denied], [denied]]
    for number in range(3):
        assert f"An agent wants to run, in {surface.state_dir}/workspace:\n  printf {number}\n" in out
    assert out.endswith("done\n")


def test_a_chat_survives_a_failed_answer_and_tells_of_it(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    with running(surface, "chat", "--session-key", key, "--agent", "beta") as process:
        out, err = process.communicate("hello\n", PATIENCE)
    assert (process.returncode, out) == (0, "")
    assert err == "openclaw: The session key belongs to agent 'main'.\n"
    assert provider.requests == []


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(Reply(chunks=["half", " an answer"], hang_after=1))
    with running(surface, "chat", "--session-key", key) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.read(4) == "half"
        process.send_signal(signal.SIGINT)
        assert provider.wait_for_disconnect()
        out, err = process.communicate("still there?\n", PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["", "(stopped)", "echo: still there?"]


def test_a_terminal_is_asked_with_a_prompt_and_shown_no_control_characters(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(Reply("be\x1b]0;title\x07ware"))
    master, terminal = pty.openpty()
    shown = _Shown(master)
    process = running(surface, "chat", "--session-key", key, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    wait_until(lambda: shown.text.endswith("> "), PATIENCE, "the prompt")
    os.write(master, b"hello\r")
    wait_until(lambda: "be]0;titleware" in shown.text, PATIENCE, "the answer")
    wait_until(lambda: shown.text.endswith("> "), PATIENCE, "the next prompt")
    os.write(master, b"\x04")
    assert process.wait(PATIENCE) == 0
    shown.close()
    assert "\x07" not in shown.text


def test_what_was_typed_before_the_question_is_no_answer_to_it(
    surface: GatewayProcess, key: str, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "printf x"})), Reply("as you wish"))
    master, terminal = pty.openpty()
    shown = _Shown(master)
    process = running(surface, "chat", "--session-key", key, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    wait_until(lambda: shown.text.endswith("> "), PATIENCE, "the prompt")
    os.write(master, b"run it\ry\r")
    wait_until(lambda: shown.text.endswith("always: "), PATIENCE, "the question")
    os.write(master, b"n\r")
    wait_until(lambda: shown.text.endswith("> ") and "as you wish" in shown.text, PATIENCE, "the answer")
    os.write(master, b"\x04")
    assert process.wait(PATIENCE) == 0
    shown.close()
    assert results(provider.requests[-1]) == ["The operator has denied this command."]


def test_a_chat_needs_a_gateway(surface: GatewayProcess) -> None:
    home = surface.state_dir.parent
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PORT": str(free_port())}
    env |= {"OPENCLAW_CONFIG_PATH": str(home / "openclaw.json")}
    done = subprocess.run(
        [sys.executable, "-m", "app", "chat"], cwd=CHECKOUT, env=env, input="hello\n",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "No gateway answers at" in done.stderr


class _Shown:
    """What a program writes to a pseudo terminal, read all the time so that it never waits."""

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
        try:
            while data := os.read(self._master, 4096):
                self._data += data
        except OSError:  # EIO: the program has closed its side
            pass
