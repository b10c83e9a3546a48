"""Which keys and models are left alone after a failure, and for how long."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.cooldown import Cooldowns, Standing
from app.errors import ProviderError, ProviderReason

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
NEVER_COOLED = ("format", "context_overflow", "protocol", "model_not_found", "empty_response", "unavailable")
TROUBLE = ("overloaded", "server_error", "timeout", "connection", "truncated")


class Clock:
    """A clock that somebody else turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cooldowns(clock: Clock) -> Cooldowns:
    return Cooldowns(clock)


def failure(reason: str, retry_after: float | None = None) -> ProviderError:
    return ProviderError(
        ProviderReason(reason), f"It failed: {reason}.", provider="p", retry_after=retry_after
    )


def fail(
    cooldowns: Cooldowns, reason: str, *, key: int = 0, model: str = "m", retry_after: float | None = None
) -> None:
    cooldowns.failed("p", key, model, failure(reason, retry_after))


# what is cooled


@pytest.mark.parametrize(
    ("reason", "cooled"),
    [
        ("auth", {(0, "m"), (0, "other")}),
        ("billing", {(0, "m"), (0, "other")}),
        ("rate_limit", {(0, "m")}),
        *[(reason, {(0, "m"), (1, "m")}) for reason in TROUBLE],
        *[(reason, set()) for reason in NEVER_COOLED],
    ],
)
def test_a_failure_cools_what_it_says_something_about(
    cooldowns: Cooldowns, reason: str, cooled: set[tuple[int, str]]
) -> None:
    fail(cooldowns, reason)
    fail(cooldowns, reason)

    pairs = {(key, model) for key in (0, 1) for model in ("m", "other")}
    assert {pair for pair in pairs if cooldowns.ready_in("p", *pair) > 0} == cooled
    assert cooldowns.ready_in("another", 0, "m") == 0


def test_every_reason_is_accounted_for() -> None:
    assert {*NEVER_COOLED, *TROUBLE, "auth", "billing", "rate_limit"} == set(ProviderReason)


def test_the_first_trouble_of_the_moment_is_forgiven(cooldowns: Cooldowns) -> None:
    fail(cooldowns, "overloaded")

    assert cooldowns.standing("p", 1, "m") == Standing((0,), ready=True, retry_in=0.0, error=None)


# how long


@pytest.mark.parametrize(
    ("reason", "ladder"),
    [
        ("auth", [MINUTE, 5 * MINUTE, 25 * MINUTE, HOUR, HOUR]),
        ("rate_limit", [MINUTE, 5 * MINUTE, 25 * MINUTE, HOUR, HOUR]),
        ("billing", [5 * HOUR, 10 * HOUR, 20 * HOUR, DAY, DAY]),
        ("server_error", [0, MINUTE / 2, MINUTE, 2 * MINUTE, 2 * MINUTE]),
    ],
)
def test_each_failure_after_a_cool_down_makes_the_next_one_longer(
    clock: Clock, cooldowns: Cooldowns, reason: str, ladder: list[float]
) -> None:
    seen = []
    for _ in ladder:
        fail(cooldowns, reason)
        seen.append(cooldowns.ready_in("p", 0, "m"))
        clock.now += seen[-1]

    assert seen == ladder


def test_the_calls_that_fail_together_are_one_failure(clock: Clock, cooldowns: Cooldowns) -> None:
    for _ in range(50):
        fail(cooldowns, "rate_limit")
    clock.now += 10

    assert cooldowns.ready_in("p", 0, "m") == MINUTE - 10


def test_the_providers_own_pause_is_the_least(clock: Clock, cooldowns: Cooldowns) -> None:
    fail(cooldowns, "rate_limit", key=0, retry_after=7)
    fail(cooldowns, "rate_limit", key=1, retry_after=600)
    fail(cooldowns, "overloaded", model="busy", retry_after=20)

    waits = [cooldowns.ready_in("p", *pair) for pair in ((0, "m"), (1, "m"), (0, "busy"))]
    assert waits == [MINUTE, 600, 20]


def test_a_pause_that_is_told_later_lengthens_a_cool_down_and_never_shortens_it(
    clock: Clock, cooldowns: Cooldowns
) -> None:
    fail(cooldowns, "rate_limit", retry_after=100)
    fail(cooldowns, "rate_limit", retry_after=10)
    first = cooldowns.ready_in("p", 0, "m")
    fail(cooldowns, "rate_limit", retry_after=300)

    assert (first, cooldowns.ready_in("p", 0, "m")) == (100, 300)


def test_an_absurd_pause_is_a_day(cooldowns: Cooldowns) -> None:
    fail(cooldowns, "rate_limit", retry_after=999_999_999)

    assert cooldowns.ready_in("p", 0, "m") == DAY


def test_a_success_wipes_the_slate_clean(clock: Clock, cooldowns: Cooldowns) -> None:
    for reason in ("auth", "rate_limit", "overloaded", "overloaded"):
        fail(cooldowns, reason)
    cooldowns.succeeded("p", 0, "m")
    clean = cooldowns.ready_in("p", 0, "m")
    fail(cooldowns, "auth")

    assert (clean, cooldowns.ready_in("p", 0, "m")) == (0, MINUTE)


def test_a_success_says_nothing_about_other_keys_and_models(cooldowns: Cooldowns) -> None:
    fail(cooldowns, "auth", key=0)
    fail(cooldowns, "rate_limit", key=1, model="other")
    cooldowns.succeeded("p", 1, "m")

    assert cooldowns.ready_in("p", 0, "m") == cooldowns.ready_in("p", 1, "other") == MINUTE


@pytest.mark.parametrize(("quiet", "expected"), [(DAY - 1, 20 * HOUR), (DAY, 5 * HOUR)])
def test_a_day_without_failure_is_as_good_as_a_success(
    clock: Clock, cooldowns: Cooldowns, quiet: float, expected: float
) -> None:
    for _ in range(2):
        fail(cooldowns, "billing")
        clock.now += cooldowns.ready_in("p", 0, "m")
    clock.now += quiet
    fail(cooldowns, "billing")

    assert cooldowns.ready_in("p", 0, "m") == expected


# the keys of a model


def test_keys_come_in_order_the_one_that_answered_last_first(cooldowns: Cooldowns) -> None:
    before = cooldowns.standing("p", 3, "m").keys
    cooldowns.succeeded("p", 2, "m")

    assert before == (0, 1, 2)
    assert cooldowns.standing("p", 3, "m").keys == (2, 0, 1)
    assert cooldowns.standing("p", 3, "other").keys == (0, 1, 2)
    assert cooldowns.standing("p", 2, "m").keys == (0, 1)


def test_a_cooling_key_comes_last_even_if_it_answered_last(cooldowns: Cooldowns) -> None:
    cooldowns.succeeded("p", 1, "m")
    fail(cooldowns, "auth", key=1)

    assert cooldowns.standing("p", 3, "m") == Standing((0, 2, 1), ready=True, retry_in=0.0, error=None)


def test_a_key_whose_provider_has_told_a_pause_is_not_used_before(cooldowns: Cooldowns) -> None:
    fail(cooldowns, "rate_limit", key=1, retry_after=7)

    assert cooldowns.standing("p", 3, "m").keys == (0, 2)


def test_when_all_keys_cool_the_one_that_is_ready_soonest_says_why(
    clock: Clock, cooldowns: Cooldowns
) -> None:
    fail(cooldowns, "auth", key=0, retry_after=40)
    clock.now += 20
    fail(cooldowns, "rate_limit", key=1, retry_after=15)

    standing = cooldowns.standing("p", 2, "m")

    assert (standing.keys, standing.ready, standing.retry_in) == ((), False, 15)
    assert standing.error is not None
    assert (standing.error.reason, standing.error.message, standing.error.retry_after) == (
        ProviderReason.RATE_LIMIT,
        "It failed: rate_limit.",
        15,
    )


@pytest.mark.parametrize(
    ("reason", "retry_after", "expected"),
    [
        ("billing", None, 0),
        ("auth", None, 0),
        ("rate_limit", None, 0),
        ("rate_limit", 7, 7),
        ("billing", 8 * HOUR, 8 * HOUR),
        ("overloaded", None, 0),
        ("overloaded", 30, 30),
    ],
)
def test_for_want_of_another_a_key_is_tried_again_before_it_is_ready(
    clock: Clock, cooldowns: Cooldowns, reason: str, retry_after: float | None, expected: float
) -> None:
    for _ in range(2):
        fail(cooldowns, reason, retry_after=retry_after)

    standing = cooldowns.standing("p", 1, "m")

    assert (standing.ready, standing.retry_in) == (False, expected)
    clock.now += expected
    assert cooldowns.standing("p", 1, "m").keys == (0,)


@pytest.mark.parametrize("later", [None, 10])
def test_a_pause_that_was_told_holds_whatever_fails_meanwhile(
    clock: Clock, cooldowns: Cooldowns, later: float | None
) -> None:
    fail(cooldowns, "rate_limit", retry_after=100)
    clock.now += 40
    fail(cooldowns, "rate_limit", retry_after=later)

    assert cooldowns.standing("p", 1, "m").retry_in == cooldowns.ready_in("p", 0, "m") == 60


def test_a_timer_that_is_a_hair_early_finds_the_key_ready(clock: Clock, cooldowns: Cooldowns) -> None:
    fail(cooldowns, "auth")
    clock.now += MINUTE - 0.000_5

    assert cooldowns.standing("p", 1, "m").ready


# many of them


def test_what_is_remembered_is_bounded(cooldowns: Cooldowns) -> None:
    for number in range(10_000):
        fail(cooldowns, "rate_limit", model=f"m-{number}")
        cooldowns.succeeded("p", 1, f"m-{number}")

    remembered = [n for n in range(10_000) if cooldowns.ready_in("p", 0, f"m-{n}") > 0]
    favourites = [n for n in range(10_000) if cooldowns.standing("p", 3, f"m-{n}").keys[0] == 1]
    assert 500 <= len(remembered) <= 2_000
    assert 500 <= len(favourites) <= 2_000
    assert remembered[-1] == favourites[-1] == 9_999


def test_a_remembered_error_does_not_keep_the_failed_call_alive(cooldowns: Cooldowns) -> None:
    class Conversation:
        """Something large that a traceback could hold on to."""

    def call() -> weakref.ref[Conversation]:
        conversation = Conversation()
        try:
            raise failure("auth")
        except ProviderError as error:
            cooldowns.failed("p", 0, "m", error)
            return weakref.ref(conversation)

    references = [call(), call()]
    gc.collect()

    assert cooldowns.ready_in("p", 0, "m") == MINUTE
    assert [reference() for reference in references] == [None, None]


def test_many_threads_may_use_it_at_once() -> None:
    cooldowns = Cooldowns()

    def work(key: int) -> None:
        for number in range(300):
            fail(cooldowns, "auth" if number % 2 else "overloaded", key=key)
            cooldowns.standing("p", 8, "m")
            cooldowns.succeeded("p", key, "m")

    threads = [threading.Thread(target=work, args=(key,)) for key in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert not any(thread.is_alive() for thread in threads)
    assert all(cooldowns.ready_in("p", key, "m") == 0 for key in range(8))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fail", "succeed", "wait"]),
            st.sampled_from(list(ProviderReason)),
            st.integers(0, 2),
            st.sampled_from([None, 0.0, 3.0, 90.0, 1e6]),
        ),
        max_size=25,
    )
)
def test_a_standing_never_contradicts_itself(
    steps: list[tuple[str, ProviderReason, int, float | None]],
) -> None:
    clock = Clock()
    cooldowns = Cooldowns(clock)
    for action, reason, key, seconds in steps:
        if action == "fail":
            cooldowns.failed("p", key, "m", failure(reason, seconds))
        elif action == "succeed":
            cooldowns.succeeded("p", key, "m")
        else:
            clock.now += seconds or 30.0
        standing = cooldowns.standing("p", 3, "m")
        ready = {key for key in range(3) if cooldowns.ready_in("p", key, "m") == 0}

        assert standing.ready == bool(ready)
        assert set(standing.keys[: len(ready)]) == ready
        assert bool(standing.keys) == (standing.retry_in == 0) == (standing.error is None)
        assert standing.retry_in <= min(cooldowns.ready_in("p", key, "m") for key in range(3)) <= DAY
