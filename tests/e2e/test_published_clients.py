"""Published agent frameworks and libraries of others, each installed apart, at work on a real gateway.

What happened is taken from the gateway's records and from what reached the model; what a client
prints only adds to that. Their scripts are in ``clients/published``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.published import run_client
from tests.e2e.published_clients import LITELLM, MENU, SCRIPTS, env_of, npm_of, python_of, schema_of
from tests.e2e.tool_runs import asking, endings, results, tool_names, user_session
from tests.scripted_provider import Reply, ScriptedProvider

pytestmark = pytest.mark.timeout(600)  # each client is installed by the first test that needs it


# --- agent frameworks ---


def test_langchain_uses_its_tool_streams_and_gets_an_object(
    gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("langchain")
    provider.script(asking(("get_weather", {"city": "Rome"})), Reply("It is clear."))
    provider.on("dinner", Reply(json.dumps(MENU)))

    told = run_client([str(python), str(SCRIPTS / "langchain_agent.py")], tmp_path, env_of(gateway))

    assert told.pop("pieces")[-1:] == [""]
    assert told == {"answer": "It is clear.", "tokens": 18, "menu": MENU}
    first, second, _, third = provider.requests
    assert "get_weather" in tool_names(first)
    assert results(second) == ["clear in Rome"]
    assert schema_of(third)["required"] == ["dish", "courses"]
    assert endings(gateway, user_session("langchain")) == ["completed"] * 2


def test_pydantic_ai_runs_a_typed_agent(
    gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("pydantic-ai")
    provider.script(asking(("get_season", {"month": "October"})), asking(("final_result", MENU)))

    told = run_client([str(python), str(SCRIPTS / "pydantic_agent.py")], tmp_path, env_of(gateway))

    assert told["menu"] == MENU
    assert told["texts"][-1] == "echo: one two"
    first, second, _ = provider.requests
    assert {"get_season", "final_result"} <= tool_names(first)
    assert first.body["tool_choice"] == "required"
    assert results(second) == ["October is in autumn"]


@pytest.mark.parametrize("api", ["chat_completions", "responses"])
def test_the_agents_sdk_hands_over_and_calls_a_function(
    api: str, generous: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("openai-agents")
    hand_over = asking(("transfer_to_forecaster", {}))
    provider.script(hand_over, asking(("get_weather", {"city": "Rome"})), Reply("It is clear."))

    command = [str(python), str(SCRIPTS / "openai_agents.py"), api]
    told = run_client(command, tmp_path, env_of(generous))

    assert (told["answer"], told["agent"]) == ("It is clear.", "forecaster")
    assert told["kinds"] == [
        "handoff_requested",
        "handoff_occured",
        "tool_called",
        "tool_output",
        "message_output_created",
    ]
    assert "transfer_to_forecaster" in tool_names(provider.requests[0])
    assert results(provider.requests[-1]) == ["clear in Rome"]


def test_smolagents_runs_what_the_model_writes(
    gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("smolagents")
    counting = "Thought: I count.\n<code>\nlength = count_letters('gateway')\nprint(length)\n</code>"
    provider.script(Reply(counting), Reply("Thought: done.\n<code>\nfinal_answer(length)\n</code>"))

    told = run_client([str(python), str(SCRIPTS / "smolagents_code.py")], tmp_path, env_of(gateway))

    assert told == {"answer": 7}
    assert len(provider.requests) == 2
    assert "Execution logs:\n7" in provider.requests[1].user_text
    assert endings(gateway, user_session("smolagents")) == ["completed"] * 2


def test_vercels_ai_sdk_streams_calls_a_tool_and_gets_an_object(
    gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    installed = npm_of("ai-sdk")
    slowly = Reply("echo: one two", delay=0.1)
    provider.script(slowly, asking(("get_weather", {"city": "Rome"})), Reply("It is clear."))
    provider.on("dinner", Reply(json.dumps(MENU)))
    (tmp_path / "node_modules").symlink_to(installed / "node_modules")
    script = tmp_path / "ai_sdk.mjs"
    script.write_text((SCRIPTS / script.name).read_text())

    told = run_client([str(installed / "node"), script.name], tmp_path, env_of(gateway))

    assert told.pop("pieces") > 1
    assert told == {
        "text": "echo: one two",
        "usage": 18,
        "asked": ["Rome"],
        "answer": "It is clear.",
        "menu": MENU,
    }
    assert results(provider.requests[2]) == ['{"city":"Rome","sky":"clear"}']
    assert schema_of(provider.requests[3])["required"] == ["dish", "courses"]
    assert endings(gateway, "agent:main:ai-sdk") == ["completed"] * 4


# --- libraries ---


def test_litellm_gets_answers_vectors_and_its_own_errors(
    generous: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("litellm")
    env = env_of(generous, **LITELLM)

    told = run_client([str(python), str(SCRIPTS / "litellm_calls.py")], tmp_path, env)

    said = "echo: what is for dinner?"
    assert told == {
        "whole": said,
        "cost": 18,
        "rebuilt": [said, 18],
        "vectors": [8, 8],
        "errors": {
            "agent": ["NotFoundError", 404],
            "key": ["AuthenticationError", 401],
            "parameter": ["BadRequestError", 400],
        },
    }
    assert [request.path for request in provider.requests][-1] == "/v1/embeddings"
    assert endings(generous, "agent:main:litellm") == ["completed"] * 2


@pytest.mark.parametrize(
    ("mode", "attempts"),
    [
        ("TOOLS", 2),
        ("MD_JSON", 2),
        ("JSON_SCHEMA", 1),  # the gateway is asked for the schema, and sees to it itself
    ],
)
def test_an_object_that_instructor_would_not_take_is_asked_for_again(
    mode: str, attempts: int, gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("instructor")
    answers = [{"dish": "soup", "courses": 0}, MENU]
    if mode == "TOOLS":
        provider.script(*(asking(("Menu", answer)) for answer in answers))
    else:
        provider.script(*(Reply(json.dumps(answer)) for answer in answers))

    command = [str(python), str(SCRIPTS / "instructor_objects.py"), mode]
    assert run_client(command, tmp_path, env_of(gateway)) == MENU

    first, second = provider.requests
    assert "courses" in str(second.body["messages"][-1]["content"])
    if mode == "TOOLS":
        assert first.body["tool_choice"] == {"type": "function", "function": {"name": "Menu"}}
    if mode == "JSON_SCHEMA":
        assert schema_of(first)["required"] == ["dish", "courses"]
    assert endings(gateway, user_session(f"instructor-{mode.lower()}")) == ["completed"] * attempts
