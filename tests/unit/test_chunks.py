"""OpenAI's wire format, byte by byte."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from app.channels.drain import KEEP_ALIVE
from app.channels.openai.chunks import DONE, Completion, error_event, usage_body
from app.errors import ProviderError, ProviderReason
from app.messages import Usage

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
    assert completion().body("Grüße 👍", "stop", USAGE) == (
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
    assert completion().end("length", USAGE) == HEAD + (
        b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    )


def test_usage_comes_last_and_every_other_chunk_says_null() -> None:
    asked = completion(include_usage=True)

    assert asked.role().endswith(b'"finish_reason":null}],"usage":null}\n\n')
    assert asked.content("x").endswith(b'"finish_reason":null}],"usage":null}\n\n')
    assert asked.end("stop", USAGE) == (
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
