"""The data methods of the WebSocket channel on a whole runtime, without sockets."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.cancel import CancelToken
from app.channels.auth import Guard
from app.channels.ws.context import Channel
from app.channels.ws.feed import Feed
from app.channels.ws.hub import Hub
from app.channels.ws.methods import (
    approvals,
    catalog,
    conversations,
    logs,
    sessions,
    settings,
    status,
    stubs,
    usage,
)
from app.channels.ws.protocol import Call, Client, Limits, Refusal, Version
from app.messages import JsonValue
from app.runs.executor import Executor
from app.runs.outcomes import Outcomes
from app.runtime import Runtime
from app.tools.registry import ToolContext
from app.tools.signature import tool
from app.wire import dumps, loads
from tests.integration.runs import PATIENCE, Start, answer, ask, read, sent, wait_until
from tests.scripted_provider import Hang, Reply, ScriptedProvider

FAMILIES = (approvals, catalog, conversations, logs, sessions, settings, status, stubs, usage)
MAIN = "agent:main:main"


@dataclass(eq=False)
class Recorder:
    """A peer that keeps what it is told."""

    id: str = "peer"
    protocol: Version = 4
    client: Client = Client("test", "1", "linux", "ui")
    scopes: frozenset[str] = frozenset({"operator.admin"})
    subscriptions: set[str] = field(default_factory=set)
    events: list[tuple[str, Any]] = field(default_factory=list)

    def respond(self, request_id: str, payload: JsonValue = None) -> None: ...

    def refuse(self, request_id: str, refusal: Refusal) -> None: ...

    def event(
        self, name: str, payload: bytes, *, state_version: bytes | None = None, droppable: bool = False
    ) -> None:
        self.events.append((name, loads(payload)))

    def close(self, code: int, reason: str) -> None: ...

    def told(self, prefix: str) -> list[tuple[str, Any]]:
        """The events whose names begin with ``prefix``."""
        return [(name, payload) for name, payload in list(self.events) if name.startswith(prefix)]


class Clock:
    """Never the same twice, so that what comes later is later."""

    def __init__(self) -> None:
        self.now = int(time.time() * 1000)

    def __call__(self) -> int:
        self.now += 1
        return self.now


class Gateway:
    """Calls methods as a connection does."""

    def __init__(self, runtime: Runtime, executor: Executor) -> None:
        ids = itertools.count()
        self.runtime = runtime
        self.clock = Clock()
        hub = Hub(executor, self.clock, Limits(), "1.2.3")
        self.channel = Channel(
            runtime=runtime,
            hub=hub,
            feed=Feed(hub, runtime.store, self.clock, executor),
            outcomes=Outcomes(runtime.runs, runtime.store, self.clock),
            guard=Guard(runtime.config.gateway.auth, ()),
            limits=Limits(),
            version="1.2.3",
            started_at=self.clock.now,
            clock=self.clock,
            new_id=lambda: f"new-{next(ids)}",
        )
        self.methods = {n: m for family in FAMILIES for n, m in family.methods(self.channel).items()}
        self.peer = Recorder()
        self.channel.hub.register(self.peer)

    def call(self, method: str, peer: Recorder | None = None, /, **params: Any) -> Any:
        payload = self.methods[method].handler(Call("1", method, params, peer or self.peer))
        return loads(dumps(payload))

    def refusal(self, method: str, /, **params: Any) -> str:
        with pytest.raises(Refusal) as refused:
            self.call(method, **params)
        return str(refused.value)

    def keys(self, **params: Any) -> list[str]:
        return [row["key"] for row in self.call("sessions.list", **params)["sessions"]]

    def changes(self) -> list[tuple[str, str]]:
        told = self.peer.told("sessions.changed")
        return [(payload["sessionKey"], payload["reason"]) for _, payload in told]


@pytest.fixture
def gateway(start: Start) -> Iterator[Gateway]:
    executor = Executor()
    agents = {"list": [{"id": "main", "name": "Ada", "default": True}, {"id": "beta"}]}
    models = [
        {"id": "m", "contextWindow": 10_000},
        {"id": "deep", "reasoning": True, "input": ["text", "image"]},
    ]
    yield Gateway(start(agents=agents, provider={"models": models}), executor)
    executor.close()


def talk(gateway: Gateway, *texts: str, key: str = MAIN, agent: str = "main") -> None:
    for said in texts:
        answer(ask(gateway.runtime, said, key=key, agent_id=agent))


# sessions


def test_sessions_are_listed_the_newest_first_with_all_that_clients_use(gateway: Gateway) -> None:
    talk(gateway, "hello there", key="agent:beta:x", agent="beta")
    talk(gateway, "hi")

    told = gateway.call("sessions.list", includeDerivedTitles=True, includeLastMessage=True)

    main, other = sorted(told["sessions"], key=lambda row: row["agentId"] != "main")
    assert (main["key"], main["isMain"], other["key"], other["isMain"]) == (MAIN, True, "agent:beta:x", False)
    assert (main["kind"], main["chatType"]) == ("direct", "direct")
    assert (main["modelProvider"], main["model"], main["contextTokens"]) == ("scripted", "m", 10_000)
    assert (main["hasActiveRun"], main["activeRunIds"]) == (False, [])
    assert main["inputTokens"] > 0
    assert main["totalTokens"] > 0
    assert other["derivedTitle"] == "hello there"
    assert other["lastMessagePreview"]
    assert told["count"] == told["totalCount"] == 2
    assert (told["hasMore"], told["nextOffset"]) == (False, None)
    assert told["defaults"] == {"modelProvider": "scripted", "model": "m", "contextTokens": 10_000}


def test_titles_are_told_only_to_who_asks(gateway: Gateway) -> None:
    talk(gateway, "hello there")

    (row,) = gateway.call("sessions.list")["sessions"]

    assert not {"derivedTitle", "lastMessagePreview"} & row.keys()
    assert None not in row.values()


def test_a_list_is_told_in_pages(gateway: Gateway) -> None:
    for number in range(5):
        gateway.call("sessions.create", key=f"s{number}")

    first = gateway.call("sessions.list", limit=3)
    rest = gateway.call("sessions.list", limit=3, offset=first["nextOffset"])

    assert (first["count"], first["totalCount"], first["hasMore"], first["nextOffset"]) == (3, 5, True, 3)
    assert (rest["count"], rest["hasMore"], rest["nextOffset"]) == (2, False, None)
    keys = [row["key"] for page in (first, rest) for row in page["sessions"]]
    assert keys == [f"agent:main:s{number}" for number in (4, 3, 2, 1, 0)]


def test_a_list_is_narrowed_by_agent_label_words_and_age(gateway: Gateway) -> None:
    gateway.call("sessions.create", key="agent:beta:shop", label="Shop talk")
    gateway.clock.now += 3_600_000
    gateway.call("sessions.create", key="agent:main:work")

    assert gateway.keys(agentId="BETA") == ["agent:beta:shop"]
    assert gateway.keys(label="Shop talk") == ["agent:beta:shop"]
    assert gateway.keys(search="TALK") == ["agent:beta:shop"]
    assert gateway.keys(search="nothing of this name") == []
    assert gateway.keys(activeMinutes=30) == ["agent:main:work"]
    assert gateway.keys(spawnedBy="agent:main:work") == []
    assert "unknown agent" in gateway.refusal("sessions.list", agentId="nobody")


def test_a_session_of_another_channel_goes_by_the_name_it_has_there(gateway: Gateway) -> None:
    talk(gateway, "hello", key="Shop")

    assert gateway.keys() == ["Shop"]
    assert gateway.call("sessions.describe", key="Shop")["session"]["key"] == "Shop"
    assert gateway.call("sessions.describe", key="shop") == {"session": None}


def test_a_session_that_runs_says_so_and_can_be_stopped(gateway: Gateway, model: ScriptedProvider) -> None:
    model.script(Hang())
    run = ask(gateway.runtime, "wait for me", key=MAIN)
    assert model.wait_for_requests(1)

    row = gateway.call("sessions.describe", key="main")["session"]
    stopped = gateway.call("sessions.abort", key="main")
    read(run)

    assert (row["hasActiveRun"], row["activeRunIds"]) == (True, [run.id])
    assert (stopped["aborted"], stopped["runIds"], stopped["status"]) == (True, [run.id], "aborted")
    assert gateway.call("sessions.abort", key="main")["status"] == "no-active-run"


def test_one_run_is_stopped_by_its_id_and_its_session(gateway: Gateway, model: ScriptedProvider) -> None:
    model.script(Hang())
    run = ask(gateway.runtime, "wait for me", key=MAIN)

    assert gateway.refusal("sessions.abort", key="other", runId=run.id) == "runId does not match sessionKey"
    assert gateway.call("sessions.abort", key="main", runId="no such run")["aborted"] is False
    assert gateway.call("sessions.abort", runId=run.id)["runIds"] == [run.id]
    read(run)


def test_the_newest_messages_of_sessions_are_previewed(gateway: Gateway, model: ScriptedProvider) -> None:
    model.script(Reply("One. " * 100), Reply("Two."))
    talk(gateway, "first", "second")
    gateway.call("sessions.create", key="fresh")

    told = gateway.call("sessions.preview", keys=["main", "fresh", "nowhere"], limit=3, maxChars=20)

    assert [(row["key"], row["status"]) for row in told["previews"]] == [
        ("main", "ok"),
        ("fresh", "empty"),
        ("nowhere", "missing"),
    ]
    first, second, third = told["previews"][0]["items"]
    assert (first["role"], len(first["text"]), first["text"][-1]) == ("assistant", 20, "…")
    assert (second, third) == (
        {"role": "user", "text": "second"},
        {"role": "assistant", "text": "Two."},
    )


@pytest.mark.parametrize("keys", [None, "main", ["main", 1]])
def test_a_preview_names_its_sessions(gateway: Gateway, keys: object) -> None:
    assert gateway.refusal("sessions.preview", keys=keys).startswith("invalid sessions.preview params: ")


def test_a_session_is_found_by_key_id_and_label(gateway: Gateway) -> None:
    made = gateway.call("sessions.create", key="work", label="Work")
    found = {"ok": True, "key": "agent:main:work"}

    assert gateway.call("sessions.resolve", key="WORK") == found
    assert gateway.call("sessions.resolve", sessionId=made["sessionId"]) == found
    assert gateway.call("sessions.resolve", label="Work") == found
    assert gateway.refusal("sessions.resolve", key="play") == "No session found."
    assert "give key" in gateway.refusal("sessions.resolve")


# what follows and what changes sessions


def test_whoever_follows_the_sessions_is_told_of_changes(gateway: Gateway) -> None:
    gateway.call("sessions.create", key="unseen")

    assert gateway.call("sessions.subscribe") == {"subscribed": True}
    gateway.call("sessions.create", key="seen")
    gateway.call("sessions.patch", key="seen", label="Seen")
    gateway.call("sessions.reset", key="seen")
    gateway.call("sessions.delete", key="seen")
    gateway.call("sessions.unsubscribe")
    gateway.call("sessions.delete", key="unseen")

    reasons = ("create", "patch", "reset", "delete")
    assert gateway.changes() == [("agent:main:seen", reason) for reason in reasons]
    rows = [payload.get("session") for _, payload in gateway.peer.told("sessions.changed")]
    assert [row and row["label"] for row in rows[1:]] == ["Seen", "Seen", None]


def test_a_subscription_with_parameters_brings_the_list(gateway: Gateway) -> None:
    gateway.call("sessions.create", key="work")

    told = gateway.call("sessions.subscribe", limit=1)

    assert [row["key"] for row in told["list"]["sessions"]] == ["agent:main:work"]


def test_messages_are_followed_by_the_full_key(gateway: Gateway) -> None:
    key = {"key": "agent:main:work"}

    assert gateway.call("sessions.messages.subscribe", key="work") == {"subscribed": True, **key}
    assert gateway.peer.subscriptions == {"messages:agent:main:work"}
    assert gateway.call("sessions.messages.unsubscribe", key="Work") == {"subscribed": False, **key}
    assert gateway.peer.subscriptions == set()


def test_nobody_follows_more_sessions_than_a_person_could_look_at(gateway: Gateway) -> None:
    gateway.call("sessions.subscribe")
    for number in range(200):
        gateway.call("sessions.messages.subscribe", key=f"s{number}")

    refused = gateway.refusal("sessions.messages.subscribe", key="one more")
    again = gateway.call("sessions.messages.subscribe", key="s7")
    gateway.call("sessions.messages.unsubscribe", key="s8")
    instead = gateway.call("sessions.messages.subscribe", key="one more")

    assert refused == "A connection follows at most 200 sessions; unsubscribe from one."
    assert again["subscribed"]
    assert instead["subscribed"]


def test_a_session_is_created_once(gateway: Gateway) -> None:
    first = gateway.call("sessions.create", key="tui-1", label="One")
    second = gateway.call("sessions.create", key="agent:main:TUI-1")

    assert (first["key"], first["runStarted"]) == ("agent:main:tui-1", False)
    assert second["sessionId"] == first["sessionId"]
    assert second["entry"]["label"] == "One"


def test_a_session_without_a_name_gets_one_of_its_agent(gateway: Gateway) -> None:
    made = [gateway.call("sessions.create", agentId="beta")["key"] for _ in range(2)]

    assert all(key.startswith("agent:beta:") for key in made)
    assert len(set(made)) == 2
    assert "belongs to agent" in gateway.refusal("sessions.create", key="agent:main:x", agentId="beta")


def test_what_is_chosen_holds_for_the_next_run(gateway: Gateway, model: ScriptedProvider) -> None:
    told = gateway.call("sessions.patch", key="main", model="deep", thinkingLevel="HIGH", label=" My  chat ")
    talk(gateway, "hello")

    assert (told["key"], told["resolved"]) == (MAIN, {"modelProvider": "scripted", "model": "deep"})
    assert told["entry"]["label"] == "My chat"
    body = model.requests[-1].body
    assert (body["model"], body["reasoning_effort"]) == ("deep", "high")
    row = gateway.call("sessions.describe", key="main")["session"]
    assert (row["model"], row["thinkingLevel"], row["label"]) == ("deep", "high", "My chat")


def test_null_leaves_the_choice_to_the_agent_again(gateway: Gateway) -> None:
    gateway.call("sessions.patch", key="main", model="deep", verboseLevel="on", label="Mine")

    told = gateway.call("sessions.patch", key="main", model=None, label=None)

    assert told["resolved"] == {"modelProvider": "scripted", "model": "m"}
    assert {"label", "modelOverride", "verboseLevel"} & told["entry"].keys() == {"verboseLevel"}


@pytest.mark.parametrize(
    ("params", "refusal"),
    [
        ({"thinkingLevel": "hard"}, "invalid thinkingLevel (use off|minimal|low|medium|high"),
        ({"verboseLevel": "loud"}, "invalid verboseLevel (use off|on|full)"),
        ({"reasoningLevel": 1}, "invalid sessions.patch params: at /reasoningLevel: must be string"),
        ({"model": "nobody/x"}, "model not allowed: nobody/x"),
        ({"label": "x" * 201}, "invalid label: too long"),
        ({"label": "Taken"}, "label already in use: Taken"),
    ],
)
def test_a_choice_that_cannot_be_made_changes_nothing(
    gateway: Gateway, params: dict[str, Any], refusal: str
) -> None:
    gateway.call("sessions.create", key="other", label="Taken")

    assert gateway.refusal("sessions.patch", key="main", **params).startswith(refusal)
    assert gateway.call("sessions.describe", key="main") == {"session": None}


@pytest.mark.parametrize("method", ["patch", "reset", "delete", "compact", "describe"])
def test_a_method_about_a_session_needs_its_key(gateway: Gateway, method: str) -> None:
    refusal = gateway.refusal(f"sessions.{method}")

    assert refusal == f"invalid sessions.{method} params: must have required property 'key'"


def test_a_reset_begins_anew_and_keeps_what_was_chosen(gateway: Gateway, model: ScriptedProvider) -> None:
    gateway.call("sessions.patch", key="main", thinkingLevel="low")
    talk(gateway, "my name is Ada")
    before = gateway.call("sessions.describe", key="main")["session"]

    told = gateway.call("sessions.reset", key="main")
    talk(gateway, "what is my name?")

    assert told["entry"]["sessionId"] != before["sessionId"]
    assert told["entry"]["thinkingLevel"] == "low"
    assert [content for _, content in sent(model)] == ["what is my name?"]


def test_a_session_is_deleted_but_never_the_main_one(gateway: Gateway) -> None:
    talk(gateway, "hello", key="agent:main:x")
    talk(gateway, "hello")

    assert gateway.call("sessions.delete", key="x")["deleted"] is True
    assert gateway.call("sessions.delete", key="x")["deleted"] is False
    assert gateway.refusal("sessions.delete", key="main") == f"Cannot delete the main session ({MAIN})."
    assert gateway.keys() == [MAIN]


def test_a_transcript_may_be_kept_when_its_session_goes(gateway: Gateway) -> None:
    talk(gateway, "hello", key="agent:main:x")

    assert gateway.call("sessions.delete", key="x", deleteTranscript=False)["deleted"] is True
    assert gateway.keys() == []
    (put_away,) = gateway.runtime.store.list_sessions(None, 10, archived=True)
    assert put_away.message_count == 2


def test_deleting_a_session_stops_its_run(gateway: Gateway, model: ScriptedProvider) -> None:
    model.script(Hang())
    run = ask(gateway.runtime, "wait", key="agent:main:x")
    assert model.wait_for_requests(1)

    assert gateway.call("sessions.delete", key="x")["deleted"] is True
    read(run)
    assert gateway.keys() == []


def test_a_compaction_is_done_by_the_model(start: Start, model: ScriptedProvider) -> None:
    executor = Executor()
    compaction = {"keepRecentTokens": 100}
    gateway = Gateway(start(agents={"defaults": {"compaction": compaction}}), executor)
    talk(gateway, *(f"{number}: " + "The ship is called Aurora. " * 40 for number in range(4)))
    model.script(Reply("## Facts\nThe ship is called Aurora and sails on."))

    told = gateway.call("sessions.compact", key="main")
    talk(gateway, "and now?")

    assert (told["ok"], told["compacted"]) == (True, True)
    assert 0 < told["kept"] < 8
    assert "sails on" in str(sent(model))
    assert "0: The ship" not in str(sent(model))
    executor.close()


def test_there_may_be_nothing_to_compact(gateway: Gateway) -> None:
    talk(gateway, "hello")

    told = gateway.call("sessions.compact", key="main")
    nowhere = gateway.call("sessions.compact", key="nowhere")

    assert (told["compacted"], told["kept"]) == (False, 2)
    assert told["reason"]
    assert (nowhere["compacted"], nowhere["kept"]) == (False, 0)


# the gateway itself


def test_health_tells_agents_and_what_was_talked_about_last(gateway: Gateway) -> None:
    talk(gateway, "hello")

    told = gateway.call("health", probe=True)

    assert (told["ok"], told["defaultAgentId"], told["sessions"]["count"]) == (True, "main", 1)
    assert [(agent["agentId"], agent["sessions"]["count"]) for agent in told["agents"]] == [
        ("main", 1),
        ("beta", 0),
    ]
    assert told["sessions"]["recent"][0]["key"] == MAIN
    assert told["agents"][0]["heartbeat"]["enabled"] is False


def test_health_is_not_looked_up_for_everybody_who_asks(gateway: Gateway) -> None:
    before = gateway.call("health")
    gateway.call("sessions.create", key="x")

    assert gateway.call("health") == before
    assert gateway.call("health", probe=True)["sessions"]["count"] == 1
    gateway.call("sessions.create", key="y")
    gateway.clock.now += 60_000
    assert gateway.call("health")["sessions"]["count"] == 2


def test_the_status_tells_how_full_sessions_are(gateway: Gateway) -> None:
    talk(gateway, "hello " * 100)

    told = gateway.call("status")

    (row,) = told["sessions"]["recent"]
    assert told["runtimeVersion"] == "1.2.3"
    assert (row["key"], row["agentId"], row["contextTokens"]) == (MAIN, "main", 10_000)
    assert row["remainingTokens"] == 10_000 - row["totalTokens"]
    assert row["percentUsed"] == round(row["totalTokens"] / 100)
    assert [agent["count"] for agent in told["sessions"]["byAgent"]] == [1, 0]


def test_the_gateway_itself_is_the_first_who_is_present(gateway: Gateway) -> None:
    first = gateway.call("system-presence")[0]

    assert (first["mode"], first["reason"]) == ("gateway", "self")


@pytest.mark.parametrize(("method", "params"), [("system-event", {}), ("wake", {"mode": "next-heartbeat"})])
def test_an_event_is_read_in_the_next_turn_of_the_main_session(
    gateway: Gateway, model: ScriptedProvider, method: str, params: dict[str, str]
) -> None:
    assert gateway.call(method, text="The backup is done.", **params) == {"ok": True}
    talk(gateway, "news?")
    talk(gateway, "more?")

    told = [str(request.body["messages"]) for request in model.requests]
    assert ["The backup is done." in messages for messages in told] == [True, False]
    assert "required property 'text'" in gateway.refusal(method, text=" ", **params)


def test_nobody_can_be_woken_at_once(gateway: Gateway) -> None:
    assert "no heartbeat" in gateway.refusal("wake", mode="now", text="Up!")


def test_a_days_tokens_and_dollars_are_told(gateway: Gateway) -> None:
    answer(ask(gateway.runtime, "hello", key=MAIN, created_at=gateway.clock()))

    told = gateway.call("usage.cost", days=2)

    (day,) = told["daily"]
    assert told["days"] == 2
    assert day["date"] == datetime.fromtimestamp(gateway.clock.now / 1000, UTC).date().isoformat()
    assert day["totalTokens"] == day["input"] + day["output"] + day["cacheRead"] + day["cacheWrite"] > 0
    assert {name: day[name] for name in told["totals"]} == told["totals"]
    assert day["missingCostEntries"] == 1


def test_usage_before_the_days_asked_for_is_left_out(gateway: Gateway) -> None:
    talk(gateway, "hello")  # the runs of these tests begin in 1970

    assert gateway.call("usage.cost", days=30)["daily"] == []


# what there is


def test_agents_are_listed_with_their_models(gateway: Gateway) -> None:
    told = gateway.call("agents.list")

    assert (told["defaultId"], told["mainKey"], told["scope"]) == ("main", "main", "per-sender")
    assert told["agents"][0]["name"] == "Ada"
    assert [agent["model"]["primary"] for agent in told["agents"]] == ["scripted/m", "scripted/m"]
    assert "name" not in told["agents"][1]


def test_an_agent_says_who_it_is(gateway: Gateway) -> None:
    assert gateway.call("agent.identity.get") == {"agentId": "main", "name": "Ada", "avatar": "A"}
    told = gateway.call("agent.identity.get", sessionKey="agent:beta:x")
    assert (told["agentId"], told["name"]) == ("beta", "Assistant")
    assert "unknown agent" in gateway.refusal("agent.identity.get", agentId="nobody")
    assert "belongs to agent" in gateway.refusal(
        "agent.identity.get", agentId="main", sessionKey="agent:beta:x"
    )


def test_models_are_those_that_are_configured(gateway: Gateway) -> None:
    first, second = gateway.call("models.list")["models"]

    assert first == {
        "id": "m",
        "name": "m",
        "provider": "scripted",
        "contextWindow": 10_000,
        "reasoning": False,
        "input": ["text"],
        "available": True,
        "tags": ["default"],
    }
    assert (second["id"], second["reasoning"], second["input"]) == ("deep", True, ["text", "image"])
    assert gateway.call("chat.metadata")["models"] == [first, second]


def test_commands_are_those_of_every_chat(gateway: Gateway) -> None:
    told = gateway.call("commands.list")["commands"]

    by_name = {command["name"]: command for command in told}
    assert {"new", "stop", "status", "model", "compact"} <= by_name.keys()
    assert (by_name["model"]["acceptsArgs"], by_name["stop"]["acceptsArgs"]) == (True, False)
    assert gateway.call("chat.metadata")["commands"] == told


def test_the_catalogue_has_the_tools_of_an_agent_and_no_others(start: Start) -> None:
    @tool
    def weather(place: str) -> str:
        """Tell the weather of a place."""
        return place

    executor = Executor()
    gateway = Gateway(start(tools=[weather], policy={"deny": ["grep"]}), executor)

    told = gateway.call("tools.catalog")

    groups = {group["id"]: [one["id"] for one in group["tools"]] for group in told["groups"]}
    assert set(groups["fs"]) == {"read", "ls", "find"}
    assert groups["added"] == ["weather"]
    assert "runtime" not in groups
    executor.close()


def test_the_skills_of_an_agent_are_told(gateway: Gateway) -> None:
    folder = gateway.runtime.agents.get("main").workspace / "skills" / "weather"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text("---\nname: weather\ndescription: Forecasts.\n---\n")

    told = {agent: gateway.call("skills.status", agentId=agent)["skills"] for agent in ("main", "beta")}

    assert [(skill["name"], skill["eligible"]) for skill in told["main"]] == [("weather", True)]
    assert told["beta"] == []


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("channels.status", "channelOrder"),
        ("node.list", "nodes"),
        ("node.pair.list", "paired"),
        ("device.pair.list", "pending"),
        ("cron.list", "jobs"),
        ("question.list", "questions"),
        ("usage.status", "providers"),
        ("models.authStatus", "providers"),
    ],
)
def test_what_there_is_none_of_is_an_empty_list(gateway: Gateway, method: str, name: str) -> None:
    assert gateway.call(method)[name] == []


def test_the_list_of_timed_jobs_is_one_whole_page(gateway: Gateway) -> None:
    told = gateway.call("cron.list", limit=50)

    assert (told["total"], told["offset"], told["hasMore"], told["nextOffset"]) == (0, 0, False, None)
    assert told["limit"] >= 1
    assert told["snapshotRevision"]  # newer clients refuse a page without it


@pytest.mark.parametrize("method", ["plugin.approval.list", "openclaw.approval.list", "exec.approval.list"])
def test_nothing_waits_for_approval(gateway: Gateway, method: str) -> None:
    assert gateway.call(method) == []


def test_the_schema_describes_the_configuration(gateway: Gateway) -> None:
    told = gateway.call("config.schema")

    assert set(told["schema"]["properties"]) >= {"gateway", "agents", "models"}
    assert told["version"] == "1.2.3"


def test_the_configuration_in_force_is_told_without_its_secrets(gateway: Gateway) -> None:
    told = gateway.call("config.get")

    assert told["config"]["models"]["providers"]["scripted"]["apiKey"] == "__OPENCLAW_REDACTED__"
    assert "sk-test" not in str(told)
    assert "a-token-of-tests" not in str(told)


def test_an_application_with_a_log_of_its_own_has_no_lines_to_tell(gateway: Gateway) -> None:
    told = gateway.call("logs.tail", cursor=10)

    assert (told["lines"], told["cursor"], told["reset"]) == ([], 0, True)
    assert "must be integer" in gateway.refusal("logs.tail", limit=0)


# approvals


def ask_for_approval(gateway: Gateway, outcomes: list[str]) -> threading.Thread:
    """Have a command wait for an operator's word, in a thread of its own."""
    context = ToolContext("main", MAIN, "run-1", "scripted/m", Path("/work"), 0, CancelToken())
    desk = gateway.runtime.tools.approvals
    thread = threading.Thread(
        target=lambda: outcomes.append(desk.request(context, "make", "/work", PATIENCE))
    )
    thread.start()
    wait_until(desk.pending)
    return thread


def test_a_command_that_waits_is_announced_listed_and_decided(gateway: Gateway) -> None:
    end = approvals.approvals_feed(gateway.channel.hub, gateway.runtime.tools.approvals)
    outcomes: list[str] = []
    thread = ask_for_approval(gateway, outcomes)

    (row,) = gateway.call("exec.approval.list")
    refusal = gateway.refusal("exec.approval.resolve", id=row["id"], decision="maybe")
    told = gateway.call("exec.approval.resolve", id=row["id"], decision="allow-once")
    thread.join(PATIENCE)
    end()

    assert (row["request"]["command"], row["request"]["cwd"]) == ("make", "/work")
    assert (row["request"]["agentId"], row["request"]["sessionKey"]) == ("main", MAIN)
    assert row["createdAtMs"] < row["expiresAtMs"]
    assert refusal == "invalid decision (use allow-once|allow-always|deny)"
    assert (told, outcomes) == ({"ok": True}, ["allow-once"])
    requested, (name, payload) = gateway.peer.told("exec.")
    assert requested == ("exec.approval.requested", row)
    assert (name, payload["id"], payload["decision"]) == ("exec.approval.resolved", row["id"], "allow-once")


@pytest.mark.parametrize(("protocol", "code"), [(3, "INVALID_REQUEST"), (4, "APPROVAL_NOT_FOUND")])
def test_a_decision_that_comes_too_late_is_refused(gateway: Gateway, protocol: Version, code: str) -> None:
    with pytest.raises(Refusal, match="unknown or expired approval id") as refused:
        gateway.call("exec.approval.resolve", Recorder(protocol=protocol), id="no such id", decision="deny")

    assert refused.value.code == code


def test_commands_that_wait_are_announced_only_to_who_may_decide(gateway: Gateway) -> None:
    reader = Recorder("reader", scopes=frozenset({"operator.write"}))
    decider = Recorder("decider", scopes=frozenset({"operator.approvals"}))
    for peer in (reader, decider):
        gateway.channel.hub.register(peer)
    end = approvals.approvals_feed(gateway.channel.hub, gateway.runtime.tools.approvals)
    outcomes: list[str] = []
    thread = ask_for_approval(gateway, outcomes)

    (row,) = gateway.call("exec.approval.list")
    gateway.call("exec.approval.resolve", id=row["id"], decision="deny")
    thread.join(PATIENCE)
    end()

    assert reader.told("exec.") == []
    assert [name for name, _ in decider.told("exec.")] == [
        "exec.approval.requested",
        "exec.approval.resolved",
    ]


# scopes


def test_whoever_only_reads_cannot_change_anything(gateway: Gateway) -> None:
    changes = {"create", "patch", "abort", "delete", "reset", "compact"}
    readable = {n for n, method in gateway.methods.items() if method.scope in (None, "operator.read")}

    assert readable.isdisjoint({f"sessions.{name}" for name in changes} | {"system-event"})
    assert {"health", "status", "sessions.list", "config.get", "logs.tail"} <= readable
    assert [name for name, method in gateway.methods.items() if method.scope is None] == ["health"]
