"""``/v1/responses`` by the official OpenAI SDK and by raw bytes, against a real gateway."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import Answer, Connection, request_bytes, send
from tests.e2e.published_schemas import check
from tests.scripted_provider import Hang, Received, Reply, ScriptedProvider, Status, call

PATH = "/v1/responses"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
SWITCHES = {"responses": {"enabled": True}}


@pytest.fixture(scope="module")
def gateway(start_gateway: StartGateway) -> GatewayProcess:
    return start_gateway(gateway={"http": {"endpoints": SWITCHES, "keepAliveSeconds": 0.3}})


@pytest.fixture(scope="module")
def mortal(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """A gateway that is stopped and killed."""
    gateway = start_gateway(gateway={"http": {"endpoints": SWITCHES}})
    yield gateway
    gateway.stop()
    assert "Traceback" not in gateway.log


def sdk(gateway: GatewayProcess) -> OpenAI:
    return OpenAI(
        base_url=f"{gateway.base_url}/v1",
        api_key=TOKEN,
        max_retries=0,
        timeout=20,
        _strict_response_validation=True,
    )


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with sdk(gateway) as client:
        yield client


def ask(client: OpenAI, text: Any = "hi", **fields: Any) -> Response:
    response = client.responses.create(model="openclaw", input=text, **fields)
    assert isinstance(response, Response)
    return response


def post(gateway: GatewayProcess, text: Any = "hi", /, *, headers: Any = None, **fields: Any) -> Answer:
    return send(gateway, {"input": text, **fields}, path=PATH, headers=headers)


def get(gateway: GatewayProcess, path: str, method: str = "GET") -> Answer:
    return send(gateway, method=method, path=f"{PATH}/{path}")


def open_stream(gateway: GatewayProcess, text: Any = "hi", /, **fields: Any) -> Connection:
    return _open(gateway, request_bytes({"input": text, "stream": True, **fields}, path=PATH))


def reopen(gateway: GatewayProcess, response_id: str, after: int) -> Connection:
    path = f"{PATH}/{response_id}?stream=true&starting_after={after}"
    return _open(gateway, request_bytes(method="GET", path=path))


def _open(gateway: GatewayProcess, request: bytes) -> Connection:
    connection = Connection(gateway)
    _, status, headers = connection.send(request).read_head()
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    return connection


def read(stream: Connection) -> list[Any]:
    """All events of a stream that begins with the first and is read to its end."""
    with stream:
        *events, done = stream.events()
    assert done == "[DONE]"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check("ResponseStreamEvent", event)
    return events


def text_of(body: Any) -> str:
    messages = [item for item in body["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


def deltas(events: list[Any]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


def conversation(received: Received) -> list[tuple[str, Any]]:
    """Roles and texts of a model call, without the system prompt."""
    return [(m["role"], m["content"]) for m in received.body["messages"] if m["role"] != "system"]


def asked(received: Received) -> list[Any]:
    return [content for role, content in conversation(received) if role == "user"]


def system(received: Received) -> str:
    return "\n".join(str(m["content"]) for m in received.body["messages"] if m["role"] == "system")


def steady(body: Any) -> Any:
    """A body without what differs from one response to the next."""
    output = [{**item, "id": ""} for item in body["output"]]
    return {**body, "id": "", "created_at": 0, "completed_at": 0, "output": output}


# --- one response ---


def test_a_text_is_answered(client: OpenAI) -> None:
    response = ask(client, "grüß dich", instructions="be kind", metadata={"a": "b"})
    assert response.id.startswith("resp_")
    assert (response.status, response.output_text) == ("completed", "echo: grüß dich")
    assert (response.instructions, response.metadata, response.model) == ("be kind", {"a": "b"}, "openclaw")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (
        11,
        7,
        18,
    )
    assert response.completed_at is not None
    assert response.completed_at >= response.created_at


def test_headers_tell_of_the_run(gateway: GatewayProcess) -> None:
    answer = post(gateway, future_field=1)
    assert answer.headers["x-request-id"] == answer.json["id"]
    assert answer.headers["openclaw-ignored"] == "future_field"
    assert int(answer.headers["x-ratelimit-remaining-requests"]) > 0
    assert answer.headers["cache-control"] == "no-store"


def test_instructions_and_items_reach_the_model(client: OpenAI, provider: ScriptedProvider) -> None:
    items: Any = [
        {"role": "developer", "content": "be an owl"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    ask(client, items, instructions="be brief", temperature=0.5, max_output_tokens=77)
    sent = provider.requests[-1]
    assert conversation(sent) == [("user", "one"), ("assistant", "two"), ("user", "three")]
    assert "be brief\n\nbe an owl" in system(sent)
    assert sent.body["temperature"] == 0.5
    assert 77 in (sent.body.get("max_tokens"), sent.body.get("max_completion_tokens"))


def test_the_stream_helper_puts_the_response_together(client: OpenAI) -> None:
    kinds = []
    with client.responses.stream(model="openclaw", input="one two") as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_response()
    assert final.output_text == "echo: one two"
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


@pytest.mark.parametrize(
    ("reply", "fields"),
    [
        (Reply("one two three"), {}),
        (Reply("cut", finish_reason="length"), {}),
        (Reply("", finish_reason="length"), {}),
        (Reply("Well.", tool_calls=[call("weather", {"city": "Bonn" * 300})]), {"tools": [WEATHER]}),
        (Reply("yes", reasoning="Hm. Well."), {"reasoning": {"summary": "auto"}}),
        (Reply("yes", reasoning="Hm. Well."), {}),
        (Reply('{"a": 1}'), {"text": {"format": {"type": "json_object"}}}),
    ],
)
def test_the_stream_ends_with_the_very_body(
    reply: Reply, fields: dict[str, Any], gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.on("same", reply)
    whole = post(gateway, "the same", **fields).json
    events = read(open_stream(gateway, "the same", **fields))
    last = events[-1]["response"]
    assert steady(last) == steady(whole)
    assert deltas(events) == text_of(whole)
    assert last == get(gateway, last["id"]).json


def test_a_cut_answer_is_incomplete(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply("cut off", finish_reason="length"))
    response = ask(client)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_reasoning_is_shown_on_request(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.on("think", Reply("yes", reasoning="Hm. Well."))
    shown = ask(client, "think", reasoning={"summary": "auto"})
    assert [item.type for item in shown.output] == ["reasoning", "message"]
    assert [item.type for item in ask(client, "think").output] == ["message"]


class City(BaseModel):
    name: str
    people: int


def test_an_answer_is_parsed_into_a_model(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply('{"name": "Bonn", "people": 330000}'))
    response = client.responses.parse(model="openclaw", input="a city", text_format=City)
    assert response.output_parsed == City(name="Bonn", people=330_000)
    provider.script(Reply("Bonn!"), Reply("Bonn, I said!"))
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.parse(model="openclaw", input="a city", text_format=City)
    assert (caught.value.status_code, caught.value.param) == (502, "text.format")


def test_a_chat_of_users_own_session_goes_on(client: OpenAI, provider: ScriptedProvider) -> None:
    ask(client, "one", user="Alice", store=False)
    ask(client, "two", user="alice ", store=False)
    assert asked(provider.requests[-1]) == ["one", "two"]
    ask(client, "three", extra_headers={"x-openclaw-session-key": "agent:main:openresponses-user:alice"})
    assert asked(provider.requests[-1]) == ["one", "two", "three"]


# --- tools of the client ---


@pytest.mark.parametrize("store", [True, False])
def test_a_function_is_called_and_its_result_answered(
    client: OpenAI, provider: ScriptedProvider, *, store: bool
) -> None:
    provider.script(Reply("", tool_calls=[call("weather", {"city": "Bonn"}, "call_7")]), Reply("It rains."))
    first = ask(client, "weather in Bonn?", tools=[WEATHER], store=store)
    (item,) = first.output
    assert item.type == "function_call"
    assert (item.call_id, item.name, item.arguments) == ("call_7", "weather", '{"city": "Bonn"}')
    result: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
    if store:
        second = ask(client, [result], previous_response_id=first.id, tools=[WEATHER])
    else:
        history: list[Any] = [
            {"role": "user", "content": "weather in Bonn?"},
            item.model_dump(exclude_none=True),
        ]
        second = ask(client, [*history, result], tools=[WEATHER], store=False)
    assert second.output_text == "It rains."
    sent = provider.requests[-1].body["messages"]
    roles = [m["role"] for m in sent if m["role"] != "system"]
    assert roles == ["user", "assistant", "tool"]
    assert (sent[-1]["tool_call_id"], sent[-1]["content"]) == ("call_7", "rain")


def test_a_result_of_no_call_is_refused(gateway: GatewayProcess, client: OpenAI) -> None:
    result = {"type": "function_call_output", "call_id": "call_nobody", "output": "rain"}
    error = post(gateway, [result]).error
    assert (error["param"], error["code"]) == ("input", "unknown_tool_call")
    first = ask(client, "hi")
    assert post(gateway, [result], previous_response_id=first.id).error["code"] == "unknown_tool_call"


def test_a_call_is_streamed_in_pieces(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply("", tool_calls=[call("weather", {"city": "B" * 1000})]))
    with client.responses.stream(model="openclaw", input="hi", tools=[WEATHER]) as stream:
        events = list(stream)
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    whole = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    assert len(pieces) > 3
    assert ["".join(pieces)] == whole


# --- chains ---


def test_a_chain_remembers_what_was_said(client: OpenAI, provider: ScriptedProvider) -> None:
    first = ask(client, [{"role": "developer", "content": "be an owl"}, {"role": "user", "content": "one"}])
    second = ask(client, "two", previous_response_id=first.id, instructions="be brief")
    third = ask(client, "three", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    sent = provider.requests[-1]
    assert [content for _, content in conversation(sent)] == ["one", "echo: one", "two", "echo: two", "three"]
    assert "be an owl" in system(sent)
    assert "be brief" not in system(sent)


def test_two_who_follow_one_response_do_not_hear_each_other(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    first = ask(client, "one")
    ask(client, "left", previous_response_id=first.id)
    assert asked(provider.requests[-1]) == ["one", "left"]
    right = ask(client, "right", previous_response_id=first.id)
    assert asked(provider.requests[-1]) == ["one", "right"]
    ask(client, "further right", previous_response_id=right.id)
    assert asked(provider.requests[-1]) == ["one", "right", "further right"]


def test_twenty_who_follow_one_response_at_once_do_not_hear_each_other(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    first = ask(client, "one")
    words = [f"word {number}" for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda word: ask(client, word, previous_response_id=first.id), words))
    assert [answer.output_text for answer in answers] == [f"echo: {word}" for word in words]
    assert sorted(asked(r)[-1] for r in provider.requests[1:]) == sorted(words)
    assert all(asked(r)[:-1] == ["one"] for r in provider.requests[1:])


def test_all_input_of_a_chain_is_new(client: OpenAI, provider: ScriptedProvider) -> None:
    first = ask(client, "again")
    items: Any = [
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "made up"},
        {"role": "user", "content": "again"},
    ]
    ask(client, items, previous_response_id=first.id)
    said = [content for _, content in conversation(provider.requests[-1])]
    assert said == ["again", "echo: again", "again", "made up", "again"]


def test_a_response_that_is_not_stored_leaves_nothing(
    client: OpenAI, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    first = ask(client, "one")
    second = ask(client, "two", previous_response_id=first.id, store=False)
    assert asked(provider.requests[-1]) == ["one", "two"]
    assert get(gateway, second.id).status == 404
    assert post(gateway, "x", previous_response_id=second.id).error["code"] == "previous_response_not_found"
    with closing(gateway.store()) as store:
        assert store.load(f"agent:main:openresponses:{second.id.removeprefix('resp_')}").session is None


def test_a_failed_answer_can_be_tried_again(
    client: OpenAI, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    first = ask(client, "one")
    provider.script(Status(400, {"error": {"message": "no", "type": "invalid_request_error"}}))
    failed = post(gateway, "two", previous_response_id=first.id)
    assert failed.status == 400
    stored = get(gateway, failed.headers["x-request-id"]).json
    assert (stored["status"], stored["error"]["code"]) == ("failed", "invalid_prompt")
    assert ask(client, "two", previous_response_id=first.id).output_text == "echo: two"
    assert asked(provider.requests[-1]) == ["one", "two"]


def test_the_agent_of_a_chain_stays(client: OpenAI, gateway: GatewayProcess) -> None:
    first = client.responses.create(model="openclaw/beta", input="one")
    assert ask(client, "two", previous_response_id=first.id).output_text == "echo: two"
    error = post(gateway, "x", previous_response_id=first.id, model="openclaw/main").error
    assert error["param"] == "previous_response_id"


def test_a_refused_run_gives_its_place_in_the_chain_back(
    client: OpenAI, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    first = ask(client, "one")
    refused = post(gateway, [{"role": "assistant", "content": "x"}, {"role": "user", "content": [IMAGE]}],
                   previous_response_id=first.id)  # fmt: skip
    assert refused.error["code"] == "images_not_supported"
    second = ask(client, "two", previous_response_id=first.id)
    with closing(gateway.store()) as store:
        stored, earlier = store.get_response(second.id), store.get_response(first.id)
    assert stored is not None
    assert earlier is not None
    assert stored.session_id == earlier.session_id


IMAGE = {
    "type": "input_image",
    "image_url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==",
}


def test_a_conversation_is_made_by_naming_it(client: OpenAI, provider: ScriptedProvider) -> None:
    first = ask(client, "one", conversation="conv_Made1")
    assert first.conversation is not None
    assert first.conversation.id == "conv_Made1"
    ask(client, "two", conversation={"id": "conv_Made1"})
    assert asked(provider.requests[-1]) == ["one", "two"]
    ask(client, "aside", previous_response_id=first.id)
    assert asked(provider.requests[-1]) == ["one", "aside"]
    ask(client, "three", conversation="conv_Made1")
    assert asked(provider.requests[-1]) == ["one", "two", "three"]


def test_an_item_can_be_sent_by_its_id(client: OpenAI, provider: ScriptedProvider) -> None:
    first = ask(client, "one")
    (given,) = client.responses.input_items.list(first.id)
    items: Any = [
        {"type": "item_reference", "id": given.id},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "two"},
    ]
    ask(client, items, store=False)
    said = [content for _, content in conversation(provider.requests[-1])]
    assert said == ["one", "echo: one", "two"]


def test_items_of_another_agent_stay_with_that_agent(client: OpenAI, gateway: GatewayProcess) -> None:
    (given,) = client.responses.input_items.list(ask(client, "a secret").id)
    items = [{"type": "item_reference", "id": given.id}]
    answer = post(gateway, items, headers={"x-openclaw-agent-id": "beta"})
    assert (answer.status, answer.error["param"]) == (400, "input")
    assert "'main'" in answer.error["message"]


def test_a_few_references_cannot_stand_for_endless_text(client: OpenAI, gateway: GatewayProcess) -> None:
    (given,) = client.responses.input_items.list(ask(client, "x" * 1_000_000).id)
    answer = post(gateway, [{"type": "item_reference", "id": given.id}] * 50)
    assert (answer.status, answer.error["param"]) == (400, "input")
    assert "too large" in answer.error["message"]


# --- retrieve, list, delete ---


def test_a_stored_response_can_be_had_again(client: OpenAI, gateway: GatewayProcess) -> None:
    response = ask(client, "keep me")
    assert client.responses.retrieve(response.id) == response
    check("Response", get(gateway, response.id).json)


def test_what_was_asked_can_be_had_in_pages(client: OpenAI, gateway: GatewayProcess) -> None:
    items: Any = [{"role": "user", "content": f"word {number}"} for number in range(25)]
    response = ask(client, items)
    listed = list(client.responses.input_items.list(response.id, order="asc", limit=7))
    assert [item.content[0].text for item in listed] == [f"word {n}" for n in range(25)]  # type: ignore[index, union-attr]
    page = get(gateway, f"{response.id}/input_items").json
    check("ResponseItemList", page)
    assert (len(page["data"]), page["has_more"], page["data"][0]["id"]) == (20, True, listed[-1].id)
    assert get(gateway, f"{response.id}/input_items?limit=1000").error["param"] == "limit"


def test_a_deleted_response_is_gone_and_its_followers_stay(
    client: OpenAI, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    first = ask(client, "one")
    second = ask(client, "two", previous_response_id=first.id)
    assert get(gateway, first.id, "DELETE").json == {"id": first.id, "object": "response", "deleted": True}
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "x", previous_response_id=first.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    ask(client, "three", previous_response_id=second.id)
    assert asked(provider.requests[-1]) == ["one", "two", "three"]


def test_the_last_response_takes_the_transcript_with_it(client: OpenAI, gateway: GatewayProcess) -> None:
    response = ask(client, "forget me")
    key = f"agent:main:openresponses:{response.id.removeprefix('resp_')}"
    with closing(gateway.store()) as store:
        assert store.load(key).session is not None
        client.responses.delete(response.id)
        assert store.load(key).session is None


# --- background ---


def finished(client: OpenAI, response_id: str) -> Response:
    def look() -> Response | None:
        response = client.responses.retrieve(response_id)
        return None if response.status in ("queued", "in_progress") else response

    found: Response = wait_until(look, 10, "the response")
    return found


def test_a_background_response_needs_no_client(client: OpenAI, provider: ScriptedProvider) -> None:
    gate = threading.Event()
    provider.script(Reply("one two", gate=gate, gate_at=1))
    response = ask(client, "work", background=True)
    assert (response.status, response.background, response.output) == ("queued", True, [])
    wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "too early", previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_usable"
    gate.set()
    done = finished(client, response.id)
    assert (done.status, done.output_text) == ("completed", "one two")
    assert ask(client, "and now?", previous_response_id=response.id).output_text == "echo: and now?"


def test_a_background_response_can_be_cancelled(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply("one two", hang_after=1))
    response = ask(client, "work", background=True)
    wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
    assert provider.wait_for_requests(1)
    assert client.responses.cancel(response.id).status == "cancelled"
    assert provider.wait_for_disconnect()
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_deleting_a_background_response_stops_it(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply("one two", hang_after=1))
    response = ask(client, "work", background=True)
    assert provider.wait_for_requests(1)
    client.responses.delete(response.id)
    assert provider.wait_for_disconnect()
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_background_response_that_fails_says_why(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Status(401))
    response = finished(client, ask(client, "work", background=True).id)
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.code == "server_error"


def test_a_background_stream_can_be_left_and_joined_again(
    client: OpenAI, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    words = ["1", *(f" {number}" for number in range(2, 301))]
    provider.on("count", Reply(chunks=words, delay=0.002))
    stream = open_stream(gateway, "count", background=True)
    chance = random.Random(7)
    seen: list[Any] = []
    while True:
        left = chance.randint(1, 60)
        with stream:
            for event in stream.events():
                if event == "[DONE]":
                    break
                seen.append(event)
                left -= 1
                if not left:
                    break
        if seen[-1]["type"] == "response.completed":
            break
        stream = reopen(gateway, seen[0]["response"]["id"], seen[-1]["sequence_number"])
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert deltas(seen) == "".join(words)
    assert len(provider.requests) == 1
    assert seen[-1]["response"] == get(gateway, seen[0]["response"]["id"]).json


def test_the_sdk_resumes_a_background_stream(client: OpenAI, provider: ScriptedProvider) -> None:
    def events(stream: Any) -> Iterator[ResponseStreamEvent]:
        with stream:
            yield from stream

    response = ask(client, "one two three", background=True)
    whole = list(events(client.responses.retrieve(response.id, stream=True)))
    rest = list(events(client.responses.retrieve(response.id, stream=True, starting_after=4)))
    assert [event.sequence_number for event in rest] == list(range(5, len(whole)))
    assert rest == whole[5:]
    assert rest[-1].type == "response.completed"


def test_two_read_one_background_response_at_once(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("one two three", gate=gate, gate_at=1))
    first = open_stream(gateway, "work", background=True)
    events = first.events()
    created = next(events)
    second = _open(
        gateway, request_bytes(method="GET", path=f"{PATH}/{created['response']['id']}?stream=true")
    )
    gate.set()
    others = read(second)
    assert [created, *events][:-1] == others
    first.close()


def test_the_events_of_other_responses_are_not_kept(client: OpenAI, gateway: GatewayProcess) -> None:
    response = ask(client)
    assert get(gateway, f"{response.id}?stream=true").error["param"] == "stream"


# --- clients that leave, gateways that stop ---


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_run(
    gateway: GatewayProcess, provider: ScriptedProvider, *, stream: bool
) -> None:
    provider.script(Reply("one two", hang_after=1))
    with Connection(gateway) as connection:
        connection.send(request_bytes({"input": "work", "stream": stream}, path=PATH))
        assert provider.wait_for_requests(1)
    assert provider.wait_for_disconnect()


def test_a_stream_that_fails_says_so_at_its_end(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(Reply("one two three", error_after=1))
    events = read(open_stream(gateway, "work"))
    last = events[-1]
    assert last["type"] == "response.failed"
    assert (last["response"]["status"], last["response"]["error"]["code"]) == ("failed", "server_error")
    assert get(gateway, last["response"]["id"]).json == last["response"]


def test_a_silent_stream_is_kept_alive(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(Hang(before_headers=False))
    with open_stream(gateway, "work") as stream:
        lines = (line for line in stream.lines() if line.startswith(":"))
        assert next(lines) == ": keepalive"


def test_a_chain_goes_on_after_a_restart(mortal: GatewayProcess, provider: ScriptedProvider) -> None:
    with sdk(mortal) as client:
        first = ask(client, "one")
    mortal.stop()
    mortal.start()
    with sdk(mortal) as client:
        assert client.responses.retrieve(first.id) == first
        ask(client, "two", previous_response_id=first.id)
        assert asked(provider.requests[-1]) == ["one", "two"]


def test_a_background_response_fails_with_its_gateway(
    mortal: GatewayProcess, provider: ScriptedProvider
) -> None:
    with sdk(mortal) as client:
        first = ask(client, "one")
        provider.on("work", Reply("one two", hang_after=1))
        response = ask(client, "work", background=True, previous_response_id=first.id)
        assert provider.wait_for_requests(2)
        mortal.kill9()
        mortal.start()
        failed = client.responses.retrieve(response.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.code == "server_error"
        assert get(mortal, f"{response.id}?stream=true").error["code"] == "events_lost"
        again = ask(client, "something else", previous_response_id=first.id)
        assert again.output_text == "echo: something else"
        assert asked(provider.requests[-1]) == ["one", "something else"]


# --- refusals ---


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0].id"),
        ({"input": "x", "conversation": "not an id!"}, "conversation"),
        ({"input": "x", "background": True, "store": False}, "background"),
        ({"input": "x", "metadata": {"a": 7}}, "metadata.a"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(body: Any, param: str, gateway: GatewayProcess) -> None:
    answer = send(gateway, body, path=PATH)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize("response_id", ["resp_" + "0" * 32, "resp_x", "chatcmpl-1", "%2e%2e"])
def test_a_response_that_nobody_knows_is_not_found(response_id: str, gateway: GatewayProcess) -> None:
    for path, method in (
        (response_id, "GET"),
        (response_id, "DELETE"),
        (f"{response_id}/cancel", "POST"),
        (f"{response_id}/input_items", "GET"),
    ):
        answer = get(gateway, path, method)
        assert answer.status == 404
        assert answer.error["type"] == "invalid_request_error"


def test_other_methods_are_refused(gateway: GatewayProcess) -> None:
    assert send(gateway, method="GET", path=PATH).headers["allow"] == "POST"
    assert get(gateway, "resp_x", "PUT").headers["allow"] == "GET, DELETE"
    assert get(gateway, "resp_x/cancel").status == 405


def test_a_chain_and_a_session_key_do_not_go_together(gateway: GatewayProcess, client: OpenAI) -> None:
    first = ask(client)
    headers = {"x-openclaw-session-key": "mine"}
    error = post(gateway, "x", previous_response_id=first.id, headers=headers).error
    assert error["param"] == "previous_response_id"


def test_nothing_is_served_without_a_token(gateway: GatewayProcess) -> None:
    for path, method in ((PATH, "POST"), (f"{PATH}/resp_x", "GET"), (f"{PATH}/resp_x/cancel", "POST")):
        assert send(gateway, method=method, path=path, token="wrong").status == 401


def test_the_endpoint_has_a_switch_of_its_own(start_gateway: StartGateway) -> None:
    plain = start_gateway()
    error = post(plain).error
    assert error["code"] == "endpoint_disabled"
    assert "gateway.http.endpoints.responses.enabled" in error["message"]
    assert get(plain, "resp_x").error["code"] == "endpoint_disabled"
    only = start_gateway(gateway={"http": {"endpoints": SWITCHES | {"chatCompletions": {"enabled": False}}}})
    assert post(only).json["status"] == "completed"
    assert send(only, method="GET", path="/v1/models").status == 200
    assert send(only, {"messages": []}).error["code"] == "endpoint_disabled"
