"""What only Ollama does. What all providers share is in the contract's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from app.cancel import CancelToken
from app.errors import ProviderError
from app.events import TextDelta
from app.messages import SamplingParams, UserMessage
from app.providers.base import ModelDone, ModelEvent, ModelRequest
from app.providers.ollama import Ollama
from app.providers.transport import HttpClient
from tests.scripted_provider import Raw, Reply, ScriptedProvider, Status

HELLO = (UserMessage.of("hi"),)


@pytest.fixture
def server() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as server:
        yield server


def ask(server: ScriptedProvider, path: str = "", params: Any = None, **options: Any) -> list[ModelEvent]:
    base_url = server.base_url.removesuffix("/v1") + path
    request = ModelRequest("m", "", HELLO, params=params or SamplingParams())
    with closing(Ollama("local", base_url=base_url, http=HttpClient(), **options)) as provider:
        return list(provider.stream(request, CancelToken()))


@pytest.mark.parametrize("path", ["", "/", "/api", "/v1", "/v1/"])
def test_the_address_may_be_any_of_the_servers(server: ScriptedProvider, path: str) -> None:
    assert ask(server, path)[0] == TextDelta("echo: ")
    assert server.requests[0].path == "/api/chat"


def test_a_stated_context_window_is_the_servers_too(server: ScriptedProvider) -> None:
    ask(server, windows={"m": 16_384})
    ask(server, windows={"other": 16_384})

    first, second = (received.body for received in server.requests)
    assert first["options"] == {"num_ctx": 16_384}
    assert "options" not in second


# The words are the real server's.
@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (404, "model 'm' not found", "model_not_found"),
        (400, "registry.ollama.ai/library/m:latest does not support tools", "format"),
        (400, "the input length exceeds the context length", "context_overflow"),
        (
            400,
            (
                '{"error":{"code":400,"message":"request (8889 tokens) exceeds the available context size '
                '(4096 tokens), try increasing it","type":"exceed_context_size_error","n_ctx":4096}}'
            ),
            "context_overflow",
        ),
        (500, "model runner has unexpectedly stopped", "server_error"),
        (503, "server busy, please try again.  maximum pending requests exceeded", "overloaded"),
    ],
)
def test_the_servers_own_words_are_understood(
    server: ScriptedProvider, status: int, said: str, reason: str
) -> None:
    server.script(Status(status, {"error": said}))
    with pytest.raises(ProviderError) as caught:
        ask(server)
    assert caught.value.reason.value == reason


def test_a_model_that_cannot_think_answers_without(server: ScriptedProvider) -> None:
    server.script(Status(400, {"error": '"m" does not support thinking'}), Reply("ok", usage=None))

    assert ask(server, params=SamplingParams(reasoning_effort="high")) == [TextDelta("ok"), ModelDone("stop")]
    assert [received.body.get("think") for received in server.requests] == [True, None]


def test_characters_and_lines_cut_between_reads_arrive_whole(server: ScriptedProvider) -> None:
    stream = (
        '{"message":{"role":"assistant","content":"grüße 🦞"},"done":false}\r\n'
        '\n{"message":{"content":""},"done":true,"done_reason":"stop"}\n'
    ).encode()
    kind = {"Content-Type": "application/x-ndjson; charset=utf-8"}
    server.script(Raw([stream[i : i + 1] for i in range(len(stream))], kind))

    assert ask(server) == [TextDelta("grüße 🦞"), ModelDone("stop")]
