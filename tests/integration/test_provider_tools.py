"""Tools that have to be called, one at a time, or to the letter: on every wire, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from app.cancel import CancelToken
from app.errors import ProviderError, ProviderReason
from app.messages import SamplingParams, UserMessage
from app.providers.anthropic import AnthropicMessages
from app.providers.base import CallTimeouts, ModelInfo, ModelRequest, Provider, ToolChoice, ToolSpec
from app.providers.ollama import Ollama
from app.providers.openai_completions import OpenAICompletions, WireSwitches
from app.providers.openai_responses import OpenAIResponses
from app.providers.streaming import StreamingProvider
from app.providers.transport import HttpClient
from tests.scripted_provider import Reply, ScriptedProvider, Status

Kind = type[StreamingProvider]
KINDS = (OpenAICompletions, AnthropicMessages, OpenAIResponses, Ollama)
LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {}})
ANY, THIS = ToolChoice(required=True), ToolChoice(required=True, name="look")
NAMED = {"type": "function", "function": {"name": "look"}}

# What the request says beside its tools.
CHOICES: list[tuple[Kind, ToolChoice, bool, dict[str, Any]]] = [
    (OpenAICompletions, ToolChoice(), True, {"tool_choice": "auto"}),
    (OpenAICompletions, ANY, True, {"tool_choice": "required"}),
    (OpenAICompletions, THIS, True, {"tool_choice": NAMED}),
    (OpenAICompletions, ANY, False, {"tool_choice": "required", "parallel_tool_calls": False}),
    (AnthropicMessages, ToolChoice(), True, {}),
    (AnthropicMessages, ANY, True, {"tool_choice": {"type": "any"}}),
    (AnthropicMessages, THIS, True, {"tool_choice": {"type": "tool", "name": "look"}}),
    (
        AnthropicMessages,
        ToolChoice(),
        False,
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    (AnthropicMessages, ANY, False, {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}),
    (OpenAIResponses, ToolChoice(), True, {}),
    (OpenAIResponses, ANY, True, {"tool_choice": "required"}),
    (OpenAIResponses, THIS, True, {"tool_choice": {"type": "function", "name": "look"}}),
    (OpenAIResponses, ToolChoice(), False, {"parallel_tool_calls": False}),
    (Ollama, THIS, False, {}),
]


@pytest.fixture
def server() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as server:
        yield server


def provider(kind: Kind, server: ScriptedProvider, **options: Any) -> Provider:
    http = HttpClient()
    return kind("test", base_url=server.base_url, api_keys=("sk-test-123456",), http=http, **options)  # type: ignore[call-arg]


def ask(provider: Provider, *tools: ToolSpec, **options: Any) -> None:
    patient = CallTimeouts(connect=5, first_token=10, stall=10)
    request = ModelRequest("m", "", (UserMessage.of("hi"),), tools, timeouts=patient, **options)
    with closing(provider):
        list(provider.stream(request, CancelToken()))


def said(server: ScriptedProvider, number: int = -1) -> dict[str, Any]:
    """What a request says of calling tools."""
    body = server.requests[number].body
    return {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body}


@pytest.mark.parametrize(("kind", "choice", "parallel", "expected"), CHOICES)
def test_the_model_is_told_what_it_has_to_call(
    server: ScriptedProvider, kind: Kind, choice: ToolChoice, parallel: bool, expected: dict[str, Any]
) -> None:
    ask(provider(kind, server), LOOK, tool_choice=choice, parallel_tool_calls=parallel)

    assert said(server) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_without_tools_nothing_is_said_of_them(server: ScriptedProvider, kind: Kind) -> None:
    ask(provider(kind, server), tool_choice=ANY, parallel_tool_calls=False)

    assert said(server) == {}
    assert "tools" not in server.requests[0].body


@pytest.mark.parametrize(
    ("kind", "strict", "expected"),
    [
        (OpenAICompletions, None, None),
        (OpenAICompletions, True, True),
        (OpenAICompletions, False, False),
        (AnthropicMessages, None, None),
        (AnthropicMessages, True, True),
        (AnthropicMessages, False, None),
        (OpenAIResponses, None, False),
        (OpenAIResponses, True, True),
    ],
)
def test_a_tool_is_strict_if_its_owner_says_so(
    server: ScriptedProvider, kind: Kind, strict: bool | None, expected: bool | None
) -> None:
    ask(provider(kind, server), ToolSpec("look", "Looks.", LOOK.parameters, strict))

    [tool] = server.requests[0].body["tools"]
    assert (tool.get("function") or tool).get("strict") == expected


def test_a_server_that_does_not_know_strict_tools_is_not_told(server: ScriptedProvider) -> None:
    strict = ToolSpec("look", "Looks.", LOOK.parameters, strict=True)

    ask(provider(OpenAICompletions, server, switches=WireSwitches(strict_tools=False)), strict)

    [tool] = server.requests[0].body["tools"]
    assert set(tool["function"]) == {"name", "description", "parameters"}


@pytest.mark.parametrize("adaptive", [True, False])
def test_claude_does_not_think_when_it_has_to_call_a_tool(server: ScriptedProvider, adaptive: bool) -> None:
    thinker = ModelInfo(reasoning=True, adaptive=adaptive, levels=("low", "high"), max_output=32_000)
    params = SamplingParams(reasoning_effort="high", temperature=0.5)

    ask(provider(AnthropicMessages, server, default=thinker), LOOK, params=params, tool_choice=ANY)
    ask(provider(AnthropicMessages, server, default=thinker), LOOK, params=params)

    forced, free = (one.body for one in server.requests)
    assert not {"thinking", "output_config"} & forced.keys()
    assert forced["tool_choice"] == {"type": "any"}
    assert "thinking" in free


REFUSED: dict[str, Any] = {"type": "invalid_request_error", "code": None}


def refusal(message: str) -> Status:
    return Status(400, {"error": {"message": message, **REFUSED}})


@pytest.mark.parametrize("kind", [OpenAICompletions, OpenAIResponses, AnthropicMessages])
@pytest.mark.parametrize(
    "message",
    [
        "Thinking mode does not support this tool_choice",
        "tool_choice specified is incompatible with thinking enabled",
        "Thinking may not be enabled when tool_choice forces tool use.",
    ],
)
def test_a_server_that_takes_no_demand_is_asked_once_more_without_it(
    server: ScriptedProvider, kind: Kind, message: str
) -> None:
    server.script(refusal(message), Reply("fine"))

    ask(provider(kind, server), LOOK, tool_choice=ANY)

    assert "required" in str(said(server, 0)) or "any" in str(said(server, 0))
    assert said(server).get("tool_choice") in (None, "auto")
    assert len(server.requests) == 2


def test_a_server_may_refuse_one_thing_after_the_other(server: ScriptedProvider) -> None:
    server.script(
        refusal("Unsupported parameter: 'parallel_tool_calls' is not supported with this model."),
        refusal("Invalid schema for function 'look': 'additionalProperties' is required to be false."),
        refusal("tool_choice 'required' is not supported"),
        Reply("fine"),
    )
    strict = ToolSpec("look", "Looks.", LOOK.parameters, strict=True)

    ask(provider(OpenAICompletions, server), strict, tool_choice=ANY, parallel_tool_calls=False)

    assert said(server) == {"tool_choice": "auto"}
    assert "strict" not in server.requests[-1].body["tools"][0]["function"]


def test_one_that_refuses_for_good_is_not_asked_for_ever(server: ScriptedProvider) -> None:
    server.script(*(refusal("tool_choice is not supported") for _ in range(9)))

    with pytest.raises(ProviderError) as caught:
        ask(provider(OpenAICompletions, server), LOOK, tool_choice=THIS)

    assert caught.value.reason is ProviderReason.FORMAT
    assert len(server.requests) == 2
