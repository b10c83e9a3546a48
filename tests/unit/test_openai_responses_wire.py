"""The pure half of the OpenAI responses provider: body and decoder."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.context import repaired
from app.errors import ProviderError, ProviderReason
from app.events import ReasoningDelta, TextDelta
from app.messages import (
    AssistantMessage,
    ImagePart,
    Message,
    SamplingParams,
    TextPart,
    Thoughts,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from app.providers.base import ModelDone, ModelEvent, ModelInfo, ModelRequest, ToolSpec
from app.providers.openai_responses import ResponseDecoder, build_body

USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 120,
}


def body(*messages: Message, info: ModelInfo = ModelInfo(), **options: Any) -> Any:  # noqa: B008
    request = ModelRequest("m", options.pop("system", ""), messages, **options)
    return json.loads(json.dumps(build_body(request, info, "p/m")))


def decode(*events: dict[str, Any]) -> list[ModelEvent]:
    decoder = ResponseDecoder("p", ref="p/m")
    seen = [event for one in events for event in decoder.feed(json.dumps(one).encode())]
    return [*seen, decoder.finish()]


def done_of(*events: dict[str, Any]) -> ModelDone:
    done = decode(*events)[-1]
    assert isinstance(done, ModelDone)
    return done


def event(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": index, **fields}


def added(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return event("output_item.added", index, item={"type": kind, **fields})


def item_done(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return event("output_item.done", index, item={"type": kind, **fields})


def completed(status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": {"object": "response", "status": status, **fields}}


# the request


def test_the_smallest_body_streams_and_leaves_nothing_on_the_server() -> None:
    assert body(UserMessage.of("hi"), system="Be kind.") == {
        "model": "m",
        "instructions": "Be kind.",
        "input": [{"role": "user", "content": "hi"}],
        "stream": True,
        "store": False,
    }


def test_a_conversation_becomes_items() -> None:
    assert body(
        UserMessage((TextPart("what is it"), ImagePart("image/png", "QUJD"))),
        AssistantMessage("Looking.", (ToolCall("c.1", "look.at", '{"x":1}'), ToolCall("c2", "look", "{}"))),
        ToolMessage("c.1", "look.at", "a cat"),
        ToolMessage("c2", "look", "failed", is_error=True),
        AssistantMessage("A cat."),
    )["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "what is it"},
                {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"},
            ],
        },
        {"role": "assistant", "content": "Looking."},
        {"type": "function_call", "call_id": "c_1", "name": "look_at", "arguments": '{"x":1}'},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c_1", "output": "a cat"},
        {"type": "function_call_output", "call_id": "c2", "output": "failed"},
        {"role": "assistant", "content": "A cat."},
    ]


def test_parameters_have_their_wire_names_and_extra_wins() -> None:
    tool = ToolSpec("look", "Looks.", {"type": "object"})
    made = body(
        UserMessage.of("a"),
        params=SamplingParams(temperature=0.0, top_p=0.5, max_tokens=99),
        tools=(tool,),
        extra={"truncation": "auto", "top_p": 0.25},
    )
    assert (made["temperature"], made["top_p"], made["max_output_tokens"]) == (0.0, 0.25, 99)
    assert made["tools"] == [
        {
            "type": "function",
            "name": "look",
            "description": "Looks.",
            "parameters": {"type": "object"},
            "strict": False,
        }
    ]
    assert made["truncation"] == "auto"


def test_a_cache_key_of_any_length_is_one_that_the_api_takes() -> None:
    names = ("agent:main:ada@example.org", "agent:main:ada@example.net", "x" * 500)
    keys = [str(body(UserMessage.of("a"), cache_key=name)["prompt_cache_key"]) for name in names]

    assert [len(key) for key in keys] == [32, 32, 32]
    assert len({*keys}) == 3
    assert keys[0] == body(UserMessage.of("b"), cache_key=names[0])["prompt_cache_key"]
    assert "ada" not in keys[0]


def test_the_smallest_limit_is_the_apis() -> None:
    assert body(UserMessage.of("a"), params=SamplingParams(max_tokens=1))["max_output_tokens"] == 16


@pytest.mark.parametrize(
    ("stated", "sent"),
    [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}},
            {"type": "json_schema", "name": "a", "schema": {}, "strict": True},
        ),
    ],
)
def test_a_format_is_unwrapped(stated: dict[str, Any], sent: dict[str, Any]) -> None:
    made = body(UserMessage.of("a"), params=SamplingParams(response_format=stated))
    assert made["text"] == {"format": sent}


@pytest.mark.parametrize(
    ("effort", "info", "reasoning", "included"),
    [
        ("low", ModelInfo(), {"effort": "low", "summary": "auto"}, True),
        ("max", ModelInfo(reasoning=True), {"effort": "high", "summary": "auto"}, True),
        (None, ModelInfo(reasoning=True), None, True),
        ("none", ModelInfo(reasoning=True), None, True),
        ("none", ModelInfo(reasoning=True, levels=("none", "low")), {"effort": "none"}, True),
        (None, ModelInfo(), None, False),
        ("high", ModelInfo(reasoning=False), None, False),
    ],
)
def test_reasoning_is_asked_of_models_that_have_it(
    effort: str | None, info: ModelInfo, reasoning: Any, included: bool
) -> None:
    made = body(UserMessage.of("a"), params=SamplingParams(reasoning_effort=effort), info=info)
    assert made.get("reasoning") == reasoning
    assert made.get("include") == (["reasoning.encrypted_content"] if included else None)


WORDS = st.sampled_from(["", " ", "word", "ü"])
IDS = st.sampled_from(["a", "b", "a.", "a_", "", "a_2", "ü" * 70])
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "eHh4"}
MESSAGES = st.one_of(
    st.builds(UserMessage.of, WORDS),
    st.builds(
        AssistantMessage,
        WORDS,
        st.lists(st.builds(ToolCall, IDS, IDS, WORDS), max_size=3, unique_by=lambda c: c.id).map(tuple),
    ),
    st.builds(ToolMessage, IDS, IDS, WORDS, st.booleans()),
)


@given(st.lists(MESSAGES, max_size=12))
def test_every_conversation_becomes_one_that_the_api_takes(conversation: list[Message]) -> None:
    items = body(*repaired(conversation))["input"]

    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    results = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    assert len(set(calls)) == len(calls)
    assert sorted(calls) == sorted(results)
    assert all(1 <= len(call_id) <= 64 for call_id in calls)


# the answer


def test_text_and_its_usage_are_decoded() -> None:
    assert decode(
        {"type": "response.created", "response": {"object": "response", "status": "in_progress"}},
        added(0, "message", id="msg_1", role="assistant", content=[]),
        event("content_part.added", part={"type": "output_text", "text": ""}),
        event("output_text.delta", delta="o"),
        event("output_text.delta", delta="ne"),
        event("output_text.done", text="one"),
        item_done(
            0, "message", id="msg_1", role="assistant", content=[{"type": "output_text", "text": "one"}]
        ),
        completed(usage=USAGE, output=[]),
    ) == [TextDelta("o"), TextDelta("ne"), ModelDone("stop", usage=Usage(100, 20, 60, 5, 30))]


def test_summaries_of_reasoning_are_set_apart_and_a_refusal_is_text() -> None:
    assert decode(
        event("reasoning_summary_part.added", summary_index=0),
        event("reasoning_summary_text.delta", summary_index=0, delta="a"),
        event("reasoning_summary_part.added", summary_index=1),
        event("reasoning_summary_text.delta", summary_index=1, delta="b"),
        event("reasoning_text.delta", delta="c"),
        event("refusal.delta", 1, delta="I can't."),
        completed(),
    ) == [
        ReasoningDelta("a"),
        ReasoningDelta("\n\n"),
        ReasoningDelta("b"),
        ReasoningDelta("c"),
        TextDelta("I can't."),
        ModelDone("stop"),
    ]


def test_interleaved_calls_are_put_together() -> None:
    done = done_of(
        added(0, "function_call", call_id="call_a", name="f", arguments=""),
        added(2, "function_call", call_id="call_b", name="g", arguments=""),
        event("function_call_arguments.delta", 0, delta='{"x"'),
        event("function_call_arguments.delta", 2, delta='{"y"'),
        event("function_call_arguments.delta", 0, delta=":1}"),
        event("function_call_arguments.done", 2, arguments='{"y":2}'),
        item_done(0, "function_call", call_id="call_a", name="f", arguments='{"x":1}'),
        completed(),
    )
    assert (done.finish_reason, done.thoughts) == ("tool_calls", None)
    assert done.tool_calls == (ToolCall("call_a", "f", '{"x":1}'), ToolCall("call_b", "g", '{"y":2}'))


def test_missing_ids_are_made_up_and_repeated_ones_made_unique() -> None:
    calls = [item_done(i, "function_call", call_id=one, name="f") for i, one in enumerate(["", "a", "a"])]
    assert [call.id for call in done_of(*calls, completed()).tool_calls] == ["call_0", "a", "a_2"]


def test_reasoning_goes_back_to_where_it_stood() -> None:
    done = done_of(
        added(0, "reasoning", id="rs_1", summary=[], encrypted_content="half"),
        item_done(0, "reasoning", id="rs_1", summary=[], encrypted_content="eHh4", status=None),
        item_done(1, "message", id="msg_1", phase="commentary", content=[]),
        item_done(2, "reasoning", id="rs_2", summary=[], encrypted_content="eXl5"),
        item_done(3, "function_call", call_id="a", name="f", arguments="{}"),
        item_done(4, "function_call", call_id="b", name="f", arguments="{}"),
        completed(),
    )
    turn = AssistantMessage("Looking.", done.tool_calls, done.thoughts)
    results = [ToolMessage(call.id, "f", "x") for call in done.tool_calls]

    items = body(UserMessage.of("a"), turn, *results)["input"]

    assert items[1:6] == [
        THOUGHT,
        {"role": "assistant", "content": "Looking.", "phase": "commentary"},
        THOUGHT | {"id": "rs_2", "encrypted_content": "eXl5"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
    ]


def test_reasoning_that_the_server_keeps_to_itself_is_not_handed_back() -> None:
    done = done_of(
        item_done(0, "reasoning", id="rs_1", summary=[]),
        item_done(1, "function_call", call_id="a", name="f"),
        completed(),
    )
    assert done.thoughts is None


def test_calls_and_text_that_their_thoughts_do_not_mention_are_sent_all_the_same() -> None:
    thoughts = Thoughts("p/m", (THOUGHT, {"type": "function_call", "call_id": "gone"}))
    turn = AssistantMessage("Well.", (ToolCall("a", "f", "{}"),), thoughts)

    items = body(UserMessage.of("a"), turn, ToolMessage("a", "f", "x"))["input"]

    assert [item.get("type", item.get("role")) for item in items[1:]] == [
        "reasoning",
        "assistant",
        "function_call",
        "function_call_output",
    ]


def test_a_whole_response_is_understood() -> None:
    assert decode(
        {
            "object": "response",
            "status": "completed",
            "usage": USAGE,
            "output": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "message", "content": [{"type": "output_text", "text": "hi"}, {"refusal": "no"}]},
                {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            ],
        }
    ) == [
        ReasoningDelta("hm"),
        TextDelta("hi"),
        TextDelta("no"),
        ModelDone("tool_calls", (ToolCall("a", "f", "{}"),), Usage(100, 20, 60, 5, 30)),
    ]


@pytest.mark.parametrize(
    ("why", "reason"),
    [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("a_new_reason", "length")],
)
def test_an_incomplete_response_says_why(why: str, reason: str) -> None:
    assert done_of(completed("incomplete", incomplete_details={"reason": why})).finish_reason == reason


def failed(code: str, message: str = "") -> dict[str, Any]:
    return completed("failed", error={"code": code, "message": message})


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([event("output_text.delta", delta="half")], ProviderReason.TRUNCATED),
        ([failed("server_error")], ProviderReason.SERVER_ERROR),
        ([failed("rate_limit_exceeded")], ProviderReason.RATE_LIMIT),
        ([failed("invalid_prompt", "bad prompt")], ProviderReason.FORMAT),
        ([failed("context_length_exceeded")], ProviderReason.CONTEXT_OVERFLOW),
        ([completed("failed", error=None)], ProviderReason.SERVER_ERROR),
        (
            [{"type": "error", "code": "insufficient_quota", "message": "", "param": None}],
            ProviderReason.BILLING,
        ),
        ([{"type": "error", "error": {"type": "overloaded_error"}}], ProviderReason.OVERLOADED),
        ([{"error": {"message": "x", "code": 429}}], ProviderReason.RATE_LIMIT),
        ([item_done(0, "function_call", call_id="a"), completed()], ProviderReason.PROTOCOL),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(events: list[dict[str, Any]], reason: ProviderReason) -> None:
    with pytest.raises(ProviderError) as caught:
        decode(*events)
    assert caught.value.reason is reason


KEYS = [
    "type",
    "response",
    "item",
    "delta",
    "output_index",
    "arguments",
    "call_id",
    "name",
    "object",
    "output",
    "status",
    "usage",
    "summary",
    "content",
    "text",
    "error",
    "code",
    "incomplete_details",
]
KINDS = [
    "response.completed",
    "response.failed",
    "response.output_item.done",
    "response.output_text.delta",
    "response.function_call_arguments.delta",
    "function_call",
    "reasoning",
    "message",
    "response",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4))
def test_whatever_json_a_server_sends_only_provider_errors_come_out(values: list[Any]) -> None:
    decoder = ResponseDecoder("p", ref="p/m")
    with suppress(ProviderError):  # nothing else may be raised
        for value in values:
            for one in decoder.feed(json.dumps(value).encode()):
                assert isinstance(one, TextDelta | ReasoningDelta)
                assert one.text
        assert isinstance(decoder.finish(), ModelDone)
