"""Tools of the client: against a real gateway, by the official SDK and byte by byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest
from openai import OpenAI

from app.providers.embedded import find_weights
from tests.e2e.conftest import StartGateway
from tests.e2e.folding import folded
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import Answer, chat, open_stream, send, stream_events
from tests.scripted_provider import Reply, ScriptedProvider, call

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock", "description": "The time."}}
TOOLS = [WEATHER, CLOCK]
USER = {"role": "user", "content": "hi"}
ULM = '{"city": "Ulm"}'


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{gateway.base_url}/v1",
        api_key=TOKEN,
        max_retries=0,
        timeout=20,
        _strict_response_validation=True,
    ) as client:
        yield client


def ask(gateway: GatewayProcess, *messages: Any, session: str | None = None, **fields: Any) -> Answer:
    body = {"model": "openclaw", "messages": messages, "tools": TOOLS} | fields
    return send(gateway, body, headers={"x-openclaw-session-key": session} if session else None)


def message(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer
    if answer.headers["content-type"].startswith("text/event-stream"):
        return cast("dict[str, Any]", folded(stream_events(answer.body))["choices"][0]["message"])
    return cast("dict[str, Any]", answer.json["choices"][0]["message"])


def spoken(provider: ScriptedProvider) -> list[Any]:
    """What the model was sent last, without the system prompt."""
    return [m for m in provider.requests[-1].body["messages"] if m["role"] != "system"]


STREAMED = [{}, {"stream": True, "stream_options": {"include_usage": True}}]


# the SDK


def test_the_sdk_gets_calls_and_gives_their_results(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(
        Reply(tool_calls=[call("weather", ULM, "call_a"), call("clock", {}, "call_b")]),
        Reply("Sunny at noon."),
    )
    messages: list[Any] = [USER]

    completion = client.chat.completions.create(model="openclaw", messages=messages, tools=cast("Any", TOOLS))
    [choice] = completion.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = choice.message.tool_calls or []
    assert [(one.id, one.type) for one in calls] == [("call_a", "function"), ("call_b", "function")]

    messages.append(choice.message)
    messages += [{"role": "tool", "tool_call_id": one.id, "content": f"of {one.id}"} for one in calls]
    answer = client.chat.completions.create(model="openclaw", messages=messages, tools=cast("Any", TOOLS))

    assert answer.choices[0].message.content == "Sunny at noon."
    asked, called, first, second = spoken(provider)
    assert asked["content"] == "hi"
    assert [one["id"] for one in called["tool_calls"]] == ["call_a", "call_b"]
    assert (first["tool_call_id"], first["content"]) == ("call_a", "of call_a")
    assert (second["tool_call_id"], second["content"]) == ("call_b", "of call_b")


def test_the_sdks_stream_helper_puts_the_calls_together(client: OpenAI, provider: ScriptedProvider) -> None:
    long = json.dumps({"city": "Ü👍" * 400}, ensure_ascii=False)
    provider.script(Reply("Look:", tool_calls=[call("weather", long, "a"), call("clock", {}, "b")]))

    with client.chat.completions.stream(
        model="openclaw", messages=[cast("Any", USER)], tools=cast("Any", TOOLS)
    ) as stream:
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        completion = stream.get_final_completion()

    [choice] = completion.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Look:")
    weather, clock = choice.message.tool_calls or []
    assert (weather.id, weather.function.arguments, weather.function.name) == ("a", long, "weather")
    assert (clock.id, clock.function.arguments) == ("b", "{}")
    assert len(pieces) > 3


def test_the_sdk_sees_a_demand_that_is_not_met_as_an_error_of_the_server(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    for stream in (False, True):
        provider.script(Reply("No."), Reply("I said no."))
        with pytest.raises(openai.APIError) as caught:
            list(
                client.chat.completions.create(
                    model="openclaw",
                    messages=[cast("Any", USER)],
                    tools=cast("Any", TOOLS),
                    tool_choice="required",
                    stream=stream,
                )
            )
        assert caught.value.code == "invalid_answer"
        assert caught.value.param == "tool_choice"
        assert isinstance(caught.value, openai.InternalServerError) is not stream


def test_the_sdk_is_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="openclaw", messages=[cast("Any", USER)], tools=cast("Any", [WEATHER, WEATHER])
        )
    assert caught.value.param == "tools[1].function.name"


# the wire


def test_the_chunks_of_a_call(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    text = "x" * 600
    provider.script(Reply("Hm.", tool_calls=[call("weather", {"city": text}, "c1")]))

    *chunks, done = stream_events(ask(gateway, USER, stream=True).body)

    assert done == "[DONE]"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [
        "tool_calls"
    ]
    role, *rest, last = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert role == {"role": "assistant", "content": None, "refusal": None}
    assert last == {}
    head = next(delta for delta in rest if "tool_calls" in delta)
    assert head == {
        "tool_calls": [
            {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        ]
    }
    pieces = [d["tool_calls"][0] for d in rest[rest.index(head) + 1 :]]
    assert all(set(piece) == {"index", "function"} and piece["index"] == 0 for piece in pieces)
    assert all(set(piece["function"]) == {"arguments"} for piece in pieces)
    arguments = [piece["function"]["arguments"] for piece in pieces]
    assert [len(piece) for piece in arguments] == [256, 256, 100]
    assert json.loads("".join(arguments)) == {"city": text}


@pytest.mark.parametrize("fields", STREAMED, ids=["whole", "streamed"])
def test_functions_of_old_are_called_as_they_always_were(
    gateway: GatewayProcess, provider: ScriptedProvider, fields: dict[str, Any]
) -> None:
    provider.script(Reply(tool_calls=[call("weather", ULM, "call_a")]), Reply("Sunny."))
    functions = {"tools": None, "functions": [WEATHER["function"]], **fields}

    answer = ask(gateway, USER, **functions)
    called = message(answer)

    assert called == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "function_call": {"name": "weather", "arguments": ULM},
    }
    assert b'"finish_reason":"function_call"' in answer.body
    result = {"role": "function", "name": "weather", "content": "sun"}
    assert message(ask(gateway, USER, called, result, **functions))["content"] == "Sunny."
    assert spoken(provider)[-1]["content"] == "sun"


@pytest.mark.parametrize("fields", STREAMED, ids=["whole", "streamed"])
@pytest.mark.parametrize("everything", [True, False], ids=["all is sent again", "only the results are sent"])
def test_a_kept_session_takes_results_as_they_are(
    gateway: GatewayProcess,
    provider: ScriptedProvider,
    fields: dict[str, Any],
    everything: bool,
    request: Any,
) -> None:
    session = f"tools-{request.node.callspec.id}".replace(" ", "-")
    provider.script(
        Reply("Mine.", tool_calls=[call("session_status", {}, "c0")]),
        Reply("Yours.", tool_calls=[call("weather", ULM, "c1"), call("clock", {}, "c2")]),
        Reply("Sunny at noon."),
    )

    called = message(ask(gateway, USER, session=session, **fields))
    results = [
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]
    before = [USER, called] if everything else []
    last = message(ask(gateway, *before, *results, session=session, **fields))

    assert called["content"] == "Mine.\n\nYours."
    assert [one["id"] for one in called["tool_calls"]] == ["c1", "c2"]
    assert last["content"] == "Sunny at noon."
    told = spoken(provider)
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "assistant", "tool", "tool"]
    assert [(m["tool_call_id"], m["content"]) for m in told[-2:]] == [("c1", "sun"), ("c2", "noon")]
    with_session = gateway.store()
    try:
        history = with_session.load(f"agent:main:{session}").history or with_session.load(session).history
    finally:
        with_session.close()
    assert len(history) == 7


def test_results_of_a_user_are_those_of_a_kept_session(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(tool_calls=[call("weather", ULM, "c1")]), Reply("Sunny."))

    ask(gateway, USER, user="tool-user")
    answer = ask(gateway, {"role": "tool", "tool_call_id": "c1", "content": "sun"}, user="tool-user")

    assert answer.text == "Sunny."
    assert [m["role"] for m in spoken(provider)] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("session", [None, "tools-unknown"])
def test_a_result_that_answers_no_call_is_a_bad_request(gateway: GatewayProcess, session: str | None) -> None:
    answer = ask(gateway, {"role": "tool", "tool_call_id": "c9", "content": "?"}, session=session)

    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("unknown_tool_call", "messages")


def test_tools_that_must_not_be_called_are_not_offered(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert ask(gateway, USER, tool_choice="none").text == "echo: hi"
    offered = [tool["function"]["name"] for tool in provider.requests[-1].body.get("tools", [])]
    assert not {"weather", "clock"} & set(offered)


def test_who_leaves_while_an_answer_is_held_back_cancels_the_run(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("word " * 50, tool_calls=[call("clock")], hang_after=20))
    with open_stream(gateway, tools=TOOLS, tool_choice="required") as connection:
        assert next(connection.events())["choices"][0]["delta"]["role"] == "assistant"
        assert provider.wait_for_requests(1)

    wait_until(lambda: provider.disconnects == 1, 10, "the model call to end")
    assert chat(gateway).text == "echo: hi"


def test_a_model_that_calls_no_tools_is_not_asked_to(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway(models={"providers": {"scripted": {"compat": {"supportsTools": False}}}})

    refused = ask(gateway, USER, tool_choice="required")
    answered = ask(gateway, USER)

    assert (refused.status, refused.error["param"]) == (400, "tool_choice")
    assert answered.text == "echo: hi"
    assert "tools" in answered.headers["openclaw-ignored"]
    assert "tools" not in provider.requests[-1].body


def test_the_built_in_model_calls_a_tool_if_it_has_to(start_gateway: StartGateway) -> None:
    if find_weights(None) is None:
        pytest.skip("the weights are not installed")
    gateway = start_gateway(agents={"defaults": {"model": "embedded/smollm2-135m"}})
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    named = {"type": "function", "function": {"name": "weather"}}

    called = message(ask(gateway, USER, tools=[strict, CLOCK], tool_choice=named))
    [one] = called["tool_calls"]
    result = {"role": "tool", "tool_call_id": one["id"], "content": "It is sunny."}
    answer = ask(gateway, USER, called, result, tools=[strict], max_tokens=20)

    assert one["function"]["name"] == "weather"
    assert isinstance(json.loads(one["function"]["arguments"])["city"], str)
    assert answer.status == 200
    assert answer.text
    assert answer.headers["openclaw-ignored"] == "tools"
