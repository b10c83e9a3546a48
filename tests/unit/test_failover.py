"""Which model is called, how often, and when nobody is called any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from app.agents.failover import ATTEMPTS, ModelCaller
from app.agents.models import Candidate
from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError, ProviderReason
from app.events import ReasoningDelta, TextDelta
from app.messages import UserMessage
from app.providers.base import CallTimeouts, ModelDone, ModelEvent, ModelInfo, ModelRequest, Provider

DONE = ModelDone("stop")
HELLO = (TextDelta("hello"), DONE)
PATIENCE = 5.0

Step = ModelEvent | ProviderError


class Recited(Provider):
    """A provider that recites its answers, one per call, and notes when it was called."""

    def __init__(self, provider_id: str, *answers: Sequence[Step]) -> None:
        self.id = provider_id
        self.times: list[float] = []
        self.requests: list[ModelRequest] = []
        self._answers = iter(answers)

    @property
    def calls(self) -> int:
        return len(self.times)

    def info(self, model: str) -> ModelInfo:
        return ModelInfo()

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        cancel.raise_if_cancelled()
        self.times.append(time.monotonic())
        self.requests.append(request)
        for step in next(self._answers):
            if isinstance(step, ProviderError):
                raise step
            yield step

    def close(self) -> None:
        """Nothing to give back."""


def failed(reason: ProviderReason, retry_after: float | None = None) -> tuple[ProviderError]:
    return (ProviderError(reason, f"It failed: {reason}.", retry_after=retry_after),)


def caller(*providers: Recited, cancel: CancelToken | None = None) -> ModelCaller:
    candidates = [Candidate(provider, "m", CallTimeouts()) for provider in providers]
    return ModelCaller(candidates, cancel or CancelToken())


def ask(models: ModelCaller) -> list[ModelEvent]:
    return list(models.stream(build))


def build(candidate: Candidate) -> ModelRequest:
    return ModelRequest(candidate.ref, "", (UserMessage.of("hi"),))


def test_a_call_that_works_out_is_the_only_one() -> None:
    first, second = Recited("a", HELLO), Recited("b", HELLO)
    models = caller(first, second)

    assert ask(models) == list(HELLO)
    assert (first.calls, second.calls) == (1, 0)
    assert (models.attempts, models.answered_by) == (1, "a/m")


def test_a_passing_failure_is_tried_again_after_a_pause() -> None:
    provider = Recited("a", failed(ProviderReason.OVERLOADED), HELLO)
    models = caller(provider)

    assert ask(models) == list(HELLO)
    assert models.attempts == provider.calls == 2
    assert 0.4 <= provider.times[1] - provider.times[0] < PATIENCE


def test_one_model_is_tried_a_few_times_and_then_the_next_one() -> None:
    first = Recited("a", *[failed(ProviderReason.RATE_LIMIT)] * 10)
    second = Recited("b", HELLO)
    models = caller(first, second)

    assert ask(models) == list(HELLO)
    assert first.calls == ATTEMPTS <= 4
    assert (models.attempts, models.answered_by) == (ATTEMPTS + 1, "b/m")
    assert first.times[2] - first.times[1] > first.times[1] - first.times[0]


def test_each_model_gets_a_request_of_its_own() -> None:
    first, second = Recited("a", failed(ProviderReason.AUTH)), Recited("b", HELLO)

    ask(caller(first, second))

    assert [first.requests[0].model, second.requests[0].model] == ["a/m", "b/m"]


def test_the_providers_own_pause_is_respected() -> None:
    provider = Recited("a", failed(ProviderReason.RATE_LIMIT, retry_after=0.9), HELLO)

    ask(caller(provider))

    assert provider.times[1] - provider.times[0] >= 0.9


def test_a_pause_that_is_too_long_is_not_waited_for() -> None:
    first = Recited("a", failed(ProviderReason.RATE_LIMIT, retry_after=3_600), HELLO)
    second = Recited("b", HELLO)
    before = time.monotonic()

    assert ask(caller(first, second)) == list(HELLO)

    assert time.monotonic() - before < PATIENCE
    assert (first.calls, second.calls) == (1, 1)


def test_the_providers_pause_reaches_the_caller_when_nobody_else_can_answer() -> None:
    with pytest.raises(ProviderError) as caught:
        ask(caller(Recited("a", failed(ProviderReason.RATE_LIMIT, retry_after=3_600))))

    assert caught.value.headers == {"Retry-After": "3600"}


LASTING = [reason for reason in ProviderReason if not ProviderError(reason, "").retryable]
REFUSALS = (ProviderReason.FORMAT, ProviderReason.CONTEXT_OVERFLOW)


@pytest.mark.parametrize("reason", [reason for reason in LASTING if reason not in REFUSALS])
def test_a_lasting_failure_goes_to_the_next_model_at_once(reason: ProviderReason) -> None:
    first, second = Recited("a", failed(reason)), Recited("b", HELLO)
    before = time.monotonic()

    assert ask(caller(first, second)) == list(HELLO)

    assert first.calls == 1
    assert time.monotonic() - before < 0.4


@pytest.mark.parametrize("reason", REFUSALS)
def test_what_any_model_would_refuse_goes_to_no_other(reason: ProviderReason) -> None:
    first, second = Recited("a", failed(reason)), Recited("b", HELLO)
    models = caller(first, second)

    with pytest.raises(ProviderError) as caught:
        ask(models)

    assert caught.value.reason is reason
    assert (first.calls, second.calls, models.attempts) == (1, 0, 1)


def test_when_all_models_fail_the_last_failure_is_the_answer() -> None:
    models = caller(Recited("a", failed(ProviderReason.AUTH)), Recited("b", failed(ProviderReason.BILLING)))

    with pytest.raises(ProviderError) as caught:
        ask(models)

    assert caught.value.reason is ProviderReason.BILLING
    assert (models.attempts, models.answered_by) == (2, "a/m")


@pytest.mark.parametrize("reason", ProviderReason)
def test_nothing_is_tried_again_once_text_was_seen(reason: ProviderReason) -> None:
    first = Recited("a", (TextDelta("hel"), *failed(reason)), HELLO)
    second = Recited("b", HELLO)
    models, seen = caller(first, second), []

    with pytest.raises(ProviderError) as caught:
        seen.extend(models.stream(build))

    assert caught.value.reason is reason
    assert seen == [TextDelta("hel")]
    assert (first.calls, second.calls, models.attempts) == (1, 0, 1)


def test_reasoning_alone_does_not_forbid_another_try() -> None:
    first = Recited("a", (ReasoningDelta("hm"), *failed(ProviderReason.AUTH)))
    second = Recited("b", HELLO)

    assert ask(caller(first, second)) == [ReasoningDelta("hm"), *HELLO]


def test_attempts_are_counted_over_all_calls_of_a_run() -> None:
    models = caller(Recited("a", HELLO, HELLO, HELLO))

    for _ in range(3):
        ask(models)

    assert models.attempts == 3


def test_cancelling_ends_the_pause_between_two_tries() -> None:
    cancel, outcome = CancelToken(), []
    provider = Recited("a", failed(ProviderReason.RATE_LIMIT, retry_after=15), HELLO)
    models = caller(provider, cancel=cancel)

    def work() -> None:
        try:
            ask(models)
        except Cancelled as cancelled:
            outcome.append(cancelled.reason)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not provider.calls and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    cancel.cancel(CancelReason.USER)
    thread.join(PATIENCE)

    assert outcome == [CancelReason.USER]
    assert provider.calls == models.attempts == 1
