"""The official OpenAI Python SDK and ``/v1/responses``, its strict validation switched on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.lib.responses_tool_runner import RegisteredFunction, ResponsesToolRunner
from pydantic import BaseModel

from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.openai_client import async_sdk, sdk
from tests.e2e.tool_runs import asking, results
from tests.scripted_provider import Reply, ScriptedProvider, Status


class Menu(BaseModel):
    dish: str
    courses: int


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str


@pytest.fixture
def client(generous: GatewayProcess) -> Iterator[OpenAI]:
    with sdk(generous) as client:
        yield client


def test_it_responds(client: OpenAI, provider: ScriptedProvider) -> None:
    response = client.responses.create(model="openclaw:beta", instructions="be brief", input="hi")
    assert (response.output_text, response.status, response.model) == (
        "echo: hi",
        "completed",
        "openclaw:beta",
    )
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (11, 7)
    assert "be brief" in provider.requests[0].body["messages"][0]["content"]


def test_the_raw_response_names_the_run(client: OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model="openclaw", input="hi")
    assert raw.headers["content-type"] == "application/json"
    assert raw.headers["x-request-id"]
    assert raw.parse().output_text == "echo: hi"


def test_a_response_is_continued_retrieved_and_deleted(client: OpenAI, provider: ScriptedProvider) -> None:
    first = client.responses.create(model="openclaw", input="my name is Ada")
    parts: Any = [{"role": "user", "content": [{"type": "input_text", "text": "who am I?"}]}]
    second = client.responses.create(model="openclaw", input=parts, previous_response_id=first.id)
    assert second.output_text == "echo: who am I?"
    said = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert said == ["my name is Ada", "echo: my name is Ada", "who am I?"]
    assert client.responses.retrieve(first.id).output_text == "echo: my name is Ada"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_what_is_not_to_be_stored_is_not_found(client: OpenAI) -> None:
    response = client.responses.create(model="openclaw", input="hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_in_the_background_is_polled(client: OpenAI) -> None:
    response = client.responses.create(model="openclaw", input="hi", background=True)
    assert response.status in {"queued", "in_progress", "completed"}
    wait_until(lambda: client.responses.retrieve(response.id).status == "completed")
    assert client.responses.retrieve(response.id).output_text == "echo: hi"


def test_the_stream_helper_puts_the_response_together(client: OpenAI) -> None:
    with client.responses.stream(model="openclaw", input="one two") as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert response.output_text == "echo: one two"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "echo: one two"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")


def test_the_async_client_streams(generous: GatewayProcess) -> None:
    async def stream() -> str:
        async with async_sdk(generous) as client:
            events = await client.responses.create(model="openclaw", input="one two", stream=True)
            deltas = [event.delta async for event in events if event.type == "response.output_text.delta"]
        return "".join(deltas)

    assert asyncio.run(stream()) == "echo: one two"


def test_parse_gives_an_object_of_a_pydantic_model(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply('{"dish": "soup", "courses": 1}'))
    response = client.responses.parse(model="openclaw", input="what is for dinner?", text_format=Menu)
    assert response.output_parsed == Menu(dish="soup", courses=1)
    asked = provider.requests[0].body["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"]) == ("Menu", True)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_tool_runner_calls_the_functions_of_the_client(
    stream: bool, client: OpenAI, provider: ScriptedProvider
) -> None:
    asked: list[str] = []

    def weather(arguments: GetWeather) -> str:
        asked.append(arguments.city)
        return f"clear in {arguments.city}"

    provider.script(
        asking(("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})), Reply("It is clear.")
    )
    tool = openai.pydantic_responses_function_tool(GetWeather, name="get_weather")
    runner = ResponsesToolRunner(functions=[RegisteredFunction.from_tool(tool, execute=weather)])
    response = runner.run(
        client, {"model": "openclaw", "input": "how is the weather?"}, max_steps=3, stream=stream
    )
    assert (asked, response.output_text) == (["Rome", "Oslo"], "It is clear.")
    assert results(provider.requests[-1]) == ["clear in Rome", "clear in Oslo"]


def test_errors_have_the_classes_of_the_sdk(client: OpenAI, generous: GatewayProcess) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="openclaw:nobody", input="hi")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="openclaw", input="hi", temperature=3)
    assert caught.value.param == "temperature"
    with sdk(generous, "wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.responses.create(model="openclaw", input="hi")


def test_a_failing_provider_is_never_an_answer(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(*[Status(500, {"error": {"message": "sk-scripted is bad"}})] * 3)
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="openclaw", input="hi")
    assert caught.value.code == "provider_error"
    assert "sk-scripted" not in json.dumps(caught.value.body)


def test_the_endpoint_is_off_until_it_is_switched_on(gateway: GatewayProcess) -> None:
    with sdk(gateway) as client, pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="openclaw", input="hi")
    assert caught.value.code == "endpoint_disabled"
