"""Several processes on several machines are one gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, cluster, freeze, thaw
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import Connection, chat, chat_body, open_stream, request_bytes, send
from tests.e2e.ws_client import WsClient
from tests.scripted_provider import Hang, Reply, ScriptedProvider

LEASE = 3.0
KEY = "agent:main:cluster"
INTERRUPTED = "The gateway stopped before the run was over."


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, provider_port: int) -> Iterator[Cluster]:
    """Three machines, the last of which has two workers."""
    directory = tmp_path_factory.mktemp("cluster")
    url = f"http://127.0.0.1:{provider_port}/v1"
    endpoints = {"http": {"endpoints": {"responses": {"enabled": True}}}}
    with cluster(directory, url, 3, lease=LEASE, workers=(1, 1, 2), gateway=endpoints) as running:
        yield running
        for gateway in running.gateways:
            gateway.stop()
            assert "Traceback" not in gateway.log


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A session of the test's own."""
    return f"agent:main:{request.node.name}"


def ask(gateway: GatewayProcess, path: str, body: Any = None, method: str = "POST") -> Any:
    answer = send(gateway, b"" if body is None else body, method=method, path=path)
    assert answer.status < 400, answer
    return answer.json


def texts(cluster: Cluster, key: str) -> list[str]:
    return [entry.message.text for entry in cluster.transcript(key).history]


def in_session(key: str) -> dict[str, str]:
    return {"x-openclaw-session-key": key}


def test_a_conversation_goes_on_wherever_it_is_asked(three: Cluster, key: str) -> None:
    for number in range(6):
        gateway = three.gateways[number % 3]
        assert chat(gateway, f"question {number}", headers=in_session(key)).text == f"echo: question {number}"

    asked = [f"question {number}" for number in range(6)]
    assert texts(three, key) == [text for q in asked for text in (q, f"echo: {q}")]


def test_a_client_elsewhere_sees_a_run_and_stops_it(
    three: Cluster, provider: ScriptedProvider, key: str
) -> None:
    provider.on(
        "tell me",
        Reply("one two three", delay=0.05),
    )
    a, b, c = three.gateways
    with WsClient(b.port) as watcher, WsClient(c.port) as other:
        watcher.ask("sessions.messages.subscribe", key=key)
        run = ask_over_http(a, key, "tell me")

        watcher.until(lambda: watcher.events("chat", state="final", sessionKey=key))
        other.until(lambda: other.events("chat", state="final", sessionKey=key))
        watcher.until(lambda: len(watcher.events("session.message", sessionKey=key)) == 2)

        for client in (watcher, other):
            (final,) = client.events("chat", state="final", sessionKey=key)
            assert final["message"]["content"][0]["text"] == "one two three"
            assert said(client, final["runId"]) == "one two three"
        run.close()


def ask_over_http(gateway: GatewayProcess, key: str, text: str) -> Connection:
    return open_stream(gateway, text, headers=in_session(key))


def said(client: WsClient, run_id: str) -> str:
    pieces = client.events("agent", run_id, stream="assistant")
    return "".join(piece["data"]["delta"] for piece in pieces)


def test_an_answer_is_stopped_from_elsewhere(three: Cluster, provider: ScriptedProvider, key: str) -> None:
    provider.on("for ever", Hang())
    a, b, _ = three.gateways
    with WsClient(a.port) as asker, WsClient(b.port) as stopper:
        run_id = asker.ask("chat.send", sessionKey=key, message="for ever", idempotencyKey="stop-1")["runId"]
        wait_until(lambda: provider.active == 1)
        row = next(row for row in stopper.ask("sessions.list")["sessions"] if row["key"] == key)
        assert row["activeRunIds"] == [run_id]

        assert stopper.ask("chat.abort", sessionKey=key) == {
            "ok": True,
            "aborted": True,
            "runIds": [run_id],
        }

        assert asker.ending(run_id)["state"] == "aborted"
        assert stopper.ending(run_id)["state"] == "aborted"


def test_waiting_for_a_run_of_another_process_ends_with_it(
    three: Cluster, provider: ScriptedProvider, key: str
) -> None:
    provider.on("slowly", Reply("done", delay=0.5))
    a, b, _ = three.gateways
    with WsClient(a.port) as asker, WsClient(b.port) as waiter:
        run_id = asker.ask("chat.send", sessionKey=key, message="slowly", idempotencyKey="wait-1")["runId"]
        assert waiter.ask("agent.wait", runId=run_id, timeoutMs=10_000)["status"] == "ok"
        repeated = waiter.ask("chat.send", sessionKey=key, message="slowly", idempotencyKey="wait-1")
        assert repeated == {"runId": run_id, "status": "ok"}


def test_a_kept_completion_is_there_for_all(three: Cluster, provider: ScriptedProvider) -> None:
    provider.on("keep it", Reply("one two three four", delay=0.05))
    a, b, _ = three.gateways
    with open_stream(a, "keep it", store=True) as stream:
        events = stream.events()
        run_id = next(events)["id"]
        text = "".join(map(delta_of, events_of(b, f"/v1/chat/completions/{run_id}/stream")))
        rest = "".join(map(delta_of, events))

    assert text == rest == "one two three four"
    place = f"/v1/chat/completions/{run_id}"
    shown = ask(b, place, method="GET")
    assert shown["choices"][0]["message"]["content"] == text
    for number, gateway in enumerate((b, a)):
        noted = {"seen": str(number)}
        ask(gateway, place, {"metadata": noted})
        for other in three.gateways:
            wait_until(lambda at=other, is_=noted: ask(at, place, method="GET")["metadata"] == is_)


def events_of(gateway: GatewayProcess, path: str) -> list[Any]:
    with Connection(gateway) as connection:
        _, status, _ = connection.send(request_bytes(method="GET", path=path)).read_head()
        assert status == 200
        return list(connection.events())


def delta_of(event: Any) -> str:
    if event == "[DONE]" or not event["choices"]:
        return ""
    return event["choices"][0]["delta"].get("content") or ""


def test_a_completion_is_cancelled_elsewhere(three: Cluster, provider: ScriptedProvider, key: str) -> None:
    provider.on("for ever", Hang())
    a, b, _ = three.gateways
    with open_stream(a, "for ever", headers=in_session(key)) as stream:
        run_id = next(stream.events())["id"]
        wait_until(lambda: provider.active == 1)
        place = f"/v1/chat/completions/{run_id}"
        assert ask(b, place, method="GET")["status"] == "in_progress"

        assert ask(b, f"{place}/cancel")["status"] == "cancelled"

        assert next(e["error"]["code"] for e in stream.events() if "error" in e) == "run_cancelled"
    assert ask(b, f"{place}/cancel")["status"] == "cancelled"


def test_a_background_response_is_followed_and_cancelled_elsewhere(
    three: Cluster, provider: ScriptedProvider
) -> None:
    provider.on("background", Hang())
    a, b, _ = three.gateways
    made = ask(a, "/v1/responses", {"model": "openclaw", "input": "background", "background": True})
    place = f"/v1/responses/{made['id']}"
    wait_until(lambda: ask(b, place, method="GET")["status"] == "in_progress")

    assert ask(b, f"{place}/cancel")["status"] == "cancelled"

    for gateway in three.gateways:
        assert ask(gateway, place, method="GET")["status"] == "cancelled"


def test_the_runs_of_a_killed_process_end_for_everybody_and_its_sessions_go_on(
    three: Cluster, provider: ScriptedProvider, key: str
) -> None:
    provider.on("for ever", Hang())
    a, b, c = three.gateways
    with WsClient(b.port) as watcher:
        asker = ask_over_http(a, key, "for ever")
        wait_until(lambda: provider.active == 1)
        watcher.until(lambda: watcher.events("agent", sessionKey=key))
        run_id = watcher.events("agent", sessionKey=key)[0]["runId"]
        waiting = Connection(c).send(request_bytes(chat_body("next"), headers=in_session(key)))
        began = time.monotonic()

        a.kill9()

        error = watcher.ending(run_id)
        assert (error["state"], error["errorMessage"]) == ("error", INTERRUPTED)
        asker.close()
        assert waiting.read().text == "echo: next"
        waiting.close()
        assert time.monotonic() - began < 3 * LEASE
        record = three.record(run_id)
        assert record is not None
        assert (record.status, record.error_code) == ("failed", "interrupted")
        watcher.read(1.0)
        assert len([c for c in watcher.events("chat", run_id) if c["state"] == "error"]) == 1
    a.start()


def test_what_a_killed_process_has_acknowledged_is_done_by_another_one_once(
    three: Cluster, provider: ScriptedProvider, key: str
) -> None:
    provider.on("for ever", Hang())
    a, b, _ = three.gateways
    with WsClient(a.port) as asker, WsClient(b.port) as watcher:
        asker.ask("chat.send", sessionKey=key, message="for ever", idempotencyKey="killed-1")
        wait_until(lambda: provider.active == 1)
        asker.ask("chat.send", sessionKey=key, message="and this", idempotencyKey="killed-2")

        a.kill9()

        assert watcher.ending("killed-2")["message"]["content"][0]["text"] == "echo: and this"
    assert texts(three, key).count("and this") == 1
    a.start()


def test_a_process_that_stood_still_writes_nothing_when_it_comes_back(
    three: Cluster, provider: ScriptedProvider, key: str
) -> None:
    provider.on("frozen", Reply("an answer nobody waits for any more", delay=0.5))
    a, b, _ = three.gateways
    with WsClient(b.port) as watcher:
        stream = ask_over_http(a, key, "frozen")
        wait_until(lambda: provider.active == 1)
        freeze(a)
        try:
            watcher.until(lambda: watcher.events("chat", sessionKey=key, state="error"))
            assert chat(b, "next", headers=in_session(key)).text == "echo: next"
            before = texts(three, key)
        finally:
            thaw(a)

        events = list(stream.events())
        stream.close()
        assert events[-2]["error"]["code"] == "interrupted"
        assert texts(three, key) == before == ["frozen", *before[1:-2], "next", "echo: next"]
        assert len(watcher.events("chat", sessionKey=key, state="error")) == 1
    assert chat(a, "again", headers=in_session(key)).text == "echo: again"


def test_everybody_sees_who_is_connected_wherever(three: Cluster) -> None:
    a, b, _ = three.gateways

    def seen(client: WsClient) -> int:
        return [entry["mode"] for entry in client.ask("system-presence")].count("test")

    with WsClient(a.port) as here:
        with WsClient(b.port) as there:
            wait_until(lambda: seen(here) == seen(there) == 2)
            here.until(lambda: any(len(told["presence"]) == 3 for told in here.events("presence")))
        wait_until(lambda: seen(here) == 1)


def test_more_workers_than_one_process_can_be_need_both_engines(three: Cluster) -> None:
    assert [len(gateway.workers) for gateway in three.gateways] == [1, 1, 2]
