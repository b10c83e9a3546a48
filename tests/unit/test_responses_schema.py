"""A request of the Responses API, field by field."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.channels.openai.responses.ids import input_item_id, output_item_id, response_of_item
from app.channels.openai.responses.schema import ResponseRequest, parse_response_request
from app.errors import InvalidRequest
from app.messages import AssistantMessage, Message, SamplingParams, ToolCall, ToolMessage, UserMessage
from app.providers.base import ToolChoice

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 8).decode()
PNG_URL = f"data:image/png;base64,{PNG}"
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


def nothing(_: str) -> None:
    return None


def parse(items: Any = "hi", **fields: Any) -> ResponseRequest:
    return parse_response_request({"input": items, **fields}, nothing)


def messages(*items: Any) -> tuple[Message, ...]:
    return parse(list(items)).input.messages


def refusal(items: Any = "hi", **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(items, **fields)
    assert caught.value.status == 400
    return caught.value


# input


def test_a_text_is_what_a_user_says() -> None:
    request = parse("hi")
    assert request.input.messages == (UserMessage.of("hi"),)
    assert request.input.items == (
        {
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "hi"}],
        },
    )


@pytest.mark.parametrize("kind", [{}, {"type": "message"}])
def test_a_message_need_not_say_that_it_is_one(kind: dict[str, str]) -> None:
    said = messages(
        {**kind, "role": "user", "content": "one"},
        {**kind, "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
        {**kind, "role": "user", "content": [{"type": "input_text", "text": "three"}]},
    )
    assert said == (UserMessage.of("one"), AssistantMessage("two"), UserMessage.of("three"))


def test_what_the_system_says_is_kept_apart() -> None:
    request = parse(
        [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": "hi"},
            {"role": "system", "content": [{"type": "input_text", "text": "be brief"}]},
        ],
        instructions="be an owl",
    )
    assert request.system == "be an owl\n\nbe kind\n\nbe brief"
    assert request.input.messages == (UserMessage.of("hi"),)
    assert [item["role"] for item in request.input.items] == ["developer", "user", "system"]


def test_calls_join_the_turn_that_makes_them_and_results_find_their_names() -> None:
    said = messages(
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "Let me look."},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bonn"}'},
        {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "noon"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "rain"}]},
    )
    calls = (ToolCall("c1", "weather", '{"city":"Bonn"}'), ToolCall("c2", "time", "{}"))
    assert said == (
        UserMessage.of("weather?"),
        AssistantMessage("Let me look.", calls),
        ToolMessage("c2", "time", "noon"),
        ToolMessage("c1", "weather", "rain"),
    )


def test_reasoning_is_dropped() -> None:
    said = messages(
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    )
    assert [type(message) for message in said] == [UserMessage, AssistantMessage, ToolMessage]


def test_an_image_goes_to_the_model_and_is_not_shown_again() -> None:
    request = parse([{"role": "user", "content": [{"type": "input_image", "image_url": PNG_URL}]}])
    (message,) = request.input.messages
    assert isinstance(message, UserMessage)
    assert [image.data for image in message.images] == [PNG]
    assert PNG not in str(request.input.items)
    assert request.input.items[0]["content"][0]["type"] == "input_image"


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
def test_a_reference_stands_for_a_stored_item(reference: Any) -> None:
    stored = {"id": "msg_1", "type": "message", "role": "assistant", "content": "earlier"}
    body = {"input": [reference, {"role": "user", "content": "and now?"}]}
    request = parse_response_request(body, {"msg_1": stored}.get)
    assert request.input.messages == (AssistantMessage("earlier"), UserMessage.of("and now?"))


def test_a_reference_to_nothing_is_refused() -> None:
    error = refusal([{"type": "item_reference", "id": "msg_nobody"}])
    assert (error.param, error.code) == ("input[0].id", "item_not_found")


def test_nothing_but_turns_of_the_assistant_is_a_question() -> None:
    assert messages({"role": "assistant", "content": "go on"}) == (UserMessage.of("go on"),)


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (None, "input"),
        (7, "input"),
        ([], "input"),
        ("", "input"),
        ([{"role": "user", "content": " "}], "input"),
        ([7], "input[0]"),
        ([{}], "input[0].type"),
        ([{"type": 7}], "input[0].type"),
        ([{"type": "web_search_call", "id": "ws_1"}], "input[0].type"),
        ([{"role": "tool", "content": "x"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "input[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "assistant", "content": [{"type": "input_image"}]}], "input[0].content[0].type"),
        ([{"type": "function_call", "name": "x", "arguments": "{}"}], "input[0].call_id"),
        ([{"type": "function_call", "call_id": "c", "arguments": "{}"}], "input[0].name"),
        ([{"type": "function_call", "call_id": "c", "name": "x"}], "input[0].arguments"),
        ([{"type": "function_call_output", "call_id": "c"}], "input[0].output"),
        ([{"type": "function_call_output", "output": "x"}], "input[0].call_id"),
    ],
)
def test_wrong_input_is_refused_by_its_place(items: Any, param: str) -> None:
    assert refusal(items).param == param


# the other fields


def test_every_field_finds_its_place() -> None:
    request = parse(
        model="openclaw/beta",
        instructions="be brief",
        stream=True,
        store=False,
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=50,
        reasoning={"effort": "high", "summary": "auto"},
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        tools=[TOOL],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        user=" Alice ",
        prompt_cache_key="key",
        metadata={"a": "b"},
        include=["reasoning.encrypted_content"],
        service_tier="auto",
    )
    assert request.model == "openclaw/beta"
    assert request.instructions == "be brief"
    assert (request.stream, request.store, request.background) == (True, False, False)
    assert request.params == SamplingParams(
        temperature=0.5,
        top_p=0.9,
        max_tokens=50,
        response_format={"type": "json_object"},
        reasoning_effort="high",
        verbosity="low",
    )
    assert [spec.name for spec in request.client_tools.specs] == ["weather"]
    assert request.client_tools.choice == ToolChoice(required=True, name="weather")
    assert not request.client_tools.parallel
    assert (request.user, request.cache_key, request.show_reasoning) == ("Alice", "key", True)
    assert request.ignored == ()
    assert request.echo["metadata"] == {"a": "b"}
    assert request.echo["tools"] == [{**TOOL, "description": None, "strict": None}]
    assert request.echo["parallel_tool_calls"] is False


def test_a_response_is_stored_unless_somebody_says_no() -> None:
    assert parse().store
    assert not parse(store=False).store


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
def test_a_conversation_is_an_id_or_an_object_with_one(conversation: Any) -> None:
    request = parse(conversation=conversation)
    assert request.conversation == "conv_1"
    assert request.echo["conversation"] == {"id": "conv_1"}


def test_what_has_no_effect_is_named() -> None:
    request = parse(safety_identifier="x", truncation="disabled", future_field=1, client_metadata={})
    assert request.ignored == ("safety_identifier", "client_metadata", "truncation", "future_field")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include[0]"),
        ({"include": "x"}, "include"),
        ({"include": [{"a": 1}]}, "include[0]"),
        ({"instructions": ["x"]}, "instructions"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "huge"}}, "text.verbosity"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": {}}, "tools"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"store": "yes"}, "store"),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
        ({"conversation": {}}, "conversation"),
        ({"conversation": 7}, "conversation"),
        ({"truncation": "some"}, "truncation"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"safety_identifier": "x" * 65}, "safety_identifier"),
        ({"model": "m" * 300}, "model"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_a_conversation_that_goes_on_needs_something_to_answer() -> None:
    body = {"input": [], "instructions": "be brief", "previous_response_id": "resp_1"}
    with pytest.raises(InvalidRequest) as caught:
        parse_response_request(body, nothing)
    assert caught.value.param == "input"
    assert parse_response_request({"input": [], "instructions": "speak"}, nothing).system == "speak"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("input", "instructions", "tools", "tool_choice", "text", "reasoning", "metadata", "conversation",
          "include", "store", "background", "previous_response_id", "user", "truncation")  # fmt: skip
ITEM_KEYS = ("type", "role", "content", "id", "call_id", "name", "arguments", "output", "text", "image_url")
WORDS = st.sampled_from(
    ["message", "user", "assistant", "function_call", "function_call_output", "input_text"]
)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.lists(st.dictionaries(st.sampled_from(ITEM_KEYS), WORDS | JSON), max_size=4),
)
def test_whatever_comes_is_a_request_or_a_refusal(fields: dict[str, Any], items: list[Any]) -> None:
    for body in (fields, {**fields, "input": items}, fields.get("input")):
        with suppress(InvalidRequest):
            assert isinstance(parse_response_request(body, nothing), ResponseRequest)


# ids


@given(
    st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]), st.integers(0, 9999)
)
def test_the_id_of_an_item_leads_to_its_response(kind: str, index: int) -> None:
    response = "resp_" + "0123456789abcdef" * 2
    ids = {output_item_id(response, kind, index), input_item_id(response, kind, index)}
    assert len(ids) == 2
    assert {response_of_item(item_id) for item_id in ids} == {response}


@pytest.mark.parametrize("text", ["", "msg_1", "resp_" + "0" * 32, "msg_" + "0" * 35, "xyz_" + "0" * 36])
def test_other_ids_lead_nowhere(text: str) -> None:
    assert response_of_item(text) is None
