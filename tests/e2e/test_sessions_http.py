"""Sessions over HTTP: who shares one, in which order, and what survives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from app.messages import AssistantMessage, UserMessage
from app.sessions.store import Store
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import Connection, chat, chat_body, open_stream, request_bytes, send
from tests.scripted_provider import Hang, Received, Reply, ScriptedProvider


@pytest.fixture
def store(gateway: GatewayProcess) -> Iterator[Store]:
    """The gateway's own database, looked at from outside."""
    with closing(gateway.store()) as store:
        yield store


def conversation(received: Received) -> list[tuple[str, str]]:
    """Roles and texts of a model call, without the system prompt."""
    return [(m["role"], m["content"]) for m in received.body["messages"] if m["role"] != "system"]


def session_header(key: str) -> dict[str, str]:
    return {"x-openclaw-session-key": key}


# --- one at a time, in order, and nothing lost ---


def test_fifty_first_requests_of_one_user_at_once_make_one_session(
    gateway: GatewayProcess, provider: ScriptedProvider, store: Store
) -> None:
    questions = [f"question {number:02}" for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda question: chat(gateway, question, user="crowd"), questions))
    assert [answer.text for answer in answers] == [f"echo: {question}" for question in questions]
    assert provider.max_active == 1
    loaded = store.load("agent:main:openai-user:crowd")
    assert loaded.session is not None
    assert loaded.session.message_count == 100
    messages = [entry.message for entry in loaded.history]
    pairs = list(zip(messages[::2], messages[1::2], strict=True))
    assert all(isinstance(asked, UserMessage) and isinstance(said, AssistantMessage) for asked, said in pairs)
    assert all(said.text == f"echo: {asked.text}" for asked, said in pairs)
    assert sorted(asked.text for asked, _ in pairs) == questions


def test_requests_of_one_session_run_in_the_order_of_their_arrival(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.on("number 0", Reply("first", gate=gate))
    headers = session_header("queue")
    streams = [open_stream(gateway, f"number {number}", headers=headers) for number in range(6)]
    assert provider.wait_for_requests(1)
    other = chat(gateway, "somebody else", headers=session_header("another queue"))
    assert other.text == "echo: somebody else"
    gate.set()
    for stream in streams:
        with stream:
            assert list(stream.events())[-1] == "[DONE]"
    asked = [r.user_text for r in provider.requests if "number" in r.user_text]
    assert asked == [f"number {number}" for number in range(6)]
    assert len(conversation(provider.requests[-1])) == 11


def test_a_client_that_leaves_the_queue_is_not_answered(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.on("holds", Reply("done", gate=gate))
    with open_stream(gateway, "holds the session", user="impatient") as holder:
        assert provider.wait_for_requests(1)
        with closing(gateway.store()) as store, Connection(gateway) as leaver:
            leaver.send(request_bytes(chat_body("never mind", user="impatient")))
            leaver.close()
            wait_until(lambda: len(store.list_runs("agent:main:openai-user:impatient", 9)) == 2)
        gate.set()
        list(holder.events())
    chat(gateway, "next", user="impatient")
    assert conversation(provider.requests[-1])[-1] == ("user", "next")
    assert "never mind" not in str(conversation(provider.requests[-1]))


# --- keys ---


def test_b6_a_users_name_may_be_written_in_any_case(
    gateway: GatewayProcess, provider: ScriptedProvider, store: Store
) -> None:
    """B6."""
    for name in ("Alice Smith", "alice smith", "  ALICE SMITH "):
        chat(gateway, f"from {name}", user=name)
    assert len(conversation(provider.requests[-1])) == 5
    assert len(store.load("agent:main:openai-user:alice smith").history) == 6


def test_a_user_has_a_session_with_each_agent(
    gateway: GatewayProcess, provider: ScriptedProvider, store: Store
) -> None:
    for agent in ("main", "beta"):
        chat(gateway, f"hello {agent}", user="sociable", model=f"openclaw:{agent}")
        assert conversation(provider.requests[-1]) == [("user", f"hello {agent}")]
        assert store.load(f"agent:{agent}:openai-user:sociable").session is not None


@pytest.mark.parametrize(
    "key", ["MyKey", "chat 7: with spaces", "agent:main:Thread-9", "grüße/ü", "main", "x" * 512]
)
def test_a_session_key_is_used_as_it_is(
    key: str, gateway: GatewayProcess, provider: ScriptedProvider, store: Store
) -> None:
    chat(gateway, "one", headers=session_header(key))
    chat(gateway, "two", headers=session_header(key))
    assert conversation(provider.requests[-1]) == [
        ("user", "one"),
        ("assistant", "echo: one"),
        ("user", "two"),
    ]
    assert len(store.load(key).history) == 4


def test_a_session_key_that_names_an_agent_chooses_it(gateway: GatewayProcess, store: Store) -> None:
    assert chat(gateway, headers=session_header("agent:beta:notes")).status == 200
    session = store.load("agent:beta:notes").session
    assert session is not None
    assert session.agent_id == "beta"


@pytest.mark.parametrize(
    "key",
    [
        "subagent:x",
        "cron:nightly",
        "acp:1",
        "CRON:nightly",
        "agent:main:subagent:x",
        "agent:main:cron:x",
        "Agent:Main:ACP:x",
        "agent:nobody:x",
        "agent:",
        "agent:main:",
        "x" * 513,
        "a\tb",
    ],
)
def test_a_session_key_that_nobody_may_use_is_refused(
    key: str, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    answer = chat(gateway, headers=session_header(key))
    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"]) == (
        "invalid_request_error",
        "x-openclaw-session-key",
    )
    assert provider.requests == []


@pytest.mark.parametrize(
    ("model", "headers"),
    [("openclaw:main", {}), ("openclaw", {"x-openclaw-agent-id": "main"})],
)
def test_a_session_key_of_another_agent_than_the_named_one_is_refused(
    model: str, headers: dict[str, str], gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    answer = chat(gateway, model=model, headers=headers | session_header("agent:beta:x"))
    assert (answer.status, answer.error["param"]) == (400, "x-openclaw-session-key")
    assert provider.requests == []


def test_a_session_stays_with_the_agent_that_began_it(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert chat(gateway, headers=session_header("ours")).status == 200
    answer = chat(gateway, model="openclaw:beta", headers=session_header("ours"))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert len(provider.requests) == 1


# --- history ---


def test_b13_a_history_that_the_client_sends_again_is_not_doubled(
    gateway: GatewayProcess, provider: ScriptedProvider, store: Store
) -> None:
    """B13."""
    sent: list[dict[str, Any]] = []
    for text in ("one", "two", "three"):
        sent.append({"role": "user", "content": text})
        answer = chat(gateway, messages=sent, user="repeater")
        sent.append({"role": "assistant", "content": answer.text})
    assert conversation(provider.requests[-1]) == [(m["role"], m["content"]) for m in sent[:-1]]
    assert len(store.load("agent:main:openai-user:repeater").history) == 6


def test_a_first_request_brings_its_history_into_the_session(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    earlier = [{"role": "user", "content": "my name is Bo"}, {"role": "assistant", "content": "Hello Bo."}]
    chat(gateway, messages=[*earlier, {"role": "user", "content": "thanks"}], user="mover")
    chat(gateway, "my name?", user="mover")
    assert [text for _, text in conversation(provider.requests[-1])] == [
        "my name is Bo",
        "Hello Bo.",
        "thanks",
        "echo: thanks",
        "my name?",
    ]


def test_a_request_without_a_key_leaves_no_session_but_a_record_of_its_run(
    gateway: GatewayProcess, store: Store
) -> None:
    before = len(store.list_sessions(None, 10_000))
    run_id = chat(gateway, "secret question").json["id"]
    assert len(store.list_sessions(None, 10_000)) == before
    record = store.get_run(run_id)
    assert record is not None
    assert (record.status, record.session_id, record.channel) == ("completed", None, "openai")
    assert (record.usage.input, record.usage.output) == (11, 7)
    assert store.load(record.session_key).history == ()


def test_a_failed_run_of_a_session_keeps_the_question(
    hasty: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    assert chat(hasty, "are you there?", user="patient").status == 504
    assert chat(hasty, "hello?", user="patient").status == 200
    (asked, first), (role, _), last = conversation(provider.requests[-1])
    assert (asked, first, role, last) == ("user", "are you there?", "assistant", ("user", "hello?"))


# --- crashes ---


def test_a_conversation_goes_on_after_the_worker_and_then_everything_was_killed(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    provider.script(Reply("one two three", hang_after=2))
    with open_stream(gateway, "first", user="survivor") as stream:
        started = next(stream.events())["id"]
        assert provider.wait_for_requests(1)
        killed = gateway.worker_pid
        os.kill(killed, signal.SIGKILL)
        assert stream.read_to_end().endswith(b"[DONE]\n\n") is False
    wait_until(lambda: gateway.workers not in ([], [killed]), 20, "a new worker")
    gateway.wait_until_ready()
    assert chat(gateway, "second", user="survivor").text == "echo: second"
    gateway.kill9()
    gateway.start()
    assert chat(gateway, "third", user="survivor").text == "echo: third"
    turns = conversation(provider.requests[-1])
    assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert [turns[i][1] for i in (0, 2, 3, 4)] == ["first", "second", "echo: second", "third"]
    with closing(gateway.store()) as store:
        record = store.get_run(started)
    assert record is not None
    assert (record.status, record.error_code) == ("failed", "interrupted")
    assert send(gateway, method="GET", path="/healthz").status == 200
