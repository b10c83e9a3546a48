"""The pure half of the OpenAI-compatible provider: body, decoder, classifier."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ProviderError, ProviderReason
from app.events import ReasoningDelta, TextDelta
from app.messages import (
    AssistantMessage,
    ImagePart,
    SamplingParams,
    TextPart,
    Thoughts,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from app.providers.base import ModelDone, ModelEvent, ModelInfo, ModelRequest, ToolSpec
from app.providers.classify import classify_event, classify_response, redact
from app.providers.known import KNOWN
from app.providers.openai_completions import CompletionDecoder, WireSwitches, build_body

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def fragment(arguments: Any = None, **fields: Any) -> dict[str, Any]:
    name = fields.pop("name", None)
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return delta(tool_calls=[fields | {"function": function}])


def decode(*chunks: dict[str, Any]) -> list[ModelEvent]:
    decoder = CompletionDecoder("p", ref="p/m")
    events = [event for one in chunks for event in decoder.feed(json.dumps(one).encode())]
    return [*events, decoder.finish()]


def calls(*chunks: dict[str, Any]) -> tuple[ToolCall, ...]:
    done = decode(*chunks, delta("tool_calls"))[-1]
    assert isinstance(done, ModelDone)
    return done.tool_calls


def failure(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> ProviderError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_response("p", status, headers or {}, data, now=NOW, secrets=["topsecret"])


# the request


def test_the_body_is_a_stream_request_with_the_system_text_first() -> None:
    body = build_body(ModelRequest("m", "Be kind.", (UserMessage.of("hi"),)), WireSwitches())
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_switches_change_what_servers_differ_in() -> None:
    request = ModelRequest("m", "s", (), params=SamplingParams(max_tokens=5))
    switches = WireSwitches("max_completion_tokens", stream_usage=False, developer_role=True, store=True)
    body = build_body(request, switches)
    assert body["messages"] == [{"role": "developer", "content": "s"}]
    assert body["max_completion_tokens"] == 5
    assert body["store"] is False
    assert not {"stream_options", "max_tokens"} & set(body)


def test_a_conversation_with_tools_and_images_keeps_its_structure() -> None:
    messages = (
        UserMessage((TextPart("what is it"), ImagePart("image/png", "QUJD"))),
        AssistantMessage("", (ToolCall("c1", "look", '{"x":1}'),)),
        ToolMessage("c1", "look", "a cat"),
        AssistantMessage("A cat."),
        UserMessage((TextPart("a"), TextPart("b"))),
    )
    assert build_body(ModelRequest("m", "", messages), WireSwitches())["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is it"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x":1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "a\nb"},
    ]


def test_parameters_have_their_wire_names_and_extra_wins() -> None:
    params = SamplingParams(0.0, 0.5, 9, 0.1, 0.2, 42, ("END",), {"type": "json_object"}, "low")
    tool = ToolSpec("look", "Looks.", {"type": "object"})
    request = ModelRequest("m", "", (), (tool,), params, extra={"tool_choice": "none", "user": "u"})
    body = build_body(request, WireSwitches())
    del body["model"], body["messages"], body["stream"], body["stream_options"]
    assert body == {
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 9,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "seed": 42,
        "stop": ["END"],
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": "none",
        "user": "u",
    }


def test_the_cache_key_goes_only_to_servers_that_know_it() -> None:
    request = ModelRequest("m", "", (), cache_key="agent:main:" + "x" * 500)
    assert len(str(build_body(request, WireSwitches(cache_key=True))["prompt_cache_key"])) == 32
    assert "prompt_cache_key" not in build_body(request, WireSwitches())


@pytest.mark.parametrize(
    ("effort", "info", "sent"),
    [
        ("low", {}, "low"),
        ("max", {}, "high"),
        ("minimal", {}, "low"),
        ("none", {}, None),
        ("none", {"levels": ("none", "low")}, "none"),
        ("max", {"levels": ("low", "xhigh")}, "xhigh"),
        ("medium", {"levels": ("high", "max")}, "high"),
        ("high", {"reasoning": False}, None),
        ("high", {"levels": ("none",)}, None),
        (None, {"levels": ("low",)}, None),
    ],
)
def test_a_level_that_a_model_does_not_have_becomes_the_next_lower_one(
    effort: str | None, info: dict[str, Any], sent: str | None
) -> None:
    request = ModelRequest("m", "", (), params=SamplingParams(reasoning_effort=effort))
    assert build_body(request, WireSwitches(), ModelInfo(**info)).get("reasoning_effort") == sent


def test_reasoning_goes_back_with_every_turn_that_called_tools() -> None:
    call = (ToolCall("c1", "look", "{}"),)
    thoughts = Thoughts("p/m", ({"reasoning_content": "hm"},))
    messages = (
        UserMessage.of("a"),
        AssistantMessage("", call, thoughts),
        ToolMessage("c1", "look", "x"),
        AssistantMessage("b"),
        UserMessage.of("c"),
        AssistantMessage("", call, replace(thoughts, ref="p/other")),
        ToolMessage("c1", "look", "x"),
    )
    request = ModelRequest("m", "", messages)

    made: Any = build_body(request, WireSwitches(reasoning_back=True), ref="p/m")["messages"]
    assert [one.get("reasoning_content") for one in made] == [None, "hm", None, None, None, "", None]
    assert "reasoning_content" not in json.dumps(build_body(request, WireSwitches(), ref="p/m"))


def test_signatures_of_calls_go_back_with_their_calls() -> None:
    signed = {"google": {"thought_signature": "c2ln"}}
    done = decode(
        fragment("{}", index=0, id="a", name="f", extra_content=signed),
        fragment("{}", index=1, id="b", name="f"),
        delta("tool_calls"),
    )[-1]
    assert isinstance(done, ModelDone)
    turn = AssistantMessage("", done.tool_calls, done.thoughts)

    messages: Any = build_body(ModelRequest("m", "", (turn,)), WireSwitches(), ref="p/m")["messages"]
    assert [call.get("extra_content") for call in messages[0]["tool_calls"]] == [signed, None]


def test_every_known_vendor_has_an_https_address_a_key_and_a_model() -> None:
    assert len({vendor.id for vendor in KNOWN}) == len(KNOWN)
    for vendor in KNOWN:
        assert vendor.base_url.startswith("https://")
        assert not vendor.base_url.endswith("/")
        assert vendor.env_keys
        assert vendor.default_model


# the answer


def test_text_reasoning_and_trailing_usage_are_decoded() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert decode(
        delta(role="assistant", content=None),
        delta(),
        delta(reasoning_content="hm"),
        delta(reasoning=" so", content=""),
        delta(content="a"),
        delta("stop", content="b"),
        {"choices": [], "usage": usage},
    ) == [
        ReasoningDelta("hm"),
        ReasoningDelta(" so"),
        TextDelta("a"),
        TextDelta("b"),
        ModelDone("stop", usage=Usage(10, 4, 3, 2, 5)),
    ]


@pytest.mark.parametrize(
    ("wire", "reason"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos", "stop"),
     ("tool_calls", "stop"), ("function_call", "stop")],
)  # fmt: skip
def test_finish_reasons_are_mapped(wire: str, reason: str) -> None:
    assert decode(delta(wire)) == [ModelDone(reason)]  # type: ignore[arg-type]


@pytest.mark.parametrize("wire", ["stop", "tool_calls", "function_call"])
def test_an_answer_with_tool_calls_ends_with_tool_calls(wire: str) -> None:
    done = decode(fragment("{}", index=0, id="a", name="f"), delta(wire))[-1]
    assert done == ModelDone("tool_calls", (ToolCall("a", "f", "{}"),))


def test_interleaved_tool_calls_with_gaps_are_put_together() -> None:
    assert calls(
        fragment("", index=0, id="a", name="f"),
        fragment("", index=5, id="b", name="g"),
        fragment('{"x"', index=0),
        fragment('{"y"', index=5, id=""),
        fragment(":1}", index=0, id="a"),
        fragment(":2}", index=5),
    ) == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", '{"y":2}'))


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}])
def test_whole_tool_calls_without_distinct_indexes_stay_apart(index: dict[str, Any]) -> None:
    assert calls(
        fragment('{"x":1}', **index, id="a", name="f"), fragment('{"x":2}', **index, id="b", name="f")
    ) == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "f", '{"x":2}'))


def test_a_continuation_without_index_belongs_to_its_id_or_else_to_the_last_call() -> None:
    assert calls(
        fragment("", id="a", name="f"), fragment("", id="b", name="g"), fragment("{", id="a"),
        fragment("{}"), fragment("}", id="a"),
    ) == (ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}"))  # fmt: skip


def test_missing_ids_are_made_up_and_repeated_ones_made_unique() -> None:
    assert [
        call.id
        for call in calls(
            fragment("{}", index=0, name="f"),
            fragment("{}", index=1, id="x", name="f"),
            fragment("{}", index=2, id="x", name="f"),
            fragment("{}", index=3, id="x_2", name="f"),
        )
    ] == ["call_0", "x", "x_2", "x_2_2"]


def test_arguments_may_be_absent_or_an_object() -> None:
    assert calls(
        fragment(None, index=0, id="a", name="f"), fragment({"x": 1}, index=1, id="b", name="g")
    ) == (
        ToolCall("a", "f", "{}"),
        ToolCall("b", "g", '{"x":1}'),
    )


def test_snapshots_and_other_choices_are_not_merged() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}
    assert decode(delta(content="a"), other, delta(content="ab"), delta("stop"))[:-1] == [
        TextDelta("a"),
        TextDelta("ab"),
    ]


def test_a_refusal_and_content_parts_are_text() -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "other"}]
    assert decode(delta(refusal="I can't."), delta("stop", content=parts))[:-1] == [
        TextDelta("I can't."),
        TextDelta("b"),
    ]


def test_an_answer_without_finish_reason_is_truncated() -> None:
    with pytest.raises(ProviderError) as caught:
        decode(delta(content="half"))
    assert caught.value.reason is ProviderReason.TRUNCATED


@pytest.mark.parametrize("payload", [b"{", b"[]", b"null", b'"x"', b"\xff", b"[DONE"])
def test_an_event_that_is_no_json_object_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        CompletionDecoder("p").feed(payload)
    assert caught.value.reason is ProviderReason.PROTOCOL


def test_a_tool_call_without_a_name_is_a_protocol_error() -> None:
    with pytest.raises(ProviderError) as caught:
        calls(fragment("{}", index=0, id="a"))
    assert caught.value.reason is ProviderReason.PROTOCOL


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "delta", "content", "tool_calls", "function", "index", "id", "name", "arguments",
             "usage", "prompt_tokens", "finish_reason", "message", "error", "code", "type"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(json_values, max_size=4))
def test_whatever_json_a_server_sends_only_provider_errors_come_out(values: list[Any]) -> None:
    decoder = CompletionDecoder("p")
    with suppress(ProviderError):  # nothing else may be raised
        for value in values:
            for event in decoder.feed(json.dumps(value).encode()):
                assert isinstance(event, TextDelta | ReasoningDelta)
                assert event.text
        assert isinstance(decoder.finish(), ModelDone)


# failures


def openai_error(message: str = "", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, openai_error("bad field"), "format"),
        (422, {"detail": [{"loc": ["x"]}]}, "format"),
        (409, b"", "format"),
        (401, openai_error("bad key"), "auth"),
        (403, openai_error("no"), "auth"),
        (400, [openai_error("API key not valid. Please pass a valid API key.", code=400)], "auth"),
        (402, b"", "billing"),
        (429, openai_error("You exceeded your current quota", code="insufficient_quota"), "billing"),
        (400, openai_error("Your credit balance is too low to access the API."), "billing"),
        (403, openai_error("Insufficient credits"), "billing"),
        (429, openai_error("slow down", code="rate_limit_exceeded"), "rate_limit"),
        (404, openai_error("The model `x` does not exist", code="model_not_found"), "model_not_found"),
        (400, openai_error("x is not a valid model ID"), "model_not_found"),
        (400, openai_error("Model Not Exist"), "model_not_found"),
        (408, b"", "timeout"),
        (504, b"<html>", "timeout"),
        (500, b"", "server_error"),
        (502, b"<html>Bad gateway</html>", "server_error"),
        (500, openai_error("The engine is currently overloaded"), "overloaded"),
        (503, openai_error("Loading model", code=503, type="unavailable_error"), "overloaded"),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, "overloaded"),
        (302, b"", "protocol"),
        (400, openai_error("x", code="context_length_exceeded"), "context_overflow"),
        (400, openai_error("This model's maximum context length is 8192 tokens."), "context_overflow"),
        (400, openai_error("prompt is too long: 210000 tokens > 200000 maximum"), "context_overflow"),
        (400, openai_error("request (9 tokens) exceeds the available context size (8 tokens), try",
                           code=400, type="exceed_context_size_error", n_ctx=8), "context_overflow"),
        (400, openai_error("The input token count (9) exceeds the maximum"), "context_overflow"),
        (413, openai_error("Request too large: tokens per minute", code="rate_limit_exceeded"),
         "context_overflow"),
        (413, b"<html>", "format"),
    ],
)  # fmt: skip
def test_a_refusal_gets_its_reason(status: int, body: Any, reason: str) -> None:
    error = failure(status, body)
    assert (error.reason.value, error.upstream_status, error.provider) == (reason, status, "p")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("broken", "server_error"),
        (None, "server_error"),
        ({"message": "x", "type": "server_error"}, "server_error"),
        ({"message": "x", "code": 502}, "server_error"),
        ({"message": "x", "code": 429}, "rate_limit"),
        ({"message": "x", "status": "RESOURCE_EXHAUSTED"}, "rate_limit"),
        ({"message": "x", "type": "overloaded_error"}, "overloaded"),
        ({"message": "x", "type": "exceed_context_size_error", "code": 400}, "context_overflow"),
        ({"message": "x", "type": "invalid_request_error"}, "format"),
    ],
)
def test_an_error_inside_a_stream_gets_its_reason(error: Any, reason: str) -> None:
    assert classify_event("p", error).reason.value == reason


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "2", "retry-after-ms": "1200"}, 1.2),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert failure(429, headers=headers).retry_after == seconds


def test_only_a_wrong_request_is_explained_in_the_providers_words() -> None:
    assert str(failure(400, openai_error("temperature is too hot"))) == (
        "Provider 'p' rejected the request: temperature is too hot"
    )
    assert "hot" not in str(failure(500, openai_error("temperature is too hot")))
    assert str(failure(400, b"<html>secret page</html>")) == "Provider 'p' rejected the request (HTTP 400)."
    assert len(str(failure(400, openai_error("long " * 1000)))) < 340


@pytest.mark.parametrize(
    "text",
    [
        "key topsecret is wrong",
        "key sk-proj-abcDEF123456 is wrong",
        "header Authorization: Bearer abc.def-123456 is wrong",
        "see https://user:hunter2secret@host/x",
        "see https://host/x?key=AIzaSyA123456789012345678901234567",
        "see https://host/x?api_key=q1w2e3r4t5",
        "in /home/alice/app/main.py line 3",
    ],
)
def test_credentials_and_paths_are_not_repeated(text: str) -> None:
    shown = redact(text, ["topsecret"])
    for hidden in ("topsecret", "abcDEF", "abc.def", "hunter2", "AIzaSy", "q1w2", "alice"):
        assert hidden not in shown


def test_a_harmless_message_is_left_as_it_is() -> None:
    text = "Use /v1/chat/completions; max_tokens must be <= 4096, tokens: 5000."
    assert redact(text) == text
