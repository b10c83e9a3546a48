"""What becomes of a run when a provider fails, over HTTP and in every wire format."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.agents.cooldown import Cooldowns
from app.agents.failover import ModelCaller
from app.agents.models import Candidate
from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError
from app.events import ReasoningDelta, TextDelta
from app.messages import UserMessage
from app.providers.anthropic import AnthropicMessages
from app.providers.base import CallTimeouts, ModelEvent, ModelInfo, ModelRequest
from app.providers.ollama import Ollama
from app.providers.openai_completions import OpenAICompletions
from app.providers.openai_responses import OpenAIResponses
from app.providers.transport import HttpClient
from tests.scripted_provider import Garbage, Hang, Raw, Reply, ScriptedProvider, ScriptedReply, Status

KINDS = (OpenAICompletions, AnthropicMessages, OpenAIResponses, Ollama)
KEYS = ("sk-test-first-1", "sk-test-second-2", "sk-test-third-3")
HASTY = CallTimeouts(connect=5, first_token=0.3, stall=0.3)
PATIENT = CallTimeouts(connect=5, first_token=10, stall=10)
SMALL, LARGE = 8_000, 16_000


def error(kind: str, message: str = "") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


@dataclass(frozen=True)
class Failure:
    """What a provider does, and what a gateway that has nobody else to ask makes of it.

    :ivar calls: how often the model is called with its only key.
    :ivar rotates: another key is tried at once.
    :ivar goes_on: the next model is tried.
    """

    reply: ScriptedReply
    reason: str
    status: int
    calls: int
    rotates: bool = False
    goes_on: bool = True
    retry_after: float | None = None
    timeouts: CallTimeouts = PATIENT

    def __repr__(self) -> str:
        return self.reason


FAILURES = [
    Failure(Status(401, error("authentication_error")), "auth", 502, 1, rotates=True),
    Failure(Status(403, error("permission_error")), "auth", 502, 1, rotates=True),
    Failure(Status(402, error("billing_error")), "billing", 402, 1, rotates=True),
    Failure(Status(429, error("rate_limit_error")), "rate_limit", 429, 3, rotates=True),
    Failure(Status(429, error("rate_limit_error"), {"Retry-After": "2"}), "rate_limit", 429, 3,
            rotates=True, retry_after=2),
    Failure(Status(429, error("rate_limit_error"), {"Retry-After": "3600"}), "rate_limit", 429, 1,
            rotates=True, retry_after=3_600),
    Failure(Status(500, error("api_error")), "server_error", 502, 3),
    Failure(Status(503, b"<html>busy</html>"), "overloaded", 503, 3),
    Failure(Status(503, error("x"), {"Retry-After": "4"}), "overloaded", 503, 3, retry_after=4),
    Failure(Status(529, error("overloaded_error")), "overloaded", 503, 3),
    Failure(Status(504, error("timeout_error")), "timeout", 504, 1),
    Failure(Status(404, error("not_found_error", "model: m-1")), "model_not_found", 404, 1),
    Failure(Status(400, error("invalid_request_error", "max_tokens: bad")), "format", 400, 1, goes_on=False),
    Failure(Status(400, error("x", "prompt is too long: 9 tokens > 8 maximum")), "context_overflow", 400, 1,
            goes_on=False),
    Failure(Raw(b"<html>Welcome</html>", {"Content-Type": "text/html"}), "protocol", 502, 1),
    Failure(Garbage(b"SSH-2.0-OpenSSH_9.9\r\n"), "protocol", 502, 1),
    Failure(Garbage(b""), "connection", 502, 3),
    Failure(Reply("half an answer", cut_after=0), "truncated", 502, 3),
    Failure(Hang(), "timeout", 504, 1, timeouts=HASTY),
    Failure(Hang(before_headers=False), "timeout", 504, 1, timeouts=HASTY),
]  # fmt: skip


@dataclass
class Clock:
    """A clock on which only pauses take time."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class House:
    """Two servers of one wire format, and the runs that call them."""

    def __init__(self, kind: Any, stack: ExitStack) -> None:
        self.primary, self.fallback = (stack.enter_context(ScriptedProvider()) for _ in range(2))
        self.clock = Clock()
        self.cooldowns = Cooldowns(self.clock)
        self.calls: list[str] = []
        self._kind = kind
        self._stack = stack

    def candidate(
        self, name: str, *, keys: int = 1, window: int = SMALL, timeouts: CallTimeouts = PATIENT
    ) -> Candidate:
        server: ScriptedProvider = getattr(self, name)
        provider = self._kind(
            name,
            base_url=server.base_url,
            api_keys=KEYS[:keys],
            http=HttpClient(),
            default=ModelInfo(context_window=window),
        )
        self._stack.callback(provider.close)
        return Candidate(provider, "m-1", timeouts)

    def caller(self, *candidates: Candidate) -> ModelCaller:
        return ModelCaller(
            candidates, CancelToken(), self.cooldowns, pause=self.clock.pause, clock=self.clock
        )

    def ask(self, *candidates: Candidate) -> str:
        models = self.caller(*candidates)
        try:
            return text_of(list(models.stream(build)))
        finally:
            self.calls = [f"{call.model} {call.credential} {call.outcome}" for call in models.calls]

    def failure(self, *candidates: Candidate) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            self.ask(*candidates)
        return caught.value

    def keys_sent(self) -> list[str]:
        """Which key each request to the primary provider carried."""
        headers = [json.dumps(received.headers) for received in self.primary.requests]
        return [next(key for key in KEYS if key in text) for text in headers]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(request.param, stack)


@pytest.fixture
def plain_house() -> Iterator[House]:
    """For the table of failures: that all formats report them alike is another test's business."""
    with ExitStack() as stack:
        yield House(OpenAICompletions, stack)


def build(candidate: Candidate, credential: int) -> ModelRequest:
    return ModelRequest(
        candidate.model,
        "Be brief.",
        (UserMessage.of("hi"),),
        timeouts=candidate.timeouts,
        credential=credential,
    )


def text_of(events: Sequence[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


# failures before the first word


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_with_one_model_the_failure_is_told_with_its_status(plain_house: House, failure: Failure) -> None:
    plain_house.primary.script(*[failure.reply] * failure.calls)

    told = plain_house.failure(plain_house.candidate("primary", timeouts=failure.timeouts))

    assert (told.reason.value, told.status) == (failure.reason, failure.status)
    assert told.retry_after == failure.retry_after
    assert not str(told).startswith("All models failed")
    assert plain_house.calls == [f"primary/m-1 0 {failure.reason}"] * failure.calls
    assert len(plain_house.primary.requests) == failure.calls
    assert sum(plain_house.clock.pauses) <= 60


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_with_a_fallback_it_answers_unless_the_request_is_at_fault(
    plain_house: House, failure: Failure
) -> None:
    plain_house.primary.script(*[failure.reply] * failure.calls)
    candidates = [
        plain_house.candidate("primary", timeouts=failure.timeouts),
        plain_house.candidate("fallback", timeouts=failure.timeouts),
    ]

    if failure.goes_on:
        assert plain_house.ask(*candidates) == "echo: hi"
        assert plain_house.calls[-1] == "fallback/m-1 0 ok"
        assert len(plain_house.fallback.requests) == 1
    else:
        assert plain_house.failure(*candidates).status == failure.status
        assert plain_house.fallback.requests == []
    assert plain_house.calls[: failure.calls] == [f"primary/m-1 0 {failure.reason}"] * failure.calls
    assert len(plain_house.primary.requests) == failure.calls


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_with_several_keys_the_next_one_is_tried_if_the_first_is_at_fault(
    plain_house: House, failure: Failure
) -> None:
    calls = 1 if failure.rotates else failure.calls
    plain_house.primary.script(*[failure.reply] * calls)
    candidate = plain_house.candidate("primary", keys=3, timeouts=failure.timeouts)

    if failure.rotates:
        assert plain_house.ask(candidate) == "echo: hi"
        assert plain_house.keys_sent() == [KEYS[0], KEYS[1]]
        assert plain_house.clock.pauses == []
    else:
        assert plain_house.failure(candidate).reason.value == failure.reason
        assert plain_house.keys_sent() == [KEYS[0]] * calls


@pytest.mark.parametrize("failure", [one for one in FAILURES if one.calls > 1], ids=repr)
def test_a_failure_that_passes_is_not_seen_by_anybody(plain_house: House, failure: Failure) -> None:
    plain_house.primary.script(failure.reply)

    assert plain_house.ask(plain_house.candidate("primary", timeouts=failure.timeouts)) == "echo: hi"

    assert plain_house.calls == [f"primary/m-1 0 {failure.reason}", "primary/m-1 0 ok"]
    assert len(plain_house.clock.pauses) == 1
    assert plain_house.clock.pauses[0] >= (failure.retry_after or 0.4)


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_the_next_run_is_answered_as_soon_as_the_provider_has_recovered(
    plain_house: House, failure: Failure
) -> None:
    plain_house.primary.script(*[failure.reply] * failure.calls)
    candidate = plain_house.candidate("primary", timeouts=failure.timeouts)
    plain_house.failure(candidate)
    plain_house.clock.now += failure.retry_after or 60

    assert plain_house.ask(candidate) == "echo: hi"


def test_when_every_model_and_key_fails_the_client_is_told_of_each(house: House) -> None:
    house.primary.script(*[Status(401, error("authentication_error"))] * 2)
    house.fallback.script(Status(429, error("rate_limit_error"), {"Retry-After": "70"}))

    told = house.failure(house.candidate("primary", keys=2), house.candidate("fallback"))

    assert str(told) == (
        "All models failed (2): primary/m-1: Provider 'primary' refused the configured credentials (auth)"
        " | fallback/m-1: Provider 'fallback' limits the rate of requests (rate_limit)"
    )
    assert (told.status, told.headers) == (429, {"Retry-After": "70"})
    assert not any(key in str(told) for key in KEYS)


def test_a_conversation_that_is_too_long_goes_to_a_model_with_a_larger_window(house: House) -> None:
    house.primary.script(Status(400, error("x", "prompt is too long: 9 tokens > 8 maximum")))

    answer = house.ask(house.candidate("primary"), house.candidate("fallback", window=LARGE))

    assert answer == "echo: hi"
    assert house.calls == ["primary/m-1 0 context_overflow", "fallback/m-1 0 ok"]


def test_a_bad_key_costs_one_call_and_not_one_for_each_run(house: House) -> None:
    house.primary.script(*[Status(401, error("authentication_error"))] * 2)
    candidates = (house.candidate("primary", keys=2), house.candidate("fallback"))

    assert [house.ask(*candidates) for _ in range(5)] == ["echo: hi"] * 5

    assert (len(house.primary.requests), len(house.fallback.requests)) == (2, 5)


# failures after the first word

BROKEN = [
    (Reply(chunks=["one ", "two"], cut_after=1), "truncated", PATIENT),
    (Reply(chunks=["one ", "two"], error_after=1, error={"type": "overloaded_error", "message": "x"}),
     "overloaded", PATIENT),
    (Reply(chunks=["one ", "two"], hang_after=1), "timeout", HASTY),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "reason", "timeouts"), BROKEN)
def test_an_answer_that_breaks_off_is_never_begun_again(
    house: House, reply: Reply, reason: str, timeouts: CallTimeouts
) -> None:
    house.primary.script(reply)
    candidates = (
        house.candidate("primary", keys=2, timeouts=timeouts),
        house.candidate("fallback", timeouts=timeouts),
    )
    models, seen = house.caller(*candidates), list[ModelEvent]()

    with pytest.raises(ProviderError) as caught:
        seen.extend(models.stream(build))

    assert text_of(seen) == "one "
    assert caught.value.reason.value == reason
    assert (len(house.primary.requests), len(house.fallback.requests)) == (1, 0)
    assert [call.outcome for call in models.calls] == [reason]


def test_thoughts_before_a_failure_do_not_keep_the_fallback_from_answering(house: House) -> None:
    house.primary.script(*[Reply("half", reasoning="let me think", cut_after=1)] * 3)
    models = house.caller(house.candidate("primary"), house.candidate("fallback"))

    seen = list(models.stream(build))

    assert text_of(seen) == "echo: hi"
    assert seen[:3] == [ReasoningDelta("let me think")] * 3
    assert models.answered_by == "fallback/m-1"


# stopping


def test_cancelling_a_hanging_call_calls_nobody_else(house: House) -> None:
    house.primary.script(Hang())
    token = CancelToken()
    candidates = (house.candidate("primary", keys=2), house.candidate("fallback"))
    models = ModelCaller(candidates, token, house.cooldowns)
    thread = threading.Thread(
        target=lambda: (house.primary.wait_for_requests(1), token.cancel(CancelReason.TIMEOUT))
    )
    thread.start()

    with pytest.raises(Cancelled):
        list(models.stream(build))

    thread.join()
    assert house.primary.wait_for_disconnect()
    assert (len(house.primary.requests), len(house.fallback.requests)) == (1, 0)
    assert [call.outcome for call in models.calls] == ["cancelled"]


def test_closing_the_stream_leaves_the_server(house: House) -> None:
    house.primary.script(Reply("half an answer", hang_after=1))
    stream: Generator[ModelEvent, None, None] = house.caller(house.candidate("primary")).stream(build)
    assert next(stream) == TextDelta("half ")

    stream.close()

    assert house.primary.wait_for_disconnect()
