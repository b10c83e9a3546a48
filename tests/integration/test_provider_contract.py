"""What every provider promises, whatever its wire format, against a real HTTP server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError, ProviderReason
from app.events import ReasoningDelta, TextDelta
from app.messages import (
    AssistantMessage,
    ImagePart,
    Message,
    SamplingParams,
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
from app.providers.ollama import Ollama
from app.providers.openai_completions import OpenAICompletions, WireSwitches
from app.providers.openai_responses import OpenAIResponses
from app.providers.transport import HttpClient
from tests.scripted_provider import Garbage, Hang, Raw, Reply, ScriptedProvider, ScriptedReply, Status, call

KINDS = (OpenAICompletions, AnthropicMessages, OpenAIResponses, Ollama)
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
        "test", base_url=url, **{"api_keys": (KEY,), "http": HttpClient()} | options
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


def is_ollama(provider: Provider) -> bool:
    """Its wire knows no ids of calls, no types of images, no filter and no cache."""
    return isinstance(provider, Ollama)


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
    assert [(one.name, json.loads(one.arguments)) for one in done.tool_calls] == [("look", {"x": [1]})]
    assert is_ollama(provider) or done.tool_calls[0].id == "call_1"


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_the_end_of_an_answer_has_a_reason(server: ScriptedProvider, provider: Provider, reason: str) -> None:
    server.script(Reply("some text", finish_reason=reason))

    done = ask(provider)[-1]

    assert isinstance(done, ModelDone)
    assert done.finish_reason == ("stop" if reason == "content_filter" and is_ollama(provider) else reason)


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
    assert [(one.name, json.loads(one.arguments)) for one in done.tool_calls] == [
        ("look", {"x": 1}),
        ("look", {"y": "ü"}),
    ]
    first, second = (one.id for one in done.tool_calls)
    turn = AssistantMessage("One moment.", done.tool_calls)
    results = [ToolMessage(first, "look", "a tail"), ToolMessage(second, "look", "too dark", is_error=True)]
    assert text_of(ask(provider, question, turn, *results, tools=(LOOK,))) == "a cat"
    sent = json.dumps(server.requests[1].body)
    assert sent.index('"a tail"') < sent.index('"too dark"')
    if is_ollama(provider):  # no ids on its wire: they are made up
        assert first != second
    else:
        assert (first, second) == ("call_a", "call_b")
        assert [sent.count(f'"{call_id}"') for call_id in (first, second)] == [2, 2]


def test_images_reach_the_model(server: ScriptedProvider, provider: Provider) -> None:
    asked = UserMessage((TextPart("what is it"), ImagePart("image/png", "QUJD")))

    assert text_of(ask(provider, asked)) == "echo: what is it"
    sent = json.dumps(server.requests[0].body)
    assert "QUJD" in sent
    assert "image/png" in sent or is_ollama(provider)


def test_own_headers_win_and_a_key_is_sent_only_if_there_is_one(
    server: ScriptedProvider, make: Maker
) -> None:
    with closing(make(server.base_url + "/", headers={"X-Team": "blue", "User-Agent": "mine"})) as provider:
        say(provider, "a")
    with closing(make(server.base_url, api_keys=())) as provider:
        say(provider, "b")

    with_key, without = (received.headers for received in server.requests)
    assert (with_key["x-team"], with_key["user-agent"]) == ("blue", "mine")
    assert KEY in json.dumps(with_key)
    assert not {"authorization", "x-api-key"} & without.keys()


def test_model_info_comes_from_the_configuration_the_catalogue_or_the_default(make: Maker) -> None:
    small, known, default = ModelInfo(context_window=8), ModelInfo(context_window=9), ModelInfo(images=True)
    options = {"models": {"s": small}, "lookup": {"s": known, "k": known}.get, "default": default}
    with closing(make("http://localhost/v1", **options)) as provider:
        assert provider.info("s") is small
        assert provider.info("k") is known
        assert provider.info("other") is default


def test_one_connection_serves_call_after_call(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply("a"), Reply("b", ignore_stream=True), Reply("c", done=False), Status(500, {}))
    for _ in range(3):
        ask(provider)
    failure(provider)

    assert say(provider, "x") == "echo: x"
    assert (len(server.requests), server.connections) == (5, 1)


def test_tokens_from_and_into_the_cache_are_part_of_the_input(
    server: ScriptedProvider, provider: Provider
) -> None:
    server.script(Reply("hi", usage=(100, 7, 107), cached=60, cache_write=30))

    [*_, done] = ask(provider)

    assert isinstance(done, ModelDone)
    assert done.usage == (Usage(100, 7) if is_ollama(provider) else Usage(100, 7, cached=60, cache_write=30))


def test_a_request_says_which_key_is_used_and_no_key_is_shown(server: ScriptedProvider, make: Maker) -> None:
    keys = ("first-key-1111", "second-key-2222")
    server.script(Reply("a"), Reply("b"), Status(400, error("x", f"bad: {' '.join(keys)}")))
    with closing(make(server.base_url, api_keys=keys)) as provider:
        assert provider.credentials == 2
        ask(provider, credential=0)
        ask(provider, credential=1)
        raised = failure(provider, credential=1)

    first, second, _ = (json.dumps(received.headers) for received in server.requests)
    assert (keys[0] in first, keys[1] in first) == (True, False)
    assert (keys[0] in second, keys[1] in second) == (False, True)
    assert not any(key in str(raised) for key in keys)


# hints

HINTS = SamplingParams(
    temperature=0.5,
    top_p=0.5,
    frequency_penalty=0.5,
    presence_penalty=0.5,
    seed=7,
    verbosity="low",
    logit_bias={"1": 5},
    prediction={"type": "content", "content": "a"},
    service_tier="flex",
)


def test_hints_reach_a_provider_that_takes_them_and_no_other(
    server: ScriptedProvider, provider: Provider
) -> None:
    server.script(Reply("ok"))

    assert text_of(ask(provider, params=HINTS)) == "ok"

    body = server.requests[0].body
    sent = {*body, *body.get("options", {}), *body.get("text", {})}
    ignored = set(provider.ignores("m-1", HINTS))
    asked = {name for name in SamplingParams.__slots__ if getattr(HINTS, name)}
    assert sent & asked == asked - ignored


# thinking

THINK = SamplingParams(reasoning_effort="low")
# Where a body says how much to think, and what it looks like when thoughts are handed back.
FIELDS = {"reasoning_effort", "thinking", "output_config", "reasoning", "include", "think"}
HANDED_BACK = {
    OpenAICompletions: '"reasoning_content": "hm"',
    AnthropicMessages: '"signature": "c2lnbmVk"',
    OpenAIResponses: '"encrypted_content": "ZW5jcnlwdGVk"',
    Ollama: '"thinking": "hm"',
}


@pytest.fixture
def thinker(server: ScriptedProvider, make: Maker) -> Iterator[Provider]:
    probe = make(server.base_url)
    options = {"switches": WireSwitches(reasoning_back=True)} if type(probe) is OpenAICompletions else {}
    with closing(make(server.base_url, **options)) as provider:
        yield provider


def test_a_model_gets_its_thoughts_back_while_its_tools_run(
    server: ScriptedProvider, thinker: Provider
) -> None:
    question = UserMessage.of("what do you see")
    server.script(Reply(reasoning="hm", tool_calls=[call("look", {"x": 1})]), Reply("a cat"))
    done = ask(thinker, question, tools=(LOOK,), params=THINK)[-1]
    assert isinstance(done, ModelDone)
    assert done.thoughts is not None
    assert done.thoughts.ref == "test/m-1"
    turn = AssistantMessage("", done.tool_calls, done.thoughts)
    result = ToolMessage(done.tool_calls[0].id, "look", "a tail")

    again = ask(thinker, question, turn, result, tools=(LOOK,), params=THINK)

    assert text_of(again) == "a cat"
    sent = server.requests[1].body
    assert HANDED_BACK[type(thinker)] in json.dumps(sent)  # type: ignore[index]
    assert FIELDS & sent.keys()


def test_nobody_gets_the_thoughts_of_another_model(server: ScriptedProvider, thinker: Provider) -> None:
    server.script(Reply(reasoning="hm", tool_calls=[call("look", {"x": 1})]))
    done = ask(thinker, tools=(LOOK,), params=THINK)[-1]
    assert isinstance(done, ModelDone)
    assert done.thoughts is not None
    turn = AssistantMessage("", done.tool_calls, replace(done.thoughts, ref="test/m-0"))

    ask(thinker, UserMessage.of("hi"), turn, ToolMessage(done.tool_calls[0].id, "look", "x"), tools=(LOOK,))

    assert HANDED_BACK[type(thinker)] not in json.dumps(server.requests[1].body)  # type: ignore[index]


def test_a_model_that_refuses_to_think_is_asked_once_more_without(
    server: ScriptedProvider, provider: Provider
) -> None:
    server.script(Status(400, error("invalid_request_error", "m-1 does not support thinking")), Reply("ok"))

    assert text_of(ask(provider, params=THINK)) == "ok"

    first, second = (received.body for received in server.requests)
    assert FIELDS & first.keys()
    assert not FIELDS & second.keys()
    assert {**first, **dict.fromkeys(FIELDS)} == {**second, **dict.fromkeys(FIELDS)}


def test_a_model_that_goes_on_refusing_is_not_asked_a_third_time(
    server: ScriptedProvider, provider: Provider
) -> None:
    refusal = Status(400, error("invalid_request_error", "reasoning effort: bad value"))
    server.script(refusal, refusal, Reply("too late"))

    assert failure(provider, params=THINK).reason is ProviderReason.FORMAT
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "message", "effort"),
    [(400, "messages: bad value", "low"), (429, "too much reasoning", "low"), (400, "bad thinking", None)],
)
def test_any_other_refusal_stands(
    server: ScriptedProvider, provider: Provider, status: int, message: str, effort: str | None
) -> None:
    server.script(Status(status, error("x", message)), Reply("too late"))

    failure(provider, params=SamplingParams(reasoning_effort=effort))

    assert len(server.requests) == 1


def test_a_model_that_does_not_think_is_not_told_how_much(server: ScriptedProvider, make: Maker) -> None:
    with closing(make(server.base_url, default=ModelInfo(reasoning=False))) as provider:
        ask(provider, params=THINK)

    assert not FIELDS & server.requests[0].body.keys()


def test_a_level_of_thinking_that_nobody_knows_is_refused_by_name(
    server: ScriptedProvider, provider: Provider
) -> None:
    raised = failure(provider, params=SamplingParams(reasoning_effort="enormous"))

    assert raised.reason is ProviderReason.FORMAT
    assert "'enormous'" in str(raised)
    assert server.requests == []


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


def test_a_stream_without_end_is_left(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Raw([b" " * (8 << 20) + b"\n\n"] * 18))

    assert "an answer that is too large" in str(failure(provider))


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
    server.script(Reply(chunks=["late"], delay=0.7, comments_every=0.05))

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
