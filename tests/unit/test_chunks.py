"""OpenAI's wire format, byte by byte."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.channels.drain import KEEP_ALIVE
from app.channels.openai.chunks import DONE, Completion, error_event, usage_body
from app.errors import ProviderError, ProviderReason
from app.events import RunCompleted
from app.messages import ToolCall, Usage

USAGE = Usage(input=11, output=7, cached=4, reasoning=2)
HEAD = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795399243,'
    b'"model":"openclaw:Beta","choices":'
)
USAGE_JSON = (
    b'{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18,'
    b'"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}'
)


def completion(*, include_usage: bool = False) -> Completion:
    return Completion("chatcmpl-1", 1795399243, "openclaw:Beta", include_usage=include_usage)


def test_the_whole_answer() -> None:
    assert completion().body(RunCompleted("Grüße 👍", "stop", USAGE)) == (
        '{"id":"chatcmpl-1","object":"chat.completion","created":1795399243,"model":"openclaw:Beta",'
        '"choices":[{"index":0,"message":{"role":"assistant","content":"Grüße 👍","refusal":null},'
        '"logprobs":null,"finish_reason":"stop"}],"usage":'.encode()
        + USAGE_JSON
        + b"}"
    )


def test_the_first_chunk_says_who_speaks() -> None:
    assert completion().role() == HEAD + (
        b'[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,'
        b'"finish_reason":null}]}\n\n'
    )


def test_a_content_chunk() -> None:
    assert completion().content('He said "hé"\n') == HEAD + (
        '[{"index":0,"delta":{"content":"He said \\"hé\\"\\n"},"logprobs":null,'
        '"finish_reason":null}]}\n\n'.encode()
    )


def test_the_end_without_usage() -> None:
    assert completion().end(RunCompleted("x", "length", USAGE)) == HEAD + (
        b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    )


def test_usage_comes_last_and_every_other_chunk_says_null() -> None:
    asked = completion(include_usage=True)

    assert asked.role().endswith(b'"finish_reason":null}],"usage":null}\n\n')
    assert asked.content("x").endswith(b'"finish_reason":null}],"usage":null}\n\n')
    assert asked.end(RunCompleted("x", "stop", USAGE)) == (
        HEAD
        + b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
        + HEAD
        + b'[],"usage":'
        + USAGE_JSON
        + b"}\n\ndata: [DONE]\n\n"
    )


def test_an_error_after_the_first_byte() -> None:
    error = ProviderError(ProviderReason.TIMEOUT, "It took too long.")

    assert error_event(error) == (
        b'data: {"error":{"message":"It took too long.","type":"timeout","param":null,'
        b'"code":"provider_timeout"}}\n\n'
    )


def test_the_fixed_lines() -> None:
    assert DONE == b"data: [DONE]\n\n"
    assert KEEP_ALIVE == b": keepalive\n\n"


def test_nothing_reported_is_nothing_used() -> None:
    assert usage_body(Usage())["total_tokens"] == 0


@given(st.text(), st.text(max_size=20), st.booleans())
def test_any_text_and_any_model_name_survive_the_wire(text: str, model: str, include_usage: bool) -> None:
    data = Completion("chatcmpl-1", 1, model, include_usage=include_usage).content(text)

    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    chunk = json.loads(data[6:])
    assert chunk["model"] == model
    assert chunk["choices"][0]["delta"] == {"content": text}
    assert ("usage" in chunk) is include_usage


# tools of the client

CALLS = (ToolCall("call_1", "weather", '{"city":"Ulm"}'), ToolCall("call_2", "time", "{}"))
ANSWER = RunCompleted("", "tool_calls", USAGE, CALLS)


def with_tools(*, legacy: bool = False) -> Completion:
    return Completion("chatcmpl-1", 1795399243, "openclaw:Beta", tools=True, legacy=legacy)


def chunks(data: bytes) -> list[Any]:
    *events, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def deltas(data: bytes) -> list[Any]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(data) if chunk["choices"]]


def test_calls_stand_in_the_message_and_no_text_is_null() -> None:
    [choice] = json.loads(with_tools().body(ANSWER))["choices"]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Ulm"}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }


def test_text_beside_calls_stays() -> None:
    [choice] = json.loads(with_tools().body(replace(ANSWER, text="Let me look.")))["choices"]

    assert choice["message"]["content"] == "Let me look."


def test_an_empty_answer_without_calls_is_an_empty_text() -> None:
    [choice] = json.loads(with_tools().body(RunCompleted("", "stop", USAGE)))["choices"]

    assert choice["message"] == {"role": "assistant", "content": "", "refusal": None}
    assert deltas(with_tools().end(RunCompleted("", "stop", USAGE))) == [{"content": ""}, {}]


def test_each_call_is_streamed_as_its_name_and_then_its_arguments() -> None:
    assert with_tools().role() == HEAD + (
        b'[{"index":0,"delta":{"role":"assistant","content":null,"refusal":null},"logprobs":null,'
        b'"finish_reason":null}]}\n\n'
    )
    assert deltas(with_tools().end(ANSWER)) == [
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Ulm"}'}}]},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "time", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    *most, last = chunks(with_tools().end(ANSWER))
    assert {chunk["choices"][0]["finish_reason"] for chunk in most} == {None}
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_who_brings_functions_of_old_gets_a_function_call() -> None:
    answer = replace(ANSWER, tool_calls=CALLS[:1])
    [choice] = json.loads(with_tools(legacy=True).body(answer))["choices"]

    assert choice["finish_reason"] == "function_call"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "function_call": {"name": "weather", "arguments": '{"city":"Ulm"}'},
    }
    assert deltas(with_tools(legacy=True).end(answer)) == [
        {"function_call": {"name": "weather", "arguments": ""}},
        {"function_call": {"arguments": '{"city":"Ulm"}'}},
        {},
    ]
    assert chunks(with_tools(legacy=True).end(answer))[-1]["choices"][0]["finish_reason"] == "function_call"


def test_who_brings_functions_of_old_gets_any_other_answer_as_everybody() -> None:
    assert with_tools(legacy=True).body(RunCompleted("x", "stop", USAGE)) == completion().body(
        RunCompleted("x", "stop", USAGE)
    )


@given(st.text(max_size=2_000))
def test_the_arguments_are_the_pieces_they_come_in(text: str) -> None:
    call = ToolCall("call_1", "f", json.dumps({"text": text}, ensure_ascii=False))
    data = with_tools().end(RunCompleted("", "tool_calls", USAGE, (call,)))

    pieces = [delta["tool_calls"][0]["function"]["arguments"] for delta in deltas(data)[1:-1]]
    assert "".join(pieces) == call.arguments
    assert all(0 < len(piece) <= 256 for piece in pieces)
