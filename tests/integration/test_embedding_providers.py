"""Vectors from every API that makes them, against a real HTTP server."""

from __future__ import annotations

import base64
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError
from app.messages import Usage
from app.providers.anthropic import AnthropicMessages
from app.providers.base import CallTimeouts, Embedder, EmbeddingRequest, Embeddings
from app.providers.ollama import Ollama
from app.providers.openai_completions import OpenAICompletions
from app.providers.openai_responses import OpenAIResponses
from app.providers.transport import HttpClient
from tests.scripted_provider import Hang, Raw, Reply, ScriptedProvider, ScriptedReply, Status, vector_of

KINDS = (OpenAICompletions, OpenAIResponses, Ollama)
KEYS = ("sk-test-123456", "sk-test-654321")
PATIENT = CallTimeouts(connect=5, first_token=10, stall=10)
TEXTS = ("one", "zwei 🦞", "three")

Provider = Any


@pytest.fixture
def server() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as server:
        yield server


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Callable[..., Provider]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def provider(server: ScriptedProvider, kind: Callable[..., Provider]) -> Iterator[Provider]:
    with closing(kind("test", base_url=server.base_url, api_keys=KEYS, http=HttpClient())) as provider:
        yield provider


@pytest.fixture
def openai(server: ScriptedProvider) -> Iterator[OpenAICompletions]:
    with closing(OpenAICompletions("test", base_url=server.base_url, http=HttpClient())) as provider:
        yield provider


def embed(provider: Provider, *inputs: str | tuple[int, ...], **options: Any) -> Embeddings:
    request = EmbeddingRequest("m-1", inputs, **({"timeouts": PATIENT} | options))
    return provider.embed(request, CancelToken())  # type: ignore[no-any-return]


def failure(provider: Provider, *inputs: str, **options: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        embed(provider, *(inputs or ("hi",)), **options)
    assert caught.value.provider == "test"
    return caught.value


def answered(*vectors: Any, **first: Any) -> Status:
    """OpenAI's answer with these vectors; ``first`` is merged into the first of them."""
    data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(vectors)]
    data[0] |= first
    return Status(200, {"object": "list", "data": data})


def floats(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


# what all of them promise


def test_each_input_gets_its_vector_in_order(provider: Provider) -> None:
    answer = embed(provider, *TEXTS)

    assert [list(vector) for vector in answer.vectors] == [vector_of(text) for text in TEXTS]
    assert answer.usage == Usage(input=11)


def test_the_length_of_the_vectors_can_be_asked_for(server: ScriptedProvider, provider: Provider) -> None:
    assert list(embed(provider, "one", dimensions=3).vectors[0]) == vector_of("one", 3)
    assert server.requests[0].body["dimensions"] == 3


def test_nothing_is_said_of_a_length_that_nobody_asked_for(
    server: ScriptedProvider, provider: Provider
) -> None:
    embed(provider, "one")

    assert "dimensions" not in server.requests[0].body


def test_the_call_goes_out_with_the_key_it_is_told_to_use(
    server: ScriptedProvider, provider: Provider
) -> None:
    embed(provider, "one", credential=1)

    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEYS[1]}"
    assert headers["accept"] == headers["content-type"] == "application/json"


def test_without_usage_there_is_none(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply(usage=None))

    assert embed(provider, "one").usage is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "auth"), (402, "billing"), (404, "model_not_found"), (429, "rate_limit"), (500, "server_error")],
)
def test_a_refusal_is_classified(
    server: ScriptedProvider, provider: Provider, status: int, reason: str
) -> None:
    server.script(Status(status, {"error": "no"}, {"Retry-After": "7"}))

    error = failure(provider)

    assert (error.reason, error.upstream_status, error.retry_after) == (reason, status, 7.0)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Raw(b"not json", {"Content-Type": "application/json"}), "protocol"),
        (Raw(b'{"object":"list"', {"Content-Type": "application/json"}, cut=True), "truncated"),
        (Status(200, []), "protocol"),
        (Status(200, {}), "protocol"),
        (Status(200, {"data": [], "embeddings": []}), "protocol"),
        (Status(200, {"data": "no", "embeddings": "no"}), "protocol"),
        (Status(302, {}), "protocol"),
    ],
)
def test_an_answer_that_holds_no_vectors_is_an_error(
    server: ScriptedProvider, provider: Provider, reply: ScriptedReply, reason: str
) -> None:
    server.script(reply)

    assert failure(provider).reason == reason


def test_a_silent_server_is_given_up(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Hang())

    assert failure(provider, timeouts=CallTimeouts(5, 0.3, 0.3)).reason == "timeout"
    assert server.wait_for_disconnect()


def test_a_cancelled_call_ends_at_the_socket(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Hang())
    cancel = CancelToken()
    ended: list[str] = []

    def call() -> None:
        try:
            provider.embed(EmbeddingRequest("m-1", ("hi",), timeouts=PATIENT), cancel)
        except Cancelled as cancelled:
            ended.append(cancelled.reason)

    thread = threading.Thread(target=call)
    thread.start()
    assert server.wait_for_requests(1)
    cancel.cancel(CancelReason.USER)
    thread.join(5)

    assert ended == ["user"]
    assert server.wait_for_disconnect()


def test_a_connection_serves_one_call_after_the_other(server: ScriptedProvider, provider: Provider) -> None:
    for text in TEXTS:
        embed(provider, text)

    assert server.connections == 1


def test_anthropics_api_has_none() -> None:
    with closing(AnthropicMessages("test", base_url="http://localhost", http=HttpClient())) as provider:
        assert not isinstance(provider, Embedder)


# OpenAI's


def test_openai_is_asked_for_base64_and_tokens_go_through(
    server: ScriptedProvider, openai: OpenAICompletions
) -> None:
    answer = embed(openai, (1, 2, 3), (4,))

    assert [list(vector) for vector in answer.vectors] == [vector_of([1, 2, 3]), vector_of([4])]
    sent = server.requests[0]
    assert sent.path == "/v1/embeddings"
    assert sent.body == {"model": "m-1", "input": [[1, 2, 3], [4]], "encoding_format": "base64"}


def test_a_server_without_base64_is_asked_again_for_numbers(
    server: ScriptedProvider, openai: OpenAICompletions
) -> None:
    server.script(Status(400, {"error": {"message": "encoding_format: base64 is not supported"}}))

    assert list(embed(openai, "one").vectors[0]) == vector_of("one")
    assert "encoding_format" not in server.requests[1].body


@pytest.mark.parametrize("vector", [[0.5, -1, 2.25], floats(0.5, -1, 2.25)], ids=["numbers", "base64"])
def test_both_ways_to_write_a_vector_are_read(
    server: ScriptedProvider, openai: OpenAICompletions, vector: Any
) -> None:
    server.script(answered(vector))

    assert list(embed(openai, "one").vectors[0]) == [0.5, -1.0, 2.25]


@pytest.mark.parametrize(
    "reply",
    [
        answered([1.0], [2.0]),
        answered([1.0], index=1),
        answered([1.0], index="0"),
        answered([1.0], index=[0]),
        answered([]),
        answered(""),
        answered("AAAA"),
        answered("?" * 8),
        answered("ä" * 8),
        answered(None),
        answered(["1.0"]),
        answered([[1.0]]),
        answered([1e300]),
        answered(floats(1.0, float("nan"))),
        answered(floats(float("inf"), float("-inf"))),
    ],
)
def test_a_vector_that_is_none_is_an_error(
    server: ScriptedProvider, openai: OpenAICompletions, reply: Status
) -> None:
    server.script(reply)

    assert failure(openai).reason == "protocol"


def test_vectors_of_several_lengths_are_an_error(server: ScriptedProvider, openai: OpenAICompletions) -> None:
    server.script(answered([1.0], [1.0, 2.0]))

    assert failure(openai, "one", "two").reason == "protocol"


# Ollama's


@pytest.mark.parametrize("path", ["", "/api", "/v1/"])
def test_ollama_is_found_at_any_of_its_addresses_and_never_cuts_an_input(
    server: ScriptedProvider, path: str
) -> None:
    base_url = server.base_url.removesuffix("/v1") + path
    with closing(Ollama("test", base_url=base_url, http=HttpClient(), windows={"m-1": 2048})) as provider:
        embed(provider, "one")

    assert server.requests[0].path == "/api/embed"
    assert server.requests[0].body == {
        "model": "m-1",
        "input": ["one"],
        "truncate": False,
        "options": {"num_ctx": 2048},
    }
