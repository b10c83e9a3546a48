"""Streams: what comes, in which order, and that every one of them ends, whatever happens.

B16-B19, B27, P12, P13 and P15 of the traps are here.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import (
    Answer,
    Connection,
    chat,
    chat_body,
    open_stream,
    request_bytes,
    send,
    stream_events,
)
from tests.scripted_provider import Garbage, Hang, Raw, Reply, ScriptedProvider, ScriptedReply, Status, call
from tests.scripted_provider import chunk as sse

STOP = sse(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n"


def content(text: str) -> bytes:
    return sse(choices=[{"index": 0, "delta": {"content": text}}])


def both_ways(
    gateway: GatewayProcess, provider: ScriptedProvider, *replies: ScriptedReply
) -> tuple[Answer, Answer]:
    """The same model behaviour, first without and then with streaming."""
    provider.script(*replies)
    whole = chat(gateway)
    used = len(provider.requests)
    provider.script(*replies[:used])
    return whole, chat(gateway, stream=True)


def ending(events: Sequence[Any]) -> str:
    """How a stream ended, checked to be in exactly one way: a finish reason or an error's code."""
    assert events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    chunks = [event for event in events[:-1] if "choices" in event]
    errors = [event["error"] for event in events[:-1] if "error" in event]
    reasons = [r for chunk in chunks for c in chunk["choices"] if (r := c["finish_reason"]) is not None]
    assert len(chunks) + len(errors) == len(events) - 1
    assert len(reasons) + len(errors) == 1, events
    last = events[-2]
    if errors:
        assert last == {"error": errors[0]}
        return str(errors[0]["code"])
    assert last["choices"][0]["delta"] == {}
    return str(reasons[0])


# --- the text is the same with and without streaming ---

TEXTS = {
    "plain": ("Hello, world.", "Hello, world."),
    "silent word at the end": ("a\n\nNO_REPLY", "a\n\nNO_REPLY"),
    "silent word as a beginning": ("NO_REPLY is a word", "NO_REPLY is a word"),
    "heartbeat": ("HEARTBEAT_OK", "HEARTBEAT_OK"),
    "thoughts": ("<think>secret</think>visible", "visible"),
    "long thoughts": ("<thinking>a < b > c\n</think</thinking>\n\nvisible", "visible"),
    "final": ("<final>done</final>", "done"),
    "thoughts and final": ("<think>secret</think>\n<final>done</final>", "done"),
    "reply tag": ("[[reply_to_current]] hi there", "hi there"),
    "reply tag with an id": ("[[reply_to: 123]]hi there", "hi there"),
    "white space": ("  \n hello \n\n world \n ", "hello \n\n world"),
    "media": ("here\nMEDIA: /tmp/a.png", "here\nMEDIA: /tmp/a.png"),
    "less than": ("<b>1 < 2</b> <fin", "<b>1 < 2</b> <fin"),
    "brackets": ("[[reply]] [1]", "[[reply]] [1]"),
    "unicode": ("grüße 👩‍👩‍👧 \u202e\u0000 end", "grüße 👩‍👩‍👧 \u202e\u0000 end"),
}


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("written", "shown"), TEXTS.values(), ids=TEXTS.keys())
def test_b19_the_deltas_are_the_answer(
    written: str, shown: str, size: int, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """B19 and section 12.1, however the model cuts its text."""
    pieces = [written[start : start + size] for start in range(0, len(written), size)]
    whole, stream = both_ways(gateway, provider, Reply(chunks=pieces))
    assert whole.text == shown
    assert stream.text == shown
    assert ending(stream_events(stream.body)) == "stop"


def test_the_models_reasoning_is_not_shown(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    whole, stream = both_ways(gateway, provider, Reply("visible", reasoning="secret"))
    assert whole.text == stream.text == "visible"
    assert b"secret" not in whole.body + stream.body


STATUS_CALL = [call("session_status")]
RUNS: dict[str, tuple[list[ScriptedReply], str]] = {
    "text, tool, text": ([Reply("Before.", tool_calls=STATUS_CALL), Reply("After.")], "Before.\n\nAfter."),
    "tool, text": ([Reply(tool_calls=STATUS_CALL), Reply("After.")], "After."),
    "text, tool, text, tool, text": (
        [Reply("One", tool_calls=STATUS_CALL), Reply("Two ", tool_calls=STATUS_CALL), Reply(" Three")],
        "One\n\nTwo\n\nThree",
    ),
    "text, tool, tool, text": (
        [Reply("One", tool_calls=STATUS_CALL), Reply(tool_calls=STATUS_CALL), Reply("Three")],
        "One\n\nThree",
    ),
    "text, tool, silence": ([Reply("Done.", tool_calls=STATUS_CALL), Reply("NO_REPLY")], "Done."),
    "thoughts around tools": (
        [Reply("<think>a</think>One", tool_calls=STATUS_CALL), Reply("<think>b</think><final>Two</final>")],
        "One\n\nTwo",
    ),
    "an answer in one piece of JSON": ([Reply("all at once", ignore_stream=True)], "all at once"),
    "silence, then an answer": ([Reply(""), Reply("Sorry, here it is.")], "Sorry, here it is."),
}


@pytest.mark.parametrize(("replies", "shown"), RUNS.values(), ids=RUNS.keys())
def test_b18_a_run_of_several_messages_has_one_answer(
    replies: list[ScriptedReply], shown: str, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """B18 and B20: nothing is lost or glued together, and only the run's end ends the stream."""
    whole, stream = both_ways(gateway, provider, *replies)
    assert whole.text == shown
    assert stream.text == shown
    assert ending(stream_events(stream.body)) == "stop"
    assert len(provider.requests) == 2 * len(replies)


# --- every stream ends once ---


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_b17_a_shortened_answer_says_so(
    reason: str, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    whole, stream = both_ways(gateway, provider, Reply("half an", finish_reason=reason))
    assert whole.json["choices"][0]["finish_reason"] == reason
    assert ending(stream_events(stream.body)) == reason
    assert whole.text == stream.text == "half an"


HTML = Raw(b"<html><body>Welcome</body></html>", {"Content-Type": "text/html"})
HALF_CHARACTER = Raw([content("ok"), b'data: {"choices":[{"index":0,"delta":{"content":"\xc3"}}]}\n\n', STOP])
FAILURES: dict[str, tuple[ScriptedReply, int, str, str]] = {
    "refused": (Status(400, {"error": {"message": "no"}}), 400, "provider_rejected_request", ""),
    "bad key": (Status(401, {"error": {"message": "no"}}), 502, "provider_auth", ""),
    "empty": (Reply(""), 502, "empty_response", ""),
    "silent": (Reply("NO_REPLY"), 502, "empty_response", ""),
    "only thoughts": (Reply("<think>hm</think>"), 502, "empty_response", ""),
    "error at once": (
        Reply("x", error_after=0, error={"message": "no", "code": 400}),
        400,
        "provider_rejected_request",
        "",
    ),
    "error after ten": (Reply(chunks=["word "] * 20, error_after=10), 502, "provider_error", "word " * 10),
    "cut in the middle": (Reply(chunks=["word "] * 9, cut_after=3), 502, "provider_truncated", "word " * 3),
    "no finish": (Reply("one two", finish_reason=None, done=False), 502, "provider_truncated", "one two"),
    "no HTTP": (Garbage(b"\x00\x01\x02 nonsense\r\n\r\n"), 502, "provider_protocol", ""),
    "closed at once": (Garbage(b""), 502, "provider_unreachable", ""),
    "web page": (HTML, 502, "provider_protocol", ""),
    "half a character": (HALF_CHARACTER, 502, "provider_protocol", "ok"),
    "no JSON": (Raw(b"data: {nonsense\n\n" + STOP), 502, "provider_protocol", ""),
}


@pytest.mark.parametrize(("reply", "status", "code", "text"), FAILURES.values(), ids=FAILURES.keys())
def test_b17_a_failed_run_ends_in_one_error_and_one_done(
    reply: ScriptedReply,
    status: int,
    code: str,
    text: str,
    gateway: GatewayProcess,
    provider: ScriptedProvider,
) -> None:
    """B17, and the error is the same as without a stream."""
    whole, stream = both_ways(gateway, provider, *[reply] * 3)
    assert (whole.status, whole.error["code"]) == (status, code)
    assert stream.status == 200
    assert ending(stream_events(stream.body)) == code
    assert stream.text.rstrip() == text.rstrip()


@pytest.mark.parametrize(
    ("reply", "code", "text"),
    [
        (Hang(), "provider_timeout", ""),
        (Hang(before_headers=False), "provider_timeout", ""),
        (Reply(chunks=["word "] * 9, hang_after=3), "provider_timeout", "word word word"),
        (Reply(chunks=["word "] * 99, delay=0.4), "run_timeout", "word word word"),
    ],
    ids=["before the headers", "after the headers", "in the middle", "never done"],
)
def test_b17_a_run_that_takes_too_long_is_ended(
    reply: ScriptedReply, code: str, text: str, hasty: GatewayProcess, provider: ScriptedProvider
) -> None:
    """B17: three time-outs, of the first word, of the next one, and of the whole run."""
    start = time.monotonic()
    whole, stream = both_ways(hasty, provider, reply)
    assert time.monotonic() - start < 7
    assert (whole.status, whole.error["code"]) == (504, code)
    assert ending(stream_events(stream.body)) == code
    assert stream.text.startswith(text)
    assert provider.wait_for_disconnect(2, count=2)


def test_a_character_cut_between_two_packets_is_put_together(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    data = b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9"}}]}\n\n' + STOP
    cut = data.index(b"\xc3") + 1
    whole, stream = both_ways(gateway, provider, Raw([data[:cut], data[cut:]]))
    assert whole.text == stream.text == "é"


def test_comments_of_the_provider_are_signs_of_life(
    hasty: GatewayProcess, provider: ScriptedProvider
) -> None:
    whole, stream = both_ways(hasty, provider, Reply("one", delay=1.4, comments_every=0.3))
    assert whole.text == stream.text == "one"


# --- the first bytes, silence, slow and vanishing clients ---


def test_b16_the_role_comes_before_the_model_has_said_anything(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """B16 and P15: the headers, too."""
    gate = threading.Event()
    provider.script(Reply("hello", gate=gate))
    with open_stream(gateway) as connection:
        events = connection.events()
        first = next(events)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert provider.wait_for_requests(1)
        gate.set()
        rest = list(events)
    assert ending([first, *rest]) == "stop"
    assert all("role" not in event["choices"][0]["delta"] for event in rest[:-1])


def test_a_delta_is_passed_on_before_the_next_one_is_written(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply(chunks=["one", " two"], gate=gate, gate_at=1))
    with open_stream(gateway) as connection:
        events = connection.events()
        next(events)
        assert next(events)["choices"][0]["delta"]["content"] == "one"
        gate.set()
        assert next(events)["choices"][0]["delta"]["content"] == " two"
        assert ending(["", *events][1:]) == "stop"


def test_a_silent_stream_is_kept_alive_by_comments(hasty: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(Reply("one", delay=1.6, comments_every=0.3))
    silences, lines, last = [], [], time.monotonic()
    with open_stream(hasty) as connection:
        for line in connection.lines():
            now = time.monotonic()
            silences.append(now - last)
            last = now
            lines.append(line)
    assert lines.count(": keepalive") >= 4
    assert max(silences) < 1.2
    assert [line for line in lines if line.startswith("data: ")][-1] == "data: [DONE]"


def test_a_client_that_reads_a_byte_a_second_holds_up_nobody(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.on("flood", Reply(chunks=["x" * 1000] * 20_000))
    slow = socket.socket()
    with closing(slow):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", gateway.port))
        slow.sendall(request_bytes(chat_body("flood", stream=True)))
        for _ in range(2):
            assert slow.recv(1)
            second = time.monotonic() + 1
            while time.monotonic() < second:
                start = time.monotonic()
                assert chat(gateway, "quick").text == "echo: quick"
                assert time.monotonic() - start < 3
        # The run waits for its reader; the answer is not heaped up in between.
        assert provider.active == 1
    assert provider.wait_for_disconnect(5)


@pytest.mark.parametrize(
    "reply", [Hang(), Reply("one two three", hang_after=1)], ids=["at first", "in mid-answer"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_p12_p13_a_client_that_leaves_ends_its_run(
    stream: bool, reply: ScriptedReply, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    """P12 and P13: on both paths, and at the model's side, too."""
    provider.script(reply)
    user = f"leaver {stream}".lower()
    with Connection(gateway) as connection:
        connection.send(request_bytes(chat_body(stream=stream, user=user)))
        assert provider.wait_for_requests(1)
    assert provider.wait_for_disconnect(2)
    with closing(gateway.store()) as store:
        key = f"agent:main:openai-user:{user}"
        record = wait_until(lambda: next((r for r in store.list_runs(key, 1) if r.ended_at), None))
    assert (record.status, record.error_code) == ("cancelled", "run_cancelled")


def test_what_was_said_before_the_client_left_is_remembered(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(chunks=["one ", "two ", "three"], hang_after=2))
    with open_stream(gateway, "count", user="interrupter") as connection:
        next(line for line in connection.lines() if "two" in line)
    assert provider.wait_for_disconnect(2)
    chat(gateway, "go on", user="interrupter")
    assert [m["content"].strip() for m in provider.requests[-1].body["messages"][1:]] == [
        "count",
        "one two",
        "go on",
    ]


# --- shutting down ---


def test_b27_a_shutdown_lets_runs_finish_and_ends_the_others_with_an_error(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    """B27: no new runs from the first moment on, and in the end every stream has its ``[DONE]``."""
    gate = threading.Event()
    provider.on("finish", Reply("one two", gate=gate, gate_at=1))
    provider.on("hang", Reply("one two", hang_after=1))
    gateway = start_gateway(env={"OPENCLAW_DRAIN_SECONDS": "4"})
    with open_stream(gateway, "finish") as finishing, open_stream(gateway, "hang") as hanging:
        assert provider.wait_for_requests(2)
        gateway.terminate()
        wait_until(lambda: send(gateway, method="GET", path="/readyz").status == 503)
        refused = chat(gateway)
        assert (refused.status, refused.error["code"]) == (503, "gateway_unavailable")
        assert refused.headers["retry-after"] == "1"
        assert send(gateway, method="GET", path="/healthz").status == 200
        gate.set()
        assert ending(list(finishing.events())) == "stop"
        assert ending(list(hanging.events())) == "gateway_unavailable"
    assert gateway.wait() == 0
    assert provider.wait_for_disconnect(2)


def test_the_models_list_holds_what_chunks_echo(gateway: GatewayProcess) -> None:
    names = [model["id"] for model in send(gateway, method="GET", path="/v1/models").json["data"]]
    for name in names:
        events = stream_events(chat(gateway, stream=True, model=name).body)
        assert events[0]["model"] == name
