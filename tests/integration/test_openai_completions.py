"""The OpenAI-compatible provider against a real HTTP server that behaves and misbehaves."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError, ProviderReason
from app.events import ReasoningDelta, TextDelta
from app.messages import ToolCall, Usage, UserMessage
from app.providers.base import CallTimeouts, ModelDone, ModelEvent, ModelInfo, ModelRequest, Provider
from app.providers.openai_completions import OpenAICompletions
from app.providers.transport import HttpClient
from tests.scripted_provider import Garbage, Hang, Raw, Reply, ScriptedProvider, ScriptedReply, Status, call
from tests.scripted_provider import chunk as sse

PATIENT = CallTimeouts(connect=5, first_token=10, stall=10)
HASTY = CallTimeouts(connect=5, first_token=0.3, stall=0.3)
STOP = sse(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])


@pytest.fixture
def server() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def provider(server: ScriptedProvider) -> Iterator[OpenAICompletions]:
    with closing(make(server.base_url)) as provider:
        yield provider


def make(base_url: str, **options: Any) -> OpenAICompletions:
    options = {"api_keys": ("sk-test-123456",), "http": HttpClient()} | options
    return OpenAICompletions("test", base_url=base_url, **options)


def request(text: str = "hi", timeouts: CallTimeouts = PATIENT) -> ModelRequest:
    return ModelRequest("m-1", "Be brief.", (UserMessage.of(text),), timeouts=timeouts)


def ask(provider: Provider, text: str = "hi", timeouts: CallTimeouts = PATIENT) -> list[ModelEvent]:
    return list(provider.stream(request(text, timeouts), CancelToken()))


def failure(provider: Provider, timeouts: CallTimeouts = PATIENT) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ask(provider, timeouts=timeouts)
    assert caught.value.provider == "test"
    return caught.value


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def cancel_later(token: CancelToken, when: Any) -> threading.Thread:
    """Cancel from another thread once ``when()`` returns."""

    def run() -> None:
        when()
        token.cancel(CancelReason.USER)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# answers


def test_an_answer_arrives_in_pieces_and_ends_with_its_usage(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    server.script(Reply(chunks=["hel", "lo"], reasoning="hm", usage=(11, 7, 18)))
    assert ask(provider) == [
        ReasoningDelta("hm"),
        TextDelta("hel"),
        TextDelta("lo"),
        ModelDone("stop", usage=Usage(11, 7)),
    ]
    [received] = server.requests
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == "Bearer sk-test-123456"
    assert received.body["stream"] is True
    assert received.body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_tool_calls_are_put_together(server: ScriptedProvider, provider: OpenAICompletions) -> None:
    server.script(Reply(tool_calls=[call("look", {"x": 1}), call("find", {"y": "z"}, "call_2")]))
    assert ask(provider) == [
        ModelDone(
            "tool_calls",
            (ToolCall("call_1", "look", '{"x": 1}'), ToolCall("call_2", "find", '{"y": "z"}')),
            Usage(11, 7),
        )
    ]


def test_a_server_that_ignores_stream_is_understood(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    server.script(Reply("whole", ignore_stream=True, tool_calls=[call("look")]))
    assert ask(provider) == [
        TextDelta("whole"),
        ModelDone("tool_calls", (ToolCall("call_1", "look", "{}"),), Usage(11, 7)),
    ]


def test_a_stream_without_done_or_usage_is_complete(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    server.script(Reply("hello", usage=None, done=False))
    assert ask(provider) == [TextDelta("hello"), ModelDone("stop")]


def test_a_cut_after_the_finish_reason_does_no_harm(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    server.script(Raw([sse(choices=[{"index": 0, "delta": {"content": "hi"}}]), STOP], cut=True))
    assert ask(provider) == [TextDelta("hi"), ModelDone("stop")]


def test_characters_cut_between_reads_arrive_whole(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    event = 'data: {"choices":[{"delta":{"content":"grüße 🦞"}}]}\r\n\r\n'.encode()
    server.script(Raw([*(event[i : i + 1] for i in range(len(event))), STOP]))
    assert ask(provider) == [TextDelta("grüße 🦞"), ModelDone("stop")]


def test_custom_headers_win_and_no_key_sends_no_authorization(server: ScriptedProvider) -> None:
    headers = {"X-Team": "blue", "User-Agent": "mine"}
    with closing(make(server.base_url + "/", api_keys=(), headers=headers)) as provider:
        assert text_of(ask(provider, "one two")) == "echo: one two"
    received = server.requests[0].headers
    assert (received["x-team"], received["user-agent"]) == ("blue", "mine")
    assert "authorization" not in received


def test_model_info_comes_from_the_configuration_or_the_default() -> None:
    small, default = ModelInfo(context_window=8), ModelInfo(images=True)
    with closing(make("http://localhost/v1", models={"s": small}, default=default)) as provider:
        assert provider.info("s") is small
        assert provider.info("other") is default


# the connection


def test_one_connection_serves_call_after_call(server: ScriptedProvider, provider: OpenAICompletions) -> None:
    server.script(Reply("a"), Reply("b", ignore_stream=True), Reply("c", done=False), Status(500, {}))
    for _ in range(3):
        ask(provider)
    failure(provider)
    assert text_of(ask(provider, "x")) == "echo: x"
    assert len(server.requests) == 5
    assert server.connections == 1


def test_a_server_that_does_not_end_its_body_after_done_costs_only_the_connection(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    whole = sse(choices=[{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}])
    padding = [b": " + b"x" * 1000 + b"\n\n"] * 100
    server.script(Raw([whole, b"data: [DONE]\n\n", *padding]))
    assert text_of(ask(provider)) == "hi"
    assert text_of(ask(provider, "x")) == "echo: x"
    assert server.connections == 2


def test_a_kept_connection_that_turns_out_closed_is_replaced(server: ScriptedProvider) -> None:
    """The server closes a kept connection upon the next request, before any answer."""
    with closing(make(server.base_url)) as provider:
        ask(provider)
        server.script(Garbage(b""))
        assert text_of(ask(provider, "again")) == "echo: again"
    assert server.connections == 2


def test_a_fresh_connection_closed_without_an_answer_is_not_tried_again(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    server.script(Garbage(b""))
    assert failure(provider).reason is ProviderReason.CONNECTION
    assert len(server.requests) == 1


def test_many_calls_run_at_the_same_time(server: ScriptedProvider, provider: OpenAICompletions) -> None:
    gate = threading.Event()
    server.on("go", Reply("gone", gate=gate))
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(text_of(ask(provider, "go")))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    assert server.wait_for_requests(20)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert answers == ["gone"] * 20
    assert server.max_active == 20


def test_every_connection_goes_to_the_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with (
        ScriptedProvider(unix_socket=path) as server,
        closing(make(server.base_url, http=HttpClient(unix_socket=path))) as provider,
    ):
        assert text_of(ask(provider, "a")) == "echo: a"
        assert text_of(ask(provider, "b")) == "echo: b"
        assert server.connections == 1


def test_no_file_descriptor_is_left_behind(server: ScriptedProvider) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = open_files()
    with closing(make(server.base_url)) as provider:
        server.script(Reply("a"), Status(500, {}), Reply("half", cut_after=0), Garbage(b"x"), Hang())
        ask(provider)
        for _ in range(4):
            failure(provider, HASTY)
        stream = provider.stream(request(), CancelToken())
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert server.wait_until_idle()
    assert wait_until(lambda: open_files() <= before)


def wait_until(condition: Any, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def test_a_proxy_is_used_for_other_hosts_only(
    server: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scripted server takes the absolute URI that a proxy gets."""
    monkeypatch.setenv("http_proxy", server.base_url.replace("http://", "http://me:pw@").removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "direct.invalid")
    with closing(make("http://model.invalid/v1")) as provider:
        assert text_of(ask(provider, "far")) == "echo: far"
    assert server.requests[0].path == "http://model.invalid/v1/chat/completions"
    assert server.requests[0].headers["proxy-authorization"].startswith("Basic ")
    with closing(make("http://direct.invalid/v1")) as provider:
        assert failure(provider).reason is ProviderReason.CONNECTION
    with closing(make(server.base_url)) as provider:
        ask(provider, "near")
    assert server.requests[1].path == "/v1/chat/completions"


def test_tls_connections_are_kept_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a certificate that the system trusts, here by ``SSL_CERT_FILE``."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ScriptedProvider(tls=context) as server:
        with closing(make(server.base_url)) as provider:
            assert "TLS" in str(failure(provider))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with closing(make(server.base_url)) as provider:
            assert text_of(ask(provider, "a")) == "echo: a"
            assert text_of(ask(provider, "b")) == "echo: b"
            assert len({received.client for received in server.requests}) == 1
            assert_cancelled_in_the_middle(server, provider)


# failures


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Status(401, {"error": {"message": "bad key sk-test-123456"}}), "auth"),
        (Status(402, {}), "billing"),
        (Status(429, {"error": {"message": "slow down"}}), "rate_limit"),
        (Status(429, {"error": {"code": "insufficient_quota"}}), "billing"),
        (Status(404, {"error": {"message": "no such model"}}), "model_not_found"),
        (Status(400, {"error": {"message": "bad field"}}), "format"),
        (Status(400, {"error": {"type": "exceed_context_size_error", "message": "x"}}), "context_overflow"),
        (Status(503, b"<html>busy</html>"), "overloaded"),
        (Status(500, b""), "server_error"),
        (Status(302, b"", {"Location": "http://localhost:1/"}), "protocol"),
        (Raw(b"<html>Welcome</html>", {"Content-Type": "text/html; charset=utf-8"}), "protocol"),
        (Raw(b"{}", {"Content-Type": "application/json"}), "protocol"),
        (Raw(b'{"error": {"code": 503}}', {"Content-Type": "application/json"}), "overloaded"),
        (Raw(b"data: {broken\n\n"), "protocol"),
        (Raw(b"data: \xf0\x9f\n\n"), "protocol"),
        (Raw('data: {"choices":[{"delta":{"content":"gr\u00fc'.encode()[:-1], cut=True), "truncated"),
        (Raw(b""), "truncated"),
        (Reply("half an answer", cut_after=1), "truncated"),
        (Reply("half an answer", finish_reason=None), "truncated"),
        (Reply("half an answer", finish_reason=None, done=False), "truncated"),
        (Reply("half", finish_reason="error"), "server_error"),
        (Reply("half", error_after=1, error={"message": "busy", "type": "overloaded_error"}), "overloaded"),
        (Garbage(b"SSH-2.0-OpenSSH_9.9\r\n"), "protocol"),
        (Garbage(b""), "connection"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_a_failing_provider_is_an_error_of_the_right_reason(
    server: ScriptedProvider, provider: OpenAICompletions, reply: ScriptedReply, reason: str
) -> None:
    server.script(reply)
    error = failure(provider)
    assert error.reason.value == reason
    assert "sk-test" not in str(error)
    assert "html" not in str(error)
    assert len(server.requests) == 1


def test_the_text_before_a_failure_is_not_lost(server: ScriptedProvider, provider: OpenAICompletions) -> None:
    server.script(Reply(chunks=["one ", "two ", "three"], error_after=2))
    seen: list[ModelEvent] = []
    with pytest.raises(ProviderError, match="internal error"):
        collect(provider, seen)
    assert text_of(seen) == "one two "


def collect(provider: Provider, seen: list[ModelEvent]) -> None:
    for event in provider.stream(request(), CancelToken()):
        seen.append(event)


def test_retry_after_is_passed_on(server: ScriptedProvider, provider: OpenAICompletions) -> None:
    server.script(Status(429, {}, {"Retry-After": "7"}))
    error = failure(provider)
    assert (error.retry_after, error.upstream_status, error.retryable) == (7.0, 429, True)


def test_a_port_where_nobody_listens_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with closing(make(f"http://127.0.0.1:{port}/v1")) as provider:
        assert failure(provider).reason is ProviderReason.CONNECTION


def test_a_server_that_speaks_no_tls_cannot_be_reached(server: ScriptedProvider) -> None:
    with closing(make(server.base_url.replace("http", "https"))) as provider:
        error = failure(provider)
    assert error.reason is ProviderReason.CONNECTION
    assert "TLS" in str(error)


@pytest.mark.parametrize("key", ["two\nlines", "clé-☃"])
def test_a_key_that_cannot_be_sent_is_not_shown(server: ScriptedProvider, key: str) -> None:
    with closing(make(server.base_url, api_keys=(key,))) as provider:
        error = failure(provider)
    assert error.reason is ProviderReason.UNAVAILABLE
    assert key not in str(error)
    assert server.requests == []


@pytest.mark.parametrize("reply", [Hang(), Hang(before_headers=False), Reply("half an answer", hang_after=1)])
def test_silence_is_a_timeout(
    server: ScriptedProvider, provider: OpenAICompletions, reply: ScriptedReply
) -> None:
    server.script(reply)
    started = time.monotonic()
    assert failure(provider, HASTY).reason is ProviderReason.TIMEOUT
    assert 0.2 < time.monotonic() - started < 3
    assert server.wait_for_disconnect()


def test_the_stall_timeout_begins_with_the_first_event(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    timeouts = CallTimeouts(connect=5, first_token=10, stall=0.3)
    server.script(Reply("slow start", delay=0.6), Reply("half an answer", hang_after=1))
    assert failure(provider, timeouts).reason is ProviderReason.TIMEOUT  # the role chunk is an event
    started = time.monotonic()
    assert failure(provider, timeouts).reason is ProviderReason.TIMEOUT
    assert time.monotonic() - started < 3


def test_comments_keep_a_slow_stream_alive(server: ScriptedProvider, provider: OpenAICompletions) -> None:
    server.script(Reply(chunks=["late"], delay=1.0, comments_every=0.05))
    assert text_of(ask(provider, timeouts=HASTY)) == "late"


# stopping


@pytest.mark.parametrize("reply", [Hang(), Hang(before_headers=False)])
def test_cancelling_ends_a_call_that_waits_for_its_answer(
    server: ScriptedProvider, provider: OpenAICompletions, reply: ScriptedReply
) -> None:
    server.script(reply)
    token = CancelToken()
    thread = cancel_later(token, lambda: server.wait_for_requests(1))
    with pytest.raises(Cancelled):
        list(provider.stream(request(), token))
    assert server.wait_for_disconnect(1)
    thread.join()


def test_cancelling_ends_a_call_in_the_middle_of_its_answer(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    assert_cancelled_in_the_middle(server, provider)


def assert_cancelled_in_the_middle(server: ScriptedProvider, provider: Provider) -> None:
    server.script(Reply("half an answer", hang_after=1))
    token = CancelToken()
    stream = provider.stream(request(), token)
    assert next(stream) == TextDelta("half ")
    waiting = threading.Event()
    thread = cancel_later(token, waiting.wait)
    started = time.monotonic()
    waiting.set()
    with pytest.raises(Cancelled):
        next(stream)
    assert time.monotonic() - started < 1
    assert server.wait_for_disconnect(1)
    thread.join()


def test_cancelling_ends_an_attempt_to_connect() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [full_backlog(deaf) for _ in range(4)]
        token = CancelToken()
        timer = threading.Timer(0.2, token.cancel, [CancelReason.TIMEOUT])
        timer.start()
        started = time.monotonic()
        with (
            closing(make(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1")) as provider,
            pytest.raises(Cancelled),
        ):
            list(provider.stream(request(), token))
        assert time.monotonic() - started < 1.5
        timer.join()
        for filler in fillers:
            filler.close()


def full_backlog(listener: socket.socket) -> socket.socket:
    filler = socket.socket()
    filler.setblocking(False)
    filler.connect_ex(listener.getsockname())
    return filler


def test_cancelling_ends_a_tls_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        token = CancelToken()
        accepted: list[socket.socket] = []
        thread = cancel_later(token, lambda: accepted.append(silent.accept()[0]))
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        started = time.monotonic()
        with closing(make(url)) as provider, pytest.raises(Cancelled):
            list(provider.stream(request(), token))
        assert time.monotonic() - started < 2
        thread.join()
        accepted[0].close()


def test_a_cancelled_token_calls_nobody(server: ScriptedProvider, provider: OpenAICompletions) -> None:
    token = CancelToken()
    token.cancel(CancelReason.USER)
    with pytest.raises(Cancelled):
        list(provider.stream(request(), token))
    assert server.requests == []


def test_a_token_cancelled_after_the_answer_does_not_hurt_the_next_call(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    first = CancelToken()
    assert text_of(list(provider.stream(request("a"), first))) == "echo: a"
    gate = threading.Event()
    server.script(Reply("b", gate=gate))
    second = provider.stream(request(), CancelToken())
    thread = threading.Thread(
        target=lambda: (server.wait_for_requests(2), first.cancel(CancelReason.USER), gate.set())
    )
    thread.start()
    assert text_of(list(second)) == "b"
    assert server.connections == 1
    thread.join()


def test_closing_the_iterator_disconnects_from_the_server(
    server: ScriptedProvider, provider: OpenAICompletions
) -> None:
    server.script(Reply("half an answer", hang_after=1))
    stream = provider.stream(request(), CancelToken())
    assert next(stream) == TextDelta("half ")
    stream.close()  # type: ignore[attr-defined]
    assert server.wait_for_disconnect(1)


def test_closing_the_provider_fails_calls_under_way_and_later_ones(server: ScriptedProvider) -> None:
    provider = make(server.base_url)
    server.script(Hang())
    thread = threading.Thread(target=lambda: (server.wait_for_requests(1), provider.close()))
    thread.start()
    assert failure(provider).reason is ProviderReason.CONNECTION
    thread.join()
    assert failure(provider).reason is ProviderReason.UNAVAILABLE


# under gevent and stand-alone


def test_everything_works_in_a_gevent_process(server: ScriptedProvider) -> None:
    program = """
from gevent import monkey; monkey.patch_all()
import sys, threading, time
from app.cancel import *
from app.messages import UserMessage
from app.providers.base import *
from app.providers.openai_completions import OpenAICompletions
from app.providers.transport import HttpClient

p = OpenAICompletions("g", base_url=sys.argv[1], api_keys=(), http=HttpClient())
def ask(text, token):
    return list(p.stream(ModelRequest("m", "", (UserMessage.of(text),)), token))
answers = []
threads = [threading.Thread(target=lambda: answers.append(ask("slow", CancelToken()))) for _ in range(20)]
started = time.monotonic()
[t.start() for t in threads]; [t.join() for t in threads]
assert len(answers) == 20 and time.monotonic() - started < 5, (len(answers), time.monotonic() - started)
for text in ("hang", "half"):
    token = CancelToken()
    threading.Timer(0.3, token.cancel, [CancelReason.USER]).start()
    started = time.monotonic()
    try:
        ask(text, token)
    except Cancelled:
        assert time.monotonic() - started < 1.5
    else:
        raise AssertionError(text)
p.close()
print("fine")
"""
    server.on("slow", Reply("slow", delay=0.5))
    server.on("hang", Hang())
    server.on("half", Reply("half an answer", hang_after=1))
    result = subprocess.run(
        [sys.executable, "-c", program, server.base_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout == "fine\n", result.stderr
    assert server.wait_for_disconnect(count=2)


def test_the_scripted_provider_runs_on_its_own() -> None:
    command = [sys.executable, "-m", "tests.scripted_provider", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        with closing(make(base_url)) as provider:
            assert text_of(ask(provider, "are you there")) == "echo: are you there"
        with urllib.request.urlopen(f"{base_url}/models", timeout=5) as response:
            assert json.load(response)["data"][0]["id"] == "scripted"
        process.terminate()
