"""Who will answer a request, judged before it is admitted, and what the answering model is told."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from app.errors import InvalidRequest, ModelNotFound
from app.messages import AssistantMessage, ImagePart, SamplingParams, TextPart, UserMessage
from app.runtime import Runtime
from app.sessions.records import SessionSettings
from tests.integration.runs import Start, answer, ask, sent
from tests.scripted_provider import Reply, ScriptedProvider, call

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 8).decode()
PICTURE = UserMessage((TextPart("look"), ImagePart("image/png", PNG, "low")))
MODELS = [
    {"id": "m"},
    {"id": "sighted", "input": ["text", "image"]},
    {"id": "plain", "reasoning": False},
]


@pytest.fixture
def runtime(start: Start) -> Runtime:
    """Its agent's model is blind and thinks, as far as anybody knows."""
    return start(provider={"models": MODELS})


def choose(runtime: Runtime, model: str, key: str = "chat") -> None:
    answer(ask(runtime, "hello", key=key))
    assert runtime.store.configure(key, SessionSettings(model=model), 1_000)


def test_the_model_that_a_request_names_is_judged(runtime: Runtime, model: ScriptedProvider) -> None:
    answer(ask(runtime, PICTURE, model="scripted/sighted"))

    assert sent(model)[0][1][1]["image_url"]["detail"] == "low"
    with pytest.raises(InvalidRequest) as caught:
        ask(runtime, PICTURE, model="scripted/plain")
    assert caught.value.code == "images_not_supported"


def test_the_model_that_was_chosen_for_the_session_is_judged(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    choose(runtime, "scripted/sighted")

    answer(ask(runtime, PICTURE))

    assert model.requests[-1].body["model"] == "sighted"
    with pytest.raises(InvalidRequest):
        ask(runtime, PICTURE, key="another")


def test_how_closely_to_look_at_an_image_is_kept_with_it(runtime: Runtime, model: ScriptedProvider) -> None:
    answer(ask(runtime, PICTURE, model="scripted/sighted"))
    answer(ask(runtime, "and now?", model="scripted/sighted"))

    assert sent(model)[0][1][1]["image_url"]["detail"] == "low"


def test_a_session_whose_model_is_gone_is_answered_by_the_agents_own(runtime: Runtime) -> None:
    choose(runtime, "gone/x")

    with pytest.raises(InvalidRequest) as caught:
        ask(runtime, PICTURE)
    assert caught.value.code == "images_not_supported"
    assert answer(ask(runtime, "hi", params=SamplingParams(seed=1))).model == "scripted/m"


def test_a_model_that_nobody_serves_is_not_found_and_no_run_begins(runtime: Runtime) -> None:
    with pytest.raises(ModelNotFound) as caught:
        ask(runtime, "hi", model="gone/x")

    assert (caught.value.status, caught.value.param) == (404, "model")
    assert (runtime.runs.live, runtime.store.list_runs(None, 10)) == (0, [])


def test_what_the_answering_model_ignores_is_known_at_once(runtime: Runtime, model: ScriptedProvider) -> None:
    thinking = SamplingParams(reasoning_effort="high", temperature=0.5)

    own = ask(runtime, "hi", params=thinking)
    named = ask(runtime, "hi", params=thinking, model="scripted/plain", key="k2")
    choose(runtime, "scripted/plain", key="k3")
    chosen = ask(runtime, "hi", params=thinking, key="k3")

    assert (own.ignored, named.ignored, chosen.ignored) == ((), ("reasoning_effort",), ("reasoning_effort",))
    for run in (own, named, chosen):
        answer(run)
    assert [r.body.get("temperature") for r in model.requests if "temperature" in r.body] == [0.5] * 3


def test_a_request_that_begins_the_answer_is_judged_by_the_sessions_model(start: Start) -> None:
    runtime = start(provider={"models": MODELS, "compat": {"supportsPrefill": True}})

    answer(ask(runtime, "The sky?", AssistantMessage("It is")))


def test_a_sub_agent_is_bound_to_the_channel_of_the_message_too(
    start: Start, model: ScriptedProvider
) -> None:
    policy = {"profile": "full", "byChannel": {"telegram": {"deny": ["read"]}}}
    runtime = start(policy=policy)
    spawn = call("sessions_spawn", {"task": "count the bees", "waitSeconds": 10})
    model.on("count the bees", Reply("Forty thousand."))
    model.script(Reply(tool_calls=[spawn]))

    answer(ask(runtime, "how many?", message_channel="telegram"))

    child = next(r for r in model.requests if r.user_text == "count the bees")
    assert "ls" in tools_of(child)
    assert "read" not in tools_of(child)


def tools_of(received: Any) -> set[str]:
    return {tool["function"]["name"] for tool in received.body["tools"]}


def test_text_of_a_model_without_stop_sequences_ends_where_the_caller_says(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(provider={"api": "openai-responses"})
    model.script(Reply(chunks=["Thought: bees.", "\nObser", "vation: none", " and more"]))

    end = answer(ask(runtime, "hi", params=SamplingParams(stop=("\nObservation:",))))

    assert (end.text, end.finish_reason) == ("Thought: bees.", "stop")
    assert "stop" not in model.requests[-1].body
