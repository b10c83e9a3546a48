"""The official OpenAI Python SDK: its helpers for streams, objects and tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.openai_client import sdk
from tests.e2e.tool_runs import asking, endings, results, user_session
from tests.scripted_provider import Reply, ScriptedProvider


class Course(BaseModel):
    dish: str
    vegan: bool | None


class Menu(BaseModel):
    courses: list[Course]
    guests: int


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="its name")


MENU = {"courses": [{"dish": "soup", "vegan": True}, {"dish": "pie", "vegan": None}], "guests": 4}
WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with sdk(gateway) as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


# --- streams ---


def test_the_stream_helper_tells_of_each_piece_and_of_the_whole(client: OpenAI) -> None:
    usage: Any = {"include_usage": True}
    with client.chat.completions.stream(
        model="openclaw", messages=user("one two"), stream_options=usage
    ) as stream:
        events = list(stream)
        completion = stream.get_final_completion()
    deltas = [event for event in events if event.type == "content.delta"]
    assert "".join(event.delta for event in deltas) == deltas[-1].snapshot == "echo: one two"
    assert [event.content for event in events if event.type == "content.done"] == ["echo: one two"]
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 18


# --- objects ---


def test_parse_gives_an_object_of_a_pydantic_model(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply(json.dumps(MENU)))
    completion = client.chat.completions.parse(
        model="openclaw", messages=user("what is for dinner?"), response_format=Menu
    )
    assert completion.choices[0].message.parsed == Menu.model_validate(MENU)
    asked = provider.requests[0].body["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"]) == ("Menu", True)


def test_the_stream_helper_parses_what_it_has_so_far(client: OpenAI, provider: ScriptedProvider) -> None:
    text = json.dumps(MENU)
    provider.script(Reply(chunks=[text[i : i + 5] for i in range(0, len(text), 5)]))
    with client.chat.completions.stream(
        model="openclaw", messages=user("what is for dinner?"), response_format=Menu
    ) as stream:
        events = list(stream)
    [done] = [event for event in events if event.type == "content.done"]
    assert done.parsed == Menu.model_validate(MENU)


# --- tools ---


def test_a_call_has_its_arguments_as_an_object_of_a_pydantic_model(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    provider.script(asking(("get_weather", {"city": "Rome"})))
    completion = client.chat.completions.parse(
        model="openclaw", messages=user("how is the weather?"), tools=[WEATHER]
    )
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Rome")


def test_streamed_calls_come_piece_by_piece_and_whole(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(asking(("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})))
    with client.chat.completions.stream(
        model="openclaw", messages=user("how is the weather?"), tools=[WEATHER]
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.index, event.parsed_arguments) for event in done] == [
        (0, GetWeather(city="Rome")),
        (1, GetWeather(city="Oslo")),
    ]
    for event in done:
        pieces = [
            piece.arguments_delta
            for piece in events
            if piece.type == "tool_calls.function.arguments.delta" and piece.index == event.index
        ]
        assert "".join(pieces) == event.arguments
    ids = [call.id for call in message.tool_calls or []]
    assert len(set(ids)) == 2
    assert all(ids)


@pytest.mark.parametrize("name", [None, "ada-with-tools"], ids=["keyless", "kept"])
def test_the_results_of_the_clients_tools_go_to_the_model(
    name: str | None, client: OpenAI, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(asking(("get_weather", {"city": "Rome"}), text="I look."), Reply("It is clear."))
    options: Any = {"model": "openclaw", "tools": [WEATHER], **({"user": name} if name else {})}
    question = user("how is the weather?")

    first = client.chat.completions.create(messages=question, **options).choices[0].message
    [call] = first.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "clear sky"}
    follow_up: Any = [*question, first.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(messages=follow_up, **options).choices[0].message

    assert (first.content, second.content) == ("I look.", "It is clear.")
    received = provider.requests[1]
    assert results(received) == ["clear sky"]
    assert [message["role"] for message in received.body["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    if name:
        assert endings(gateway, user_session(name)) == ["completed"] * 2


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=str
)
def test_a_tool_choice_is_the_models_too(choice: Any, client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(asking(("get_weather", {"city": "Rome"})))
    completion = client.chat.completions.create(
        model="openclaw", messages=user("hi"), tools=[WEATHER], tool_choice=choice
    )
    [call] = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    assert provider.requests[0].body["tool_choice"] == choice
