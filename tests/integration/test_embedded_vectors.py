"""Vectors from the built-in model, as it is: a real llama.cpp in a real child process."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from math import hypot, isclose

import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError
from app.events import TextDelta
from app.messages import SamplingParams, UserMessage
from app.providers.base import CallTimeouts, EmbeddingRequest, Embeddings, ModelRequest
from app.providers.embedded import EmbeddedProvider, find_weights

pytest.importorskip("xllamacpp")

PATIENT = CallTimeouts(first_token=60, stall=60)
PAIRS = (
    ("A cat sleeps on the sofa.", "A kitten naps on the couch."),
    ("The stock market fell sharply today.", "Shares dropped a lot this morning."),
    ("How do I bake bread?", "What is the recipe for a loaf?"),
)


def spawn(name: str, function: Callable[[], None]) -> None:
    threading.Thread(target=function, name=name, daemon=True).start()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProvider]:
    if find_weights(None) is None:
        pytest.skip("the weights are not installed")
    provider = EmbeddedProvider(runtime_dir=tmp_path_factory.mktemp("run"), spawn=spawn)
    yield provider
    provider.close()


def embed(provider: EmbeddedProvider, *texts: str, cancel: CancelToken | None = None) -> Embeddings:
    request = EmbeddingRequest("smollm2-135m", texts, timeouts=PATIENT)
    return provider.embed(request, cancel or CancelToken())


def likeness(one: array[float], other: array[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_a_sentence_is_nearer_to_its_paraphrase_than_to_any_other(provider: EmbeddedProvider) -> None:
    texts = [text for pair in PAIRS for text in pair]
    answer = embed(provider, *texts)

    assert {len(vector) for vector in answer.vectors} == {576}
    assert all(isclose(hypot(*vector), 1, rel_tol=1e-5) for vector in answer.vectors)
    assert answer.usage is not None
    assert len(texts) < answer.usage.input < 100
    for number, vector in enumerate(answer.vectors):
        others = {i: likeness(vector, other) for i, other in enumerate(answer.vectors) if i != number}
        assert max(others, key=others.__getitem__) == number ^ 1


def test_a_text_has_one_vector_whatever_comes_with_it(provider: EmbeddedProvider) -> None:
    alone = embed(provider, "Hello there").vectors[0]
    among = embed(provider, *["something else"] * 5, "Hello there").vectors[5]

    assert likeness(alone, among) == pytest.approx(1, abs=1e-3)


def test_a_text_that_is_too_long_to_be_read_at_once_is_read_in_parts(provider: EmbeddedProvider) -> None:
    answer = embed(provider, "The quick brown fox. " * 30, "The quick brown fox. " * 120)

    short, long = answer.vectors
    assert answer.usage is not None
    assert answer.usage.input > 600
    assert likeness(short, long) > 0.98
    assert hypot(*long) == pytest.approx(1, abs=1e-5)


def test_tokens_are_refused(provider: EmbeddedProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        provider.embed(EmbeddingRequest("smollm2-135m", ("hi", (1, 2))), CancelToken())

    assert caught.value.reason == "format"


def test_a_cancelled_call_ends_soon(provider: EmbeddedProvider) -> None:
    embed(provider, "warm")
    cancel = CancelToken()
    timer = threading.Timer(0.5, cancel.cancel, (CancelReason.USER,))
    timer.start()
    began = time.monotonic()

    with pytest.raises(Cancelled):
        embed(provider, *["word " * 200] * 500, cancel=cancel)

    assert time.monotonic() - began < 10
    assert embed(provider, "still there").vectors


def test_a_chat_gets_its_turn_while_many_texts_are_embedded(provider: EmbeddedProvider) -> None:
    cancel, ended = CancelToken(), threading.Event()

    def work() -> None:
        try:
            embed(provider, *["word " * 200] * 500, cancel=cancel)
        except Cancelled:
            ended.set()

    spawn("embed", work)
    asked = ModelRequest(
        "smollm2-135m",
        "Be brief.",
        (UserMessage.of("Say hello."),),
        params=SamplingParams(max_tokens=4),
        timeouts=PATIENT,
    )
    events = list(provider.stream(asked, CancelToken()))

    assert any(isinstance(event, TextDelta) for event in events)
    assert not ended.is_set()
    cancel.cancel(CancelReason.USER)
    assert ended.wait(20)
