"""What is read of a session for a tool, and what goes with a session that is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask

from app import Gateway
from app.cancel import CancelToken
from app.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from app.runs.desk import Desk
from app.runs.news import NewsBoard
from app.runtime import Runtime
from app.sessions.records import Loaded, NewEntry, RunStart
from app.sessions.store import Store
from app.tools.registry import ToolContext
from tests.integration.runs import Start, answer, ask, wait_until
from tests.scripted_provider import Reply, ScriptedProvider, call

KEY = "agent:main:main"
FULL = {"profile": "full"}
TOKEN = "a-token-of-tests"


class CountedStore:
    """A store that counts the messages that are read of transcripts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def transcript(self, key: str) -> Loaded:
        return self._counted(self._store.transcript(key))

    def newest(self, key: str, limit: int) -> Loaded:
        return self._counted(self._store.newest(key, limit))

    def _counted(self, loaded: Loaded) -> Loaded:
        self.read += len(loaded.history)
        return loaded


def desk_of(runtime: Runtime, store: CountedStore) -> Desk:
    return Desk(
        store=store,  # type: ignore[arg-type]
        executor=runtime.executor,
        news=NewsBoard(),
        main_key=lambda agent_id: KEY,
        children=1,
        default_model=None,
        clock=lambda: 1_000,
    )


def history(runtime: Runtime, limit: int, *, include_tools: bool = False) -> tuple[list[dict[str, Any]], int]:
    """What a tool gets to see of a session, and how many messages were read for it."""
    store = CountedStore(runtime.store)
    context = ToolContext("main", KEY, "r", "m", Path(), 0, CancelToken())
    shown = desk_of(runtime, store).history(context, KEY, limit=limit, include_tools=include_tools)
    return shown, store.read


def converse(store: Store, turns: int, tools: int) -> None:
    """Turns of one question, so many tool calls with their results, and an answer."""
    for turn in range(turns):
        run = RunStart(f"r{turn}", KEY, "s1", "main", "tests", "m", 1)
        store.begin(run, [UserMessage.of(f"question {turn}")])
        for number in range(tools):
            calling = AssistantMessage("", (ToolCall(f"c{number}", "ls", "{}"),))
            found = ToolMessage(f"c{number}", "ls", "notes.md")
            store.append("s1", run.id, [NewEntry(calling, "tool_calls"), NewEntry(found, "tool_calls")], 2)
        store.append("s1", run.id, [NewEntry(AssistantMessage(f"answer {turn}"), "stop")], 3)


def test_whoever_asks_for_few_messages_of_a_long_session_reads_few(runtime: Runtime) -> None:
    converse(runtime.store, turns=200, tools=0)

    shown, read = history(runtime, 3)

    assert [row["text"] for row in shown] == ["answer 198", "question 199", "answer 199"]
    assert read == 3


def test_messages_that_are_not_shown_are_not_counted(runtime: Runtime) -> None:
    converse(runtime.store, turns=20, tools=10)

    few, read = history(runtime, 3)
    everything, _ = history(runtime, 100)
    with_tools, _ = history(runtime, 2, include_tools=True)

    assert [row["text"] for row in few] == ["answer 18", "question 19", "answer 19"]
    assert read < 100
    assert len(everything) == 40
    assert [row["role"] for row in with_tools] == ["tool", "assistant"]


def asleep(runtime: Runtime, key: str) -> list[str]:
    return runtime.tools.commands.running(key)


def test_a_sub_agent_that_nobody_keeps_leaves_no_command(start: Start, model: ScriptedProvider) -> None:
    runtime = start(policy=FULL)
    task = {"task": "count the bees", "cleanup": "delete", "waitSeconds": 10}
    model.script(
        Reply(tool_calls=[call("sessions_spawn", task)]),
        Reply(tool_calls=[call("exec", {"command": "sleep 60", "background": True}, "c2")]),
    )
    model.on("count the bees", Reply("Forty thousand."))
    model.on("how many?", Reply("Forty thousand, I hear."))
    seen: list[str] = []
    runtime.store.watch(lambda added: seen.append(added.session_key))

    assert answer(ask(runtime, "how many?", key=KEY)).text == "Forty thousand, I hear."

    [child] = set(seen) - {KEY}
    wait_until(lambda: runtime.store.session(child) is None)
    assert asleep(runtime, child) == []


def test_a_session_that_is_deleted_over_http_leaves_no_command(
    model: ScriptedProvider, tmp_path: Path
) -> None:
    app = Flask("host")
    settings = {
        "gateway": {"auth": {"token": TOKEN}},
        "models": {"providers": {"scripted": {"baseUrl": model.base_url, "models": [{"id": "m"}]}}},
        "tools": FULL,
    }
    runtime = Gateway().init_app(app, config=settings, env={"OPENCLAW_STATE_DIR": str(tmp_path)}).open()
    try:
        model.script(Reply(tool_calls=[call("exec", {"command": "sleep 60", "background": True})]))
        answer(ask(runtime, "sleep", key=KEY))
        assert asleep(runtime, KEY)

        deleted = app.test_client().delete(
            f"/api/sessions/{KEY}", headers={"Authorization": f"Bearer {TOKEN}"}
        )

        assert deleted.get_json() == {"deleted": True}
        assert asleep(runtime, KEY) == []
    finally:
        runtime.close()
