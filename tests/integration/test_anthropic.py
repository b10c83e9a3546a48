"""Anthropic's wire format in the whole gateway. What all providers share is in the contract's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import Gateway
from app.cancel import CancelToken
from app.errors import ConfigError, ProviderError, ProviderReason
from app.events import TextDelta
from app.messages import SamplingParams, UserMessage
from app.providers.anthropic import AnthropicMessages
from app.providers.base import ModelDone, ModelRequest
from app.providers.openai_completions import OpenAICompletions
from app.providers.transport import HttpClient
from app.runtime import Runtime
from tests.scripted_provider import Raw, Reply, ScriptedProvider, Status, call

TOKEN = "the-token"


@pytest.fixture
def server() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as server:
        yield server


Build = Callable[..., tuple[Flask, Runtime]]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Gives a Flask application with a gateway: ``build({"claude": {...}}, KEY="...")``."""
    runtimes: list[Runtime] = []

    def build(providers: dict[str, Any], params: Any = None, **env: str) -> tuple[Flask, Runtime]:
        app = Flask("app")
        config = {
            "gateway": {
                "auth": {"token": TOKEN},
                "http": {"endpoints": {"chatCompletions": {"enabled": True}}},
            },
            "models": {"providers": providers},
            "agents": {"defaults": {"params": params or {}}},
        }
        env = {"OPENCLAW_STATE_DIR": str(tmp_path / str(len(runtimes))), **env}
        runtimes.append(Gateway().init_app(app, config=config, env=env).open())
        return app, runtimes[-1]

    yield build
    for runtime in runtimes:
        runtime.close()


def claude(server: ScriptedProvider, **options: Any) -> dict[str, Any]:
    return {
        "claude": {"api": "anthropic-messages", "baseUrl": server.base_url, "apiKey": "sk-ant-1"} | options
    }


MODELS = [{"id": "claude-x", "maxTokens": 4000, "input": ["text", "image"]}]


def chat(app: Flask, *messages: dict[str, Any], **fields: Any) -> Any:
    asked = {"model": "openclaw", "messages": messages or [{"role": "user", "content": "hi"}], **fields}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return app.test_client().post("/v1/chat/completions", json=asked, headers=headers)


def body_of(server: ScriptedProvider) -> Any:
    return server.requests[-1].body


def test_an_agent_runs_its_tools_on_a_model_of_anthropic(server: ScriptedProvider, build: Build) -> None:
    app, _ = build(claude(server, models=MODELS))
    server.script(
        Reply("Let me see.", reasoning="hm", tool_calls=[call("session_status", {})]), Reply("All is well.")
    )

    answer = chat(app).get_json()

    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].endswith("All is well.")
    assert answer["usage"] == answer["usage"] | {"prompt_tokens": 22, "completion_tokens": 14}
    first, second = server.requests
    assert first.path == "/v1/messages"
    assert first.headers["x-api-key"] == "sk-ant-1"
    assert first.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in first.headers
    assert (first.body["model"], first.body["max_tokens"]) == ("claude-x", 4000)
    assert "session_status" in {tool["name"] for tool in first.body["tools"]}
    _, called, result = second.body["messages"]
    assert [block["type"] for block in called["content"]] == ["thinking", "text", "tool_use"]
    assert result["content"][0]["tool_use_id"] == called["content"][2]["id"]
    assert result["content"][0]["content"]


def test_thinking_and_tools_go_together(server: ScriptedProvider, build: Build) -> None:
    """The server refuses to think on without its thoughts, as the real one does."""
    app, _ = build(claude(server, models=MODELS), {"reasoningEffort": "low", "temperature": 0.2})
    calls = [call("session_status", {})]
    server.script(Reply(reasoning="hm", tool_calls=calls), Reply(tool_calls=calls), Reply("done"))

    assert chat(app).get_json()["choices"][0]["message"]["content"] == "done"

    asked = [received.body.get("thinking") for received in server.requests]
    budget = {"type": "enabled", "budget_tokens": 2048}
    assert asked == [budget, budget, None]  # the third time there are no last thoughts to hand back


def test_a_begun_answer_is_continued_and_an_image_is_seen(server: ScriptedProvider, build: Build) -> None:
    app, _ = build(claude(server, models=MODELS))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    server.script(Reply("42"))

    answer = chat(
        app,
        {"role": "user", "content": [{"type": "text", "text": "how many"}, image]},
        {"role": "assistant", "content": "There are "},
    )

    assert answer.status_code == 200, answer.text
    asked, begun = body_of(server)["messages"]
    assert asked["content"][1]["source"]["media_type"] == "image/png"
    assert begun["content"][0]["text"] == "There are"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"seed": 0}, "seed"),
        ({"logit_bias": {"5": 1}, "verbosity": "low"}, "logit_bias, verbosity"),
        ({"temperature": 0.5, "top_p": 0.5}, "top_p"),
    ],
)
def test_a_hint_that_the_api_does_not_have_is_left_out_and_named(
    server: ScriptedProvider, build: Build, fields: dict[str, Any], named: str
) -> None:
    app, _ = build(claude(server, models=MODELS))

    answer = chat(app, **fields)

    assert answer.status_code == 200, answer.text
    assert answer.headers["openclaw-ignored"] == named
    assert not set(named.split(", ")) & body_of(server).keys()


def test_an_agents_own_hint_is_left_out_as_well_and_nobody_asked_for_it(
    server: ScriptedProvider, build: Build
) -> None:
    app, _ = build(claude(server, models=MODELS), {"seed": 7})

    answer = chat(app)

    assert answer.status_code == 200, answer.text
    assert "openclaw-ignored" not in answer.headers
    assert "seed" not in body_of(server)


def test_parameters_that_ask_for_nothing_are_no_hindrance(server: ScriptedProvider, build: Build) -> None:
    app, _ = build(claude(server, models=MODELS))

    answer = chat(
        app, frequency_penalty=0, presence_penalty=0, response_format={"type": "text"}, temperature=2
    )

    assert answer.status_code == 200, answer.text
    assert body_of(server)["temperature"] == 1


def test_what_the_api_objects_to_is_told_to_the_caller(server: ScriptedProvider, build: Build) -> None:
    app, _ = build(claude(server, models=MODELS))
    error = {"type": "invalid_request_error", "message": "temperature and top_p cannot both be specified"}
    server.script(Status(400, {"type": "error", "error": error}))

    answer = chat(app)

    assert answer.status_code == 400
    assert "cannot both be specified" in answer.get_json()["error"]["message"]


def test_a_key_of_anthropic_in_the_environment_is_enough(build: Build) -> None:
    _, runtime = build({}, ANTHROPIC_API_KEY="sk-ant-2")

    provider = runtime.providers["anthropic"]
    assert isinstance(provider, AnthropicMessages)
    assert (provider.info("any").images, provider.info("any").prefill) == (True, True)
    assert runtime.agents.get("main").model_ref.startswith("anthropic/claude-")


def test_the_vendors_api_is_meant_unless_another_is_stated(server: ScriptedProvider, build: Build) -> None:
    app, runtime = build(
        {
            "anthropic": {"baseUrl": server.base_url, "models": [{"id": "m"}]},
            "other": {"baseUrl": server.base_url},
        },
        ANTHROPIC_API_KEY="sk-ant-3",
    )

    assert chat(app).status_code == 200
    assert server.requests[0].path == "/v1/messages"
    assert server.requests[0].headers["x-api-key"] == "sk-ant-3"
    assert isinstance(runtime.providers["other"], OpenAICompletions)
    with pytest.raises(ConfigError, match="baseUrl is required"):
        build({"anthropic": {"api": "openai-completions"}})


def test_compat_can_take_prefill_and_tools_away(server: ScriptedProvider, build: Build) -> None:
    compat = {"supportsPrefill": False, "supportsTools": False}
    _, runtime = build(claude(server, models=MODELS, compat=compat))

    info = runtime.providers["claude"].info("claude-x")
    assert (info.prefill, info.tools, info.max_output) == (False, False, 4000)


@pytest.mark.parametrize(
    ("compat", "held", "told"),
    [
        ({}, False, True),
        ({"supportsJsonSchema": True}, True, False),
        ({"supportsJsonSchema": False}, False, True),
    ],
)
def test_a_server_is_held_to_a_schema_if_the_operator_says_so(
    server: ScriptedProvider, build: Build, compat: dict[str, bool], held: bool, told: bool
) -> None:
    app, _ = build(claude(server, models=MODELS, compat=compat))
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False}
    server.script(Reply('{"a": null}'))

    answer = chat(
        app, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    )

    assert answer.get_json()["choices"][0]["message"]["content"] == '{"a": null}'
    body = body_of(server)
    stated = {"format": {"type": "json_schema", "schema": schema}}
    assert body.get("output_config") == (stated if held else None)
    assert ("read by a program" in body["system"][0]["text"]) is told


def test_only_a_vendor_at_its_own_address_is_known_to_hold_answers_to_a_schema(
    server: ScriptedProvider, build: Build
) -> None:
    _, at_home = build({}, OPENAI_API_KEY="sk-1", ANTHROPIC_API_KEY="sk-2", OPENROUTER_API_KEY="sk-3")
    _, elsewhere = build({"openai": {"baseUrl": server.base_url}}, OPENAI_API_KEY="sk-1")

    known = {ref: at_home.providers[ref.partition("/")[0]].info(ref.partition("/")[2]).schemas for ref in (
        "openai/gpt-6.1-terra", "openai/gpt-unheard-of", "anthropic/claude-sonnet-5-5",
        "openrouter/anthropic/claude-sonnet-5-5",
    )}  # fmt: skip

    assert list(known.values()) == [True, False, True, False]
    assert not elsewhere.providers["openai"].info("gpt-6.1-terra").schemas


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_before_or_after_the_version(server: ScriptedProvider, suffix: str) -> None:
    base_url = server.base_url.removesuffix("/v1") + suffix
    with closing(AnthropicMessages("a", base_url=base_url, api_keys=(), http=HttpClient())) as provider:
        events = list(provider.stream(ModelRequest("m", "", (UserMessage.of("x"),)), CancelToken()))
    assert events[0] == TextDelta("echo: ")


def test_characters_cut_between_reads_arrive_whole(server: ScriptedProvider) -> None:
    events = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "grüße 🦞"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ]
    stream = "".join(
        f"event: {one['type']}\r\ndata: {json.dumps(one, ensure_ascii=False)}\r\n\r\n" for one in events
    ).encode()
    server.script(Raw([stream[i : i + 1] for i in range(len(stream))]))
    with closing(make(server)) as provider:
        assert list(provider.stream(ModelRequest("m", "", (UserMessage.of("x"),)), CancelToken())) == [
            TextDelta("grüße 🦞"),
            ModelDone("stop"),
        ]


def test_a_refused_parameter_names_the_provider_and_is_final(server: ScriptedProvider) -> None:
    request = ModelRequest(
        "m", "", (UserMessage.of("x"),), params=SamplingParams(reasoning_effort="enormous")
    )
    with closing(make(server)) as provider, pytest.raises(ProviderError) as caught:
        list(provider.stream(request, CancelToken()))
    assert (caught.value.reason, caught.value.provider) == (ProviderReason.FORMAT, "a")
    assert not caught.value.retryable


def make(server: ScriptedProvider) -> AnthropicMessages:
    return AnthropicMessages("a", base_url=server.base_url, api_keys=("sk-ant-1",), http=HttpClient())
