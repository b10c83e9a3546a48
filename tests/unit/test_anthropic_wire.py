"""The pure half of the Anthropic provider: body and decoder."""

from __future__ import annotations

import json
from itertools import pairwise
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
from app.providers.anthropic import MessageDecoder, build_body
from app.providers.base import ModelDone, ModelEvent, ModelInfo, ModelRequest, ToolSpec

INFO = ("max_output", "reasoning", "levels", "adaptive")
CACHE = {"cache_control": {"type": "ephemeral"}}


def body(*messages: Message, params: SamplingParams = SamplingParams(), **options: Any) -> dict[str, Any]:  # noqa: B008
    info = ModelInfo(**{name: options.pop(name) for name in INFO if name in options})
    request = ModelRequest("m", options.pop("system", ""), messages, params=params, **options)
    return json.loads(json.dumps(build_body(request, info, "p/m")))  # type: ignore[no-any-return]


def sent(*messages: Message) -> list[tuple[str, list[dict[str, Any]]]]:
    """Role and content of each message, without the mark of the cache."""
    found = [(one["role"], one["content"]) for one in body(*messages)["messages"]]
    for block in (block for _, content in found for block in content):
        block.pop("cache_control", None)
    return found


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def decode(*events: dict[str, Any]) -> list[ModelEvent]:
    decoder = MessageDecoder("p", ref="p/m")
    seen = [event for one in events for event in decoder.feed(json.dumps(one).encode())]
    return [*seen, decoder.finish()]


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def end(reason: str | None, **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"usage": usage, "content": [], "stop_reason": None}}


STOP = {"type": "message_stop"}


# the request


def test_the_smallest_body_streams_and_states_its_limit() -> None:
    assert body(UserMessage.of("hi"), system=" \n") == {
        "model": "m",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [text("hi") | CACHE]}],
        "stream": True,
    }


def test_the_system_text_and_the_conversation_are_cached() -> None:
    made = body(UserMessage.of("a"), AssistantMessage("b"), UserMessage.of("c"), system="Be kind.")

    assert made["system"] == [text("Be kind.") | CACHE]
    assert json.dumps(made["messages"]).count("cache_control") == 1
    assert made["messages"][-1]["content"] == [text("c") | CACHE]


def test_what_is_read_again_is_marked_for_the_cache_and_nothing_else() -> None:
    tools = tuple(ToolSpec(name, "", {"type": "object"}) for name in "ab")
    calls = (ToolCall("1", "a", "{}"), ToolCall("2", "b", "{}"))
    results = [ToolMessage(call.id, call.name, "x") for call in calls]
    asked = UserMessage.of("go")

    made = body(asked, AssistantMessage("", calls), *results, AssistantMessage("So"), system="s", tools=tools)

    assert json.dumps(made).count("cache_control") == 3
    assert [CACHE.items() <= tool.items() for tool in made["tools"]] == [False, True]
    assert made["messages"][2]["content"][-1] | CACHE == made["messages"][2]["content"][-1]


def test_the_limit_is_the_requests_then_the_models() -> None:
    params = SamplingParams(max_tokens=5)
    assert body(UserMessage.of("a"), params=params, max_output=64_000)["max_tokens"] == 5
    assert body(UserMessage.of("a"), max_output=64_000)["max_tokens"] == 64_000


def test_a_block_whose_type_is_no_word_is_skipped() -> None:
    decoder = MessageDecoder("p")
    block = {"type": {"type": "text"}, "text": "no"}

    assert decoder.feed(json.dumps({"type": "content_block_start", "content_block": block}).encode()) == []
    assert decoder.feed(json.dumps({"type": "message", "content": [block]}).encode()) == []


def test_only_one_of_temperature_and_top_p_is_sent() -> None:
    made = body(UserMessage.of("a"), params=SamplingParams(temperature=0.2, top_p=0.9))
    assert (made["temperature"], made.get("top_p")) == (0.2, None)
    assert body(UserMessage.of("a"), params=SamplingParams(top_p=0.9))["top_p"] == 0.9


def test_parameters_have_their_wire_names_and_extra_wins() -> None:
    params = SamplingParams(temperature=1.7, top_p=0.5, stop=("END",))
    tool = ToolSpec("look", "Looks.", {"type": "object"})

    made = body(UserMessage.of("a"), params=params, tools=(tool,), extra={"top_p": 0.25, "top_k": 3})

    assert made["temperature"] == 1
    assert made["stop_sequences"] == ["END"]
    assert (made["top_p"], made["top_k"]) == (0.25, 3)
    wire = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
    assert made["tools"] == [wire | CACHE]
    assert body(UserMessage.of("a"), params=SamplingParams(temperature=0.0))["temperature"] == 0


def test_neighbours_of_one_role_become_one_message_with_the_tool_results_first() -> None:
    calls = (ToolCall("1", "look", '{"x": 1}'), ToolCall("2", "look", "{}"))

    assert sent(
        UserMessage.of("a"),
        UserMessage((TextPart("b"), ImagePart("image/png", "QUJD"), TextPart("c"))),
        AssistantMessage("Looking.", calls),
        ToolMessage("1", "look", "one"),
        UserMessage.of("hurry"),
        ToolMessage("2", "look", "two", is_error=True),
        AssistantMessage("d"),
        AssistantMessage("e"),
        UserMessage.of("f"),
    ) == [
        (
            "user",
            [
                text("a"),
                text("b"),
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                text("c"),
            ],
        ),
        (
            "assistant",
            [
                text("Looking."),
                {"type": "tool_use", "id": "1", "name": "look", "input": {"x": 1}},
                {"type": "tool_use", "id": "2", "name": "look", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "2", "content": "two", "is_error": True},
                text("hurry"),
            ],
        ),
        ("assistant", [text("d"), text("e")]),
        ("user", [text("f")]),
    ]


def test_a_conversation_that_the_model_begins_gets_a_first_word_of_the_user() -> None:
    roles = [role for role, _ in sent(AssistantMessage("Welcome!"), UserMessage.of("hi"))]
    assert roles == ["user", "assistant", "user"]


def test_a_begun_answer_is_sent_without_its_trailing_space() -> None:
    assert sent(UserMessage.of("a"), AssistantMessage("The answer is \n"))[-1] == (
        "assistant",
        [text("The answer is")],
    )
    assert [role for role, _ in sent(UserMessage.of("a"), AssistantMessage(" \n"))] == ["user"]


@pytest.mark.parametrize("arguments", ["", "[1]", "null", '{"x": '])
def test_arguments_that_are_no_object_become_an_empty_one(arguments: str) -> None:
    conversation = (
        UserMessage.of("a"),
        AssistantMessage("", (ToolCall("1", "look", arguments),)),
        ToolMessage("1", "look", " "),
    )
    _, (_, [use]), (_, [result]) = sent(*conversation)
    assert use["input"] == {}
    assert result == {"type": "tool_result", "tool_use_id": "1"}


def test_ids_are_plain_and_unique_and_results_follow_them() -> None:
    def round_of(call_id: str) -> tuple[Message, ...]:
        call = ToolCall(call_id, "look.at it", "{}")
        return UserMessage.of("a"), AssistantMessage("", (call,)), ToolMessage(call_id, "look.at it", call_id)

    found = sent(*round_of("c.1"), *round_of("c_1"), *round_of("c.1"), *round_of("ü" * 90))

    uses = [block for _, content in found for block in content if block["type"] == "tool_use"]
    results = [block for _, content in found for block in content if block["type"] == "tool_result"]
    assert [use["id"] for use in uses] == ["c_1", "c_1_2", "c_1_3", "_" * 56]
    assert [result["tool_use_id"] for result in results] == [use["id"] for use in uses]
    assert {use["name"] for use in uses} == {"look_at_it"}


def test_tools_of_the_past_are_declared_but_not_offered() -> None:
    made = body(
        UserMessage.of("a"),
        AssistantMessage("", (ToolCall("1", "look", "{}"), ToolCall("2", "look", "{}"))),
        ToolMessage("1", "look", "x"),
        ToolMessage("2", "look", "x"),
    )
    assert [tool["name"] for tool in made["tools"]] == ["look"]
    assert made["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("effort", "max_tokens", "budget"),
    [
        ("minimal", None, 1024),
        ("low", None, 2048),
        ("medium", None, 7168),
        ("medium", 64_000, 8192),
        ("high", 64_000, 16384),
        ("xhigh", 64_000, 16384),
        ("low", 2048, 1024),
        ("low", 2047, None),
        ("none", 64_000, None),
        (None, 64_000, None),
    ],
)
def test_effort_becomes_a_budget_that_leaves_room_for_an_answer(
    effort: str | None, max_tokens: int | None, budget: int | None
) -> None:
    params = SamplingParams(reasoning_effort=effort, max_tokens=max_tokens, temperature=0.5)

    made = body(UserMessage.of("a"), params=params)

    assert made.get("thinking") == (budget and {"type": "enabled", "budget_tokens": budget})
    assert ("temperature" in made) is (budget is None)


@pytest.mark.parametrize(
    ("effort", "fields"),
    [
        ("minimal", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("high", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("max", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}),
        ("none", {"thinking": {"type": "disabled"}}),
        (None, {}),
    ],
)
def test_an_adaptive_model_is_told_a_level_that_it_has(effort: str | None, fields: dict[str, Any]) -> None:
    made = body(
        UserMessage.of("a"),
        params=SamplingParams(reasoning_effort=effort),
        reasoning=True,
        adaptive=True,
        levels=("none", "low", "medium", "high", "xhigh"),
    )
    assert {name: made[name] for name in ("thinking", "output_config") if name in made} == fields


def test_only_a_model_that_says_so_is_told_not_to_think() -> None:
    params = SamplingParams(reasoning_effort="none")
    for info in ({"adaptive": True, "levels": ("low",)}, {"adaptive": True}, {}):
        assert "thinking" not in body(UserMessage.of("a"), params=params, **info)


SIGNED = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "eHh4"}


def thinking_turn(ref: str = "p/m") -> AssistantMessage:
    calls = (ToolCall("1", "look", "{}"),)
    return AssistantMessage("Looking.", calls, Thoughts(ref, (SIGNED, HIDDEN)))


def test_a_model_thinks_on_with_its_own_thoughts_first() -> None:
    params = SamplingParams(reasoning_effort="low")
    result = ToolMessage("1", "look", "x")

    made = body(UserMessage.of("a"), thinking_turn(), result, params=params)

    assert made["thinking"]["type"] == "enabled"
    kinds = [block["type"] for block in made["messages"][1]["content"]]
    assert kinds == ["thinking", "redacted_thinking", "text", "tool_use"]
    assert made["messages"][1]["content"][:2] == [SIGNED, HIDDEN]


@pytest.mark.parametrize("after", [(), (AssistantMessage("b"), UserMessage.of("c"))])
def test_thoughts_of_another_model_or_of_earlier_turns_are_dropped(after: tuple[Message, ...]) -> None:
    turn = thinking_turn("p/m" if after else "p/other")
    made = body(UserMessage.of("a"), turn, ToolMessage("1", "look", "x"), *after)
    assert "hm" not in json.dumps(made)


def test_a_model_without_its_thoughts_thinks_only_at_the_beginning_of_a_turn() -> None:
    params = SamplingParams(reasoning_effort="low")
    asked, call = UserMessage.of("a"), AssistantMessage("", (ToolCall("1", "look", "{}"),))
    result = ToolMessage("1", "look", "x")

    assert "thinking" in body(asked, call, result, AssistantMessage("b"), asked, params=params)
    for conversation in ((asked, call, result), (asked, call, result, asked), (asked, AssistantMessage("b"))):
        assert "thinking" not in body(*conversation, params=params)


WORDS = st.sampled_from(["", " ", "\n", "word", "two words ", "ü"])
IDS = st.sampled_from(["a", "b", "a.", "a_", "", "a_2", "ü"])
MESSAGES = st.one_of(
    st.builds(UserMessage.of, WORDS),
    st.builds(
        AssistantMessage,
        WORDS,
        st.lists(st.builds(ToolCall, IDS, IDS, WORDS), max_size=3, unique_by=lambda c: c.id).map(tuple),
        st.sampled_from([None, Thoughts("p/m", (SIGNED,)), Thoughts("p/other", (SIGNED,))]),
    ),
    st.builds(ToolMessage, IDS, IDS, WORDS, st.booleans()),
)


@given(st.lists(MESSAGES, max_size=12))
def test_every_conversation_becomes_one_that_the_api_takes(conversation: list[Message]) -> None:
    found = sent(*repaired(conversation))

    roles = [role for role, _ in found]
    assert roles[:1] in ([], ["user"])
    assert all(one != next_one for one, next_one in pairwise(roles))
    blocks = [block for _, content in found for block in content]
    assert all(block["text"].strip() for block in blocks if block["type"] == "text")
    assert not any(content[-1]["type"] == "thinking" for _, content in found)
    uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert len(set(uses)) == len(uses)
    for (_, content), (_, following) in pairwise([("", []), *found, ("", [])]):
        called = [block["id"] for block in content if block["type"] == "tool_use"]
        answered = [block["tool_use_id"] for block in following if block["type"] == "tool_result"]
        assert sorted(called) == sorted(answered)
        assert [block["type"] for block in following[: len(answered)]] == ["tool_result"] * len(answered)


# the answer


def test_text_thoughts_and_calls_are_decoded() -> None:
    assert decode(
        start(input_tokens=10, cache_read_input_tokens=100, cache_creation_input_tokens=7, output_tokens=1),
        {"type": "ping"},
        begin(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="hm"),
        delta(0, "signature_delta", signature="c2ln"),
        {"type": "content_block_stop", "index": 0},
        begin(1, type="text", text="o"),
        delta(1, "text_delta", text="ne"),
        begin(2, type="tool_use", id="toolu_1", name="look", input={}),
        delta(2, "input_json_delta", partial_json='{"x'),
        delta(2, "input_json_delta", partial_json='": 1}'),
        begin(3, type="tool_use", id="toolu_2", name="list", input={}),
        end("tool_use", input_tokens=0, output_tokens=42, output_tokens_details={"thinking_tokens": 30}),
        STOP,
    ) == [
        ReasoningDelta("hm"),
        TextDelta("o"),
        TextDelta("ne"),
        ModelDone(
            "tool_calls",
            (ToolCall("toolu_1", "look", '{"x": 1}'), ToolCall("toolu_2", "list", "{}")),
            Usage(input=117, output=42, cached=100, reasoning=30, cache_write=7),
            Thoughts("p/m", ({"type": "thinking", "thinking": "hm", "signature": "c2ln"},)),
        ),
    ]


def test_redacted_and_empty_thoughts_are_kept_and_unsigned_ones_are_not() -> None:
    done = decode(
        begin(0, type="redacted_thinking", data="eHh4"),
        begin(1, type="thinking", thinking="", signature=""),
        delta(1, "signature_delta", signature="c2"),
        delta(1, "signature_delta", signature="ln"),
        begin(2, type="thinking", thinking="unsigned", signature=""),
        end("end_turn"),
    )[-1]
    assert isinstance(done, ModelDone)
    assert done.thoughts == Thoughts("p/m", (HIDDEN, SIGNED | {"thinking": ""}))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "stop"),  # without a call
        ("a_new_reason", "stop"),
    ],
)
def test_stop_reasons_are_translated(reason: str, expected: str) -> None:
    assert decode(start(), end(reason), STOP) == [ModelDone(expected)]  # type: ignore[arg-type]


def test_what_is_unknown_or_ill_formed_is_skipped() -> None:
    assert decode(
        {"type": "a_new_event", "index": "x"},
        {"type": "message_start", "message": None},
        begin(0, type="server_tool_use", id="s", name="web", input={}),
        delta(0, "input_json_delta", partial_json='{"q": 1}'),
        delta(9, "a_new_delta", text="no"),
        {"type": "content_block_delta", "index": [], "delta": "no"},
        end("end_turn"),
        STOP,
        delta(0, "text_delta", text="after the end"),
    ) == [ModelDone("stop")]


def test_ids_that_are_missing_or_repeated_are_made_up() -> None:
    done = decode(
        *(begin(i, type="tool_use", id=name, name="look", input={}) for i, name in enumerate(["", "a", "a"])),
        end("tool_use"),
    )[-1]
    assert isinstance(done, ModelDone)
    assert [call.id for call in done.tool_calls] == ["call_0", "a", "a_2"]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([start(), STOP], ProviderReason.TRUNCATED),
        ([start(), end(None)], ProviderReason.TRUNCATED),
        ([{"type": "error", "error": {"type": "overloaded_error"}}], ProviderReason.OVERLOADED),
        ([{"type": "error"}], ProviderReason.SERVER_ERROR),
        ([{"error": {"message": "x", "code": 429}}], ProviderReason.RATE_LIMIT),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(events: list[dict[str, Any]], reason: ProviderReason) -> None:
    with pytest.raises(ProviderError) as caught:
        decode(*events)
    assert caught.value.reason is reason
