"""Which model is called with which key, how often, and when nobody is called any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.cooldown import Cooldowns
from app.agents.failover import ATTEMPTS, LONGEST_WAITING, SHORT_WAIT, ModelCaller
from app.agents.models import Candidate
from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError, ProviderReason
from app.events import ReasoningDelta, TextDelta
from app.messages import UserMessage
from app.providers.base import CallTimeouts, ModelDone, ModelEvent, ModelInfo, ModelRequest, Provider
from app.sessions.records import ModelCall

DONE = ModelDone("stop")
HELLO = (TextDelta("hello"), DONE)
PATIENCE = 5.0

RETRIED = ("rate_limit", "overloaded", "server_error", "connection", "truncated")
REFUSALS = ("format", "context_overflow")
LASTING = ("auth", "billing", "timeout", "protocol", "model_not_found", "empty_response", "unavailable")
OF_THE_KEY = ("auth", "billing", "rate_limit")

Step = ModelEvent | ProviderError


class Clock:
    """A clock on which only pauses take time; it remembers them."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Recited(Provider):
    """A provider that recites its answers, one per call, and then its last one again and again."""

    def __init__(
        self, provider_id: str, *answers: Sequence[Step], keys: int = 1, window: int = 200_000
    ) -> None:
        self.id = provider_id
        self.credentials = keys
        self.requests: list[ModelRequest] = []
        self._answers = answers
        self._window = window

    @property
    def calls(self) -> int:
        return len(self.requests)

    @property
    def keys_used(self) -> list[int]:
        return [request.credential for request in self.requests]

    def info(self, model: str) -> ModelInfo:
        return ModelInfo(context_window=self._window)

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        cancel.raise_if_cancelled()
        self.requests.append(request)
        for step in self._answers[min(self.calls, len(self._answers)) - 1]:
            if isinstance(step, ProviderError):
                raise step
            yield step

    def close(self) -> None:
        """Nothing to give back."""


class World:
    """A clock, what is remembered by it, and callers that live by it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cooldowns = Cooldowns(self.clock)

    def caller(self, *providers: Recited, time_left: float | None = None) -> ModelCaller:
        start = self.clock.now
        left: Callable[[], float] = lambda: float("inf")  # noqa: E731
        if time_left is not None:
            left = lambda: start + time_left - self.clock.now  # noqa: E731
        return ModelCaller(
            [Candidate(provider, "m", CallTimeouts()) for provider in providers],
            CancelToken(),
            self.cooldowns,
            time_left=left,
            pause=self.clock.pause,
            clock=self.clock,
        )

    def ask(self, *providers: Recited) -> list[ModelEvent]:
        return ask(self.caller(*providers))

    def failure(self, *providers: Recited, time_left: float | None = None) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            ask(self.caller(*providers, time_left=time_left))
        return caught.value


@pytest.fixture
def world() -> World:
    return World()


def failed(reason: str, retry_after: float | None = None, text: str = "") -> tuple[ProviderError]:
    return (ProviderError(ProviderReason(reason), text or f"It failed: {reason}.", retry_after=retry_after),)


def ask(models: ModelCaller) -> list[ModelEvent]:
    return list(models.stream(build))


def build(candidate: Candidate, credential: int) -> ModelRequest:
    return ModelRequest(candidate.ref, "", (UserMessage.of("hi"),), credential=credential)


def test_every_reason_is_accounted_for() -> None:
    assert {*RETRIED, *REFUSALS, *LASTING} == set(ProviderReason)


# one model


def test_a_call_that_works_out_is_the_only_one(world: World) -> None:
    first, second = Recited("a", HELLO), Recited("b", HELLO)
    models = world.caller(first, second)

    assert ask(models) == list(HELLO)
    assert (first.calls, second.calls) == (1, 0)
    assert (len(models.calls), models.answered_by) == (1, "a/m")


@pytest.mark.parametrize("reason", RETRIED)
def test_a_passing_failure_is_tried_again_after_a_pause(world: World, reason: str) -> None:
    provider = Recited("a", failed(reason), HELLO)

    assert world.ask(provider) == list(HELLO)
    assert provider.calls == 2
    assert len(world.clock.pauses) == 1
    assert 0.4 <= world.clock.pauses[0] <= 0.6


@pytest.mark.parametrize("reason", RETRIED)
def test_one_model_is_tried_three_times_with_growing_pauses(world: World, reason: str) -> None:
    provider = Recited("a", failed(reason))

    assert world.failure(provider).reason.value == reason
    assert provider.calls == ATTEMPTS == 3
    first, second = world.clock.pauses
    assert 0.4 <= first <= 0.6
    assert 0.8 <= second <= 1.2


@pytest.mark.parametrize("reason", [*LASTING, *REFUSALS])
def test_a_lasting_failure_is_not_tried_again(world: World, reason: str) -> None:
    provider = Recited("a", failed(reason), HELLO)

    assert str(world.failure(provider)) == f"It failed: {reason}."
    assert provider.calls == 1
    assert world.clock.pauses == []


def test_the_providers_own_pause_is_the_least(world: World) -> None:
    world.ask(Recited("a", failed("rate_limit", retry_after=7), HELLO))

    assert world.clock.pauses == [7]


def test_all_pauses_of_a_run_together_are_bounded(world: World) -> None:
    busy = (failed("overloaded", 18), HELLO)
    models = world.caller(Recited("a", *busy * 4))
    for _ in range(3):
        ask(models)

    with pytest.raises(ProviderError):
        ask(models)

    assert world.clock.pauses == [18, 18, 18]


def test_one_long_pause_is_left_to_the_caller(world: World) -> None:
    error = world.failure(Recited("a", failed("overloaded", retry_after=21)))

    assert error.headers == {"Retry-After": "21"}
    assert world.clock.pauses == []


def test_no_pause_begins_that_the_end_of_the_run_would_cut_short(world: World) -> None:
    provider = Recited("a", failed("overloaded", retry_after=7), HELLO)

    assert world.failure(provider, time_left=7).reason is ProviderReason.OVERLOADED
    assert world.clock.pauses == []


def test_a_pause_that_is_too_long_reaches_the_caller_instead(world: World) -> None:
    error = world.failure(Recited("a", failed("rate_limit", retry_after=3_600)))

    assert error.headers == {"Retry-After": "3600"}
    assert world.clock.pauses == []


# keys


@pytest.mark.parametrize("reason", OF_THE_KEY)
def test_a_failure_of_one_key_goes_to_the_next_key_at_once(world: World, reason: str) -> None:
    provider = Recited("a", failed(reason, retry_after=30), HELLO, keys=3)

    assert world.ask(provider) == list(HELLO)
    assert provider.keys_used == [0, 1]
    assert world.clock.pauses == []


@pytest.mark.parametrize("reason", sorted({*RETRIED, *LASTING, *REFUSALS} - {*OF_THE_KEY}))
def test_a_failure_that_is_not_the_keys_fault_does_not_use_up_the_others(world: World, reason: str) -> None:
    provider = Recited("a", failed(reason), keys=3)

    world.failure(provider)

    assert set(provider.keys_used) == {0}


def test_every_key_gets_its_try_before_the_next_model(world: World) -> None:
    first, second = Recited("a", failed("auth"), keys=5), Recited("b", HELLO)

    assert world.ask(first, second) == list(HELLO)
    assert first.keys_used == [0, 1, 2, 3, 4]


def test_when_no_key_is_left_the_last_one_is_tried_again_after_a_pause(world: World) -> None:
    provider = Recited("a", failed("rate_limit"), keys=2)

    world.failure(provider)

    assert provider.keys_used == [0, 1, 1]
    assert len(world.clock.pauses) == 1


def test_a_later_run_begins_with_the_key_that_worked(world: World) -> None:
    provider = Recited("a", failed("auth"), HELLO, keys=2)
    world.ask(provider)
    world.clock.now += 86_400

    world.ask(provider)

    assert provider.keys_used == [0, 1, 1]


def test_a_provider_that_says_nothing_of_keys_has_one(world: World) -> None:
    class Plain:
        id = "a"
        used: list[int] = []  # noqa: RUF012

        def info(self, model: str) -> ModelInfo:
            return ModelInfo()

        def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
            self.used.append(request.credential)
            yield DONE

        def close(self) -> None:
            """Nothing to give back."""

    models = ModelCaller([Candidate(Plain(), "m", CallTimeouts())], CancelToken(), world.cooldowns)  # type: ignore[arg-type]

    assert ask(models) == [DONE]
    assert Plain.used == [0]


# the next model


@pytest.mark.parametrize(
    ("reason", "calls"), [*((reason, 3) for reason in RETRIED), *((reason, 1) for reason in LASTING)]
)
def test_a_model_that_fails_for_good_makes_way_for_the_next(world: World, reason: str, calls: int) -> None:
    first, second = Recited("a", failed(reason)), Recited("b", HELLO)
    models = world.caller(first, second)

    assert ask(models) == list(HELLO)
    assert (first.calls, second.calls) == (calls, 1)
    assert (len(models.calls), models.answered_by) == (calls + 1, "b/m")


def test_each_model_gets_a_request_of_its_own(world: World) -> None:
    first, second = Recited("a", failed("auth")), Recited("b", HELLO)

    world.ask(first, second)

    assert [first.requests[0].model, second.requests[0].model] == ["a/m", "b/m"]


def test_a_long_pause_is_not_waited_for_while_another_model_is_ready(world: World) -> None:
    first, second = Recited("a", failed("rate_limit", SHORT_WAIT + 1), HELLO), Recited("b", HELLO)

    world.ask(first, second)

    assert (first.calls, second.calls) == (1, 1)
    assert world.clock.pauses == []


def test_a_request_that_is_wrong_goes_to_no_other_model(world: World) -> None:
    first, second = Recited("a", failed("format")), Recited("b", HELLO)

    assert str(world.failure(first, second)) == "It failed: format."
    assert (first.calls, second.calls) == (1, 0)


def test_a_request_that_is_wrong_goes_to_no_other_model_whichever_key_found_out(world: World) -> None:
    first = Recited("a", failed("rate_limit", 70), failed("format"), keys=2)
    second = Recited("b", HELLO)

    assert world.failure(first, second).reason is ProviderReason.RATE_LIMIT
    assert (first.calls, second.calls) == (2, 0)


def test_a_conversation_that_is_too_long_goes_only_to_models_with_a_larger_window(world: World) -> None:
    first = Recited("a", failed("context_overflow"), window=8_000)
    same, larger = Recited("b", HELLO, window=8_000), Recited("c", HELLO, window=8_001)

    assert world.ask(first, same, larger) == list(HELLO)
    assert (first.calls, same.calls, larger.calls) == (1, 0, 1)


def test_a_conversation_that_fits_no_model_is_too_long(world: World) -> None:
    first = Recited("a", failed("context_overflow"), window=8_000)

    error = world.failure(first, Recited("b", HELLO, window=4_000))

    assert (error.status, str(error)) == (400, "It failed: context_overflow.")


def test_a_model_that_is_named_twice_is_tried_once(world: World) -> None:
    provider = Recited("a", failed("model_not_found"))

    assert str(world.failure(provider, provider)) == "It failed: model_not_found."
    assert provider.calls == 1


def test_the_model_that_answered_goes_on_for_the_rest_of_the_run(world: World) -> None:
    first, second = Recited("a", failed("timeout"), HELLO), Recited("b", HELLO)
    models = world.caller(first, second)

    for _ in range(3):
        ask(models)

    assert (first.calls, second.calls) == (1, 3)


# what the client is told


def test_when_all_models_fail_every_reason_is_named(world: World) -> None:
    first = Recited("a", failed("auth", text="Provider 'a' refused the configured credentials."))
    second = Recited("b", failed("billing", text="No credit left."))

    assert str(world.failure(first, second)) == (
        "All models failed (2): a/m: Provider 'a' refused the configured credentials (auth)"
        " | b/m: No credit left (billing)"
    )


@pytest.mark.parametrize(
    ("failures", "status", "retry_after"),
    [
        ([("auth", None), ("model_not_found", None)], 502, None),
        ([("model_not_found", None), ("auth", None)], 404, None),
        ([("auth", None), ("rate_limit", 70)], 429, 70),
        ([("billing", None), ("overloaded", None)], 503, None),
        ([("rate_limit", 90), ("rate_limit", 70)], 429, 70),
        ([("overloaded", None), ("rate_limit", 70)], 503, None),
        ([("rate_limit", 70), ("billing", 65)], 429, 70),
        ([("rate_limit", 70), ("overloaded", None)], 429, 70),
        ([("auth", None), ("format", None)], 400, None),
        ([("rate_limit", 70), ("format", None)], 429, 70),
        ([("rate_limit", 70), ("context_overflow", None)], 400, None),
    ],
)
def test_the_answer_is_the_failure_that_can_be_acted_on(
    world: World, failures: list[tuple[str, float | None]], status: int, retry_after: float | None
) -> None:
    providers = [Recited(f"p{n}", failed(*failure)) for n, failure in enumerate(failures)]

    error = world.failure(*providers)

    assert (error.status, error.retry_after) == (status, retry_after)


def test_of_several_keys_the_one_that_will_be_ready_again_is_the_answer(world: World) -> None:
    error = world.failure(Recited("a", failed("rate_limit", 70), failed("auth"), keys=2))

    assert (error.status, error.retry_after, str(error)) == (429, 70, "It failed: rate_limit.")


# cool-downs


@pytest.mark.parametrize(("reason", "runs"), [("auth", 1), ("rate_limit", 1), ("timeout", 2)])
def test_the_next_run_begins_with_the_model_that_is_ready(world: World, reason: str, runs: int) -> None:
    first, second = Recited("a", failed(reason)), Recited("b", HELLO)
    for _ in range(runs):
        world.ask(first, second)
    before, waited = first.calls, len(world.clock.pauses)

    assert world.ask(first, second) == list(HELLO)

    assert (first.calls, len(world.clock.pauses)) == (before, waited)


def test_a_model_is_asked_again_when_it_has_cooled_down(world: World) -> None:
    first, second = Recited("a", failed("auth"), HELLO), Recited("b", HELLO)
    world.ask(first, second)
    world.clock.now += 60

    world.ask(first, second)

    assert (first.calls, second.calls) == (2, 1)


def test_until_the_pause_is_over_that_the_only_model_told_the_same_failure_is_told_without_a_call(
    world: World,
) -> None:
    provider = Recited("a", failed("rate_limit", 61, text="Provider 'a' limits the rate of requests."))
    world.failure(provider)
    world.clock.now += 20

    error = world.failure(provider)

    assert provider.calls == 1
    assert (str(error), error.status) == ("Provider 'a' limits the rate of requests.", 429)
    assert error.headers == {"Retry-After": "41"}


@pytest.mark.parametrize("reason", OF_THE_KEY)
def test_the_only_key_of_the_only_model_is_tried_in_every_run(world: World, reason: str) -> None:
    calls = 3 if reason in RETRIED else 1
    provider = Recited("a", *[failed(reason)] * calls, HELLO)
    world.failure(provider)

    assert world.ask(provider) == list(HELLO)


def test_a_short_rest_of_a_cool_down_is_waited_for(world: World) -> None:
    provider = Recited("a", failed("rate_limit", retry_after=90), HELLO)
    world.failure(provider)
    world.clock.now += 90 - SHORT_WAIT

    assert world.ask(provider) == list(HELLO)
    assert world.clock.pauses == [SHORT_WAIT]


def test_an_only_model_in_trouble_is_never_refused(world: World) -> None:
    provider = Recited("a", *[failed("server_error")] * 9, HELLO)
    for _ in range(3):
        world.failure(provider)

    assert world.ask(provider) == list(HELLO)


def test_a_cooling_model_is_the_last_resort(world: World) -> None:
    first = Recited("a", *[failed("timeout")] * 2, HELLO)
    second = Recited("b", HELLO, HELLO, failed("model_not_found"))
    for _ in range(2):
        world.ask(first, second)

    assert world.ask(first, second) == list(HELLO)
    assert (first.calls, second.calls) == (3, 3)


def test_a_model_that_was_passed_over_is_named_with_its_reason(world: World) -> None:
    first, second = Recited("a", failed("rate_limit", 600)), Recited("b", HELLO, failed("auth"))
    world.ask(first, second)
    world.clock.now += 100

    error = world.failure(first, second)

    assert first.calls == 1
    assert str(error) == (
        "All models failed (2): a/m: It failed: rate_limit (rate_limit) | b/m: It failed: auth (auth)"
    )
    assert (error.status, error.retry_after) == (429, 500)


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_request_that_is_wrong_cools_nothing(world: World, reason: str) -> None:
    provider = Recited("a", *[failed(reason)] * 5, HELLO)
    for _ in range(5):
        world.failure(provider)

    assert world.ask(provider) == list(HELLO)
    assert world.clock.pauses == []


def test_a_failure_after_text_cools_its_key_too(world: World) -> None:
    provider = Recited("a", (TextDelta("hel"), *failed("rate_limit", 600)), HELLO, keys=2)
    world.failure(provider)

    world.ask(provider)

    assert provider.keys_used == [0, 1]


# text that was seen


@pytest.mark.parametrize("reason", ProviderReason)
def test_nothing_is_tried_again_once_text_was_seen(world: World, reason: ProviderReason) -> None:
    first = Recited("a", (TextDelta("hel"), *failed(reason)), HELLO, keys=2)
    second = Recited("b", HELLO)
    models = world.caller(first, second)
    seen: list[ModelEvent] = []

    with pytest.raises(ProviderError) as caught:
        seen.extend(models.stream(build))

    assert (caught.value.reason, str(caught.value)) == (reason, f"It failed: {reason}.")
    assert seen == [TextDelta("hel")]
    assert (first.calls, second.calls, len(models.calls)) == (1, 0, 1)


def test_reasoning_alone_does_not_forbid_another_try(world: World) -> None:
    first = Recited("a", (ReasoningDelta("hm"), *failed("auth")))
    second = Recited("b", HELLO)

    assert world.ask(first, second) == [ReasoningDelta("hm"), *HELLO]


# the record


def test_every_call_is_on_record(world: World) -> None:
    refusal = ProviderError(ProviderReason.AUTH, "No.", upstream_status=401)
    first, second = Recited("a", [refusal], keys=2), Recited("b", failed("connection"), HELLO)
    models = world.caller(first, second)

    ask(models)

    assert len(models.calls) == 4
    assert models.calls == [
        ModelCall("a/m", 0, "auth", 401, 0),
        ModelCall("a/m", 1, "auth", 401, 0),
        ModelCall("b/m", 0, "connection", None, 0),
        ModelCall("b/m", 0, "ok", None, 0),
    ]


def test_the_record_says_how_long_a_call_took(world: World) -> None:
    class Slow(Recited):
        def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
            for event in super().stream(request, cancel):
                world.clock.now += 1.25
                yield event

    models = world.caller(Slow("a", HELLO))

    ask(models)

    assert models.calls == [ModelCall("a/m", 0, "ok", None, 2_500)]


def test_calls_are_counted_over_all_answers_of_a_run(world: World) -> None:
    models = world.caller(Recited("a", HELLO))

    for _ in range(3):
        ask(models)

    assert len(models.calls) == len(models.calls) == 3


def test_a_call_that_nobody_reads_to_its_end_was_cancelled(world: World) -> None:
    models = world.caller(Recited("a", HELLO))
    stream: Generator[ModelEvent, None, None] = models.stream(build)
    next(stream)

    stream.close()

    assert models.calls == [ModelCall("a/m", 0, "cancelled", None, 0)]


# cancelling


def test_a_cancelled_run_calls_nobody_else() -> None:
    token = CancelToken()

    class Cancelling(Recited):
        def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
            token.cancel(CancelReason.TIMEOUT)
            yield from super().stream(request, cancel)

    first, second = Cancelling("a", HELLO), Recited("b", HELLO)
    candidates = [Candidate(provider, "m", CallTimeouts()) for provider in (first, second)]
    models = ModelCaller(candidates, token, Cooldowns())

    with pytest.raises(Cancelled):
        ask(models)

    assert (second.calls, len(models.calls)) == (0, 1)
    assert [call.outcome for call in models.calls] == ["cancelled"]


def test_cancelling_ends_the_pause_between_two_tries() -> None:
    cancel, outcome = CancelToken(), []
    provider = Recited("a", failed("rate_limit", retry_after=15), HELLO)
    models = ModelCaller([Candidate(provider, "m", CallTimeouts())], cancel, Cooldowns())

    def work() -> None:
        try:
            ask(models)
        except Cancelled as cancelled:
            outcome.append(cancelled.reason)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not models.calls and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    cancel.cancel(CancelReason.USER)
    thread.join(PATIENCE)

    assert outcome == [CancelReason.USER]
    assert provider.calls == len(models.calls) == 1


# whatever happens

failures = st.builds(
    lambda reason, retry_after, seen: (*seen, *failed(reason.value, retry_after)),
    st.sampled_from(ProviderReason),
    st.sampled_from([None, 0.0, 2.0, 30.0, 1e6]),
    st.sampled_from([(), (), (ReasoningDelta("hm"),), (TextDelta("x"),)]),
)
answers = st.lists(failures | st.just(HELLO), min_size=1, max_size=6)
models = st.tuples(answers, st.integers(1, 4), st.sampled_from([8_000, 16_000]))


@given(
    st.lists(models, min_size=1, max_size=3),
    st.lists(st.sampled_from([0.0, 3.0, 61.0]), min_size=1, max_size=4),
    st.sampled_from([None, 10.0, 600.0]),
)
def test_whatever_fails_a_run_gets_one_answer_or_one_error(
    scripts: list[tuple[list[Sequence[Step]], int, int]], gaps: list[float], time_left: float | None
) -> None:
    world = World()
    providers = [
        Recited(f"p{n}", *script, keys=keys, window=window)
        for n, (script, keys, window) in enumerate(scripts)
    ]
    for gap in gaps:
        world.clock.now += gap
        start, calls = world.clock.now, sum(provider.calls for provider in providers)
        world.clock.pauses.clear()
        caller, seen, error = world.caller(*providers, time_left=time_left), list[ModelEvent](), None

        try:
            for event in caller.stream(build):
                seen.append(event)
        except ProviderError as raised:
            error = raised

        texts = [event for event in seen if isinstance(event, TextDelta)]
        made = sum(provider.calls for provider in providers) - calls
        assert len(texts) <= 1
        assert (DONE in seen) == (seen[-2:] == list(HELLO)) == (error is None)
        assert [call.outcome for call in caller.calls].count("ok") == (error is None)
        assert made == len(caller.calls) <= sum(keys + 2 for _, keys, _ in scripts)
        assert sum(world.clock.pauses) <= LONGEST_WAITING
        assert world.clock.now - start <= (time_left or LONGEST_WAITING)
