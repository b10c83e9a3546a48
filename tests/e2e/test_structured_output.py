"""Answers in JSON through a real gateway: whoever asks for a form gets it, or an error, never half of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from app.providers.embedded import find_weights
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.http_client import Answer, chat_body, open_stream, send
from tests.e2e.openai_client import sdk
from tests.e2e.tool_runs import asking, system_prompt
from tests.scripted_provider import Reply, ScriptedProvider, call

OBJECT = {"type": "json_object"}


class Step(BaseModel):
    explanation: str
    output: str


class Solution(BaseModel):
    steps: list[Step]
    answer: int
    certainty: Literal["low", "high"] | None


SOLVED = Solution(steps=[Step(explanation="add", output="2 + 2 = 4")], answer=4, certainty="high")
GOOD = SOLVED.model_dump_json()
BAD = '{"steps": [], "answer": "four", "certainty": null}'
TOLD = "$.answer: 'four' is not of type 'integer'."


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with sdk(gateway) as client:
        yield client


def parsed(client: OpenAI, *, stream: bool) -> Solution | None:
    asked: dict[str, Any] = {
        "model": "openclaw",
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "response_format": Solution,
    }
    if not stream:
        return client.chat.completions.parse(**asked).choices[0].message.parsed
    with client.chat.completions.stream(**asked) as events:
        return events.get_final_completion().choices[0].message.parsed


def ask(gateway: GatewayProcess, text: str = "hi", wanted: Any = OBJECT, **fields: Any) -> Answer:
    return send(gateway, chat_body(text, response_format=wanted, **fields))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "reply", [GOOD, f"```json\n{GOOD}\n```", f"Here you are:\n\n{GOOD}\n\nAnything else?"]
)
def test_the_sdk_parses_an_answer_into_a_model(
    client: OpenAI, provider: ScriptedProvider, reply: str, stream: bool
) -> None:
    provider.script(Reply(reply))

    assert parsed(client, stream=stream) == SOLVED

    [received] = provider.requests
    asked = received.body["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"]) == ("Solution", True)
    # The server is not known to enforce anything, so the model is told as well, at the very end.
    before, _, told = system_prompt(received).rpartition("\n")
    assert json.loads(told) == asked["schema"]
    assert "read by a program" in before


@pytest.mark.parametrize("stream", [False, True])
def test_a_violation_is_repaired_and_nobody_sees_it(
    client: OpenAI, provider: ScriptedProvider, stream: bool
) -> None:
    provider.script(Reply(BAD), Reply(GOOD))

    assert parsed(client, stream=stream) == SOLVED

    objection = provider.requests[1].body["messages"][-2:]
    assert objection[0] == {"role": "assistant", "content": BAD}
    assert TOLD in objection[1]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_violation_is_an_error(client: OpenAI, provider: ScriptedProvider, stream: bool) -> None:
    provider.script(Reply(BAD), Reply(BAD), Reply(GOOD))

    with pytest.raises(openai.APIError) as caught:
        parsed(client, stream=stream)

    assert caught.value.code == "invalid_answer"
    assert caught.value.param == "response_format"
    assert TOLD in caught.value.message
    if not stream:
        assert isinstance(caught.value, openai.InternalServerError)
        assert caught.value.status_code == 502
    assert len(provider.requests) == 2


def test_an_answer_that_was_cut_off_is_passed_on_as_it_is(
    gateway: GatewayProcess, client: OpenAI, provider: ScriptedProvider
) -> None:
    provider.script(*[Reply('{"steps": [{"expl', finish_reason="length")] * 2)

    cut = ask(gateway)

    assert (cut.text, cut.json["choices"][0]["finish_reason"]) == ('{"steps": [{"expl', "length")
    with pytest.raises(openai.LengthFinishReasonError):
        parsed(client, stream=False)


def test_json_mode_needs_no_word_of_json_in_the_messages(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply('{"a": [1]}'))

    assert ask(gateway, "a list, please").text == '{"a": [1]}'

    [received] = provider.requests
    assert received.body["response_format"] == OBJECT
    assert "JSON object" in system_prompt(received)


def test_without_a_form_nothing_is_said_of_one(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    assert ask(gateway, "hi", {"type": "text"}).text == "echo: hi"
    assert "JSON" not in system_prompt(provider.requests[0])


def test_the_prompt_that_is_cached_is_the_same_with_a_form(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("hello"), Reply("{}"))

    ask(gateway, "hi", None)
    ask(gateway)

    plain, formed = map(system_prompt, provider.requests)
    assert formed.startswith(plain)


def test_the_agents_own_tools_come_first_and_only_the_last_message_is_the_answer(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    looking = asking(("session_status", {}), text="I will look it up.")
    provider.script(looking, Reply('{"a": 1}'), looking, Reply('{"a": 1}'))

    whole, stream = ask(gateway), ask(gateway, stream=True)

    assert whole.text == stream.text == '{"a": 1}'


def test_calls_of_the_clients_tools_are_no_answer_to_be_checked(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    provider.script(Reply("Let me see.", tool_calls=[call("weather", {"city": "Bonn"})]))

    answer = ask(gateway, tools=[weather])

    [choice] = answer.json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_while_it_is_held_a_stream_is_kept_alive_and_then_comes_in_pieces(
    hasty: GatewayProcess, provider: ScriptedProvider
) -> None:
    text = json.dumps({"words": ["word"] * 200})
    provider.script(Reply(chunks=[text[:500], text[500:]], delay=0.7))

    with open_stream(hasty, response_format=OBJECT) as connection:
        lines = list(connection.lines())

    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    said = [event for event in events if '"content":"' in event and '"role"' not in event]
    alive = [number for number, line in enumerate(lines) if line == ": keepalive"]
    assert len(alive) >= 3
    assert max(alive) < lines.index(f"data: {said[0]}")
    assert len(said) >= 3
    assert "".join(json.loads(event)["choices"][0]["delta"]["content"] for event in said) == text
    assert events[-1] == "[DONE]"


def test_a_kept_conversation_holds_the_answer_and_not_what_was_wrong_with_the_first(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("no json"), Reply('Sure: {"a": 1}'), Reply("later"))

    assert ask(gateway, "first", user="structured-and-kept").text == '{"a": 1}'
    ask(gateway, "second", None, user="structured-and-kept")

    said = [(m["role"], m["content"]) for m in provider.requests[2].body["messages"][1:]]
    assert said == [("user", "first"), ("assistant", '{"a": 1}'), ("user", "second")]


# what is refused


@pytest.mark.parametrize(
    ("stated", "param", "said"),
    [
        ({"name": "a b", "schema": {}}, "name", "must be 1 to 64"),
        ({"schema": {}}, "name", "must be 1 to 64"),
        ({"name": "x", "schema": []}, "schema", "must be an object"),
        ({"name": "x", "schema": {"type": "objet"}}, "schema", "$.type: 'objet' is not"),
        ({"name": "x", "schema": {"$ref": "https://example.com/x"}}, "schema", "nothing is fetched"),
        ({"name": "x", "schema": {"pattern": "("}}, "schema", "cannot be read"),
        ({"name": "x", "schema": {"enum": ["x" * 1000] * 200}}, "schema", "at most 131072 are taken"),
        ({"name": "x", "schema": {"enum": ["x" * 100] * 200, "type": 1}}, "schema", "$.type: 1 is not"),
        ({"name": "x", "strict": "yes"}, "strict", "must be a boolean"),
        ({"name": "x", "description": 1}, "description", "must be a string"),
    ],
)
def test_a_form_that_cannot_be_is_refused_by_name(
    gateway: GatewayProcess, provider: ScriptedProvider, stated: Any, param: str, said: str
) -> None:
    refused = ask(gateway, wanted={"type": "json_schema", "json_schema": stated})

    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
    assert refused.error["param"] == f"response_format.json_schema.{param}"
    assert said in refused.error["message"]
    assert provider.requests == []


def test_a_schema_made_to_take_for_ever_holds_up_nobody(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    hostile = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    answer = json.dumps({"a": "a" * 60 + "!"})
    provider.script(Reply(answer))
    answers: list[Answer] = []

    def wait() -> None:
        answers.append(
            ask(gateway, wanted={"type": "json_schema", "json_schema": {"name": "x", "schema": hostile}})
        )

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert provider.wait_for_requests(1)
    quick = 0
    while waiting.is_alive():
        assert send(gateway, chat_body("quick")).status == 200
        quick += 1
    waiting.join()

    assert quick > 20
    assert answers[0].status == 502
    assert any("cannot be checked" in str(received.body["messages"]) for received in provider.requests)


# the real thing


def test_the_built_in_model_is_held_to_a_schema(start_gateway: StartGateway) -> None:
    if find_weights(None) is None:
        pytest.skip("the weights are not installed")
    gateway = start_gateway(agents={"defaults": {"model": "embedded/smollm2-135m"}})

    class Place(BaseModel):
        city: Literal["Paris", "Rome"]
        visited: bool

    class Trip(BaseModel):
        first: Place
        marks: list[Literal["good", "bad"]]

    asked: dict[str, Any] = {
        "model": "openclaw",
        "messages": [{"role": "user", "content": "I went to Rome. It was good."}],
        "response_format": Trip,
        "max_tokens": 200,
        "temperature": 0,
    }
    with sdk(gateway) as client:
        whole = client.chat.completions.parse(**asked).choices[0].message
        with client.chat.completions.stream(**asked) as events:
            streamed = events.get_final_completion().choices[0].message
        any_object = client.chat.completions.create(
            **asked | {"response_format": OBJECT, "max_tokens": 300}
        ).choices[0]

    assert isinstance(whole.parsed, Trip)
    assert isinstance(streamed.parsed, Trip)
    assert any_object.finish_reason == "length" or isinstance(
        json.loads(any_object.message.content or ""), dict
    )
