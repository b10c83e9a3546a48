"""What is old goes, and nothing that is in use."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bus.local import LocalBus
from app.config import load_config
from app.errors import ConfigError
from app.messages import AssistantMessage, Usage, UserMessage
from app.runs.executor import Executor
from app.runs.retention import Retention, Rules, delete_old
from app.runtime import retention_rules
from app.sessions.pruning import Ages, Pruned
from app.sessions.records import Branch, NewEntry, NewResponse, RunEnd, RunStart
from app.sessions.sql import open_store
from app.sessions.store import Store
from tests.e2e.gateway_process import wait_until
from tests.engines import postgres_server
from tests.integration.machine import CONFIG, Machine

DAY = 86_400_000


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with contextlib.ExitStack() as resources:
        shared = request.param == "postgres"
        place = resources.enter_context(postgres_server().database()) if shared else tmp_path
        yield resources.enter_context(contextlib.closing(open_store(place)))


def begin(store: Store, run_id: str, key: str, at: int) -> None:
    loaded = store.load(key)
    session_id = loaded.session.id if loaded.session else f"id of {key} at {at}"
    start = RunStart(run_id, key, session_id, "main", "openai", "m", at)
    store.begin(start, [UserMessage.of("q")])


def end(store: Store, run_id: str, at: int) -> None:
    ended = RunEnd(run_id, "completed", "stop", Usage(1, 1), "m", None, None, at, 1)
    store.finish(ended, [NewEntry(AssistantMessage("a"), "stop")])


def take_turn(store: Store, key: str, at: int) -> str:
    run_id = f"run of {key} at {at}"
    begin(store, run_id, key, at)
    end(store, run_id, at)
    return run_id


def keys(store: Store) -> set[str]:
    return {session.key for session in store.list_sessions(None, 1_000, archived=True)}


def test_sessions_that_nobody_uses_go_with_all_they_hold(store: Store) -> None:
    take_turn(store, "old", 1 * DAY)
    take_turn(store, "new", 9 * DAY)
    assert store.count_old(Ages(idle=5 * DAY)) == Pruned(sessions=1)
    assert store.prune(Ages(idle=5 * DAY), 10) == Pruned(sessions=1)
    assert keys(store) == {"new"}
    assert store.transcript("old").history == ()
    assert len(store.transcript("new").history) == 2
    assert len(store.list_runs("old", 10)) == 1  # records of runs have their own time


def test_a_session_that_was_used_again_stays(store: Store) -> None:
    take_turn(store, "old", 1 * DAY)
    take_turn(store, "old", 9 * DAY)
    assert store.prune(Ages(idle=5 * DAY), 10) == Pruned()


def test_a_session_in_which_a_run_is_under_way_stays(store: Store) -> None:
    begin(store, "slow", "busy", 1 * DAY)
    store.enqueue(RunStart("waits", "queued", None, "main", "chat", "m", 1 * DAY), "{}")
    store.create("queued", "s", "main", 1 * DAY)
    ages = Ages(idle=5 * DAY, runs=5 * DAY)
    assert store.count_old(ages) == store.prune(ages, 10) == Pruned()
    end(store, "slow", 2 * DAY)
    assert store.prune(ages, 10) == Pruned(sessions=1, runs=1)
    assert keys(store) == {"queued"}


def test_archived_sessions_have_a_time_of_their_own(store: Store) -> None:
    take_turn(store, "main", 1 * DAY)
    store.archive("main", 2 * DAY)
    take_turn(store, "main", 2 * DAY)
    assert store.prune(Ages(archived=5 * DAY), 10) == Pruned(sessions=1)
    assert keys(store) == {"main"}


def test_a_stored_response_goes_with_the_record_of_its_run(store: Store) -> None:
    for number, at in enumerate((1 * DAY, 9 * DAY)):
        name = f"resp_{number}"
        store.open_response(NewResponse(name, "main", at, "{}"), Branch(f"key {number}", f"s{number}"))
        begin(store, name, f"key {number}", at)
        end(store, name, at)
        store.close_response(name, "{}")
    assert store.prune(Ages(runs=5 * DAY), 10) == Pruned(runs=1)
    assert store.get_response("resp_0") is None
    assert store.get_run("resp_0") is None
    assert store.get_response("resp_1") is not None
    assert keys(store) == {"key 0", "key 1"}


def test_nothing_is_old_where_nothing_is_said(store: Store) -> None:
    take_turn(store, "old", 1)
    assert store.prune(Ages(), 10) == Pruned()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    turns=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 10)), max_size=40),
    still_open=st.sets(st.sampled_from("abcdefgh"), max_size=3),
    idle=st.integers(0, 11),
    runs=st.integers(0, 11),
    limit=st.integers(1, 5),
)
def test_exactly_what_is_old_goes_however_small_the_steps(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[str, int]],
    still_open: set[str],
    idle: int,
    runs: int,
    limit: int,
) -> None:
    with contextlib.closing(open_store(tmp_path_factory.mktemp("state"))) as store:
        last: dict[str, int] = {}
        began: dict[str, int] = {}
        for number, (key, day) in enumerate(sorted(turns, key=lambda turn: turn[1])):
            begin(store, f"{number}", key, day * DAY)
            end(store, f"{number}", day * DAY)
            last[key], began[f"{number}"] = day, day
        for key in still_open:
            begin(store, f"open {key}", key, 1 * DAY)
            last[key] = 1
        stay = {key for key, day in last.items() if key in still_open or day >= idle}
        ages = Ages(idle=idle * DAY, runs=runs * DAY)
        expected = store.count_old(ages)
        total = Pruned()
        while (done := store.prune(ages, limit)) != Pruned():
            assert max(done.sessions, done.runs) <= limit
            total = Pruned(total.sessions + done.sessions, total.runs + done.runs)
        assert total == expected
        assert keys(store) == stay
        kept = {run.id for run in store.list_runs(None, 1_000)}
        assert kept == {name for name, day in began.items() if day >= runs} | {
            f"open {k}" for k in still_open
        }


def test_many_are_deleted_in_small_steps(store: Store) -> None:
    for number in range(45):
        take_turn(store, f"key {number}", DAY)
    assert delete_old(store, Ages(idle=5 * DAY, runs=5 * DAY)) == Pruned(45, 45)
    assert keys(store) == set()


# the gateway's own look


@contextlib.contextmanager
def retention(
    store: Store, rules: Rules, bus: LocalBus | None = None, every: float = 0.2
) -> Iterator[Retention]:
    executor = Executor()
    one = Retention(store, bus or LocalBus(), executor, lambda: rules, lambda: 10 * DAY, every=every)
    try:
        yield one
    finally:
        one.stop()
        executor.close()


def test_the_gateway_looks_again_and_again(store: Store) -> None:
    rules = Rules(idle=5 * 86_400, enforced=True)
    with retention(store, rules) as one:
        take_turn(store, "first", 1 * DAY)
        one.start()
        wait_until(lambda: not keys(store))
        take_turn(store, "second", 1 * DAY)
        take_turn(store, "new", 9 * DAY)
        wait_until(lambda: keys(store) == {"new"})


def test_nothing_is_deleted_unless_that_is_enforced(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    take_turn(store, "old", 1 * DAY)
    with caplog.at_level("INFO", "openclaw.retention"), retention(store, Rules(idle=5 * 86_400)) as one:
        assert one.look() == Pruned(sessions=1)
    assert keys(store) == {"old"}
    assert "1 sessions and 0 runs are old; session.maintenance.mode is warn, so they stay" in caplog.text


def test_of_several_processes_one_looks(store: Store) -> None:
    bus = LocalBus()
    looks = []

    def rules() -> Rules:
        looks.append(time.monotonic())
        return Rules()

    executors = [Executor() for _ in range(4)]
    all_of_them = [Retention(store, bus, executor, rules, lambda: 0, every=0.5) for executor in executors]
    started = time.monotonic()
    for one in all_of_them:
        one.start()
    wait_until(lambda: len(looks) >= 3, 10)
    for one, executor in zip(all_of_them, executors, strict=True):
        one.stop()
        executor.close()
    took = looks[2] - started
    assert took >= 2 * 0.5 * 0.9 * 0.9, "two of them looked in the time of one"


# configuration


def rules_of(maintenance: dict[str, Any]) -> Rules:
    return retention_rules(load_config(CONFIG | {"session": {"maintenance": maintenance}}, {}))


@pytest.mark.parametrize(
    ("maintenance", "rules"),
    [
        ({}, Rules()),
        ({"pruneAfter": "30d"}, Rules(idle=30 * 86_400, archived=30 * 86_400)),
        ({"pruneAfter": "12h", "resetArchiveRetention": False}, Rules(idle=43_200)),
        ({"resetArchiveRetention": "2w", "mode": "enforce"}, Rules(archived=14 * 86_400, enforced=True)),
        ({"pruneRunsAfter": "90m"}, Rules(runs=5_400)),
    ],
)
def test_the_configuration_says_how_long(maintenance: dict[str, Any], rules: Rules) -> None:
    assert rules_of(maintenance) == rules


@pytest.mark.parametrize("text", ["", "0d", "-1d", "30", "d", "1.5d", "30 d", "30y", "9999999d", 30])
def test_a_time_that_is_none_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match=r"session\.maintenance\.pruneAfter: must be"):
        rules_of({"pruneAfter": text})


# the command


def test_the_command_deletes_what_is_old_and_says_how_much_it_would_be(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "home", CONFIG | {"session": {"maintenance": {"pruneAfter": "30d"}}})
    now = int(time.time() * 1000)
    with contextlib.closing(open_store(machine.state)) as store:
        take_turn(store, "old", now - 31 * DAY)
        take_turn(store, "new", now)
    told = machine.run("sessions", "prune", "--dry-run")
    assert told.stdout == "Would delete 1 sessions and 0 records of runs.\n"
    assert len(json.loads(machine.run("sessions", "list", "--json").stdout)["sessions"]) == 2
    assert machine.run("sessions", "prune").stdout == "Deleted 1 sessions and 0 records of runs.\n"
    assert [
        row["key"] for row in json.loads(machine.run("sessions", "list", "--json").stdout)["sessions"]
    ] == ["new"]


def test_without_a_time_the_command_deletes_nothing(tmp_path: Path) -> None:
    assert "Everything is kept" in Machine(tmp_path / "home").run("sessions", "prune").stdout
