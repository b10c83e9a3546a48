"""Answers in JSON: what each provider is asked for, on every wire, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from app.cancel import CancelToken
from app.errors import ProviderError
from app.events import TextDelta
from app.messages import AssistantMessage, Message, SamplingParams, UserMessage
from app.providers.anthropic import AnthropicMessages
from app.providers.base import CallTimeouts, ModelInfo, ModelRequest, ToolSpec
from app.providers.formats import in_words, narrowed
from app.providers.ollama import Ollama
from app.providers.openai_completions import OpenAICompletions, WireSwitches
from app.providers.openai_responses import OpenAIResponses
from app.providers.streaming import StreamingProvider
from app.providers.transport import HttpClient
from tests.scripted_provider import Reply, ScriptedProvider, Status
from tests.unit.test_structured import schemas

Kind = type[StreamingProvider]
KINDS: tuple[Kind, ...] = (OpenAICompletions, AnthropicMessages, OpenAIResponses, Ollama)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FITTING: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "place", "description": "Where it is.", "schema": SCHEMA, "strict": True},
}
ANY_OBJECT: dict[str, Any] = {"type": "json_object"}
KNOWN = ModelInfo(schemas=True)

# What the request says of the form, by wire: for a schema, and for any object.
SENT: dict[Kind, tuple[dict[str, Any], dict[str, Any]]] = {
    OpenAICompletions: ({"response_format": FITTING}, {"response_format": ANY_OBJECT}),
    AnthropicMessages: ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, {}),
    OpenAIResponses: (
        {"text": {"format": {"type": "json_schema", **FITTING["json_schema"]}}},
        {"text": {"format": ANY_OBJECT}},
    ),
    Ollama: ({"format": SCHEMA}, {"format": "json"}),
}
# How the servers of each kind say that they want nothing of it.
REFUSALS: dict[Kind, str] = {
    OpenAICompletions: "This response_format type is unavailable now",
    AnthropicMessages: "output_config.format: schema is too complex for compilation",
    OpenAIResponses: "Invalid schema for response_format 'place': 'additionalProperties' is required",
    Ollama: "invalid JSON schema in format",
}
FIELDS = {"response_format", "output_config", "text", "format"}


@pytest.fixture
def server() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as server:
        yield server


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


def ask(kind: Kind, server: ScriptedProvider, wanted: dict[str, Any], *said: Message, **options: Any) -> str:
    about = {name: options.pop(name) for name in ("default", "switches") if name in options}
    provider = kind(  # type: ignore[call-arg]
        "test", base_url=server.base_url, http=HttpClient(), **{"default": KNOWN} | about
    )
    request = ModelRequest(
        "m",
        "Be brief.",
        said or (UserMessage.of("hi"),),
        params=SamplingParams(response_format=wanted, **options.pop("params", {})),
        timeouts=CallTimeouts(connect=5, first_token=10, stall=10),
        **options,
    )
    with closing(provider):
        events = provider.stream(request, CancelToken())
        return "".join(event.text for event in events if isinstance(event, TextDelta))


def form(server: ScriptedProvider, number: int = -1) -> dict[str, Any]:
    body = server.requests[number].body
    return {name: body[name] for name in FIELDS & body.keys()}


def words(server: ScriptedProvider, number: int = -1) -> str:
    """All that the model is told, as one text."""
    return json.dumps(server.requests[number].body, ensure_ascii=False)


def told(wanted: dict[str, Any]) -> str:
    return json.dumps(in_words(wanted), ensure_ascii=False)[1:-1]


def test_a_schema_is_stated_as_the_wire_has_it(server: ScriptedProvider, kind: Kind) -> None:
    ask(kind, server, FITTING)

    assert form(server) == SENT[kind][0]
    assert told(FITTING) not in words(server)


def test_json_of_any_kind_is_stated_as_the_wire_has_it(server: ScriptedProvider, kind: Kind) -> None:
    ask(kind, server, ANY_OBJECT)

    assert form(server) == SENT[kind][1]


def test_an_answer_without_a_form_is_asked_for_without_one(server: ScriptedProvider, kind: Kind) -> None:
    ask(kind, server, {})

    assert form(server) == {}
    assert "JSON" not in words(server)


def test_a_provider_that_refuses_the_schema_is_asked_in_words(server: ScriptedProvider, kind: Kind) -> None:
    refusal = Status(400, {"error": {"type": "invalid_request_error", "message": REFUSALS[kind]}})
    server.script(refusal, Reply('{"city": "Bonn"}'))

    assert ask(kind, server, FITTING) == '{"city": "Bonn"}'

    assert form(server, 0) == SENT[kind][0]
    assert form(server, 1) == SENT[kind][1]
    assert told(FITTING) in words(server)


def test_a_provider_that_wants_nothing_of_json_is_asked_in_words_alone(
    server: ScriptedProvider, kind: Kind
) -> None:
    refusal = Status(400, {"error": {"type": "invalid_request_error", "message": REFUSALS[kind]}})
    server.script(refusal, refusal, Reply("{}"))

    assert ask(kind, server, FITTING) == "{}"

    assert form(server) == {}
    assert words(server).count(told(FITTING)) == 1


def test_any_other_refusal_stands(server: ScriptedProvider, kind: Kind) -> None:
    server.script(Status(400, {"error": {"type": "x", "message": "messages: bad value"}}), Reply("{}"))

    with pytest.raises(ProviderError):
        ask(kind, server, FITTING)

    assert len(server.requests) == 1


def test_a_server_known_to_take_no_schema_gets_none(server: ScriptedProvider) -> None:
    ask(OpenAICompletions, server, FITTING, switches=WireSwitches(json_schema=False))
    assert form(server) == {"response_format": ANY_OBJECT}
    assert told(FITTING) in words(server)

    of_arrays = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    ask(OpenAICompletions, server, of_arrays, switches=WireSwitches(json_schema=False))
    assert form(server) == {}


def test_the_word_json_is_in_the_input_where_the_api_looks_for_it(server: ScriptedProvider) -> None:
    ask(OpenAIResponses, server, ANY_OBJECT)
    assert "JSON" in json.dumps(server.requests[0].body["input"])


def test_ollama_may_call_tools_before_it_answers_in_json(server: ScriptedProvider) -> None:
    ask(Ollama, server, FITTING, tools=(ToolSpec("look", "Looks.", {"type": "object"}),))
    assert form(server) == {}


# Anthropic's dialect


def test_how_much_to_think_and_the_form_stand_side_by_side(server: ScriptedProvider) -> None:
    thinker = replace(KNOWN, adaptive=True, reasoning=True, levels=("low", "high"))
    ask(AnthropicMessages, server, FITTING, default=thinker, params={"reasoning_effort": "low"})

    assert server.requests[0].body["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": SCHEMA},
    }


@pytest.mark.parametrize(
    ("default", "said"),
    [
        (ModelInfo(), (UserMessage.of("hi"),)),
        (replace(KNOWN, prefill=True), (UserMessage.of("hi"), AssistantMessage('{"city":'))),
    ],
)
def test_who_cannot_be_held_to_a_schema_is_told(
    server: ScriptedProvider, default: ModelInfo, said: tuple[Message, ...]
) -> None:
    ask(AnthropicMessages, server, FITTING, *said, default=default)

    assert form(server) == {}
    assert told(FITTING) in words(server)


def test_bounds_that_cannot_be_stated_are_said(server: ScriptedProvider) -> None:
    bounded = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": bounded}}

    ask(AnthropicMessages, server, wanted)

    assert form(server)["output_config"]["format"]["schema"] == {
        "type": "object",
        "properties": {"age": {"type": "integer"}},
        "additionalProperties": False,
    }
    assert told(wanted) in words(server)


LIST = {"type": "array", "items": {"$ref": "#/$defs/a"}}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/a"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected", "whole"),
    [
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}, True),
        ({"type": "string", "format": "phone"}, {"type": "string"}, False),
        ({"enum": ["a", 1, None]}, {"enum": ["a", 1, None]}, True),
        ({"enum": [["a"]]}, None, False),
        ({"const": {"a": 1}}, None, False),
        ({"oneOf": [{"type": "null"}, {"title": "T"}]}, {"anyOf": [{"type": "null"}, {"title": "T"}]}, False),
        ({"allOf": [{"type": "string"}]}, None, False),
        ({"items": {"type": "string"}, "minItems": 1}, {"items": {"type": "string"}, "minItems": 1}, True),
        ({"items": {"type": "string"}, "minItems": 2}, {"items": {"type": "string"}}, False),
        ({"type": "object"}, None, False),
        ({"type": "object", "additionalProperties": {"type": "string"}}, None, False),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}, None, False),
        ({"type": "object", "properties": {"a": True}}, None, False),
        ({**LIST, "$defs": {"a": {"type": "string"}}}, {**LIST, "$defs": {"a": {"type": "string"}}}, True),
        ({**LIST, "$defs": {"a": NODE}}, None, False),
        ({}, None, False),
    ],
)  # fmt: skip
def test_a_schema_is_narrowed_to_what_the_api_takes(schema: Any, expected: Any, whole: bool) -> None:
    assert narrowed(schema) == (expected, whole)


def test_a_schema_that_doubles_itself_is_narrowed_in_no_time() -> None:
    parts: dict[str, Any] = {f"p{i}": {"anyOf": [{"$ref": f"#/$defs/p{i + 1}"}] * 2} for i in range(60)}
    made, _ = narrowed({"$ref": "#/$defs/p0", "$defs": {**parts, "p60": {"type": "null"}}})
    assert made


@settings(max_examples=200, deadline=None)
@given(schema=schemas(("#", "#/$defs/a", "#/$defs/b")))
def test_whatever_is_narrowed_is_a_schema(schema: Any) -> None:
    made, _ = narrowed(schema)
    if made is not None:
        Draft202012Validator.check_schema(made)
