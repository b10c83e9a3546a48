"""``kill -9`` at every point of a run: after a restart the conversation goes on."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.messages import AssistantMessage, ToolMessage, UserMessage
from app.sessions.records import Loaded
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import Connection, chat, chat_body, open_stream, request_bytes, send
from tests.e2e.model_api import ModelApi, check_pairing, is_summary, spoken
from tests.e2e.tool_runs import asking, descendants, marked, new_mark, results, user_session
from tests.scripted_provider import Hang, Received, Reply, ScriptedProvider, ScriptedReply

WINDOW = 8192
NOTE = "(No answer was given: the previous turn was interrupted.)"
SUMMARY = "Facts: the first question was about lighthouses, and long answers were given."


@pytest.fixture(scope="module")
def summaries() -> deque[ScriptedReply]:
    """What is answered to the next requests for a summary."""
    return deque()


@pytest.fixture(scope="module")
def summariser(summaries: deque[ScriptedReply]) -> Iterator[ModelApi]:
    """The model API of the agent ``small``."""

    def choose(received: Received) -> ScriptedReply | None:
        if not is_summary(received):
            return None
        return summaries.popleft() if summaries else Reply(SUMMARY)

    with ModelApi(choose) as api:
        yield api


@pytest.fixture(scope="module")
def gateway(start_gateway: StartGateway, summariser: ModelApi) -> Iterator[GatewayProcess]:
    """Agents that run commands, that ask before they do, and that can keep little in mind.

    Every test kills it and starts it again.
    """
    small = {"baseUrl": summariser.base_url, "models": [{"id": "model", "contextWindow": WINDOW}]}
    gateway = start_gateway(
        tools={"profile": "coding"},
        agents={
            "list": [
                {"id": "main", "default": True},
                {"id": "careful", "tools": {"exec": {"security": "allowlist", "ask": "always"}}},
                {"id": "small", "model": "small/model", "tools": {"profile": "minimal"}},
            ]
        },
        models={"providers": {"small": small}},
    )
    yield gateway
    gateway.stop()
    assert "Traceback" not in gateway.log


@pytest.fixture
def mark() -> str:
    return new_mark()


def transcript(gateway: GatewayProcess, user: str, agent: str = "main") -> Loaded:
    with closing(gateway.store()) as store:
        return store.transcript(user_session(user, agent))


def approvals(gateway: GatewayProcess) -> list[Any]:
    """The commands that wait for an operator's word."""
    listed: list[Any] = send(gateway, method="GET", path="/api/approvals").json["approvals"]
    return listed


def questions(loaded: Loaded) -> list[str]:
    messages = [entry.message for entry in loaded.history]
    return [message.text for message in messages if isinstance(message, UserMessage)]


def crash(gateway: GatewayProcess) -> None:
    """Kill everything and start it again on the same state, with nothing left of the old processes."""
    family = descendants(gateway.pid)
    gateway.kill9()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), 10, "the end of all processes"
    )
    before = gateway.log
    gateway.start()
    noise = gateway.log.removeprefix(before)
    assert "ERROR" not in noise, noise
    with closing(sqlite3.connect(gateway.state_dir / "gateway.sqlite3")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def check_interrupted(gateway: GatewayProcess, user: str, agent: str = "main") -> None:
    """The run that was killed is the session's newest one, and its record says so."""
    with closing(gateway.store()) as store:
        record = store.list_runs(user_session(user, agent), 1)[0]
    assert (record.status, record.error_code) == ("failed", "interrupted")
    assert record.ended_at is not None


def go_on(gateway: GatewayProcess, provider: ScriptedProvider, user: str, agent: str = "main") -> list[Any]:
    """Another turn of the killed session; the conversation that the model saw."""
    check_interrupted(gateway, user, agent)
    answer = chat(gateway, "go on", user=user, model=f"openclaw:{agent}")
    assert (answer.status, answer.text) == (200, "echo: go on")
    check_pairing(provider.requests[-1])
    asked = questions(transcript(gateway, user, agent))
    assert len(asked) == len(set(asked))
    return spoken(provider.requests[-1])


HALF = Reply("half an answer", hang_after=2)


@pytest.mark.parametrize(
    ("reply", "streamed"),
    [(Hang(), False), (Hang(before_headers=False), True), (HALF, False), (HALF, True)],
)
def test_killed_before_or_in_the_middle_of_the_answer(
    gateway: GatewayProcess, provider: ScriptedProvider, reply: Any, streamed: bool, mark: str
) -> None:
    provider.script(reply)
    with Connection(gateway) as connection:
        connection.send(request_bytes(chat_body("the first question", user=mark, stream=streamed)))
        assert provider.wait_for_requests(1)
        if streamed and isinstance(reply, Reply):
            said = ""
            while "half" not in said:
                said += connection.socket.recv(4096).decode()
        crash(gateway)
    assert provider.wait_for_disconnect()
    assert go_on(gateway, provider, mark) == [
        ("user", "the first question"),
        ("assistant", NOTE),
        ("user", "go on"),
    ]


def test_a_client_that_repeats_its_question_after_the_crash_has_asked_once(
    gateway: GatewayProcess, provider: ScriptedProvider, mark: str
) -> None:
    for number in (1, 2):
        provider.script(Hang())
        with open_stream(gateway, "the first question", user=mark):
            assert provider.wait_for_requests(number)
            crash(gateway)
    assert chat(gateway, "the first question", user=mark).text == "echo: the first question"
    assert spoken(provider.requests[-1]) == [("user", "the first question")]
    messages = [entry.message for entry in transcript(gateway, mark).history]
    assert [type(message) for message in messages] == [UserMessage, AssistantMessage]


def test_killed_between_two_results_of_one_message(
    gateway: GatewayProcess, provider: ScriptedProvider, mark: str
) -> None:
    provider.script(
        asking(
            ("exec", {"command": "echo the first result"}),
            ("exec", {"command": "trap '' TERM; (setsid sleep 1000 &); sleep 1000", "env": {"MARK": mark}}),
            ("exec", {"command": "echo never"}),
            text="I run three commands.",
        )
    )
    with open_stream(gateway, "the first question", user=mark):
        wait_until(lambda: len(marked(mark)) >= 2, 10, "the second command")
        crash(gateway)
    assert not marked(mark)
    stored = [entry.message for entry in transcript(gateway, mark).history]
    assert [type(message) for message in stored] == [UserMessage, AssistantMessage, ToolMessage]
    conversation = go_on(gateway, provider, mark)
    assert [role for role, _ in conversation] == ["user", "assistant", *["tool"] * 3, "assistant", "user"]
    assert conversation[0] == ("user", "the first question")
    first, second, third = results(provider.requests[-1])
    assert "the first result" in first
    assert "interrupted" in second
    assert "interrupted" in third


def test_killed_between_the_last_result_and_the_answer(
    gateway: GatewayProcess, provider: ScriptedProvider, mark: str
) -> None:
    background = {"command": "sleep 1000", "background": True, "env": {"MARK": mark}}
    provider.script(asking(("exec", background), ("exec", {"command": "echo the second result"})), Hang())
    with open_stream(gateway, "the first question", user=mark):
        assert provider.wait_for_requests(2)
        assert marked(mark)
        crash(gateway)
    assert not marked(mark)
    conversation = go_on(gateway, provider, mark)
    assert [role for role, _ in conversation] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert conversation[0] == ("user", "the first question")
    assert "the second result" in results(provider.requests[-1])[1]


def test_killed_while_a_command_waits_for_its_approval(
    gateway: GatewayProcess, provider: ScriptedProvider, mark: str
) -> None:
    provider.script(asking(("exec", {"command": "echo never", "env": {"MARK": mark}})))
    with open_stream(gateway, "the first question", user=mark, model="openclaw:careful"):
        (waiting,) = wait_until(lambda: approvals(gateway), 10, "the question")
        assert "echo never" in waiting["command"]
        crash(gateway)
    assert approvals(gateway) == []
    assert not marked(mark)
    conversation = go_on(gateway, provider, mark, "careful")
    assert [role for role, _ in conversation] == ["user", "assistant", "tool", "assistant", "user"]
    assert "interrupted" in results(provider.requests[-1])[0]


def outgrow(gateway: GatewayProcess, summariser: ModelApi, user: str) -> None:
    """Two turns, one of them with a tool; a third one does not fit into the window any more."""
    long = Reply("The light of the tower was seen from far away. " * 215, usage=None)
    summariser.script(replace(asking(("session_status", {})), usage=None), long, long)
    for question in ("the first question", "the second question"):
        assert chat(gateway, question, user=user, model="openclaw:small").status == 200


def test_killed_during_a_compaction(
    gateway: GatewayProcess, summariser: ModelApi, summaries: deque[ScriptedReply], mark: str
) -> None:
    outgrow(gateway, summariser, mark)
    seen = len(summariser.requests)
    summaries.append(Hang())
    with open_stream(gateway, "the third question", user=mark, model="openclaw:small"):
        assert summariser.wait_for_requests(seen + 1)
        assert is_summary(summariser.requests[-1])
        crash(gateway)
    session = transcript(gateway, mark, "small").session
    assert session is not None
    assert (session.summary, session.kept_from, session.compactions) == (None, 1, 0)
    conversation = go_on(gateway, summariser, mark, "small")
    again = next(request for request in summariser.requests[seen + 1 :] if is_summary(request))
    assert "the first question" in again.user_text
    assert SUMMARY in conversation[0][1]
    assert conversation[-3:] == [("user", "the third question"), ("assistant", NOTE), ("user", "go on")]
    loaded = transcript(gateway, mark, "small")
    assert loaded.session is not None
    assert loaded.session.compactions == 1
    assert questions(loaded) == [
        "the first question",
        "the second question",
        "the third question",
        "go on",
    ]


def test_killed_right_after_a_compaction(gateway: GatewayProcess, summariser: ModelApi, mark: str) -> None:
    outgrow(gateway, summariser, mark)
    summariser.on("the third question", Hang())
    with open_stream(gateway, "the third question", user=mark, model="openclaw:small"):
        wait_until(lambda: summariser.requests[-1].user_text == "the third question", 10, "the last call")
        assert is_summary(summariser.requests[-2])
        crash(gateway)
    seen = len(summariser.requests)
    conversation = go_on(gateway, summariser, mark, "small")
    assert not any(is_summary(request) for request in summariser.requests[seen:])
    assert SUMMARY in conversation[0][1]
    assert conversation[-3:] == [("user", "the third question"), ("assistant", NOTE), ("user", "go on")]
    assert questions(transcript(gateway, mark, "small"))[0] == "the first question"
