"""What becomes of every parameter that OpenAI has published."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

from app.channels.openai.parameters import PARAMETERS
from app.channels.openai.schema import ChatRequest, parse_chat_request, with_reasoning
from app.errors import InvalidRequest
from app.messages import SamplingParams
from tests.unit.test_schema import HI, parse, refusal

OF_THE_SDK = set(get_type_hints(CompletionCreateParamsStreaming))
DOCUMENT = os.environ.get("OPENAI_OPENAPI")

# Passed to the model's provider: what a client sends, and what the run gets.
PASSED: dict[str, tuple[Any, Any]] = {
    "temperature": (0.5, 0.5),
    "top_p": (0.5, 0.5),
    "max_tokens": (5, 5),
    "frequency_penalty": (0.5, 0.5),
    "presence_penalty": (-0.5, -0.5),
    "seed": (7, 7),
    "stop": ("END", ("END",)),
    "response_format": ({"type": "json_object"}, {"type": "json_object"}),
    "reasoning_effort": ("xhigh", "xhigh"),
    "verbosity": ("low", "low"),
    "logit_bias": ({"50256": -100}, {"50256": -100}),
    "prediction": ({"type": "content", "content": "a"}, {"type": "content", "content": "a"}),
    "service_tier": ("flex", "flex"),
}

# Honoured by the gateway itself: the field of the request that knows it.
HONOURED: dict[str, tuple[Any, str, Any]] = {
    "model": ("openclaw/beta", "model", "openclaw/beta"),
    "stream": (True, "stream", True),
    "stream_options": ({"include_usage": True}, "include_usage", True),
    "user": ("ada", "user", "ada"),
    "store": (True, "store", True),
    "metadata": ({"a": "b"}, "metadata", {"a": "b"}),
    "prompt_cache_key": ("k-1", "cache_key", "k-1"),
    "include_reasoning": (True, "include_reasoning", True),
}

REFUSED: dict[str, Any] = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "mp3"},
    "web_search_options": {},
    "moderation": {"model": "omni-moderation-latest"},
}

# Changes nothing here, and the caller is told so.
NAMED: dict[str, Any] = {
    "safety_identifier": "user-1",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"ttl": "30m"},
    "unheard_of": 1,
}

# Parsed elsewhere and tested there.
OF_OTHERS = {
    "messages", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls", "functions",
    "function_call",
}  # fmt: skip


def test_every_parameter_of_the_published_api_has_a_decision_and_an_example_of_it() -> None:
    decided = PASSED.keys() | HONOURED.keys() | REFUSED.keys() | NAMED.keys() | OF_OTHERS

    assert OF_THE_SDK - PARAMETERS.keys() - {"unheard_of"} == set()
    assert PARAMETERS.keys() == decided - {"unheard_of"}


@pytest.mark.skipif(DOCUMENT is None, reason="OPENAI_OPENAPI does not name OpenAI's document")
def test_every_parameter_of_the_published_document_has_a_decision() -> None:
    schemas = json.loads(Path(str(DOCUMENT)).read_text())["components"]["schemas"]

    published = properties(schemas, {"$ref": "#/components/schemas/CreateChatCompletionRequest"})

    assert len(published) > 30
    assert published - PARAMETERS.keys() == set()


def properties(schemas: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    if reference := schema.get("$ref"):
        schema = schemas[reference.rpartition("/")[2]]
    inherited = (properties(schemas, part) for part in schema.get("allOf", []))
    return set(schema.get("properties", {})).union(*inherited)


@pytest.mark.parametrize("name", PASSED)
def test_what_the_model_can_be_told_is_passed_on(name: str) -> None:
    sent, expected = PASSED[name]

    request = parse(**{name: sent})

    assert request == ChatRequest(
        "openclaw", parse().messages, "", SamplingParams(**{name: expected}), ignored=()
    )


@pytest.mark.parametrize("name", HONOURED)
def test_what_the_gateway_does_itself_is_in_the_request(name: str) -> None:
    sent, field, expected = HONOURED[name]

    request = parse(**{name: sent})

    assert getattr(request, field) == expected
    assert getattr(parse(), field) != expected
    assert (request.params, request.ignored) == (SamplingParams(), ())


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answers_meaning_is_refused_by_its_name(name: str) -> None:
    error = refusal({"messages": HI, name: REFUSED[name]})

    assert (error.param, error.code) == (name, "unsupported_value")


@pytest.mark.parametrize("name", NAMED)
def test_what_has_no_effect_is_taken_and_named(name: str) -> None:
    request = parse(**{name: NAMED[name]})

    assert request.ignored == (name,)
    assert parse(**{name: None}).ignored == ()


def test_padding_of_streams_is_named_if_it_is_asked_for() -> None:
    assert parse(stream_options={"include_obfuscation": True}).ignored == (
        "stream_options.include_obfuscation",
    )
    assert parse(stream_options={"include_obfuscation": False}).ignored == ()


def test_names_that_would_break_a_header_are_not_repeated_and_there_are_at_most_twenty() -> None:
    assert parse(**{"a\r\nb": 1, "ü": 1, "x" * 65: 1, "top_k": 1}).ignored == ("top_k",)
    assert len(parse(**{f"p{number}": 1 for number in range(50)}).ignored) == 20


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("reasoning_effort", "enormous", "reasoning_effort"),
        ("reasoning_effort", "", "reasoning_effort"),
        ("verbosity", "chatty", "verbosity"),
        ("verbosity", 1, "verbosity"),
        ("service_tier", "gold", "service_tier"),
        ("logit_bias", [1], "logit_bias"),
        ("logit_bias", {"a": 1}, "logit_bias"),
        ("logit_bias", {"²": 1}, "logit_bias"),
        ("logit_bias", {"1": 101}, "logit_bias"),
        ("logit_bias", {"1": True}, "logit_bias"),
        ("logit_bias", {"1": 0.5}, "logit_bias"),
        ("logit_bias", {str(token): 1 for token in range(1025)}, "logit_bias"),
        ("prediction", "a", "prediction"),
        ("prediction", {"type": "other"}, "prediction"),
        ("prediction", {"type": "content"}, "prediction.content"),
        ("prediction", {"type": "content", "content": []}, "prediction.content"),
        ("prediction", {"type": "content", "content": [{"type": "image_url"}]}, "prediction.content"),
        ("metadata", [], "metadata"),
        ("metadata", {str(number): "x" for number in range(17)}, "metadata"),
        ("metadata", {"x" * 65: "x"}, "metadata"),
        ("metadata", {"x": "x" * 513}, "metadata.x"),
        ("metadata", {"x": 1}, "metadata.x"),
        ("store", "yes", "store"),
        ("safety_identifier", 1, "safety_identifier"),
        ("safety_identifier", "x" * 65, "safety_identifier"),
        ("prompt_cache_key", 1, "prompt_cache_key"),
        ("prompt_cache_key", "x" * 257, "prompt_cache_key"),
        ("prompt_cache_retention", "forever", "prompt_cache_retention"),
        ("prompt_cache_options", "x", "prompt_cache_options"),
        ("include_reasoning", "yes", "include_reasoning"),
        ("modalities", "text", "modalities"),
        ("n", 129, "n"),
        ("top_logprobs", 21, "top_logprobs"),
        ("logprobs", 1, "logprobs"),
    ],
)
def test_a_value_that_no_api_takes_is_refused_by_its_name(name: str, value: Any, param: str) -> None:
    error = refusal({"messages": HI, name: value})

    assert (error.param, error.code) == (param, "invalid_value")


def test_values_at_the_edge_are_taken() -> None:
    parts = {"type": "content", "content": [{"type": "text", "text": "a"}]}

    assert parse(metadata={"x" * 64: "y" * 512}).metadata == {"x" * 64: "y" * 512}
    assert len(parse(metadata={str(number): "" for number in range(16)}).metadata) == 16
    assert parse(logit_bias={"1": -100, "999999": 100}).params.logit_bias == {"1": -100, "999999": 100}
    assert parse(prediction=parts).params.prediction == parts
    assert parse(top_logprobs=0, logprobs=False, n=1.0, modalities=["text"]) == parse()
    assert parse(service_tier="auto") == parse()


@pytest.mark.parametrize(
    ("setting", "asked", "shown", "ignored"),
    [
        ("off", None, False, ()),
        ("off", False, False, ()),
        ("off", True, False, ("include_reasoning",)),
        ("request", None, False, ()),
        ("request", True, True, ()),
        ("on", None, True, ()),
        ("on", False, False, ()),
    ],
)
def test_reasoning_is_shown_as_the_configuration_and_the_request_say(
    setting: Any, asked: bool | None, shown: bool, ignored: tuple[str, ...]
) -> None:
    request = with_reasoning(parse(include_reasoning=asked), setting)

    assert (bool(request.include_reasoning), request.ignored) == (shown, ignored)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(OF_THE_SDK - {"messages"})), ANYTHING, max_size=4))
def test_whatever_stands_in_a_parameter_it_is_taken_or_refused_by_its_name(fields: dict[str, Any]) -> None:
    blamed: str | None = None
    try:
        request = parse_chat_request({**fields, "messages": HI})
        assert set(request.ignored) <= {*fields, "stream_options.include_obfuscation"}
    except InvalidRequest as error:
        blamed = str(error.param).partition(".")[0].partition("[")[0]
    assert blamed is None or blamed in fields
