"""The data methods over WebSocket, on a real gateway and beside HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.http_client import chat, open_stream
from tests.e2e.tool_runs import asking, results, user_session
from tests.scripted_provider import Hang, Reply, ScriptedProvider

PATIENCE = 10.0
# What every client may ask for without a parameter.
QUESTIONS = (
    *("health", "status", "system-presence", "agents.list", "agent.identity.get", "models.list"),
    *("models.authStatus", "commands.list", "chat.metadata", "tools.catalog", "skills.status"),
    *("config.get", "config.schema", "sessions.list", "sessions.subscribe", "sessions.unsubscribe"),
    *("usage.cost", "usage.status", "logs.tail", "channels.status", "node.list", "node.pair.list"),
    *("device.pair.list", "last-heartbeat", "cron.list", "cron.status", "question.list", "update.status"),
    *("plugin.approval.list", "openclaw.approval.list", "exec.approval.list"),
)
# Keys whose null is part of the protocol.
NULL = frozenset({"everyMs", "nextWakeAtMs", "nextOffset", "sentinel", "payload"})


class Client:
    """A client that has said hello."""

    def __init__(self, socket: ClientConnection, protocol: int, scopes: Sequence[str]) -> None:
        self._socket = socket
        self._ids = count(1)
        self.events: list[dict[str, Any]] = []
        self._frame()  # the challenge
        self.hello = self.call(
            "connect",
            minProtocol=protocol,
            maxProtocol=protocol,
            client={"id": "test", "version": "1", "platform": "linux", "mode": "ui"},
            auth={"token": TOKEN},
            scopes=list(scopes),
        )

    def ask(self, method: str, /, **params: Any) -> dict[str, Any]:
        """The answer to a request, refusals included; events that come meanwhile are kept."""
        asked = f"r{next(self._ids)}"
        self._socket.send(json.dumps({"type": "req", "id": asked, "method": method, "params": params}))
        while (frame := self._frame()).get("id") != asked:
            self.events.append(frame)
        return frame

    def call(self, method: str, /, **params: Any) -> Any:
        """The payload of a successful answer."""
        frame = self.ask(method, **params)
        assert frame["ok"], frame
        return frame.get("payload")

    def wait_for(self, event: str) -> Any:
        """The payload of the next event of this name."""
        while True:
            for frame in self.events:
                if frame["event"] == event:
                    self.events.remove(frame)
                    return frame["payload"]
            self.events.append(self._frame())

    def _frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self._socket.recv(PATIENCE))
        return frame


@contextmanager
def connected(
    gateway: GatewayProcess, protocol: int = 4, scopes: Sequence[str] = ("operator.admin",)
) -> Iterator[Client]:
    with connect(f"ws://127.0.0.1:{gateway.port}/", proxy=None, max_size=None) as socket:
        yield Client(socket, protocol, scopes)


def nulls(value: Any, path: str = "") -> Iterator[str]:
    """Where in a value null stands, by the names on the way to it."""
    if isinstance(value, dict):
        for name, item in value.items():
            if item is None and name not in NULL:
                yield f"{path}.{name}"
            yield from nulls(item, f"{path}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from nulls(item, f"{path}[]")


@pytest.mark.parametrize("protocol", [3, 4])
def test_every_question_has_an_answer_that_both_generations_can_read(
    gateway: GatewayProcess, protocol: int
) -> None:
    with connected(gateway, protocol) as client:
        served = set(client.hello["features"]["methods"])
        answers = {method: client.ask(method) for method in QUESTIONS}

    assert set(QUESTIONS) <= served
    assert {method: answer for method, answer in answers.items() if answer["ok"] is not True} == {}
    del answers["config.schema"]  # in which null is the default of many a setting
    assert {method: where for method, answer in answers.items() if (where := [*nulls(answer)])} == {}


def test_a_conversation_over_http_is_listed_described_and_previewed(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("Nice to meet you."))
    assert chat(gateway, "I am Ada.", user="ws-listed").status == 200
    key = user_session("ws-listed")
    titled = {"includeDerivedTitles": True, "includeLastMessage": True}

    with connected(gateway, scopes=["operator.read"]) as client:
        listed = client.call("sessions.list", search="ws-listed", **titled)["sessions"]
        described = client.call("sessions.describe", key=key.upper(), **titled)["session"]
        (preview,) = client.call("sessions.preview", keys=[key])["previews"]

    assert [row["key"] for row in listed] == [described["key"]] == [key]
    assert (listed[0]["derivedTitle"], listed[0]["lastMessagePreview"]) == ("I am Ada.", "Nice to meet you.")
    assert [item["text"] for item in preview["items"]] == ["I am Ada.", "Nice to meet you."]


def test_a_run_over_http_is_seen_and_stopped(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(Hang())
    key = user_session("ws-stopped")
    with open_stream(gateway, "wait", user="ws-stopped") as stream, connected(gateway) as client:
        assert provider.wait_for_requests(1)
        row = client.call("sessions.describe", key=key)["session"]
        stopped = client.call("sessions.abort", key=key)
        events = list(stream.events())
        after = client.call("sessions.abort", key=key)

    assert row["hasActiveRun"] is True
    assert stopped["runIds"] == row["activeRunIds"]
    assert events[-1] == "[DONE]"
    assert after["status"] == "no-active-run"


def test_a_reset_over_websocket_is_forgotten_over_http(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("Hello Ada."), Reply("I do not know."))
    chat(gateway, "I am Ada.", user="ws-reset")
    with connected(gateway) as client:
        client.call("sessions.reset", key=user_session("ws-reset"))
    chat(gateway, "Who am I?", user="ws-reset")

    assert "Ada" not in str(provider.requests[1].body["messages"])


def test_whoever_follows_the_sessions_sees_what_another_client_does(gateway: GatewayProcess) -> None:
    with connected(gateway, scopes=["operator.read"]) as watcher, connected(gateway) as other:
        watcher.call("sessions.subscribe")
        other.call("sessions.create", key="ws-followed", label="Followed")
        told = watcher.wait_for("sessions.changed")
        other.call("sessions.delete", key="ws-followed")

    assert (told["sessionKey"], told["reason"]) == ("agent:main:ws-followed", "create")
    assert told["session"]["label"] == "Followed"


def test_the_log_is_followed_from_where_it_was_left(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    with connected(gateway, scopes=["operator.read"]) as client:
        before = client.call("logs.tail")
        provider.script(Reply("hi"))
        run_id = chat(gateway, "hi", user="ws-logs").json["id"]
        after = client.call("logs.tail", cursor=before["cursor"])

    said = [json.loads(line)["0"] for line in after["lines"]]
    assert any(run_id in line and "completed" in line for line in said)
    assert not any(user_session("ws-logs") in line for line in said)
    assert not set(after["lines"]) & set(before["lines"])
    assert TOKEN not in str(before["lines"] + after["lines"])
    assert (after["reset"], after["truncated"]) == (False, False)


def test_a_reader_is_refused_what_changes_something(gateway: GatewayProcess) -> None:
    with connected(gateway, scopes=["operator.read"]) as client:
        refused = client.ask("sessions.reset", key="main")
        approvals = client.ask("exec.approval.list")

    assert (refused["ok"], refused["error"]["code"]) == (False, "FORBIDDEN")
    assert refused["error"]["message"] == "missing scope: operator.admin"
    assert approvals["error"]["message"] == "missing scope: operator.approvals"


@pytest.fixture(scope="module")
def asks_first(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """A gateway that asks before it runs any command but echo."""
    rules = {"security": "allowlist", "ask": "on-miss", "allowlist": ["echo"]}
    gateway = start_gateway(tools={"profile": "coding", "exec": rules})
    yield gateway
    gateway.stop()


@pytest.mark.parametrize(
    ("decision", "result"),
    [("allow-once", "(no output)"), ("deny", "The operator has denied this command.")],
)
def test_a_command_that_waits_is_decided_over_websocket(
    asks_first: GatewayProcess, provider: ScriptedProvider, decision: str, result: str
) -> None:
    provider.script(asking(("exec", {"command": f"touch {decision}"})), Reply("So be it."))
    with connected(asks_first, scopes=["operator.approvals"]) as operator:
        with open_stream(asks_first, "touch it") as stream:
            asked = operator.wait_for("exec.approval.requested")
            (listed,) = operator.call("exec.approval.list")
            assert operator.call("exec.approval.resolve", id=asked["id"], decision=decision) == {"ok": True}
            assert list(stream.events())[-1] == "[DONE]"
        told = operator.wait_for("exec.approval.resolved")
        late = operator.ask("exec.approval.resolve", id=asked["id"], decision="deny")

    assert asked == listed
    assert asked["request"]["command"] == f"touch {decision}"
    assert (told["id"], told["decision"]) == (asked["id"], decision)
    assert results(provider.requests[1]) == [result]
    assert late["error"]["code"] == "APPROVAL_NOT_FOUND"
