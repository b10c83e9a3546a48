"""Calls of a model that knows nothing of tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from app.events import ReasoningDelta, TextDelta
from app.messages import AssistantMessage, FinishReason, ToolCall, ToolMessage, Usage, UserMessage
from app.providers.base import ModelDone, ModelEvent, ModelRequest, ToolSpec
from app.providers.embedded_tools import as_call, in_words, made_to_call

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER, CLOCK = ToolSpec("weather", "The weather.", CITY), ToolSpec("clock", "", {"type": "object"})
USAGE = Usage(1, 2)


def asked(*tools: ToolSpec, system: str = "Be brief.") -> ModelRequest:
    return made_to_call(ModelRequest("m", system, (UserMessage.of("hi"),), tools))


def schema_of(request: ModelRequest) -> Any:
    assert request.params.response_format is not None
    assert request.params.response_format["type"] == "json_schema"
    return json.loads(json.dumps(request.params.response_format))["json_schema"]["schema"]


def answered(text: str, tools: Sequence[ToolSpec], reason: FinishReason = "stop") -> list[ModelEvent]:
    deltas = [TextDelta(text[:3]), TextDelta(text[3:])]
    return list(as_call(iter([*deltas, ModelDone(reason, usage=USAGE)]), tools))


def test_one_tool_is_called_by_writing_its_arguments() -> None:
    request = asked(WEATHER)

    assert request.tools == ()
    assert request.system.startswith(
        "Be brief.\n\nAnswer with the arguments of a call of the function weather"
    )
    assert "The weather." in request.system
    assert schema_of(request) == CITY
    [done] = answered('{"city":\n "Ulm"}', [WEATHER])
    assert isinstance(done, ModelDone)
    [call] = done.tool_calls
    assert (call.name, call.arguments, done.finish_reason) == ("weather", '{"city":"Ulm"}', "tool_calls")
    assert done.usage == USAGE


def test_one_of_several_is_called_by_its_name() -> None:
    request = asked(WEATHER, CLOCK, system="")

    assert request.system.startswith("Answer with a call of one function")
    assert [one["properties"]["name"] for one in schema_of(request)["anyOf"]] == [
        {"const": "weather"},
        {"const": "clock"},
    ]
    [done] = answered('{"name": "clock", "arguments": {}}', [WEATHER, CLOCK])
    assert isinstance(done, ModelDone)
    [call] = done.tool_calls
    assert (call.name, call.arguments) == ("clock", "{}")


def test_ids_differ() -> None:
    ids = {
        done.tool_calls[0].id
        for _ in range(9)
        for done in answered("{}", [CLOCK])
        if isinstance(done, ModelDone)
    }

    assert len(ids) == 9


def test_what_refers_to_its_own_parts_is_not_put_inside_of_something_else() -> None:
    node = ToolSpec(
        "node", "", {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}
    )

    assert schema_of(asked(node)) == node.parameters
    [_, inner] = schema_of(asked(CLOCK, node))["anyOf"]
    assert inner["properties"]["arguments"] == {"type": "object"}


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_what_is_no_call_is_an_answer_without_one(text: str) -> None:
    assert answered(text, [WEATHER]) == [ModelDone("stop", usage=USAGE)]
    assert answered(text, [WEATHER, CLOCK]) == [ModelDone("stop", usage=USAGE)]


def test_an_answer_that_was_cut_off_is_no_call() -> None:
    assert answered('{"city": "U', [WEATHER], "length") == [ModelDone("length", usage=USAGE)]
    thought = ReasoningDelta("hm")
    assert list(as_call(iter([thought]), [WEATHER])) == [thought]


def test_earlier_calls_and_results_are_told_in_words() -> None:
    call = ToolCall("c1", "weather", '{"city":"Ulm"}')
    said = [UserMessage.of("hi"), AssistantMessage("Look.", (call,)), ToolMessage("c1", "weather", "sun")]

    assert in_words([*said, AssistantMessage("Sunny.")]) == (
        UserMessage.of("hi"),
        AssistantMessage('Look.\nI call weather with {"city":"Ulm"}.'),
        UserMessage.of("The result of weather:\nsun"),
        AssistantMessage("Sunny."),
    )
