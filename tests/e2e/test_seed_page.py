"""What the original page of the endpoint promises, number by number."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.http_client import Connection, chat, chat_body, request_bytes, send, stream_events, stream_text
from tests.scripted_provider import Received, Reply, ScriptedProvider, call

PASSWORD = "test-password-0123456789"


def system_prompt(received: Received) -> str:
    first = received.body["messages"][0]
    assert first["role"] == "system"
    prompt: str = first["content"]
    return prompt


def agent_of(provider: ScriptedProvider) -> str:
    """Which agent made the last model call: an agent's prompt says its name first."""
    prompt = system_prompt(provider.requests[-1])
    return prompt.removeprefix("You are ").partition(",")[0].lower()


# --- 1: on the gateway's own port, off by default ---


def test_the_endpoint_answers_on_the_gateways_port_once_it_is_enabled(gateway: GatewayProcess) -> None:
    """Promise 1."""
    answer = chat(gateway, "hello")
    assert (answer.status, answer.text) == (200, "echo: hello")


def test_the_endpoint_is_off_when_it_is_disabled(disabled: GatewayProcess) -> None:
    """Promise 1."""
    answer = chat(disabled)
    assert (answer.status, answer.error["code"]) == (404, "endpoint_disabled")


def test_the_endpoint_is_off_by_default(tmp_path: Path) -> None:
    """Promise 1."""
    with GatewayProcess({"gateway": {"auth": {"token": TOKEN}}}, tmp_path) as gateway:
        answer = chat(gateway)
    assert (answer.status, answer.error["code"]) == (404, "endpoint_disabled")
    assert "gateway.http.endpoints.chatCompletions.enabled" in answer.error["message"]


# --- 2: an ordinary agent run ---


def test_a_request_is_the_same_agent_run_as_the_command_line_starts(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """Promise 2: same routing, same prompt, same tools, same model."""
    answer = chat(gateway, "who are you?", model="openclaw:beta")
    command = gateway.command("agent", "--agent", "beta", "-m", "who are you?", "--json")
    assert command.returncode == 0, command.stderr
    assert json.loads(command.stdout)["result"]["payloads"][0]["text"] == answer.text
    over_http, by_command = provider.requests
    assert over_http.body["messages"] == by_command.body["messages"]
    assert over_http.body["model"] == by_command.body["model"]
    assert over_http.body["tools"] == by_command.body["tools"]
    assert over_http.headers["authorization"] == by_command.headers["authorization"]


@pytest.mark.parametrize("channel", ["http", "command line"])
def test_an_agent_may_use_its_own_tools_and_no_others(
    channel: str, strict: GatewayProcess, provider: ScriptedProvider
) -> None:
    """Promise 2: the agent ``kilo`` may not use ``read``, whoever asks."""
    provider.script(
        Reply(tool_calls=[call("read", {"path": "USER.md"}, "call_1"), call("session_status", {}, "call_2")]),
        Reply("done"),
    )
    if channel == "http":
        assert chat(strict, "try", model="openclaw:kilo").text == "done"
    else:
        assert strict.command("agent", "--agent", "kilo", "-m", "try").stdout.strip() == "done"
    offered = [tool["function"]["name"] for tool in provider.requests[0].body["tools"]]
    assert offered == ["session_status", "ls", "grep", "find"]
    refused, allowed = provider.requests[1].body["messages"][-2:]
    assert "no tool named 'read'" in refused["content"]
    assert "agent: kilo" in allowed["content"]


# --- 3: the bearer ---


@pytest.fixture(
    scope="module",
    params=[
        "token in the file",
        "token in the environment",
        "password in the file",
        "password in the environment",
    ],
)
def secured(request: pytest.FixtureRequest, start_gateway: StartGateway) -> tuple[GatewayProcess, str]:
    """A gateway and its secret, for each place a secret may come from."""
    auth: dict[str, Any]
    match request.param:
        case "token in the file":
            return request.getfixturevalue("gateway"), TOKEN
        case "token in the environment":
            auth, env, secret = {"mode": "token", "token": None}, {"OPENCLAW_GATEWAY_TOKEN": TOKEN}, TOKEN
        case "password in the file":
            auth, env, secret = {"mode": "password", "password": PASSWORD}, {}, PASSWORD
        case _:
            auth, env = {"mode": "password"}, {"OPENCLAW_GATEWAY_PASSWORD": PASSWORD}
            secret = PASSWORD
    return start_gateway(env=env, gateway={"auth": auth}), secret


def test_the_secret_opens_the_gateway(secured: tuple[GatewayProcess, str]) -> None:
    """Promise 3."""
    gateway, secret = secured
    assert send(gateway, chat_body("hello"), token=secret).text == "echo: hello"


def test_without_the_secret_the_gateway_stays_shut(
    secured: tuple[GatewayProcess, str], provider: ScriptedProvider
) -> None:
    """Promise 3: no bearer, another one, and the secret of the mode that is not on."""
    gateway, secret = secured
    for token in (None, secret + "x", PASSWORD if secret == TOKEN else TOKEN):
        answer = send(gateway, chat_body(), token=token)
        assert answer.status == 401
        assert answer.error == {
            "message": "Unauthorized",
            "type": "unauthorized",
            "param": None,
            "code": None,
        }
    assert send(gateway, chat_body(), token=None, headers={"Authorization": f"Basic {secret}"}).status == 401
    assert provider.requests == []


# --- 4: choosing an agent ---


@pytest.mark.parametrize(
    ("model", "headers", "agent"),
    [
        ("openclaw:beta", {}, "beta"),
        ("agent:beta", {}, "beta"),
        ("openclaw/beta", {}, "beta"),
        ("openclaw", {}, "main"),
        ("openclaw", {"x-openclaw-agent-id": "beta"}, "beta"),
        ("openclaw:main", {"x-openclaw-agent-id": "beta"}, "beta"),
        ("openclaw:main", {}, "main"),
    ],
)
def test_model_or_header_choose_the_agent(
    model: str, headers: dict[str, str], agent: str, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """Promise 4."""
    answer = chat(gateway, model=model, headers=headers)
    assert answer.json["model"] == model
    assert agent_of(provider) == agent


# --- 5 and 6: sessions ---


def test_the_session_key_header_fully_controls_the_session(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """Promise 5: two users, one key, one conversation, under the very key."""
    headers = {"x-openclaw-session-key": "Project X: Review"}
    chat(gateway, "first", user="ann", headers=headers)
    chat(gateway, "second", user="bob", headers=headers)
    spoken = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert spoken == ["first", "echo: first", "second"]
    with closing(gateway.store()) as store:
        loaded = store.load("Project X: Review")
        assert len(loaded.history) == 4
        assert store.load("agent:main:openai-user:ann").session is None


def test_requests_without_a_user_know_nothing_of_each_other(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """Promise 6."""
    chat(gateway, "remember the word apple")
    chat(gateway, "which word?")
    spoken = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert spoken == ["which word?"]


def test_requests_with_the_same_user_share_one_session(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """Promise 6."""
    chat(gateway, "remember the word apple", user="promise six")
    chat(gateway, "which word?", user="promise six")
    chat(gateway, "which word?", user="somebody else")
    shared, separate = (r.body["messages"][1:] for r in provider.requests[1:])
    assert [m["content"] for m in shared] == [
        "remember the word apple",
        "echo: remember the word apple",
        "which word?",
    ]
    assert [m["content"] for m in separate] == ["which word?"]


# --- 7: streams ---


def test_a_stream_is_events_of_one_data_line_that_end_with_done(gateway: GatewayProcess) -> None:
    """Promise 7."""
    with Connection(gateway) as connection:
        answer = connection.send(request_bytes(chat_body("one two three", stream=True))).read()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = stream_events(answer.body)
    assert events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    assert all(event["object"] == "chat.completion.chunk" for event in events[:-1])
    assert stream_text(answer.body) == "echo: one two three"
