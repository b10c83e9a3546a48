"""Runs over the channel, without a socket: whatever clients do, each run has one end."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cancel import CancelReason
from app.channels.auth import Guard
from app.channels.ws.context import Channel
from app.channels.ws.feed import Feed
from app.channels.ws.hub import Hub
from app.channels.ws.methods import agent, chat
from app.channels.ws.protocol import ANSWERED, Call, Client, Limits, Refusal, Version
from app.errors import GatewayError, StoreError
from app.events import ToolUpdated
from app.messages import JsonObject, Usage
from app.runs.outcomes import Outcomes
from app.runs.run import Run
from app.runtime import Runtime
from app.sessions.records import RunEnd, RunStart
from app.wire import dumps, loads
from tests.integration.runs import Start, request, wait_until
from tests.scripted_provider import Hang, Reply, ScriptedProvider, call

_NAMES = itertools.count(1)


class Listener:
    """A :class:`Peer` that keeps what it gets."""

    def __init__(self, protocol: Version = 4) -> None:
        self.id = f"peer-{next(_NAMES)}"
        self.protocol = protocol
        self.client = Client("test", "1", "test", "test", caps=frozenset({"tool-events"}))
        self.scopes = frozenset({"operator.admin"})
        self.subscriptions: set[str] = set()
        self.got: list[tuple[str, Any]] = []

    def respond(self, request_id: str, payload: Any = None) -> None:
        self.got.append((f"res {request_id}", loads(dumps(payload))))

    def refuse(self, request_id: str, refusal: Refusal) -> None:
        self.got.append((f"err {request_id}", refusal))

    def event(
        self, name: str, payload: bytes, *, state_version: bytes | None = None, droppable: bool = False
    ) -> None:
        self.got.append((name, loads(payload)))

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def named(self, name: str) -> list[Any]:
        return [payload for kind, payload in list(self.got) if kind == name]


class Gateway:
    """The channel's methods for runs, on a real runtime."""

    def __init__(self, runtime: Runtime) -> None:
        hub = Hub(runtime.executor, _now, Limits(), "1")
        self.runtime = runtime
        self.channel = Channel(
            runtime=runtime,
            hub=hub,
            feed=Feed(hub, runtime.store, _now, runtime.executor),
            outcomes=Outcomes(runtime.runs, runtime.store, _now),
            guard=Guard(runtime.config.gateway.auth, ()),
            limits=Limits(),
            version="1",
            started_at=_now(),
            clock=_now,
            new_id=lambda: f"{next(_NAMES):08}",
        )
        runtime.store.watch(self.channel.feed.stored)
        runtime.runs.observe(self.channel.feed.observe)
        runtime.runs.observe(self.channel.outcomes.observe)
        self.methods = {**agent.methods(self.channel), **chat.methods(self.channel)}

    def joined(self, protocol: Version = 4) -> Listener:
        peer = Listener(protocol)
        self.channel.hub.register(peer)
        return peer

    def ask(self, peer: Listener, method: str, /, **params: Any) -> str:
        """Ask as a connection does; the id of the request."""
        request_id = f"q{next(_NAMES)}"
        try:
            answer = self.methods[method].handler(Call(request_id, method, params, peer))
            if answer is not ANSWERED:
                peer.respond(request_id, answer)
        except (Refusal, GatewayError) as error:
            peer.refuse(request_id, error if isinstance(error, Refusal) else Refusal(str(error)))
        return request_id


def _now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def gateway(start: Start) -> Gateway:
    return Gateway(start())


_OPERATION = st.one_of(
    st.tuples(
        st.sampled_from(["chat.send", "agent"]),
        st.integers(0, 1),
        st.sampled_from(["plain", "slow", "tools", "/status", "/new", "/new again"]),
        st.sampled_from(["queue", "steer", "interrupt"]),
    ),
    st.tuples(st.just("http"), st.integers(0, 1), st.sampled_from(["plain", "slow"])),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("chat.abort"), st.integers(0, 1), st.one_of(st.none(), st.integers(0, 9))),
    st.tuples(st.just("stop"), st.integers(0, 1)),
    st.tuples(st.just("again"), st.integers(0, 9)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(_OPERATION, min_size=1, max_size=10), pause=st.sampled_from([0.0, 0.01]))
def test_any_interleaving_leaves_one_end_for_each_run_and_empty_lanes(
    gateway: Gateway, model: ScriptedProvider, operations: list[tuple[Any, ...]], pause: float
) -> None:
    model.on("slow", Reply("slowly it comes", delay=0.005))
    model.on("tools", Reply("looking", tool_calls=[call("ls", {"path": "."})]))
    runtime, listener = gateway.runtime, gateway.joined()
    batch = next(_NAMES)
    sent: list[tuple[str, Mapping[str, Any]]] = []
    others: list[Any] = []
    for operation in operations:
        _perform(gateway, listener, operation, batch, sent, others)
        threading.Event().wait(pause)
    wait_until(lambda: not runtime.runs.live)
    wait_until(lambda: len(_ends(listener)) >= len(_started(listener) | {run.id for run in others}))
    gateway.channel.hub.leave(listener)

    ends = _ends(listener)
    assert set(ends) == _started(listener) | {run.id for run in others}
    assert set(ends.values()) <= {1}
    assert runtime.store.queued() == []
    last = {p["runId"]: (kind, p) for kind, p in listener.got if kind in ("agent", "chat")}
    assert {kind for kind, _ in last.values()} <= {"chat"}
    for key in (0, 1):
        assert runtime.runs.of_session(f"agent:main:{batch}-{key}") == []
        assert gateway.channel.feed.in_flight(f"agent:main:{batch}-{key}") is None


def _perform(
    gateway: Gateway,
    listener: Listener,
    operation: tuple[Any, ...],
    batch: int,
    sent: list[tuple[str, Mapping[str, Any]]],
    others: list[Any],
) -> None:
    match operation:
        case ("chat.send" | "agent" as method, session, message, mode):
            params = {
                "sessionKey": f"{batch}-{session}",
                "message": message,
                "idempotencyKey": f"run-{next(_NAMES)}",
                "queueMode": mode,
            }
            sent.append((method, params))
            gateway.ask(listener, method, **params)
        case ("http", session, message):
            asked = request(message, key=f"agent:main:{batch}-{session}")
            others.append(gateway.runtime.runs.start(asked))
            others[-1].stream.close()
        case ("leave", number) if others:
            others[number % len(others)].cancel(CancelReason.DISCONNECT)
        case ("chat.abort", session, None):
            gateway.ask(listener, "chat.abort", sessionKey=f"{batch}-{session}")
        case ("chat.abort", _, int(number)) if sent:
            _, params = sent[number % len(sent)]
            named = {"sessionKey": params["sessionKey"], "runId": params["idempotencyKey"]}
            gateway.ask(listener, "chat.abort", **named)
        case ("stop", session):
            stop = {"sessionKey": f"{batch}-{session}", "message": "/stop", "idempotencyKey": "s"}
            gateway.ask(listener, "chat.send", **stop)
        case ("again", number) if sent:
            method, params = sent[number % len(sent)]
            gateway.ask(listener, method, **params)


def _started(listener: Listener) -> set[str]:
    """The runs that were acknowledged."""
    return {
        payload["runId"]
        for kind, payload in list(listener.got)
        if kind.startswith("res ") and payload.get("status") in ("started", "accepted")
    }


def _ends(listener: Listener) -> Counter[str]:
    return Counter(p["runId"] for p in listener.named("chat") if p["state"] != "delta")


def test_the_old_and_the_new_client_see_the_session_by_their_own_names(gateway: Gateway) -> None:
    asker, other, new = gateway.joined(3), gateway.joined(3), gateway.joined(4)

    gateway.ask(asker, "chat.send", sessionKey="ACP:One", message="hello", idempotencyKey="k1")
    wait_until(lambda: all(_ends(peer) for peer in (asker, other, new)))

    keys = [
        {p["sessionKey"] for p in peer.named("chat") + peer.named("agent")} for peer in (asker, other, new)
    ]
    assert keys == [{"ACP:One"}, {"agent:main:acp:one"}, {"agent:main:acp:one"}]


def test_a_session_of_another_channel_goes_by_the_key_that_it_has(
    gateway: Gateway, model: ScriptedProvider
) -> None:
    runtime, peer = gateway.runtime, gateway.joined()
    runtime.runs.start(request("hello", key="MyKey"))
    wait_until(lambda: not runtime.runs.live)

    gateway.ask(peer, "chat.send", sessionKey="MyKey", message="again", idempotencyKey="k")
    wait_until(lambda: _ends(peer)["k"])

    assert [entry.message.text for entry in runtime.store.transcript("MyKey").history] == [
        "hello",
        "echo: hello",
        "again",
        "echo: again",
    ]


def test_a_message_that_is_refused_interrupts_nothing(start: Start, model: ScriptedProvider) -> None:
    gate = threading.Event()
    model.script(Reply("the whole answer", gate=gate))
    gateway = Gateway(start(agents={"defaults": {"maxPendingPerSession": 1}}))
    peer, asked = gateway.joined(), {"sessionKey": "s", "queueMode": "interrupt"}
    gateway.ask(peer, "chat.send", **asked, message="hello", idempotencyKey="k1")
    wait_until(lambda: model.requests)

    refused = gateway.ask(peer, "chat.send", **asked, message="now", idempotencyKey="k2")
    gate.set()
    wait_until(lambda: _ends(peer)["k1"])

    assert len(peer.named(f"err {refused}")) == 1
    assert [p["state"] for p in peer.named("chat")][-1] == "final"


def test_a_message_interrupts_all_that_came_before_it(gateway: Gateway, model: ScriptedProvider) -> None:
    model.on("message 0", Hang())
    peer = gateway.joined()
    for number, mode in enumerate(["queue", "queue", "interrupt"]):
        asked = {"sessionKey": "s", "message": f"message {number}", "queueMode": mode}
        gateway.ask(peer, "chat.send", **asked, idempotencyKey=f"k{number}")
    wait_until(lambda: len(_ends(peer)) == 3)

    states = {p["runId"]: p["state"] for p in peer.named("chat")}
    assert states == {"k0": "aborted", "k1": "aborted", "k2": "final"}


def test_whoever_follows_a_session_is_told_each_message_once_it_is_stored(
    gateway: Gateway, model: ScriptedProvider
) -> None:
    model.script(Reply("Let me see.", tool_calls=[call("ls", {"path": "."}, call_id="c1")]), Reply("Done."))
    follower, other, blind = (gateway.joined() for _ in range(3))
    blind.scopes = frozenset()
    for peer, key in ((follower, "agent:main:s"), (other, "agent:main:other"), (blind, "agent:main:s")):
        peer.subscriptions.add(f"messages:{key}")
    gateway.ask(follower, "chat.send", sessionKey="s", message="look", idempotencyKey="k")
    wait_until(lambda: _ends(follower)["k"])
    gateway.ask(follower, "chat.inject", sessionKey="s", message="by the way")

    told = follower.named("session.message")
    history = follower.named(f"res {gateway.ask(follower, 'chat.history', sessionKey='s')}")[0]["messages"]
    assert [event["message"] for event in told] == history
    assert [row["role"] for row in history] == ["user", "assistant", "toolResult", "assistant", "assistant"]
    assert {(event["sessionKey"], event["agentId"]) for event in told} == {("agent:main:s", "main")}
    assert [event["runId"] for event in told[:4]] == ["k"] * 4
    kinds = [kind for kind, payload in follower.got if kind in ("session.message", "chat", "agent")]
    assert kinds[0] == "session.message"
    assert not other.named("session.message") + blind.named("session.message")


def test_nothing_is_injected_while_an_answer_is_given(gateway: Gateway, model: ScriptedProvider) -> None:
    gate = threading.Event()
    model.script(Reply("later", gate=gate))
    peer = gateway.joined()
    gateway.ask(peer, "chat.send", sessionKey="s", message="hello", idempotencyKey="k")

    refused = gateway.ask(peer, "chat.inject", sessionKey="s", message="now")
    gate.set()
    wait_until(lambda: _ends(peer)["k"])

    [refusal] = peer.named(f"err {refused}")
    assert refusal.code == "UNAVAILABLE"


def test_runs_are_told_to_nobody_while_nobody_listens_and_to_the_late_from_where_they_come(
    gateway: Gateway, model: ScriptedProvider
) -> None:
    gate = threading.Event()
    model.script(Reply(chunks=["before", " after"], gate=gate, gate_at=1))
    run = gateway.runtime.runs.start(request("hello", key="agent:main:late"))
    wait_until(lambda: (gateway.channel.feed.in_flight("agent:main:late") or ("", ""))[1])
    late = gateway.joined()
    gate.set()
    wait_until(lambda: _ends(late)[run.id])

    said = [p["data"] for p in late.named("agent") if p["stream"] == "assistant"]
    assert said == [{"text": "before after", "delta": " after"}]


def test_a_session_with_verbose_on_shows_its_tools_to_old_clients(
    gateway: Gateway, model: ScriptedProvider
) -> None:
    model.script(
        Reply("hi"),
        Reply(tool_calls=[call("ls", {"path": "."})]),
        Reply("done"),
    )
    peer, runtime = gateway.joined(3), gateway.runtime
    gateway.ask(peer, "chat.send", sessionKey="v", message="hello", idempotencyKey="v1")
    wait_until(lambda: _ends(peer)["v1"])
    session = runtime.store.session("agent:main:v")
    assert session is not None
    runtime.store.configure(session.key, replace(session.settings, verbose="on"), _now())

    gateway.ask(peer, "chat.send", sessionKey="v", message="look", idempotencyKey="v2")
    wait_until(lambda: _ends(peer)["v2"])

    assert [p["data"]["phase"] for p in peer.named("agent") if p["stream"] == "tool"] == ["start", "result"]


def test_a_tool_that_speaks_after_the_end_of_its_run_speaks_to_nobody(gateway: Gateway) -> None:
    listener, runs = gateway.joined(), list[Run]()
    gateway.runtime.runs.observe(runs.append)
    gateway.ask(listener, "chat.send", sessionKey="late", message="hello", idempotencyKey="late-1")
    wait_until(lambda: _ends(listener))
    heard = len(listener.got)

    runs[0].publish(ToolUpdated("c1", "exec", "still here"))

    assert len(listener.got) == heard
    assert gateway.channel.feed.in_flight("agent:main:late") is None


def test_whoever_waits_for_a_run_that_a_crash_has_cut_off_learns_that(gateway: Gateway) -> None:
    listener, store = gateway.joined(), gateway.runtime.store
    store.begin(RunStart("cut-off", "agent:main:x", None, "main", "chat", "m", 1_000), ())
    store.finish(RunEnd("cut-off", "failed", None, Usage(), "m", "interrupted", "It stopped.", 2_000, 1), ())

    gateway.ask(listener, "agent.wait", runId="cut-off", timeoutMs=0)

    assert [(p["status"], p["error"]) for _, p in listener.got] == [("error", "It stopped.")]


def test_a_time_that_is_longer_than_any_is_no_limit(gateway: Gateway) -> None:
    listener = gateway.joined()
    asked = {"sessionKey": "long", "message": "hello", "idempotencyKey": "long-1"}

    gateway.ask(listener, "chat.send", **asked, timeoutMs=10**400)
    wait_until(lambda: _ends(listener))

    assert [p["state"] for p in listener.named("chat")][-1] == "final"


def test_a_store_that_cannot_be_read_keeps_the_health_from_nobody_for_good(gateway: Gateway) -> None:
    hub = Hub(gateway.runtime.executor, _now, Limits(tick_seconds=0.01), "1")
    listener, looks = Listener(), itertools.count()

    def health() -> JsonObject:
        if not next(looks):
            raise StoreError("The disk is full.")
        return {"ok": True}

    hub.watch_health(health)
    hub.register(listener)
    wait_until(lambda: listener.named("health"))
    hub.leave(listener)

    assert listener.named("health")[0] == {"ok": True}
