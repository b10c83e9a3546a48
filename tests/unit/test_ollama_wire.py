"""The pure half of the Ollama provider: body, lines and decoder."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from app.providers.ollama import ChatDecoder, LineParser, build_body


def body(*messages: Message, info: ModelInfo = ModelInfo(), window: int | None = None, **more: Any) -> Any:  # noqa: B008
    request = ModelRequest("m", more.pop("system", ""), messages, **more)
    return json.loads(json.dumps(build_body(request, info, "p/m", window)))


def decode(*lines: dict[str, Any]) -> list[ModelEvent]:
    decoder = ChatDecoder("p", ref="p/m")
    seen = [event for one in lines for event in decoder.feed(json.dumps(one).encode())]
    return [*seen, decoder.finish()]


def line(**message: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": "", **message}, "done": False}


def last(**fields: Any) -> dict[str, Any]:
    return line() | {"done": True, "done_reason": "stop"} | fields


def wanted(name: str, arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


# the request


def test_the_smallest_body_streams_and_forbids_to_cut_the_conversation() -> None:
    assert body(UserMessage.of("hi"), system="Be kind.") == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "stream": True,
        "truncate": False,
    }


def test_a_conversation_with_tools_and_images_keeps_its_structure() -> None:
    call = ToolCall("c1", "look", '{"x":1}')
    assert body(
        UserMessage((TextPart("what is it"), ImagePart("image/png", "QUJD"))),
        AssistantMessage("Well.", (call, ToolCall("c2", "look", "{broken"))),
        ToolMessage("c1", "look", "a cat"),
        ToolMessage("c2", "look", "bad arguments", is_error=True),
    )["messages"] == [
        {"role": "user", "content": "what is it", "images": ["QUJD"]},
        {
            "role": "assistant",
            "content": "Well.",
            "tool_calls": [wanted("look", {"x": 1}), wanted("look", {})],
        },
        {"role": "tool", "tool_name": "look", "content": "a cat"},
        {"role": "tool", "tool_name": "look", "content": "bad arguments"},
    ]


def test_parameters_are_options_and_extra_wins() -> None:
    params = SamplingParams(0.0, 0.5, 9, 0.1, 0.2, 42, ("END",))
    tool = ToolSpec("look", "Looks.", {"type": "object"})

    made = body(UserMessage.of("a"), params=params, tools=(tool,), extra={"keep_alive": "1h"}, window=8192)

    assert made["options"] == {
        "num_ctx": 8192,
        "num_predict": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 42,
        "stop": ["END"],
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
    }
    assert made["tools"][0]["function"]["name"] == "look"
    assert made["keep_alive"] == "1h"


@pytest.mark.parametrize(
    ("stated", "sent"),
    [
        ({"type": "json_object"}, "json"),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            {"type": "object"},
        ),
    ],
)
def test_a_format_is_a_schema_or_the_word_json(stated: dict[str, Any], sent: Any) -> None:
    assert body(UserMessage.of("a"), params=SamplingParams(response_format=stated))["format"] == sent


@pytest.mark.parametrize(
    ("effort", "info", "think"),
    [
        ("high", ModelInfo(), True),
        ("minimal", ModelInfo(reasoning=True), True),
        ("max", ModelInfo(reasoning=True, levels=("low", "medium", "high")), "high"),
        ("none", ModelInfo(), False),
        ("none", ModelInfo(reasoning=False), None),
        ("high", ModelInfo(reasoning=False), None),
        (None, ModelInfo(reasoning=True), None),
    ],
)
def test_thinking_is_a_yes_or_no_unless_the_model_has_levels(
    effort: str | None, info: ModelInfo, think: Any
) -> None:
    made = body(UserMessage.of("a"), params=SamplingParams(reasoning_effort=effort), info=info)
    assert made.get("think") == think
    assert ("think" in made) == (think is not None)


def test_thoughts_go_back_to_the_model_that_had_them_until_the_user_speaks() -> None:
    turn = AssistantMessage("", (ToolCall("1", "look", "{}"),), Thoughts("p/m", ({"thinking": "hm"},)))
    result = ToolMessage("1", "look", "x")

    assert body(UserMessage.of("a"), turn, result)["messages"][1]["thinking"] == "hm"
    assert "hm" not in json.dumps(body(UserMessage.of("a"), turn, result, UserMessage.of("b")))


# the answer


def test_text_thoughts_and_calls_are_decoded() -> None:
    *deltas, done = decode(
        line(thinking="h"),
        line(thinking="m"),
        line(content="o"),
        line(content="ne", tool_calls=[wanted("look", {"x": 1})]),
        line(tool_calls=[wanted("look", {"x": 2}), wanted("list", None)]),
        last(prompt_eval_count=26, eval_count=298),
    )

    assert deltas == [ReasoningDelta("h"), ReasoningDelta("m"), TextDelta("o"), TextDelta("ne")]
    assert isinstance(done, ModelDone)
    assert (done.finish_reason, done.usage) == ("tool_calls", Usage(26, 298))
    assert [(call.name, call.arguments) for call in done.tool_calls] == [
        ("look", '{"x":1}'),
        ("look", '{"x":2}'),
        ("list", "{}"),
    ]
    assert done.thoughts == Thoughts("p/m", ({"thinking": "hm"},))


def test_no_two_calls_of_any_answers_have_the_same_id() -> None:
    answers = [decode(line(tool_calls=[wanted("f", {}), wanted("f", {})]), last())[-1] for _ in range(2)]
    ids = [call.id for done in answers if isinstance(done, ModelDone) for call in done.tool_calls]
    assert len(set(ids)) == 4
    assert all(ids)


def test_an_answer_at_its_limit_says_so_and_one_without_counts_has_none() -> None:
    assert decode(last(done_reason="length")) == [ModelDone("length")]
    assert decode(last(done_reason="load")) == [ModelDone("stop")]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([line(content="half")], ProviderReason.TRUNCATED),
        ([{"error": "an error was encountered while running the model"}], ProviderReason.SERVER_ERROR),
        ([line(tool_calls=[wanted("", {})]), last()], ProviderReason.PROTOCOL),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(lines: list[dict[str, Any]], reason: ProviderReason) -> None:
    with pytest.raises(ProviderError) as caught:
        decode(*lines)
    assert caught.value.reason is reason


@given(st.lists(st.text(alphabet="ab\r ", max_size=5)), st.lists(st.integers(1, 7)))
def test_lines_are_the_same_however_they_were_cut(lines: list[str], cuts: list[int]) -> None:
    data = "".join(f"{one}\n" for one in lines).encode() + b"unfinished"
    parser = LineParser()
    found: list[bytes] = []
    for size in cuts:
        found += parser.feed(data[:size])
        data = data[size:]

    assert [*found, *parser.feed(data)] == [one.encode() for one in lines if one.strip()]


def test_a_line_over_the_limit_is_refused() -> None:
    parser = LineParser("p", limit=10)
    assert parser.feed(b"123456789\n12345") == [b"123456789"]
    with pytest.raises(ProviderError) as caught:
        parser.feed(b"678901")
    assert caught.value.reason is ProviderReason.PROTOCOL
