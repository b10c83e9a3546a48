"""Usage reports, asked of a running gateway or read from a store that nobody is using."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.messages import AssistantMessage, Usage, UserMessage
from app.sessions.records import ModelCall, NewEntry, RunEnd, RunStart
from app.sessions.sql import open_store
from app.sessions.store import Store
from tests.e2e.gateway_process import CHECKOUT, GatewayProcess, free_port, gateway_config
from tests.e2e.http_client import chat, send
from tests.scripted_provider import Reply, ScriptedProvider

NOVEMBER_23 = 20_780 * 86_400_000


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose gateway does not run."""
    config = tmp_path / "openclaw.json"
    config.write_text(json.dumps(gateway_config("http://127.0.0.1:1/v1")))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PORT": str(free_port()),
        "OPENCLAW_CONFIG_PATH": str(config),
        "OPENCLAW_STATE_DIR": str(tmp_path / "state"),
    }


def openclaw(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=CHECKOUT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def record(
    store: Store, run_id: str, at: int, usage: Usage, cost: float | None, key: str = "agent:main:main"
) -> None:
    store.begin(RunStart(run_id, key, f"id-{key}", "main", "cli", "a/b", at), [UserMessage.of("hi")])
    calls = (ModelCall("a/b", 0, "ok", None, 5),)
    end = RunEnd(run_id, "completed", "stop", usage, "a/b", None, None, at + 1, 1, cost, 0, calls)
    store.finish(end, [NewEntry(AssistantMessage("hello"), "stop")])


@pytest.fixture
def recorded(env: dict[str, str]) -> dict[str, str]:
    """The same with three runs in its store."""
    with closing(open_store(Path(env["OPENCLAW_STATE_DIR"]))) as store:
        record(store, "r1", NOVEMBER_23, Usage(12_345, 600, 2000, 50, 300), 0.25)
        record(store, "r2", NOVEMBER_23 + 1, Usage(5, 4, 3, 2, 1), None)
        record(store, "r3", NOVEMBER_23 + 86_400_000, Usage(10, 20), 0.5, "agent:main:[b]")
    return env


def test_usage_is_read_from_the_store_while_no_gateway_runs(recorded: dict[str, str]) -> None:
    done = openclaw(recorded, "usage", "--since", "2026-11-01", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    names = ("day", "runs", "input", "cacheRead", "cacheWrite", "output", "reasoning", "total", "cost")
    assert [tuple(row[name] for name in names) for row in report["rows"]] == [
        ("2026-11-23", 2, 10_046, 2003, 301, 604, 52, 12_954, 0.25),
        ("2026-11-24", 1, 10, 0, 0, 20, 0, 30, 0.5),
    ]
    assert [row["unpriced"] for row in report["rows"]] == [1, 0]
    total = report["total"]
    assert (total["runs"], total["total"], total["cost"], total["unpriced"]) == (3, 12_984, 0.75, 1)


def test_the_table_tells_the_kinds_of_tokens_apart_and_what_has_no_price(recorded: dict[str, str]) -> None:
    shown = openclaw(recorded, "usage", "--since", "2026-11-01").stdout.splitlines()
    assert [" ".join(line.split()) for line in shown] == [
        "day runs input cache read cache write output reasoning cost",
        "2026-11-23 2 10,046 2,003 301 604 52 $0.2500 + 1 run",
        "2026-11-24 1 10 0 0 20 0 $0.5000",
        "total 3 10,056 2,003 301 624 52 $0.7500 + 1 run",
        "+ N runs: N runs without a known price.",
    ]


def test_sessions_are_told_apart_with_their_names_as_they_are(recorded: dict[str, str]) -> None:
    shown = openclaw(recorded, "usage", "--since", "2026-11-01", "--by", "session,model").stdout
    assert [line.split()[:3] for line in shown.splitlines()[1:3]] == [
        ["agent:main:[b]", "a/b", "1"],
        ["agent:main:main", "a/b", "2"],
    ]


def test_usage_can_be_narrowed_to_a_time_and_a_session(recorded: dict[str, str]) -> None:
    def runs(*arguments: str) -> Any:
        return json.loads(openclaw(recorded, "usage", *arguments, "--json").stdout)["total"]["runs"]

    assert runs("--since", "2026-11-23", "--until", "2026-11-24") == 2
    assert runs("--since", "2026-11-01", "--session", "agent:main:[b]") == 1
    assert runs("--since", "2026-11-01", "--agent", "beta") == 0


def test_a_time_without_runs_says_so(recorded: dict[str, str]) -> None:
    assert openclaw(recorded, "usage", "--since", "2020-01-01", "--until", "2020-01-02").stdout == (
        "No runs in this time.\n"
    )


@pytest.mark.parametrize("arguments", [("--by", "week"), ("--since", "yesterday")])
def test_a_question_that_makes_no_sense_is_refused(
    recorded: dict[str, str], arguments: tuple[str, ...]
) -> None:
    done = openclaw(recorded, "usage", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"openclaw: {arguments[0].lstrip('-')} ")


def test_before_the_first_turn_there_is_no_usage(env: dict[str, str]) -> None:
    done = openclaw(env, "usage")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no session store yet" in done.stderr


def test_a_running_gateway_answers_for_what_it_has_just_done(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    key = "agent:main:usage"
    for _ in range(2):
        provider.script(Reply("hello"))
        assert chat(gateway, "hi", headers={"x-openclaw-session-key": key}).status == 200
    done = gateway.command("usage", "--session", key, "--by", "agent,model", "--since", "1h", "--json")
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["agent"], row["model"], row["runs"]) == ("main", "scripted/model", 2)
    assert (row["input"], row["output"], row["total"]) == (22, 14, 36)
    refused = gateway.command("usage", "--by", "week")
    assert (refused.returncode, refused.stderr[:14]) == (1, "openclaw: by h")


def test_archived_sessions_are_listed_shown_and_deleted_by_their_own_name(recorded: dict[str, str]) -> None:
    now = time.time_ns() // 1_000_000
    with closing(open_store(Path(recorded["OPENCLAW_STATE_DIR"]))) as store:
        store.compact("id-agent:main:main", "They said hello.", 3, now)
        store.archive("agent:main:main", now)
    name = "archived:id-agent:main:main:agent:main:main"

    assert name not in openclaw(recorded, "sessions", "list").stdout
    listed = openclaw(recorded, "sessions", "list", "--archived").stdout
    assert name in listed
    assert "$0.2500" in listed
    rows = json.loads(openclaw(recorded, "sessions", "list", "--archived", "--json").stdout)["sessions"]
    (row,) = [row for row in rows if row["key"] == name]
    assert (row["archivedAt"], row["compactions"], row["cost"]) == (now, 1, 0.25)
    shown = openclaw(recorded, "sessions", "show", name).stdout
    before, _, after = shown.partition("They said hello.")
    assert (before.count("hello\n"), after.count("hello\n")) == (1, 1)
    assert openclaw(recorded, "sessions", "delete", name).returncode == 0
    assert name not in openclaw(recorded, "sessions", "list", "--archived").stdout


def test_the_report_needs_the_secret_and_names_what_is_wrong(gateway: GatewayProcess) -> None:
    assert send(gateway, method="GET", path="/api/usage", token=None).status == 401
    answer = send(gateway, method="GET", path="/api/usage?since=7d&by=week")
    assert (answer.status, answer.error["param"]) == (400, "by")
    answer = send(gateway, method="GET", path="/api/usage?since=1h&by=")
    assert answer.status == 200
    assert set(answer.json) == {"since", "until", "by", "rows", "total"}
