"""Turns over the WebSocket, as clients of both generations see them."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.ws_client import WsClient
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, call


def fresh() -> str:
    return uuid.uuid4().hex[:12]


def text_of(chat: dict[str, Any]) -> str:
    return "".join(part["text"] for part in chat["message"]["content"])


def shape(frame: dict[str, Any]) -> str:
    payload = frame["payload"]
    if frame["type"] == "res":
        return f"res {payload['status']}"
    if frame["event"] == "agent":
        return f"agent {payload['stream']} {payload['data'].get('phase', '')}".strip()
    return f"chat {payload['state']}"


@pytest.mark.parametrize("protocol", [3, 4])
def test_the_frames_of_an_agent_turn_come_in_order(
    gateway: GatewayProcess, provider: ScriptedProvider, protocol: int
) -> None:
    provider.script(Reply("Hello there.", chunks=["Hello", " there", "."]))
    key = fresh()

    with WsClient(gateway.port, protocol) as client:
        asked = client.send("agent", message="hi", idempotencyKey=key, sessionKey=f"tui-{key}")
        final = client.answer(asked, 2)

    mine = [f for f in client.frames if f["type"] == "res" or f["event"] in ("agent", "chat")]
    assert [shape(frame) for frame in mine] == [
        "res accepted",
        "agent lifecycle start",
        "agent assistant",
        "chat delta",
        "agent assistant",
        "agent assistant",
        "agent lifecycle end",
        "chat final",
        "res ok",
    ]
    spelled = f"tui-{key}" if protocol == 3 else f"agent:main:tui-{key}"
    events = [f["payload"] for f in mine if f["type"] == "event"]
    assert {(p["runId"], p["sessionKey"]) for p in events} == {(key, spelled)}
    agent = client.events("agent", key)
    assert [p["seq"] for p in agent] == [1, 2, 3, 4, 5]
    assert [p["data"]["text"] for p in agent[1:4]] == ["Hello", "Hello there", "Hello there."]
    assert [p["data"]["delta"] for p in agent[1:4]] == ["Hello", " there", "."]
    [delta] = client.events("chat", key, state="delta")
    assert (text_of(delta), delta["deltaText"]) == ("Hello", "Hello")
    assert text_of(client.ending(key)) == "Hello there."
    assert final["payload"]["result"]["payloads"] == [{"text": "Hello there.", "mediaUrl": None}]
    assert final["payload"]["result"]["meta"]["agentMeta"]["usage"]["total"] == 18
    assert [f["seq"] for f in client.frames if f["type"] == "event"] == list(
        range(1, 1 + len([f for f in client.frames if f["type"] == "event"]))
    )


def test_a_chat_message_is_acknowledged_answered_and_remembered(gateway: GatewayProcess) -> None:
    key = fresh()

    with WsClient(gateway.port) as client:
        started = client.ask("chat.send", sessionKey=key, message="hello", idempotencyKey=f"r{key}")
        final = client.ending(f"r{key}")
        shown = client.ask("chat.history", sessionKey=key)

    assert started == {"runId": f"r{key}", "status": "started"}
    assert text_of(final) == "echo: hello"
    assert final["sessionKey"] == f"agent:main:{key}"
    assert shown["sessionKey"] == key
    assert [(m["role"], m["content"]) for m in shown["messages"]] == [
        ("user", [{"type": "text", "text": "hello"}]),
        ("assistant", [{"type": "text", "text": "echo: hello"}]),
    ]
    assert shown["totalMessages"] == 2
    assert "inFlightRun" not in shown


def test_a_repeated_key_never_runs_twice(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    gate = threading.Event()
    provider.script(Reply("only once", gate=gate))
    key = fresh()
    sent = {"sessionKey": key, "message": "hello", "idempotencyKey": key}

    with WsClient(gateway.port) as client, WsClient(gateway.port, 3) as other:
        client.ask("chat.send", **sent)
        meanwhile = other.ask("chat.send", **sent)
        gate.set()
        client.ending(key)
        afterwards = client.ask("chat.send", **{**sent, "message": "something else"})

    assert meanwhile == {"runId": key, "status": "in_flight"}
    assert afterwards == {"runId": key, "status": "ok"}
    assert len(provider.requests) == 1


@pytest.mark.parametrize("protocol", [3, 4])
def test_whoever_repeats_an_agent_call_gets_its_answer_too(
    gateway: GatewayProcess, provider: ScriptedProvider, protocol: int
) -> None:
    gate = threading.Event()
    provider.script(Reply("the answer", gate=gate))
    sent = {"message": "hello", "idempotencyKey": fresh(), "sessionKey": fresh()}

    with WsClient(gateway.port, protocol) as gone:
        gone.answer(gone.send("agent", **sent))
    with WsClient(gateway.port, protocol) as client:
        asked = client.send("agent", **sent)
        again = client.answer(asked)["payload"]
        gate.set()
        final = client.answer(asked, 2)["payload"]
        later = client.ask("agent", **sent)

    assert again["status"] == ("accepted" if protocol == 3 else "in_flight")
    assert final["result"]["payloads"] == [{"text": "the answer", "mediaUrl": None}]
    assert later == final
    assert len(provider.requests) == 1


def test_identical_requests_at_once_are_one_run(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    key = fresh()
    clients = [WsClient(gateway.port) for _ in range(8)]

    asked = [(c, c.send("agent", message="hello", idempotencyKey=key, sessionKey=key)) for c in clients]
    finals = [client.answer(request, 2)["payload"] for client, request in asked]

    for client in clients:
        client.close()
    assert [f["result"]["payloads"][0]["text"] for f in finals] == ["echo: hello"] * 8
    assert len(provider.requests) == 1


def test_a_failed_turn_is_an_error_once_and_to_everybody_who_asks_again(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Status(400, {"error": {"message": "no such thing", "type": "invalid_request_error"}}))
    sent = {"message": "hello", "idempotencyKey": fresh(), "sessionKey": fresh()}

    with WsClient(gateway.port) as client:
        asked = client.send("agent", **sent)
        final = client.answer(asked, 2)
        later = client.answer(client.send("agent", **sent))
        waited = client.ask("agent.wait", runId=sent["idempotencyKey"])
        states = [c["state"] for c in client.events("chat", sent["idempotencyKey"])]
        phases = [a["data"]["phase"] for a in client.events("agent", stream="lifecycle")]

    assert not final["ok"]
    assert final["error"]["code"] == "UNAVAILABLE"
    assert final["payload"]["status"] == "error"
    assert (later["error"], later["payload"]) == (final["error"], final["payload"])
    assert waited["status"] == "error"
    assert states == ["error"]
    assert phases == ["start", "error"]


def test_what_waits_behind_an_answer_is_answered_next_under_its_own_id(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("first answer", gate=gate), Reply("second answer"))
    key = fresh()

    with WsClient(gateway.port) as client:
        client.ask("chat.send", sessionKey=key, message="first", idempotencyKey=f"{key}-1")
        client.ask("chat.send", sessionKey=key, message="second", idempotencyKey=f"{key}-2")
        gate.set()
        endings = [text_of(client.ending(f"{key}-{n}")) for n in (1, 2)]
        shown = client.ask("chat.history", sessionKey=key)

    assert endings == ["first answer", "second answer"]
    assert client.events("agent", f"{key}-2")[0]["data"]["phase"] == "start"
    assert [m["content"][0]["text"] for m in shown["messages"]] == [
        "first",
        "first answer",
        "second",
        "second answer",
    ]


def test_a_message_can_steer_the_answer_under_way(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(
        Reply(tool_calls=[call("ls", {"path": "."})], gate=gate),
        Reply("as you wish"),
    )
    key = fresh()

    with WsClient(gateway.port) as client:
        client.ask("chat.send", sessionKey=key, message="first", idempotencyKey=f"{key}-1")
        client.until(lambda: client.events("agent", f"{key}-1"))
        client.ask(
            "chat.send", sessionKey=key, message="rather this", idempotencyKey=f"{key}-2", queueMode="steer"
        )
        gate.set()
        first, second = (client.ending(f"{key}-{n}") for n in (1, 2))
        shown = client.ask("chat.history", sessionKey=key)

    assert text_of(first) == "as you wish"
    assert text_of(second) == ""
    assert len(provider.requests) == 2
    assert provider.requests[1].body["messages"][-1] == {"role": "user", "content": "rather this"}
    assert [m["role"] for m in shown["messages"]] == ["user", "assistant", "toolResult", "user", "assistant"]


def test_a_message_that_comes_too_late_to_steer_has_a_turn_of_its_own(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("first answer", gate=gate), Reply("second answer"))
    key = fresh()

    with WsClient(gateway.port) as client:
        client.ask("chat.send", sessionKey=key, message="first", idempotencyKey=f"{key}-1")
        client.ask("chat.send", sessionKey=key, message="more", idempotencyKey=f"{key}-2", queueMode="steer")
        gate.set()
        endings = [text_of(client.ending(f"{key}-{n}")) for n in (1, 2)]

    assert endings == ["first answer", "second answer"]


def test_a_message_can_interrupt_the_answer_under_way(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("never ends", chunks=["never", " ends"], hang_after=1), Reply("here I am"))
    key = fresh()

    with WsClient(gateway.port) as client:
        client.ask("chat.send", sessionKey=key, message="first", idempotencyKey=f"{key}-1")
        client.until(lambda: client.events("chat", f"{key}-1", state="delta"))
        client.ask(
            "chat.send", sessionKey=key, message="now", idempotencyKey=f"{key}-2", queueMode="interrupt"
        )
        first, second = (client.ending(f"{key}-{n}") for n in (1, 2))

    assert (first["state"], text_of(first), first["stopReason"]) == ("aborted", "never", "rpc")
    assert text_of(second) == "here I am"


@pytest.mark.parametrize("phrase", ["/stop", "/STOP", "stop", "Esc", "abort", "wait", "exit", "interrupt"])
def test_a_stop_phrase_stops_and_is_no_message(
    gateway: GatewayProcess, provider: ScriptedProvider, phrase: str
) -> None:
    provider.script(Hang())
    key = fresh()

    with WsClient(gateway.port) as client:
        client.ask("chat.send", sessionKey=key, message="first", idempotencyKey=key)
        stopped = client.ask("chat.send", sessionKey=key, message=phrase, idempotencyKey=fresh())
        ending = client.ending(key)
        again = client.ask("chat.send", sessionKey=key, message=phrase, idempotencyKey=fresh())

    assert stopped == {"ok": True, "aborted": True, "runIds": [key]}
    assert ending["state"] == "aborted"
    assert again == {"ok": True, "aborted": False, "runIds": []}


def test_a_command_is_answered_with_one_final_and_obeyed_once(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    key = fresh()
    sent = {"sessionKey": key, "message": "/status", "idempotencyKey": f"{key}-s"}

    with WsClient(gateway.port) as client:
        started = client.ask("chat.send", **sent)
        ending = client.ending(f"{key}-s")
        again = client.ask("chat.send", **sent)

    assert started == {"runId": f"{key}-s", "status": "started"}
    assert "Agent: main" in text_of(ending)
    assert again == {"runId": f"{key}-s", "status": "ok"}
    assert client.events("chat", f"{key}-s") == [ending]
    assert client.events("agent") == []
    assert provider.requests == []


def test_only_runs_of_the_named_session_are_aborted(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    key = fresh()

    with WsClient(gateway.port) as client:
        client.ask("chat.send", sessionKey=key, message="first", idempotencyKey=key)
        elsewhere = client.refusal("chat.abort", sessionKey="main", runId=key)
        nothing = client.ask("chat.abort", sessionKey=fresh())
        stopped = client.ask("chat.abort", sessionKey=key, runId=key)
        ending = client.ending(key)
        again = client.ask("chat.abort", sessionKey=key, runId=key)
        repeated = client.ask("chat.send", sessionKey=key, message="first", idempotencyKey=key)

    assert elsewhere == {"code": "INVALID_REQUEST", "message": "runId does not match sessionKey"}
    assert nothing == {"ok": True, "aborted": False, "runIds": []}
    assert stopped == {"ok": True, "aborted": True, "runIds": [key]}
    assert (ending["state"], ending["stopReason"]) == ("aborted", "rpc")
    assert again["aborted"] is False
    assert (repeated["status"], repeated["summary"]) == ("timeout", "aborted")


def test_a_run_over_http_is_seen_and_stopped_here_and_its_client_gets_a_clean_end(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(chunks=["so far", " and more"], hang_after=1))
    key = f"agent:main:http-{fresh()}"
    ask = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=15)

    with WsClient(gateway.port) as client:
        body = {"model": "openclaw/main", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Authorization": f"Bearer {TOKEN}", "x-openclaw-session-key": key}
        ask.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        stream = ask.getresponse()
        client.until(lambda: client.events("chat", sessionKey=key))
        [delta] = client.events("chat", sessionKey=key)
        stopped = client.ask("chat.abort", sessionKey=key)
        ending = client.ending(delta["runId"])
        rest = stream.read()
    ask.close()

    assert text_of(delta) == "so far"
    assert stopped["runIds"] == [delta["runId"]]
    assert ending["state"] == "aborted"
    assert b"so far" in rest
    assert b'"error"' in rest


def test_a_late_joiner_learns_what_was_said_so_far(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply(chunks=["said already", " and the rest"], gate=gate, gate_at=1))
    key = fresh()

    with WsClient(gateway.port) as first, WsClient(gateway.port) as late:
        first.ask("chat.send", sessionKey=key, message="hello", idempotencyKey=key)
        first.until(lambda: first.events("chat", key))
        shown = late.ask("chat.history", sessionKey=key)
        gate.set()
        ending = late.ending(key)

    assert shown["inFlightRun"] == {"runId": key, "text": "said already"}
    assert text_of(ending) == "said already and the rest"


def test_tool_events_go_to_those_who_ask_for_them(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("Let me see.", tool_calls=[call("ls", {"path": "."})]), Reply("Nothing."))
    key = fresh()

    with WsClient(gateway.port, caps=["tool-events"]) as curious, WsClient(gateway.port, 3) as old:
        curious.ask("chat.send", sessionKey=key, message="look", idempotencyKey=key)
        curious.ending(key)
        old.ending(key)

    seen = [(a["stream"], a["data"].get("phase") or a["data"]["text"]) for a in curious.events("agent", key)]
    assert ("tool", "start") in seen
    assert ("tool", "result") in seen
    assert [text for stream, text in seen if stream == "assistant"][-1] == "Nothing."
    assert [a for a in old.events("agent", key) if a["stream"] == "tool"] == []
    assert text_of(curious.ending(key)) == "Let me see.\n\nNothing."


def test_runs_are_told_only_to_those_who_may_read(gateway: GatewayProcess) -> None:
    key = fresh()

    with (
        WsClient(gateway.port) as client,
        WsClient(gateway.port, scopes=["operator.approvals"]) as blind,
        WsClient(gateway.port, scopes=["operator.read"]) as reader,
    ):
        client.ask("chat.send", sessionKey=key, message="hello", idempotencyKey=key)
        client.ending(key)
        reader.ending(key)
        blind.ask("health")
        refused = reader.refusal("chat.send", sessionKey=key, message="hello", idempotencyKey=fresh())

    assert blind.events("chat") == blind.events("agent") == []
    assert refused["message"] == "missing scope: operator.write"


def test_an_answer_survives_that_its_asker_leaves(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("still here", gate=gate))
    key = fresh()

    with WsClient(gateway.port) as client:
        client.ask("chat.send", sessionKey=key, message="hello", idempotencyKey=key)
    gate.set()
    with WsClient(gateway.port) as client:
        waited = client.ask("agent.wait", runId=key, timeoutMs=10_000)
        shown = client.ask("chat.history", sessionKey=key)

    assert waited["status"] == "ok"
    assert waited["startedAt"] <= waited["endedAt"]
    assert shown["messages"][-1]["content"][0]["text"] == "still here"


def test_waiting_for_a_run_that_never_comes_ends_in_time(gateway: GatewayProcess) -> None:
    with WsClient(gateway.port) as client:
        before = time.monotonic()
        waited = client.ask("agent.wait", runId=fresh(), timeoutMs=300)

    assert waited["status"] == "timeout"
    assert 0.3 <= time.monotonic() - before < 5


def test_what_is_injected_is_told_and_remembered(gateway: GatewayProcess) -> None:
    key = fresh()

    with WsClient(gateway.port) as client:
        unknown = client.refusal("chat.inject", sessionKey=key, message="note")
        client.ask("chat.send", sessionKey=key, message="hello", idempotencyKey=key)
        client.ending(key)
        told = client.ask("chat.inject", sessionKey=key, message="the door is open", label="Sensor")
        shown = client.ask("chat.history", sessionKey=key)

    [event] = client.events("chat", f"inject-{told['messageId']}")
    assert unknown["message"] == "session not found"
    assert text_of(event) == "[Sensor]\n\nthe door is open"
    assert shown["messages"][-1]["content"] == event["message"]["content"]


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("chat.send", {}, "invalid chat.send params: must have required property 'sessionKey'"),
        (
            "chat.send",
            {"sessionKey": "s"},
            "invalid chat.send params: must have required property 'idempotencyKey'",
        ),
        ("chat.send", {"sessionKey": "s", "idempotencyKey": "k"}, "message or attachment required"),
        ("chat.send", {"sessionKey": "s", "idempotencyKey": "k", "message": 7}, "must be string"),
        (
            "chat.send",
            {"sessionKey": "s", "idempotencyKey": "k", "message": "m", "timeoutMs": -1},
            "must be >= 0",
        ),
        (
            "chat.send",
            {"sessionKey": "s", "idempotencyKey": "k", "message": "m", "thinking": "x"},
            "/thinking",
        ),
        ("chat.send", {"sessionKey": "s", "idempotencyKey": "a\nb", "message": "m"}, "/idempotencyKey"),
        (
            "chat.send",
            {"sessionKey": "s", "idempotencyKey": "k", "message": "m", "attachments": [{"content": "AAAA"}]},
            "attachment #1: only JPEG, PNG, GIF and WebP images are served",
        ),
        ("agent", {"message": "m", "idempotencyKey": "k", "agentId": "nobody"}, 'unknown agent id "nobody"'),
        (
            "agent",
            {"message": "m", "idempotencyKey": "k", "agentId": "beta", "sessionKey": "agent:main:x"},
            'agent "beta" does not match session key agent "main"',
        ),
        ("agent", {"message": "m"}, "invalid agent params: must have required property 'idempotencyKey'"),
        ("agent.wait", {}, "invalid agent.wait params: must have required property 'runId'"),
        ("chat.history", {}, "invalid chat.history params: must have required property 'sessionKey'"),
    ],
)
def test_what_is_wrong_is_named(
    gateway: GatewayProcess, method: str, params: dict[str, Any], message: str
) -> None:
    with WsClient(gateway.port) as client:
        refused = client.refusal(method, **params)

    assert refused["code"] == "INVALID_REQUEST"
    assert message in refused["message"]


def test_a_history_stays_small_however_long_the_conversation(gateway: GatewayProcess) -> None:
    key = fresh()

    with WsClient(gateway.port) as client:
        for number in range(8):
            client.ask("chat.send", sessionKey=key, message="x" * 90_000, idempotencyKey=f"{key}-{number}")
            client.ending(f"{key}-{number}")
        shown = client.ask("chat.history", sessionKey=key)
        unknown = client.ask("chat.history", sessionKey=fresh())

    assert len(json.dumps(shown)) < 600_000
    assert shown["messages"][-1]["role"] == "assistant"
    assert (shown["hasMore"], shown["totalMessages"]) == (True, 16)
    assert unknown["messages"] == []
    assert "sessionId" not in unknown


def test_nothing_acknowledged_is_lost_or_answered_twice_by_a_crash(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    gate = threading.Event()
    asked = {f"crash-{number}": f"question {number:02}" for number in range(50)}
    for message in asked.values():
        provider.on(message, Reply(f"answer to {message}", gate=gate))
    clients = [WsClient(gateway.port) for _ in asked]
    for (key, message), client in zip(asked.items(), clients, strict=True):
        session = f"session-{int(key.removeprefix('crash-')) % 20}"
        client.ask("chat.send", sessionKey=session, message=message, idempotencyKey=key)
    wait_until(lambda: len(provider.requests) >= 2)

    gateway.kill9()
    for client in clients:
        client.close()
    gate.set()
    gateway.start()
    answers = {}
    for key, message in asked.items():
        session = f"session-{int(key.removeprefix('crash-')) % 20}"
        with WsClient(gateway.port) as client:
            client.ask("chat.send", sessionKey=session, message=message, idempotencyKey=key)
            assert client.ask("agent.wait", runId=key)["status"] == "ok"
            asking = client.ask("agent", message=message, idempotencyKey=key)
            answers[key] = asking["result"]["payloads"][0]["text"]
    said = []
    with WsClient(gateway.port) as client:
        for number in range(20):
            rows = client.ask("chat.history", sessionKey=f"session-{number}")["messages"]
            said += [(m["role"], m["content"][0]["text"]) for m in rows]

    assert answers == {key: f"answer to {message}" for key, message in asked.items()}
    for message in asked.values():
        assert ("user", message) in said
        assert said.count(("assistant", f"answer to {message}")) == 1
