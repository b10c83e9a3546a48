"""What every provider promises, whatever its wire format, against a real HTTP server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError, ProviderReason
from app.events import ReasoningDelta, TextDelta
from app.messages import (
    AssistantMessage,
    ImagePart,
    Message,
    TextPart,
    ToolMessage,
    Usage,
    UserMessage,
)
from app.providers.anthropic import AnthropicMessages
from app.providers.base import (
    CallTimeouts,
    ModelDone,
    ModelEvent,
    ModelInfo,
    ModelRequest,
    Provider,
    ToolSpec,
)
from app.providers.openai_completions import OpenAICompletions
from app.providers.transport import HttpClient
from tests.scripted_provider import Garbage, Hang, Raw, Reply, ScriptedProvider, ScriptedReply, Status, call

KINDS = (OpenAICompletions, AnthropicMessages)
PATIENT = CallTimeouts(connect=5, first_token=10, stall=10)
HASTY = CallTimeouts(connect=5, first_token=0.3, stall=0.3)
KEY = "sk-test-123456"
LOOK = ToolSpec("look", "Looks.", {"type": "object"})

Maker = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as server:
        yield server


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def make(request: pytest.FixtureRequest) -> Maker:
    kind = request.param
    return lambda url, **options: kind(
        "test", base_url=url, **{"api_key": KEY, "http": HttpClient()} | options
    )


@pytest.fixture
def provider(server: ScriptedProvider, make: Maker) -> Iterator[Provider]:
    with closing(make(server.base_url)) as provider:
        yield provider


def request(*messages: Message, **options: Any) -> ModelRequest:
    options = {"timeouts": PATIENT} | options
    return ModelRequest("m-1", "Be brief.", messages or (UserMessage.of("hi"),), **options)


def ask(provider: Provider, *messages: Message, **options: Any) -> list[ModelEvent]:
    return list(provider.stream(request(*messages, **options), CancelToken()))


def say(provider: Provider, text: str) -> str:
    return text_of(ask(provider, UserMessage.of(text)))


def failure(provider: Provider, **options: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ask(provider, **options)
    assert caught.value.provider == "test"
    return caught.value


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def error(kind: str, message: str = "") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


# answers


def test_the_deltas_of_an_answer_are_its_text_and_usage_comes_last(
    server: ScriptedProvider, provider: Provider
) -> None:
    server.script(Reply("Grüße an alle 🦞", usage=(11, 7, 18)))

    *deltas, done = ask(provider)

    assert [delta.text for delta in deltas if isinstance(delta, TextDelta)] == [
        "Grüße ",
        "an ",
        "alle ",
        "🦞",
    ]
    assert done == ModelDone("stop", usage=Usage(11, 7))


def test_reasoning_is_told_apart_from_the_answer(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply("yes", reasoning="let me think"))

    assert ask(provider)[:-1] == [ReasoningDelta("let me think"), TextDelta("yes")]


def test_an_answer_without_usage_has_none(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply("hello", usage=None))

    assert ask(provider)[-1] == ModelDone("stop")


def test_a_whole_answer_is_understood_too(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply("whole", ignore_stream=True, tool_calls=[call("look", {"x": [1]})]))

    [delta, done] = ask(provider)

    assert delta == TextDelta("whole")
    assert isinstance(done, ModelDone)
    assert (done.finish_reason, done.usage) == ("tool_calls", Usage(11, 7))
    assert [(one.id, one.name, json.loads(one.arguments)) for one in done.tool_calls] == [
        ("call_1", "look", {"x": [1]})
    ]


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_the_end_of_an_answer_has_a_reason(server: ScriptedProvider, provider: Provider, reason: str) -> None:
    server.script(Reply("some text", finish_reason=reason))

    done = ask(provider)[-1]

    assert isinstance(done, ModelDone)
    assert done.finish_reason == reason


def test_a_stream_without_its_last_event_is_complete_if_the_reason_was_there(
    server: ScriptedProvider, provider: Provider
) -> None:
    server.script(Reply("hello", done=False))

    assert text_of(ask(provider)) == "hello"


def test_tools_are_called_and_their_results_reach_the_model(
    server: ScriptedProvider, provider: Provider
) -> None:
    question = UserMessage.of("what do you see")
    wanted = [call("look", {"x": 1}, "call_a"), call("look", {"y": "ü"}, "call_b")]
    server.script(Reply("One moment.", tool_calls=wanted), Reply("a cat"))

    done = ask(provider, question, tools=(LOOK,))[-1]

    assert isinstance(done, ModelDone)
    assert done.finish_reason == "tool_calls"
    assert [(one.id, one.name, json.loads(one.arguments)) for one in done.tool_calls] == [
        ("call_a", "look", {"x": 1}),
        ("call_b", "look", {"y": "ü"}),
    ]
    turn = AssistantMessage("One moment.", done.tool_calls)
    results = [ToolMessage(one.id, one.name, f"result of {one.id}") for one in done.tool_calls]
    assert text_of(ask(provider, question, turn, *results, tools=(LOOK,))) == "a cat"
    sent = json.dumps(server.requests[1].body)
    for call_id in ("call_a", "call_b"):
        assert f'"result of {call_id}"' in sent
        assert sent.count(f'"{call_id}"') == 2


def test_images_reach_the_model(server: ScriptedProvider, provider: Provider) -> None:
    asked = UserMessage((TextPart("what is it"), ImagePart("image/png", "QUJD")))

    assert text_of(ask(provider, asked)) == "echo: what is it"
    sent = json.dumps(server.requests[0].body)
    assert "image/png" in sent
    assert "QUJD" in sent


def test_own_headers_win_and_a_key_is_sent_only_if_there_is_one(
    server: ScriptedProvider, make: Maker
) -> None:
    with closing(make(server.base_url + "/", headers={"X-Team": "blue", "User-Agent": "mine"})) as provider:
        say(provider, "a")
    with closing(make(server.base_url, api_key=None)) as provider:
        say(provider, "b")

    with_key, without = (received.headers for received in server.requests)
    assert (with_key["x-team"], with_key["user-agent"]) == ("blue", "mine")
    assert KEY in json.dumps(with_key)
    assert not {"authorization", "x-api-key"} & without.keys()


def test_model_info_comes_from_the_configuration_or_the_default(make: Maker) -> None:
    small, default = ModelInfo(context_window=8), ModelInfo(images=True)
    with closing(make("http://localhost/v1", models={"s": small}, default=default)) as provider:
        assert provider.info("s") is small
        assert provider.info("other") is default


def test_one_connection_serves_call_after_call(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply("a"), Reply("b", ignore_stream=True), Reply("c", done=False), Status(500, {}))
    for _ in range(3):
        ask(provider)
    failure(provider)

    assert say(provider, "x") == "echo: x"
    assert (len(server.requests), server.connections) == (5, 1)


# failures


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Status(401, error("authentication_error", f"invalid x-api-key {KEY}")), "auth"),
        (Status(403, error("permission_error", "no")), "auth"),
        (Status(402, error("billing_error")), "billing"),
        (Status(400, error("invalid_request_error", "Your credit balance is too low.")), "billing"),
        (Status(429, error("rate_limit_error")), "rate_limit"),
        (Status(404, error("not_found_error", "model: m-1")), "model_not_found"),
        (Status(400, error("invalid_request_error", "max_tokens: bad")), "format"),
        (Status(413, error("request_too_large", "Request exceeds the maximum size")), "format"),
        (Status(400, error("x", "prompt is too long: 9 tokens > 8 maximum")), "context_overflow"),
        (Status(400, error("x", "input length and `max_tokens` exceed context limit: 9 > 8")),
         "context_overflow"),
        (Status(500, error("api_error", "oops")), "server_error"),
        (Status(504, error("timeout_error")), "timeout"),
        (Status(529, error("overloaded_error", "Overloaded")), "overloaded"),
        (Status(503, b"<html>busy</html>"), "overloaded"),
        (Status(302, b"", {"Location": "http://localhost:1/"}), "protocol"),
        (Raw(b"<html>Welcome</html>", {"Content-Type": "text/html"}), "protocol"),
        (Raw(b"{}", {"Content-Type": "application/json"}), "protocol"),
        (Raw(b"[]", {"Content-Type": "application/json"}), "protocol"),
        (Raw(json.dumps(error("overloaded_error")).encode(), {"Content-Type": "application/json"}),
         "overloaded"),
        (Raw(b"data: {broken\n\n"), "protocol"),
        (Raw(b"data: \xf0\x9f\n\n"), "protocol"),
        (Raw(b""), "truncated"),
        (Raw(b'data: {"ty', cut=True), "truncated"),
        (Reply("half an answer", cut_after=1), "truncated"),
        (Reply("half an answer", finish_reason=None), "truncated"),
        (Reply("half an answer", finish_reason=None, done=False), "truncated"),
        (Reply(tool_calls=[call("look", {"x": 1})], cut_after=2), "truncated"),
        (Reply(tool_calls=[call("")]), "protocol"),
        (Reply("half", error_after=1, error={"type": "overloaded_error", "message": "x"}), "overloaded"),
        (Reply("half", error_after=1, error={"type": "rate_limit_error", "message": "x"}), "rate_limit"),
        (Reply("half", error_after=1, error={"type": "api_error", "message": "x"}), "server_error"),
        (Reply("half", error_after=1, error={"type": "timeout_error", "message": "x"}), "timeout"),
        (Reply("half", error_after=1, error={"type": "billing_error", "message": "x"}), "billing"),
        (Garbage(b"SSH-2.0-OpenSSH_9.9\r\n"), "protocol"),
        (Garbage(b""), "connection"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_a_failing_provider_is_an_error_of_the_right_reason(
    server: ScriptedProvider, provider: Provider, reply: ScriptedReply, reason: str
) -> None:
    server.script(reply)

    raised = failure(provider)

    assert raised.reason.value == reason
    assert KEY not in str(raised)
    assert "html" not in str(raised)
    assert len(server.requests) == 1


def test_the_text_before_a_failure_is_not_lost(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply(chunks=["one ", "two ", "three"], error_after=2))
    seen: list[ModelEvent] = []

    with pytest.raises(ProviderError):
        seen.extend(provider.stream(request(), CancelToken()))

    assert text_of(seen) == "one two "


def test_retry_after_is_passed_on(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Status(429, error("rate_limit_error"), {"Retry-After": "7"}))

    raised = failure(provider)

    assert (raised.retry_after, raised.upstream_status, raised.retryable) == (7.0, 429, True)


@pytest.mark.parametrize("reply", [Hang(), Hang(before_headers=False), Reply("half an answer", hang_after=1)])
def test_silence_is_a_timeout(server: ScriptedProvider, provider: Provider, reply: ScriptedReply) -> None:
    server.script(reply)
    started = time.monotonic()

    assert failure(provider, timeouts=HASTY).reason is ProviderReason.TIMEOUT

    assert 0.2 < time.monotonic() - started < 3
    assert server.wait_for_disconnect()


def test_signs_of_life_keep_a_slow_stream_alive(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply(chunks=["late"], delay=1.0, comments_every=0.05))

    assert text_of(ask(provider, timeouts=HASTY)) == "late"


# stopping


@pytest.mark.parametrize("reply", [Hang(), Hang(before_headers=False)])
def test_cancelling_ends_a_call_that_waits_for_its_answer(
    server: ScriptedProvider, provider: Provider, reply: ScriptedReply
) -> None:
    server.script(reply)
    token = CancelToken()
    thread = threading.Thread(target=lambda: (server.wait_for_requests(1), token.cancel(CancelReason.USER)))
    thread.start()

    with pytest.raises(Cancelled):
        list(provider.stream(request(), token))

    assert server.wait_for_disconnect(1)
    thread.join()


def test_cancelling_ends_a_call_in_the_middle_of_its_answer(
    server: ScriptedProvider, provider: Provider
) -> None:
    server.script(Reply("half an answer", hang_after=1))
    token = CancelToken()
    stream = provider.stream(request(), token)
    assert next(stream) == TextDelta("half ")
    thread = threading.Timer(0.1, token.cancel, [CancelReason.USER])
    thread.start()

    started = time.monotonic()
    with pytest.raises(Cancelled):
        next(stream)

    assert time.monotonic() - started < 1
    assert server.wait_for_disconnect(1)
    thread.join()


def test_a_cancelled_token_calls_nobody(server: ScriptedProvider, provider: Provider) -> None:
    token = CancelToken()
    token.cancel(CancelReason.USER)

    with pytest.raises(Cancelled):
        list(provider.stream(request(), token))

    assert server.requests == []


def test_closing_the_iterator_disconnects_from_the_server(
    server: ScriptedProvider, provider: Provider
) -> None:
    server.script(Reply("half an answer", hang_after=1))
    stream = provider.stream(request(), CancelToken())
    assert next(stream) == TextDelta("half ")

    stream.close()  # type: ignore[attr-defined]

    assert server.wait_for_disconnect(1)


def test_closing_the_provider_fails_calls_under_way_and_later_ones(
    server: ScriptedProvider, make: Maker
) -> None:
    provider = make(server.base_url)
    server.script(Hang())
    thread = threading.Thread(target=lambda: (server.wait_for_requests(1), provider.close()))
    thread.start()

    assert failure(provider).reason is ProviderReason.CONNECTION
    thread.join()
    assert failure(provider).reason is ProviderReason.UNAVAILABLE
