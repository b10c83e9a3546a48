"""Parameters and headers of a request: passed on, honoured, refused or named, against a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.http_client import Answer, chat, open_stream
from tests.scripted_provider import Reply, ScriptedProvider, call

MODELS = [{"id": "model"}, {"id": "other"}, {"id": "plain", "reasoning": False}]


@pytest.fixture(scope="module")
def limited(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """A gateway where requests may choose one other model, and one channel has fewer tools."""
    gateway = start_gateway(
        agents={"defaults": {"models": {"Scripted/other": {}, "scripted/plain": {"alias": "p"}}}},
        models={"providers": {"scripted": {"models": MODELS}}},
        tools={"byChannel": {"telegram": {"deny": ["read"]}, "openai": {"deny": ["write"]}}},
    )
    yield gateway
    gateway.stop()


def body(provider: ScriptedProvider) -> dict[str, Any]:
    sent: dict[str, Any] = provider.requests[-1].body
    return sent


def tools(provider: ScriptedProvider) -> set[str]:
    return {tool["function"]["name"] for tool in body(provider).get("tools", [])}


def reasoning_of(answer: Answer) -> Any:
    return answer.json["choices"][0]["message"].get("reasoning_content")


def test_what_the_model_can_be_told_reaches_its_provider(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    asked = {
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "seed": 7,
        "stop": ["END"],
        "verbosity": "low",
        "logit_bias": {"50256": -100},
        "prediction": {"type": "content", "content": "a"},
        "service_tier": "flex",
        "reasoning_effort": "low",
    }

    answer = chat(gateway, **asked)

    assert answer.status == 200, answer
    assert "openclaw-ignored" not in answer.headers
    assert {name: body(provider).get(name) for name in asked} == asked


@pytest.mark.parametrize("stream", [False, True])
def test_what_has_no_effect_is_named_in_a_header(
    gateway: GatewayProcess, provider: ScriptedProvider, stream: bool
) -> None:
    answer = chat(gateway, stream=stream, safety_identifier="u-1", top_k=5, moderation=None)

    assert answer.status == 200, answer
    assert answer.headers["openclaw-ignored"] == "safety_identifier, top_k"
    assert not {"safety_identifier", "top_k"} & body(provider).keys()


def test_what_the_answering_model_does_not_take_is_named_too(
    limited: GatewayProcess, provider: ScriptedProvider
) -> None:
    plain = {"x-openclaw-model": "scripted/plain"}

    answer = chat(limited, headers=plain, reasoning_effort="high", safety_identifier="u-1")
    thinking = chat(limited, reasoning_effort="high")

    assert answer.headers["openclaw-ignored"] == "safety_identifier, reasoning_effort"
    assert "reasoning_effort" not in provider.requests[0].body
    assert "openclaw-ignored" not in thinking.headers


def test_a_request_can_choose_its_model(limited: GatewayProcess, provider: ScriptedProvider) -> None:
    assert chat(limited, headers={"x-openclaw-model": "Scripted/other"}).status == 200
    assert body(provider)["model"] == "other"

    assert chat(limited).status == 200
    assert body(provider)["model"] == "model"


@pytest.mark.parametrize(
    ("value", "status", "code"),
    [
        ("other", 400, "invalid_value"),
        ("scripted/", 400, "invalid_value"),
        ("scripted/forbidden", 400, "model_not_allowed"),
        ("nobody/knows", 400, "model_not_allowed"),
    ],
)
def test_a_model_that_may_not_be_chosen_is_refused(
    limited: GatewayProcess, provider: ScriptedProvider, value: str, status: int, code: str
) -> None:
    answer = chat(limited, headers={"x-openclaw-model": value})

    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["param"] == "x-openclaw-model"
    assert provider.requests == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_of_a_provider_that_there_is_not_is_not_found(gateway: GatewayProcess, stream: bool) -> None:
    answer = chat(gateway, headers={"x-openclaw-model": "nobody/knows"}, stream=stream)

    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_a_channel_is_told_to_the_agent_and_only_narrows_what_it_may_do(
    limited: GatewayProcess, provider: ScriptedProvider
) -> None:
    plain = chat(limited)
    assert plain.status == 200
    own = tools(provider)
    assert "read" in own
    assert "write" not in own

    chat(limited, headers={"x-openclaw-message-channel": "Telegram"})
    assert tools(provider) == own - {"read"}
    assert "over the channel telegram." in body(provider)["messages"][0]["content"]

    chat(limited, headers={"x-openclaw-message-channel": "elsewhere"})
    assert tools(provider) == own


def test_a_tool_that_is_forbidden_on_the_channel_is_not_run_either(
    limited: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(tool_calls=[call("read", {"path": "AGENTS.md"})]), Reply("I could not."))

    answer = chat(limited, headers={"x-openclaw-message-channel": "telegram"})

    assert answer.text == "I could not."
    results = [m["content"] for m in body(provider)["messages"] if m["role"] == "tool"]
    assert len(results) == 1
    assert "There is no tool named 'read'" in results[0]


def test_requests_of_one_cache_key_share_the_providers_cache_across_conversations(
    start_gateway: StartGateway, provider: ScriptedProvider, provider_port: int
) -> None:
    url = f"http://127.0.0.1:{provider_port}/v1"
    gateway = start_gateway(
        models={"providers": {"scripted": {"baseUrl": url, "api": "openai-responses"}}},
    )
    try:
        keys = []
        for fields in ({}, {}, {"prompt_cache_key": "bees"}, {"prompt_cache_key": "bees"}):
            assert chat(gateway, **fields).status == 200
            keys.append(body(provider)["prompt_cache_key"])
    finally:
        gateway.stop()

    assert len(set(keys)) == 3
    assert keys[2] == keys[3] != "bees"


def test_reasoning_is_shown_to_those_who_ask_and_never_as_the_answer(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    for _ in range(3):
        provider.script(Reply("Forty-two.", reasoning="Let me think."))

    asked = chat(gateway, include_reasoning=True)
    plain = chat(gateway)
    with open_stream(gateway, include_reasoning=True) as stream:
        *chunks, _ = stream.events()

    assert (asked.text, reasoning_of(asked)) == ("Forty-two.", "Let me think.")
    assert "reasoning_content" not in plain.json["choices"][0]["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Let me think."
    assert "".join(delta.get("content") or "" for delta in deltas) == "Forty-two."


def test_reasoning_of_several_messages_is_set_apart_and_the_same_streamed_or_not(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    for _ in range(2):
        provider.script(
            Reply(reasoning="First a tool.", tool_calls=[call("session_status", {})]),
            Reply("Done.", reasoning="Now the answer."),
        )

    whole = chat(gateway, include_reasoning=True)
    with open_stream(gateway, include_reasoning=True) as stream:
        *chunks, _ = stream.events()

    streamed = "".join(chunk["choices"][0]["delta"].get("reasoning_content") or "" for chunk in chunks)
    assert reasoning_of(whole) == streamed == "First a tool.\n\nNow the answer."


def test_an_operator_can_show_reasoning_to_everybody_or_to_nobody(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    shown: dict[str, list[Any]] = {}
    ignored: list[Any] = []
    for setting in ("on", "off"):
        endpoint = {"chatCompletions": {"reasoning": setting}}
        gateway = start_gateway(gateway={"http": {"endpoints": endpoint}})
        try:
            answers = []
            for wish in (None, True, False):
                provider.script(Reply("Yes.", reasoning="Hm."))
                answers.append(chat(gateway, include_reasoning=wish))
        finally:
            gateway.stop()
        shown[setting] = [reasoning_of(answer) for answer in answers]
        ignored += [answer.headers.get("openclaw-ignored") for answer in answers]

    assert shown == {"on": ["Hm.", "Hm.", None], "off": [None, None, None]}
    assert ignored == [None, None, None, None, "include_reasoning", None]
