"""The contract of the session store, and what SQLite adds to it."""

import errno
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError

from app.errors import StoreError
from app.messages import AssistantMessage, ImagePart, TextPart, ToolCall, ToolMessage, Usage, UserMessage
from app.sessions.records import (
    Entry,
    ModelCall,
    NewEntry,
    Run,
    RunEnd,
    RunStart,
    Session,
    SessionSettings,
    UsageQuery,
    UsageRow,
)
from app.sessions.sql import open_store

ROOT = Path(__file__).parents[2]
KEY = "agent:main:openai-user:alice"
FILE = "gateway.sqlite3"
SPENT = Usage(10, 5)


def start(run_id, session_id="s1", key=KEY, agent_id="main", at=1000):
    return RunStart(run_id, key, session_id, agent_id, "openai", "mock/one", at)


def end(run_id, status="completed", at=2000):
    return RunEnd(run_id, status, "stop", Usage(10, 5, 2, 1), "mock/two", None, None, at, 1)


def said(text):
    return NewEntry(AssistantMessage(text), "stop")


def take_turn(store, run_id, session_id="s1", key=KEY, agent_id="main", at=1000):
    store.begin(start(run_id, session_id, key, agent_id, at), [UserMessage.of(f"question {run_id}")])
    store.finish(end(run_id, at=at + 1), [said(f"answer {run_id}")])


def charge(store, run_id, at, usage=SPENT, cost=1.0, model="mock/one", **place):
    """A run that has come to this much."""
    store.begin(start(run_id, at=at, **place), [])
    store.finish(RunEnd(run_id, "completed", "stop", usage, model, None, None, at + 1, 1, cost=cost), [])


def texts(store, key=KEY):
    return [entry.message.text for entry in store.load(key).history]


@pytest.fixture(params=["sqlite"])
def store(request, tmp_path):
    """Every back end in turn; the tests of the contract ask nothing else of it."""
    store = open_store(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def filled(folder):
    """A closed store of twenty sessions."""
    store = open_store(folder)
    for n in range(20):
        take_turn(store, f"r{n}", f"s{n}", f"agent:main:openai-user:{n}")
    store.close()
    return folder


# What every back end does


def test_a_key_that_nobody_used_has_no_session_and_no_history(store):
    loaded = store.load(KEY)

    assert loaded.session is None
    assert loaded.history == ()


def test_begin_creates_the_session_and_keeps_the_question_before_any_answer(store):
    store.begin(start("r1"), [UserMessage.of("hi")])

    loaded = store.load(KEY)
    assert loaded.session == Session("s1", KEY, "main", 1000, 1000, 1, 0, 0, "mock/one", active_at=1000)
    assert loaded.history == (Entry(1, UserMessage.of("hi"), None, 1000, "r1"),)


def test_a_run_is_in_progress_until_it_is_finished(store):
    store.begin(start("r1"), [UserMessage.of("hi")])

    assert store.get_run("r1") == Run(
        *("r1", KEY, "s1", "main", "openai", "mock/one", 1000),
        *("in_progress", None, Usage(), None, None, None, 0),
    )


def test_finish_closes_the_run_and_adds_its_answer_and_tokens(store):
    store.begin(start("r1"), [UserMessage.of("hi")])
    store.finish(end("r1"), [said("hello")])

    loaded = store.load(KEY)
    assert store.get_run("r1") == Run(
        *("r1", KEY, "s1", "main", "openai", "mock/two", 1000),
        *("completed", "stop", Usage(10, 5, 2, 1), None, None, 2000, 1),
    )
    assert loaded.session == Session("s1", KEY, "main", 1000, 2000, 2, 10, 5, "mock/two", active_at=2000)
    assert loaded.history[1] == Entry(2, AssistantMessage("hello"), "stop", 2000, "r1")


def test_a_failed_run_keeps_its_error_even_with_a_lone_surrogate_in_it(store):
    store.begin(start("r1"), [UserMessage.of("hi")])
    store.finish(
        RunEnd("r1", "failed", None, Usage(), "mock/two", "provider_error", "bad \ud800 byte", 2000, 3), []
    )

    run = store.get_run("r1")
    assert (run.status, run.error_code, run.error_message) == ("failed", "provider_error", "bad \ufffd byte")
    assert (run.finish_reason, run.attempts) == (None, 3)


def test_only_the_first_finish_of_a_run_counts(store):
    take_turn(store, "r1")
    before = store.load(KEY), store.get_run("r1")

    store.finish(end("r1", "failed", 9000), [said("again")])

    assert (store.load(KEY), store.get_run("r1")) == before


def test_finishing_an_unknown_run_does_nothing(store):
    store.finish(end("nobody"), [said("lost")])

    assert store.get_run("nobody") is None
    assert store.list_sessions(None, 10) == []


def test_messages_of_every_kind_come_back_in_order(store):
    kinds = [
        UserMessage((TextPart("look"), ImagePart("image/png", "aGk="))),
        AssistantMessage("", (ToolCall("c1", "read", '{"path":"a"}'),)),
        ToolMessage("c1", "read", "nul \x00 and \U0001f600", is_error=True),
        AssistantMessage("done"),
    ]
    store.begin(start("r1"), kinds[:1])
    store.append("s1", "r1", [NewEntry(kinds[1], "tool_calls"), NewEntry(kinds[2])], 1500)
    store.finish(end("r1"), [NewEntry(kinds[3], "length")])

    history = store.load(KEY).history
    assert [entry.message for entry in history] == kinds
    assert [entry.seq for entry in history] == [1, 2, 3, 4]
    assert [entry.stop for entry in history] == [None, "tool_calls", None, "length"]
    assert [entry.created_at for entry in history] == [1000, 1500, 1500, 2000]


def test_turns_of_one_session_follow_each_other_and_add_up(store):
    for n in range(3):
        take_turn(store, f"r{n}", at=1000 + n)

    session = store.load(KEY).session
    assert texts(store) == [f"{kind} r{n}" for n in range(3) for kind in ("question", "answer")]
    assert (session.message_count, session.input_tokens, session.output_tokens) == (6, 30, 15)
    assert (session.created_at, session.updated_at) == (1000, 1003)


def test_an_ephemeral_run_is_recorded_without_a_transcript(store):
    store.begin(start("r1", session_id=None), [UserMessage.of("hi")])
    store.append(None, "r1", [said("more")], 1500)
    store.finish(end("r1"), [said("hello")])

    assert store.load(KEY).session is None
    assert store.get_run("r1").usage == Usage(10, 5, 2, 1)


def test_a_new_session_id_under_a_used_key_is_refused_and_changes_nothing(store):
    take_turn(store, "r1")
    before = store.load(KEY)

    with pytest.raises(StoreError, match="replaced"):
        store.begin(start("r2", session_id="s2"), [UserMessage.of("hi")])

    assert store.load(KEY) == before
    assert store.get_run("r2") is None


def test_a_run_id_that_is_taken_leaves_the_transcript_alone(store):
    take_turn(store, "r1")

    with pytest.raises(StoreError):
        store.begin(start("r1"), [UserMessage.of("hi")])

    assert texts(store) == ["question r1", "answer r1"]


def test_runs_are_listed_newest_first_for_one_key_or_for_all(store):
    for n in range(4):
        take_turn(store, f"r{n}", f"s{n % 2}", f"key{n % 2}", at=1000 + n)

    assert [run.id for run in store.list_runs(None, 3)] == ["r3", "r2", "r1"]
    assert [run.id for run in store.list_runs("key0", 10)] == ["r2", "r0"]
    assert store.list_runs("nokey", 10) == []


def test_sessions_are_listed_by_last_use_for_one_agent_or_for_all(store):
    for n in range(4):
        take_turn(store, f"r{n}", f"s{n}", f"key{n}", agent_id=("main", "beta")[n % 2], at=1000 + n)
    take_turn(store, "r4", "s0", "key0", at=5000)

    assert [session.id for session in store.list_sessions(None, 10)] == ["s0", "s3", "s2", "s1"]
    assert [session.id for session in store.list_sessions(None, 2, 1)] == ["s3", "s2"]
    assert [session.id for session in store.list_sessions("beta", 10)] == ["s3", "s1"]


def test_deleting_a_session_takes_its_transcript_and_leaves_its_runs(store):
    take_turn(store, "r1")
    take_turn(store, "r2", "s2", "other")

    assert store.delete_session(KEY) is True
    assert store.delete_session(KEY) is False

    assert store.load(KEY).session is None
    assert store.get_run("r1").session_id == "s1"
    assert texts(store, "other") == ["question r2", "answer r2"]


def test_a_deleted_session_can_be_begun_again_and_starts_empty(store):
    take_turn(store, "r1")
    store.delete_session(KEY)

    take_turn(store, "r2")

    assert texts(store) == ["question r2", "answer r2"]


def test_a_run_whose_session_is_deleted_meanwhile_still_ends(store):
    store.begin(start("r1"), [UserMessage.of("hi")])
    store.delete_session(KEY)

    store.append("s1", "r1", [said("half")], 1500)
    store.finish(end("r1"), [said("whole")])

    assert store.get_run("r1").status == "completed"
    assert store.load(KEY).session is None


def test_each_write_tells_the_place_of_its_first_message(store):
    assert store.begin(start("r1"), [UserMessage.of("one"), UserMessage.of("two")]) == 1
    assert store.append("s1", "r1", [said("three"), said("four")], 1500) == 3
    store.finish(end("r1"), [said("five")])
    assert store.begin(start("r2"), [UserMessage.of("six")]) == 6


def test_a_write_that_keeps_nothing_has_no_place(store):
    assert store.begin(start("r1", session_id=None), [UserMessage.of("hi")]) == 0
    assert store.append(None, "r1", [said("hello")], 1500) == 0
    assert store.begin(start("r2"), []) == 0
    assert store.append("s1", "r2", [], 1500) == 0
    assert store.append("gone", "r2", [said("hello")], 1500) == 0


def test_only_a_question_and_the_end_of_its_run_make_a_session_active(store):
    take_turn(store, "r1", at=1000)
    store.append("s1", "r1", [said("more")], 3000)
    store.configure(KEY, SessionSettings(model="a/b"), 3500)
    assert store.load(KEY).session.active_at == 1001

    store.begin(start("r2", at=4000), [])
    assert store.load(KEY).session.active_at == 4000
    store.finish(end("r2", at=900_000), [said("That took long.")])
    assert store.load(KEY).session.active_at == 900_000


def test_a_session_keeps_the_parent_it_was_begun_with(store):
    store.begin(replace(start("r1"), parent_key="parent"), [])
    store.begin(replace(start("r2"), parent_key="other"), [])
    store.begin(start("r3", "s2", "second"), [])

    assert store.load(KEY).session.parent_key == "parent"
    assert [session.id for session in store.list_sessions(None, 10, parent_key="parent")] == ["s1"]
    assert store.list_sessions(None, 10, parent_key="other") == []
    assert store.list_sessions("beta", 10, parent_key="parent") == []


def test_finish_adds_the_cost_and_says_how_full_the_context_is(store):
    for n, (cost, context_tokens) in enumerate([(0.25, 100), (None, 0), (0.5, 0)]):
        store.begin(start(f"r{n}"), [])
        store.finish(replace(end(f"r{n}"), cost=cost, context_tokens=context_tokens), [])

    session = store.load(KEY).session
    assert (session.cost, session.context_tokens) == (0.75, 100)
    assert [store.get_run(f"r{n}").cost for n in range(3)] == [0.25, None, 0.5]


def test_every_kind_of_token_comes_back_with_the_run(store):
    store.begin(start("r1"), [])
    store.finish(replace(end("r1"), usage=Usage(5, 4, 3, 2, 1)), [])

    assert store.get_run("r1").usage == Usage(5, 4, 3, 2, 1)


def test_the_calls_of_a_run_are_kept_if_there_is_more_to_tell_than_one_success(store):
    fine = ModelCall("mock/one", 0, "ok", None, 12)
    refused = ModelCall("mock/\N{SNOWMAN}", 1, "rate_limit", 429, 3)
    told = {"one": (fine,), "none": (), "refused": (refused,), "both": (refused, fine), "two": (fine, fine)}
    for run_id, calls in told.items():
        store.begin(start(run_id), [])
        store.finish(replace(end(run_id), calls=calls), [])

    assert {run_id: store.get_run(run_id).calls for run_id in told} == told | {"one": ()}


def test_a_summary_stands_for_what_is_before_it_and_the_transcript_stays_whole(store):
    take_turn(store, "r1")
    take_turn(store, "r2")

    assert store.compact("s1", "They met. \ud800", 3, 5000) is True

    loaded, whole = store.load(KEY), store.transcript(KEY)
    assert [entry.seq for entry in loaded.history] == [3, 4]
    assert [entry.seq for entry in whole.history] == [1, 2, 3, 4]
    assert loaded.session == whole.session
    session = loaded.session
    assert (session.summary, session.kept_from, session.compactions) == ("They met. \ufffd", 3, 1)
    assert session.updated_at == 5000


def test_a_summary_may_stand_for_everything_and_is_replaced_by_one_that_reaches_further(store):
    take_turn(store, "r1")
    assert store.compact("s1", "half", 2, 5000)
    assert store.compact("s1", "whole", 3, 5001)

    take_turn(store, "r2")

    assert texts(store) == ["question r2", "answer r2"]
    session = store.load(KEY).session
    assert (session.summary, session.kept_from, session.compactions) == ("whole", 3, 2)


@pytest.mark.parametrize("kept_from", [-1, 0, 1, 2, 3, 6, 99])
def test_a_summary_that_reaches_no_further_or_beyond_the_end_changes_nothing(store, kept_from):
    take_turn(store, "r1")
    take_turn(store, "r2")
    store.compact("s1", "three", 3, 5000)
    before = store.load(KEY)

    assert store.compact("s1", "again", kept_from, 6000) is False

    assert store.load(KEY) == before


def test_there_is_nothing_to_sum_up_in_a_session_that_does_not_exist(store):
    assert store.compact("nobody", "nothing", 2, 5000) is False


def test_a_session_is_configured_as_a_whole_and_stays_so(store):
    take_turn(store, "r1")

    assert store.configure(KEY, SessionSettings(model="mock/\N{SNOWMAN}", usage="full"), 5000) is True
    take_turn(store, "r2")
    assert store.load(KEY).session.settings == SessionSettings("mock/\N{SNOWMAN}", None, "full")
    assert store.configure(KEY, SessionSettings(thinking="high"), 6000) is True
    assert store.list_sessions(None, 1)[0].settings == SessionSettings(thinking="high")
    assert store.configure(KEY, SessionSettings(), 7000) is True
    assert store.load(KEY).session.settings == SessionSettings()

    assert store.configure("nobody", SessionSettings(), 8000) is False


def test_an_archived_session_frees_its_key_and_is_found_under_a_name_of_its_own(store):
    take_turn(store, "r1")
    before = store.load(KEY).session

    assert store.archive(KEY, 5000) is True

    assert store.load(KEY).session is None
    name = f"archived:s1:{KEY}"
    kept = store.load(name)
    assert kept.session == replace(before, key=name, archived_at=5000)
    assert [entry.message.text for entry in kept.history] == ["question r1", "answer r1"]
    take_turn(store, "r2", "s2")
    assert texts(store) == ["question r2", "answer r2"]


def test_archived_sessions_are_listed_if_asked_for_and_can_be_deleted(store):
    for n in range(3):
        take_turn(store, f"r{n}", f"s{n}", at=1000 + n)
        store.archive(KEY, 5000)
    take_turn(store, "r3", "s3", at=1003)

    assert [session.id for session in store.list_sessions(None, 10)] == ["s3"]
    assert [session.id for session in store.list_sessions("main", 2, 1, archived=True)] == ["s2", "s1"]
    assert store.delete_session(f"archived:s1:{KEY}") is True
    assert [session.id for session in store.list_sessions(None, 10, archived=True)] == ["s3", "s2", "s0"]


def test_neither_a_free_key_nor_an_archived_session_can_be_archived(store):
    assert store.archive(KEY, 5000) is False
    take_turn(store, "r1")
    store.archive(KEY, 5000)

    assert store.archive(KEY, 6000) is False
    assert store.archive(f"archived:s1:{KEY}", 6000) is False


def test_a_run_whose_session_is_archived_meanwhile_ends_in_it(store):
    store.begin(start("r1"), [UserMessage.of("hi")])
    store.archive(KEY, 1400)
    take_turn(store, "r2", "s2")

    assert store.append("s1", "r1", [said("half")], 1500) == 2
    store.finish(end("r1"), [said("whole")])

    assert texts(store, f"archived:s1:{KEY}") == ["hi", "half", "whole"]
    assert texts(store) == ["question r2", "answer r2"]


def test_no_run_begins_in_an_archived_session(store):
    take_turn(store, "r1")
    store.archive(KEY, 5000)
    name = f"archived:s1:{KEY}"
    before = store.load(name)

    for key in (KEY, name):
        with pytest.raises(StoreError, match="replaced"):
            store.begin(start("late", "s1", key), [UserMessage.of("hi")])

    assert store.load(name) == before
    assert (store.load(KEY).session, store.get_run("late")) == (None, None)


DAY = 86_400_000
NOVEMBER_23 = 20_780 * DAY


def test_usage_is_added_up_for_each_day_in_utc(store):
    charge(store, "r1", NOVEMBER_23 - 1, Usage(100, 50, 40, 30, 20), 0.5)
    charge(store, "r2", NOVEMBER_23, Usage(1, 2, 3, 4, 5), 0.25)
    charge(store, "r3", NOVEMBER_23 + DAY - 1, Usage(1, 1, 1, 1, 1), 0.25)

    assert store.usage(UsageQuery()) == [
        UsageRow(("2026-11-22",), 1, Usage(100, 50, 40, 30, 20), 0.5, 0),
        UsageRow(("2026-11-23",), 2, Usage(2, 3, 4, 5, 6), 0.5, 0),
    ]


def test_usage_can_be_told_apart_by_anything_in_any_order_or_by_nothing(store):
    charge(store, "r1", NOVEMBER_23, agent_id="beta", key="b", session_id="s1", model="mock/two")
    charge(store, "r2", NOVEMBER_23, agent_id="main", key="a", session_id="s2", model="mock/two")
    charge(store, "r3", NOVEMBER_23, agent_id="main", key="a", session_id="s2", model="mock/one")

    def groups(*by):
        return [(row.group, row.runs) for row in store.usage(UsageQuery(by=by))]

    assert groups("model", "day") == [(("mock/one", "2026-11-23"), 1), (("mock/two", "2026-11-23"), 2)]
    assert groups("agent", "session") == [(("beta", "b"), 1), (("main", "a"), 2)]
    assert groups() == [((), 3)]


def test_usage_counts_what_began_in_the_time_and_place_asked_for(store):
    for n in range(4):
        at, agent_id = 1000 * n, ("main", "beta")[n % 2]
        charge(store, f"r{n}", at, Usage(10**n, 0), key=f"key{n}", session_id=f"s{n}", agent_id=agent_id)

    def tokens(**asked):
        return [row.usage.input for row in store.usage(UsageQuery(by=("day",), **asked))]

    assert tokens() == [1111]
    assert tokens(since=1000, until=3000) == [110]
    assert tokens(agent_id="beta") == [1010]
    assert tokens(session_key="key2") == [100]
    assert tokens(since=4000) == []


def test_usage_leaves_out_runs_that_are_not_over_and_keeps_those_of_deleted_sessions(store):
    charge(store, "r1", 1000)
    store.begin(start("r2"), [])
    store.delete_session(KEY)

    assert store.usage(UsageQuery(by=("session",))) == [UsageRow((KEY,), 1, Usage(10, 5), 1.0, 0)]


def test_tokens_of_unknown_price_are_told_from_runs_that_used_none(store):
    charge(store, "free", 1000, cost=0.0)
    charge(store, "unknown", 1000, cost=None)
    charge(store, "unused", 1000, Usage(), cost=None)

    assert store.usage(UsageQuery(by=())) == [UsageRow((), 3, Usage(20, 10), 0.0, 1)]


def test_usage_of_no_runs_is_nothing(store):
    assert store.usage(UsageQuery()) == []
    assert store.usage(UsageQuery(by=())) == [UsageRow((), 0, Usage(), 0.0, 0)]


def test_fifty_threads_lose_nothing_and_never_share_a_place_in_a_transcript(store):
    together = threading.Barrier(50)

    def work(thread):
        together.wait(30)
        for n in range(6):
            take_turn(store, f"r{thread}-{n}", f"s{thread % 5}", f"key{thread % 5}")

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(work, range(50)))

    for n in range(5):
        loaded = store.load(f"key{n}")
        assert [entry.seq for entry in loaded.history] == list(range(1, 121))
        assert len({entry.message.text for entry in loaded.history}) == 120
        assert loaded.session.input_tokens == 600


def test_a_closed_store_says_so_and_may_be_closed_again(store):
    store.close()
    store.close()

    with pytest.raises(StoreError, match="closed"):
        store.load(KEY)


# How the SQLite file is opened and closed


def test_everything_is_there_after_a_restart(filled):
    store = open_store(filled)

    assert len(store.list_sessions(None, 100)) == 20
    assert texts(store, "agent:main:openai-user:7") == ["question r7", "answer r7"]
    store.close()


def test_runs_that_a_dead_process_left_open_are_failed_as_interrupted(folder):
    store = open_store(folder)
    take_turn(store, "done")
    store.begin(start("open"), [UserMessage.of("hi")])
    store.close()

    store = open_store(folder)
    done, interrupted = store.get_run("done"), store.get_run("open")
    store.close()

    assert done.status == "completed"
    assert (interrupted.status, interrupted.error_code) == ("failed", "interrupted")
    assert abs(interrupted.ended_at - time.time() * 1000) < 60_000
    assert interrupted.error_message


def test_the_state_is_readable_by_its_owner_only(filled):
    store = open_store(filled)
    take_turn(store, "new run", "new", "new key")

    assert filled.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in filled.iterdir()} == {0o600}
    store.close()


def test_a_second_gateway_on_the_same_directory_is_refused_until_the_first_is_gone(folder):
    first = open_store(folder)

    with pytest.raises(StoreError, match="Another gateway is using this state directory"):
        open_store(folder)
    take_turn(first, "r1")
    first.close()

    open_store(folder).close()


def test_a_lock_held_by_another_process_is_respected_and_dies_with_it(folder):
    code = "import sys,time; from app.sessions.sql import open_store; from pathlib import Path\n"
    code += "store = open_store(Path(sys.argv[1])); print('open', flush=True); time.sleep(60)"
    with python(code, folder) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match="Another gateway"):
            open_store(folder)
        other.kill()

    open_store(folder).close()


def test_a_reader_looks_on_while_a_writer_works_and_cannot_write(folder):
    writer = open_store(folder)
    take_turn(writer, "r1")
    reader = open_store(folder, readonly=True)

    assert texts(reader) == ["question r1", "answer r1"]
    take_turn(writer, "r2")
    assert texts(reader) == ["question r1", "answer r1", "question r2", "answer r2"]
    with pytest.raises(StoreError, match="only be read"):
        reader.delete_session(KEY)

    reader.close()
    writer.close()


def test_a_reader_leaves_the_runs_of_a_live_writer_alone(folder):
    writer = open_store(folder)
    writer.begin(start("r1"), [UserMessage.of("hi")])

    reader = open_store(folder, readonly=True)

    assert reader.get_run("r1").status == "in_progress"
    reader.close()
    writer.close()


def test_a_reader_works_after_the_writer_has_gone(filled):
    reader = open_store(filled, readonly=True)

    assert len(reader.list_sessions(None, 100)) == 20
    reader.close()


@pytest.mark.parametrize("make", [lambda folder: None, Path.mkdir, lambda folder: touch(folder)])
def test_a_reader_of_nothing_is_told_so_and_creates_nothing(folder, make):
    make(folder)
    before = sorted(folder.rglob("*"))

    with pytest.raises(StoreError, match="no session store yet"):
        open_store(folder, readonly=True)

    assert sorted(folder.rglob("*")) == before


def test_a_store_of_a_newer_version_is_left_alone(filled):
    raw = sqlite3.connect(filled / FILE)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    before = (filled / FILE).read_bytes()

    for readonly in (False, True):
        with pytest.raises(StoreError, match="newer version"):
            open_store(filled, readonly=readonly)

    assert (filled / FILE).read_bytes() == before


def test_a_database_of_somebody_else_is_left_alone(folder):
    folder.mkdir()
    raw = sqlite3.connect(folder / FILE)
    raw.execute("CREATE TABLE theirs (x)")
    raw.close()
    before = (folder / FILE).read_bytes()

    with pytest.raises(StoreError, match="not a session store"):
        open_store(folder)

    assert (folder / FILE).read_bytes() == before


def test_a_path_that_needs_quoting_is_no_problem(tmp_path):
    store = open_store(tmp_path / "a b?c#d%20e")
    take_turn(store, "r1")

    assert (tmp_path / "a b?c#d%20e" / FILE).exists()
    store.close()


def test_a_state_directory_that_cannot_be_made_is_explained_without_its_path(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError) as refused:
        open_store(tmp_path / "file" / "state")

    assert str(tmp_path) not in str(refused.value)
    assert "Not a directory" in str(refused.value)


# A file of an older version


VERSION_1 = """
CREATE TABLE sessions (
    id TEXT NOT NULL, "key" TEXT NOT NULL, agent_id TEXT NOT NULL, created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL, message_count INTEGER NOT NULL, input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL, model TEXT NOT NULL,
    PRIMARY KEY (id), UNIQUE ("key")
);
CREATE TABLE messages (
    session_id TEXT NOT NULL, seq INTEGER NOT NULL, run_id TEXT NOT NULL, created_at BIGINT NOT NULL,
    stop TEXT, body TEXT NOT NULL,
    PRIMARY KEY (session_id, seq), FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE runs (
    id TEXT NOT NULL, session_key TEXT NOT NULL, session_id TEXT, agent_id TEXT NOT NULL,
    channel TEXT NOT NULL, model TEXT NOT NULL, created_at BIGINT NOT NULL, status TEXT NOT NULL,
    finish_reason TEXT, input_tokens INTEGER DEFAULT '0' NOT NULL, output_tokens INTEGER DEFAULT '0' NOT NULL,
    cached_tokens INTEGER DEFAULT '0' NOT NULL, reasoning_tokens INTEGER DEFAULT '0' NOT NULL,
    error_code TEXT, error_message TEXT, ended_at BIGINT, attempts INTEGER DEFAULT '0' NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX ix_sessions_updated_at ON sessions (updated_at);
CREATE INDEX ix_runs_open ON runs (ended_at) WHERE ended_at IS NULL;
CREATE INDEX ix_runs_created_at ON runs (created_at);
INSERT INTO sessions VALUES('s1','agent:main:openai-user:alice','main',1000,4000,5,10,5,'mock/two');
INSERT INTO sessions VALUES('s2','second','beta',100,200,0,0,0,'mock/one');
INSERT INTO messages VALUES('s1',1,'r1',1000,NULL,'{"role":"user","content":[{"type":"text","text":"hi"}]}');
INSERT INTO messages VALUES('s1',2,'r1',1500,'tool_calls','{"role":"assistant","content":"","tool_calls":[{"id":"c1","name":"read","arguments":"{}"}]}');
INSERT INTO messages VALUES('s1',3,'r1',1500,NULL,'{"role":"tool","call_id":"c1","name":"read","content":"text","is_error":false}');
INSERT INTO messages VALUES('s1',4,'r1',2000,'stop','{"role":"assistant","content":"hello","tool_calls":[]}');
INSERT INTO messages VALUES('s1',5,'r3',4000,NULL,'{"role":"user","content":[{"type":"text","text":"again"}]}');
INSERT INTO runs VALUES('r1','agent:main:openai-user:alice','s1','main','openai','mock/two',1000,'completed','stop',10,5,2,1,NULL,NULL,2000,2);
INSERT INTO runs VALUES('r2','lonely',NULL,'main','cli','mock/two',3000,'failed',NULL,0,0,0,0,'provider_error','no',3500,1);
INSERT INTO runs VALUES('r3','agent:main:openai-user:alice','s1','main','openai','mock/one',4000,'in_progress',NULL,0,0,0,0,NULL,NULL,NULL,0);
"""  # noqa: E501 - as the first version wrote it


@pytest.fixture
def version_1(folder):
    """A store as the first version left it when it was killed: one run open, its log not yet in the file."""
    folder.mkdir()
    with python(KILLED_IN_VERSION_1, folder / FILE, VERSION_1) as gateway:
        gateway.communicate(timeout=60)
    assert (folder / f"{FILE}-wal").stat().st_size > 0
    return folder


KILLED_IN_VERSION_1 = """
import os, signal, sqlite3, sys

db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.executescript("PRAGMA journal_mode = WAL; BEGIN;" + sys.argv[2] + "PRAGMA user_version = 1; COMMIT;")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_of_version_1_opens_with_everything_in_it(version_1):
    for _ in range(2):  # the second time it is one of version 2
        store = open_store(version_1)
        loaded = store.load(KEY)
        sessions, runs = store.list_sessions(None, 10), store.list_runs(None, 10)
        store.close()

        first = Session("s1", KEY, "main", 1000, 4000, 5, 10, 5, "mock/two", active_at=4000)
        assert sessions == [
            first,
            Session("s2", "second", "beta", 100, 200, 0, 0, 0, "mock/one", active_at=200),
        ]
        assert [entry.message for entry in loaded.history] == [
            UserMessage.of("hi"),
            AssistantMessage("", (ToolCall("c1", "read", "{}"),)),
            ToolMessage("c1", "read", "text"),
            AssistantMessage("hello"),
            UserMessage.of("again"),
        ]
        assert [run.status for run in runs] == ["failed", "failed", "completed"]
        assert runs[0].error_code == "interrupted"
        assert runs[2] == Run(
            *("r1", KEY, "s1", "main", "openai", "mock/two", 1000),
            *("completed", "stop", Usage(10, 5, 2, 1), None, None, 2000, 2),
        )


def test_an_upgraded_store_goes_on_like_any_other(version_1):
    with closing(open_store(version_1)) as store:
        take_turn(store, "r4", at=9000)
        assert store.compact("s1", "They met.", 6, 9500)
        assert texts(store) == ["question r4", "answer r4"]
        assert store.archive("second", 9600)
        assert store.usage(UsageQuery(by=())) == [UsageRow((), 4, Usage(20, 10, 4, 2), 0.0, 2)]


def test_an_upgraded_store_has_the_schema_of_a_new_one(version_1, tmp_path):
    open_store(version_1).close()
    open_store(tmp_path / "new").close()

    assert schema(version_1) == schema(tmp_path / "new")
    assert len(schema(version_1)["columns"]) > 40


def schema(folder):
    """Version, columns, indexes, foreign keys: everything but the spelling."""
    with closing(sqlite3.connect(folder / FILE)) as raw:
        return {
            "version": raw.execute("PRAGMA user_version").fetchall(),
            "columns": raw.execute(
                "SELECT m.name, c.* FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
                " ORDER BY m.name, c.cid"
            ).fetchall(),
            "indexes": raw.execute(
                "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name"
            ).fetchall(),
            "references": raw.execute("SELECT * FROM pragma_foreign_key_list('messages')").fetchall(),
        }


KILLED_IN_UPGRADE = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from app.sessions.sql import open_store

left = int(sys.argv[2])

def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "before_cursor_execute", count)
open_store(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("steps", [1, 2, 9, 12, 16, 17])
def test_a_store_whose_upgrade_is_killed_is_still_one_of_version_1(version_1, steps):
    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        before = list(raw.iterdump())

    with python(KILLED_IN_UPGRADE, version_1, steps) as upgrade:
        upgrade.communicate(timeout=60)

    assert upgrade.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        assert list(raw.iterdump()) == before
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
    with closing(open_store(version_1)) as store:
        assert len(store.load(KEY).history) == 5


def test_a_store_that_only_looks_like_version_1_is_left_as_it_is(version_1):
    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        raw.execute("ALTER TABLE runs ADD COLUMN calls TEXT")  # which is the last step of the upgrade
        before = list(raw.iterdump())

    with pytest.raises(StoreError):
        open_store(version_1)

    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        assert list(raw.iterdump()) == before


def test_a_reader_leaves_the_upgrade_to_the_gateway_and_says_so(version_1):
    with pytest.raises(StoreError, match="older version"):
        open_store(version_1, readonly=True)

    open_store(version_1).close()
    with closing(open_store(version_1, readonly=True)) as reader:
        assert len(reader.load(KEY).history) == 5


# A damaged SQLite file is never made worse


def damaged_by_garbage(content):
    return os.urandom(len(content))


def damaged_by_truncation(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [damaged_by_garbage, damaged_by_truncation])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_damaged_file_is_reported_and_left_as_it_is(filled, damage, readonly):
    content = damage((filled / FILE).read_bytes())
    (filled / FILE).write_bytes(content)

    for _ in range(2):  # a failed start leaves no lock behind
        with pytest.raises(StoreError, match=r"gateway.sqlite3.*damaged.*Nothing was changed or deleted"):
            open_store(filled, readonly=readonly)

    assert (filled / FILE).read_bytes() == content


def test_damage_behind_the_header_is_reported_when_it_is_met(filled):
    content = bytearray((filled / FILE).read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    (filled / FILE).write_bytes(content)

    with pytest.raises(StoreError, match="damaged"):
        open_store(filled)

    assert (filled / FILE).read_bytes() == bytes(content)


@pytest.mark.parametrize("body", ["", "{", "null", '{"role":"user"}', b"\xff\xfe".decode("latin-1")])
def test_an_unreadable_row_costs_one_message_and_a_log_line(filled, caplog, body):
    raw = sqlite3.connect(filled / FILE)
    raw.execute("UPDATE messages SET body = ? WHERE session_id = 's3' AND seq = 1", (body,))
    raw.commit()
    raw.close()

    store = open_store(filled)
    with caplog.at_level(logging.WARNING):
        assert texts(store, "agent:main:openai-user:3") == ["answer r3"]
    take_turn(store, "more", "s3", "agent:main:openai-user:3")
    history = store.load("agent:main:openai-user:3").history
    store.close()

    assert "s3" in caplog.text
    assert [entry.seq for entry in history] == [2, 3, 4]


def test_bytes_that_are_no_text_cost_one_message_too(filled):
    raw = sqlite3.connect(filled / FILE)
    raw.execute("UPDATE messages SET body = CAST(x'7bff' AS TEXT) WHERE session_id = 's3' AND seq = 1")
    raw.execute("UPDATE messages SET body = x'7bff' WHERE session_id = 's4' AND seq = 1")
    raw.commit()
    raw.close()

    store = open_store(filled)
    assert texts(store, "agent:main:openai-user:3") == ["answer r3"]
    assert texts(store, "agent:main:openai-user:4") == ["answer r4"]
    store.close()


@pytest.mark.parametrize("damaged", ["", "{", "[]", "null", "[1]", '{"model":1}', b"\xff"])
def test_a_damaged_choice_or_list_of_calls_costs_nothing_else(filled, damaged):
    raw = sqlite3.connect(filled / FILE)
    raw.execute("UPDATE sessions SET settings = ? WHERE id = 's3'", (damaged,))
    raw.execute("UPDATE runs SET calls = ? WHERE id = 'r3'", (damaged,))
    raw.commit()
    raw.close()

    with closing(open_store(filled)) as store:
        loaded = store.load("agent:main:openai-user:3")
        assert (loaded.session.settings, len(loaded.history)) == (SessionSettings(), 2)
        assert store.get_run("r3").calls == ()
        assert len(store.list_sessions(None, 100)) == len(store.list_runs(None, 100)) == 20


def test_what_a_later_version_adds_to_the_choices_is_passed_over(filled):
    raw = sqlite3.connect(filled / FILE)
    raw.execute("""UPDATE sessions SET settings = '{"model":"a/b","mood":"good"}' WHERE id = 's3'""")
    raw.commit()
    raw.close()

    with closing(open_store(filled)) as store:
        assert store.load("agent:main:openai-user:3").session.settings == SessionSettings(model="a/b")


@pytest.mark.parametrize("cut", [1, 24, 31, 32, 33, 500, 4000, 4096, 5000, 9000])
def test_a_log_cut_anywhere_loses_whole_transactions_from_its_end_only(tmp_path, folder, cut):
    store = open_store(folder)
    for n in range(30):
        take_turn(store, f"r{n}")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / FILE).write_bytes((folder / FILE).read_bytes())
    (copy / f"{FILE}-wal").write_bytes((folder / f"{FILE}-wal").read_bytes()[:-cut])
    store.close()

    store = open_store(copy)
    history = texts(store)
    store.close()

    whole = [f"{kind} r{n}" for n in range(30) for kind in ("question", "answer")]
    assert len(history) >= 50
    assert history == whole[: len(history)]


def test_an_error_never_carries_the_conversation_into_a_log(store):
    take_turn(store, "r1")
    secret = "sesame" * 3  # which no source line of the traceback quotes

    with pytest.raises(StoreError) as replaced:
        store.begin(start("r2", "s2", KEY), [UserMessage.of(secret)])
    with pytest.raises(StoreError) as repeated:
        store.begin(start("r1", "s3", secret), [UserMessage.of(secret)])

    for error in (replaced.value, repeated.value):
        assert isinstance(error.__cause__, IntegrityError)
        assert secret not in "".join(traceback.format_exception(error))
        assert KEY not in "".join(traceback.format_exception(error))


# The process dies, the disk fills up


WRITE_FOREVER = """
import sys
from itertools import count
from pathlib import Path
from app.messages import AssistantMessage, Usage, UserMessage
from app.sessions.records import NewEntry, RunEnd, RunStart
from app.sessions.sql import open_store

store, name = open_store(Path(sys.argv[1])), sys.argv[2]
for n in count():
    run = f"{name}-{n}"
    store.begin(RunStart(run, f"key{n % 7}", f"s{n % 7}", "main", "openai", "m", n), [UserMessage.of(run)])
    print("begun", run, flush=True)
    store.append(f"s{n % 7}", run, [NewEntry(AssistantMessage("x" * 5000)), NewEntry(UserMessage.of("y"))], n)
    print("appended", run, flush=True)
    end = RunEnd(run, "completed", "stop", Usage(1, 1), "m", None, None, n, 1)
    store.finish(end, [NewEntry(AssistantMessage("z"), "stop")])
    print("finished", run, flush=True)
"""
LENGTHS = {"begun": 1, "appended": 3, "finished": 4}


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(folder):
    acknowledged = {}
    for name in ("a", "b", "c"):
        with python(WRITE_FOREVER, folder, name) as writer:
            for _ in range(200):
                note(acknowledged, writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                note(acknowledged, line)

    store = open_store(folder)
    stored = {}
    for n in range(7):
        loaded = store.load(f"key{n}")
        assert [entry.seq for entry in loaded.history] == list(range(1, loaded.session.message_count + 1))
        for entry in loaded.history:
            stored[entry.run_id] = stored.get(entry.run_id, 0) + 1
    status = {run_id: store.get_run(run_id).status for run_id in acknowledged}
    store.close()

    assert len(acknowledged) > 150
    assert set(stored.values()) <= set(LENGTHS.values())  # never half of an append
    for run_id, step in acknowledged.items():
        assert stored[run_id] >= LENGTHS[step]
        assert status[run_id] in (("completed",) if step == "finished" else ("failed", "completed"))


COMPACT_FOREVER = """
import sys
from itertools import count
from pathlib import Path
from app.messages import UserMessage
from app.sessions.records import RunStart
from app.sessions.sql import open_store

store, name = open_store(Path(sys.argv[1])), sys.argv[2]
for n in count():
    run = RunStart(f"{name}-{n}", "key", f"{name}-{n // 9}", "main", "openai", "m", n)
    first = store.begin(run, [UserMessage.of("x" * 3000)] * 2)
    store.compact(run.session_id, f"{first} " * 900, first + 1, n)
    print("compacted", run.session_id, first, flush=True)
    if n % 9 == 8:
        store.archive("key", n)
        print("archived", run.session_id, n, flush=True)
"""


def test_a_summary_and_its_place_survive_a_kill_together(folder):
    said = []
    for name in ("a", "b"):
        with python(COMPACT_FOREVER, folder, name) as writer:
            said += [writer.stdout.readline().split() for _ in range(100)]
            writer.send_signal(signal.SIGKILL)
            said += [line.split() for line in writer.stdout if line.endswith("\n")]
        with closing(open_store(folder)) as store:
            store.archive("key", 0)  # whatever was being written

    with closing(open_store(folder, readonly=True)) as store:
        sessions = {session.id: session for session in store.list_sessions(None, 9999, archived=True)}
    for session in sessions.values():
        # One that was killed before its first compaction has neither.
        assert session.summary == (f"{session.kept_from - 1} " * 900 if session.kept_from > 1 else None)
        assert session.kept_from <= session.message_count <= session.kept_from + 2
    assert len(said) >= 200
    for step, session_id, number in said:
        if step == "archived":
            assert sessions[session_id].archived_at == int(number)
        else:
            assert sessions[session_id].kept_from > int(number)


def note(acknowledged, line):
    if line.endswith("\n"):
        step, run_id = line.split()
        acknowledged[run_id] = step


WRITE_UNTIL_FULL = """
import resource, signal, sys
from pathlib import Path
from app.errors import StoreError
from app.messages import UserMessage
from app.sessions.records import RunStart
from app.sessions.sql import open_store

store = open_store(Path(sys.argv[1]))
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, most))

def write(run):
    store.begin(RunStart(run, "key", "s1", "main", "openai", "m", 1), [UserMessage.of(run + "x" * 900)])

stored = []
try:
    for n in range(1000):
        write(f"r{n}")
        stored.append(f"r{n}")
except StoreError as error:
    print(error)
print([entry.run_id for entry in store.load("key").history] == stored and len(stored) > 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
write("after")
print(store.load("key").history[-1].run_id, store.load("key").session.message_count - len(stored))
store.close()
"""


def test_a_write_that_the_system_refuses_is_reported_and_the_store_goes_on_afterwards(folder):
    with python(WRITE_UNTIL_FULL, folder) as writer:
        output, _ = writer.communicate(timeout=60)

    assert output.splitlines() == [
        "The disk failed while the session store (gateway.sqlite3) was read or written.",
        "True",
        "after 1",
    ]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_reported_and_the_store_goes_on_once_there_is_room(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 300_000)
    store = open_store(small_disk / "state")
    stored = []

    def write():
        for n in range(1000):
            store.begin(start(f"r{n}"), [UserMessage.of("x" * 9000)])
            stored.append(f"r{n}")

    with pytest.raises(StoreError, match="disk is full"):
        write()
    assert [entry.run_id for entry in store.load(KEY).history] == stored
    ballast.unlink()
    take_turn(store, "after")
    store.close()

    store = open_store(small_disk / "state")
    assert [entry.run_id for entry in store.load(KEY).history] == [*stored, "after", "after"]
    store.close()


def test_a_start_on_a_full_disk_is_reported_as_such(small_disk):
    with pytest.raises(OSError, match="No space left") as full:
        (small_disk / "ballast").write_bytes(b"x" * 2_000_000)
    assert full.value.errno == errno.ENOSPC

    with pytest.raises(StoreError, match="disk is full"):
        open_store(small_disk / "state")


def test_a_file_locked_by_another_program_is_reported_soon(folder):
    store = open_store(folder)
    other = sqlite3.connect(folder / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    began = time.monotonic()
    with pytest.raises(StoreError, match="locked"):
        store.begin(start("r1"), [])
    assert time.monotonic() - began < 5
    other.execute("ROLLBACK")
    other.close()

    take_turn(store, "r1")
    store.close()


# What a call costs, and where it runs


@pytest.fixture
def executed():
    """Every statement that any store executes during the test, with its values."""
    seen = []

    def remember(connection, cursor, statement, values, context, many):
        seen.append((statement, values[0] if many else values))

    event.listen(Engine, "before_cursor_execute", remember)
    yield seen
    event.remove(Engine, "before_cursor_execute", remember)


def test_no_statement_of_a_turn_reads_more_than_its_own_session_and_run(filled, executed):
    store = open_store(filled)
    executed.clear()
    store.load("agent:main:openai-user:5")
    take_turn(store, "new run", "s5", "agent:main:openai-user:5")
    take_turn(store, "first run", "new", "new key")
    store.append("s5", "new run", [said("more")], 1)
    store.get_run("r5")
    store.compact("s5", "summary", 3, 1)
    store.configure("agent:main:openai-user:5", SessionSettings(), 1)
    store.archive("agent:main:openai-user:5", 1)
    statements = list(executed)
    store.close()

    plans = query_plans(filled, statements)
    assert len(statements) > 12
    assert len(plans) > 8
    assert [step for step in plans if not step.startswith("SEARCH")] == []


def test_what_was_summed_up_is_not_read_again(filled, executed):
    with closing(open_store(filled)) as store:
        store.compact("s5", "summary", 2, 1)
        executed.clear()
        store.load("agent:main:openai-user:5")
        _, history = executed

    _, place = query_plans(filled, executed)
    assert place == "SEARCH messages USING INDEX sqlite_autoindex_messages_1 (session_id=? AND seq>?)"
    assert history[1] == ("s5", 2)


def test_children_and_usage_are_found_by_an_index(filled, executed):
    with closing(open_store(filled)) as store:
        executed.clear()
        store.list_sessions(None, 10, parent_key="parent")
        store.usage(UsageQuery(since=1, until=2, by=("day", "agent", "model", "session")))
        children, usage = executed

    assert "SEARCH sessions USING INDEX ix_sessions_parent (parent_key=?)" in query_plans(filled, [children])
    assert "SEARCH runs USING INDEX ix_runs_created_at (created_at>? AND created_at<?)" in query_plans(
        filled, [usage]
    )


def test_lists_and_the_start_up_sweep_walk_an_index_instead_of_sorting(filled, executed):
    store = open_store(filled)
    store.list_runs(None, 10)
    store.list_runs("key", 10)
    store.list_sessions(None, 10)
    statements = [(sql, values) for sql, values in executed if "PRAGMA" not in sql]
    store.close()

    plans = query_plans(filled, statements)
    assert [step for step in plans if step == "USE TEMP B-TREE FOR ORDER BY"] == []
    assert [step for step in plans if step.startswith("SCAN") and "USING INDEX" not in step] == []
    assert any("ix_runs_open" in step for step in plans)


def query_plans(folder, statements):
    raw = sqlite3.connect(folder / FILE)
    plans = [row[3] for sql, values in statements for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    raw.close()
    return plans


def test_every_call_goes_through_the_offload(folder):
    threads = []
    with ThreadPoolExecutor(1) as pool:

        def offload(work):
            def observed():
                threads.append(threading.get_ident())
                return work()

            return pool.submit(observed).result(30)

        store = open_store(folder, offload=offload)
        take_turn(store, "r1")
        store.append("s1", "r1", [said("more")], 1)
        with pytest.raises(StoreError, match="replaced"):
            store.begin(start("r2", "s2"), [])
        assert len(store.load(KEY).history) == 3
        assert store.get_run("r1").status == "completed"
        assert (len(store.list_runs(None, 9)), len(store.list_sessions(None, 9))) == (1, 1)
        assert len(store.transcript(KEY).history) == 3
        assert len(store.usage(UsageQuery())) == 1
        assert store.compact("s1", "summary", 2, 5000)
        assert store.configure(KEY, SessionSettings(), 5000)
        assert store.archive(KEY, 5000)
        assert store.delete_session(f"archived:s1:{KEY}")
        store.close()

    assert len(threads) == 15
    assert set(threads).isdisjoint({threading.get_ident()})


GREEN = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, sqlite3, sys, time
from gevent.threadpool import ThreadPool
from pathlib import Path
from app.errors import StoreError
from app.messages import UserMessage
from app.sessions.records import RunStart
from app.sessions.sql import open_store

folder = Path(sys.argv[1])
pool = ThreadPool(1)
store = open_store(folder, offload=pool.apply if sys.argv[2] == "thread" else None)

def work(thread):
    for n in range(10):
        run = RunStart(f"r{thread}-{n}", f"key{thread % 5}", f"s{thread % 5}", "main", "openai", "m", n)
        store.begin(run, [UserMessage.of("hi")])

gevent.joinall([gevent.spawn(work, thread) for thread in range(50)], raise_error=True)
print(sorted(store.load(f"key{n}").session.message_count for n in range(5)))

other = sqlite3.connect(folder / "gateway.sqlite3", isolation_level=None)
other.execute("BEGIN IMMEDIATE")
waiting = gevent.spawn(store.begin, RunStart("late", "key0", "s0", "main", "openai", "m", 1), [])
turns = 0
while not waiting.ready():
    gevent.sleep(0.01)
    turns += 1
print(type(waiting.exception).__name__, turns > 10)
store.close()
"""


@pytest.mark.parametrize(("offload", "others_go_on"), [("thread", "True"), ("inline", "False")])
def test_greenlets_share_a_store_and_a_native_thread_keeps_them_going(folder, offload, others_go_on):
    with python(GREEN, folder, offload) as green:
        output, _ = green.communicate(timeout=60)

    assert output.splitlines() == ["[100, 100, 100, 100, 100]", f"StoreError {others_go_on}"]


def python(code, *arguments):
    """A process of its own that runs ``code``; ``with`` waits for its end."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def touch(folder):
    folder.mkdir()
    (folder / FILE).touch()


# Any sequence of calls, beside a plain model of what a store is


KEYS = st.sampled_from(["k1", "k2", "k3"])
CHOICES = st.none() | st.sampled_from(["a/b", "high", "\N{SNOWMAN}"])
SETTINGS = st.builds(SessionSettings, CHOICES, CHOICES, CHOICES)
PRICES = st.sampled_from([None, 0.0, 0.25, 0.5, 4.0])
COUNTS = st.integers(0, 9)
USAGES = st.builds(Usage, *[COUNTS] * 5)


class StoreBesideItsModel:
    """A real store, and a model of it: sessions and entries by session id, runs by id.

    Each of the operations draws its values, calls the store and checks what comes back.
    """

    def __init__(self, folder):
        self.folder = folder
        self.store = open_store(folder)
        self.now = 0
        self.sessions, self.entries, self.runs = {}, {}, {}

    def tick(self):
        self.now += 1000
        return self.now

    def holder(self, key):
        return next((session for session in self.sessions.values() if session.key == key), None)

    def any_session(self, data):
        return self.sessions[data.draw(st.sampled_from(sorted(self.sessions)))]

    def any_run(self, data):
        """Mostly one that is not over."""
        still_on = sorted(run.id for run in self.runs.values() if run.ended_at is None)
        ended = sorted(set(self.runs) - set(still_on))
        return self.runs[data.draw(st.sampled_from(still_on * 3 + ended))]

    def extend(self, session_id, run_id, entries, **changes):
        """The model's half of adding entries; the seq of the first."""
        session = self.sessions.get(session_id)
        if session is None:
            return 0
        first = session.message_count + 1
        for seq, entry in enumerate(entries, first):
            self.entries[session_id].append(Entry(seq, entry.message, entry.stop, self.now, run_id))
        count = session.message_count + len(entries)
        self.sessions[session_id] = replace(session, message_count=count, updated_at=self.now, **changes)
        return first if entries else 0

    def begin(self, data):
        now, run_id, key = self.tick(), f"r{len(self.runs)}", data.draw(KEYS)
        parent = data.draw(st.none() | KEYS)
        kept = data.draw(st.sampled_from([True, True, True, False]))
        holder = self.holder(key)
        session_id = None if not kept else holder.id if holder else f"s{now}"
        if kept and holder is None:
            self.sessions[session_id] = Session(
                *(session_id, key, "main", now, now, 0, 0, 0, "mock/one"), parent_key=parent
            )
            self.entries[session_id] = []
        messages = [UserMessage.of(f"{run_id}-{n}") for n in range(data.draw(COUNTS))]
        entries = [NewEntry(message) for message in messages]
        expected = self.extend(session_id, run_id, entries, active_at=now) if kept else 0
        run = RunStart(run_id, key, session_id, "main", "openai", "mock/one", now, parent)
        assert self.store.begin(run, messages) == expected
        self.runs[run_id] = Run(
            *(run_id, key, session_id, "main", "openai", "mock/one", now, "in_progress", None, Usage()),
            *(None, None, None, 0),
        )

    def begin_beside_the_session_of_the_key(self, data):
        key = data.draw(KEYS)
        if self.holder(key):
            with pytest.raises(StoreError):
                self.store.begin(start(f"r{len(self.runs)}", f"s{self.tick()}", key), [UserMessage.of("x")])

    def append(self, data):
        if self.runs:
            run, now = self.any_run(data), self.tick()
            entries = [NewEntry(ToolMessage(f"c{n}", "read", f"{now}")) for n in range(data.draw(COUNTS))]
            expected = self.extend(run.session_id, run.id, entries) if entries else 0
            assert self.store.append(run.session_id, run.id, entries, now) == expected

    def finish(self, data):
        if not self.runs:
            return
        run, now, usage, cost = self.any_run(data), self.tick(), data.draw(USAGES), data.draw(PRICES)
        context, entries = data.draw(st.sampled_from([0, 7, 8])), [said("answer")]
        calls = tuple(ModelCall("mock/one", 0, "overloaded", 529, n) for n in range(data.draw(COUNTS)))
        end = ("completed", "stop", usage, "mock/two", None, None, now, 1, cost, context, calls)
        self.store.finish(RunEnd(run.id, *end), entries)
        if run.ended_at is not None:
            return
        ended = {"status": "completed", "finish_reason": "stop", "ended_at": now, "attempts": 1}
        self.runs[run.id] = replace(run, **ended, model="mock/two", usage=usage, cost=cost, calls=calls)
        if session := self.sessions.get(run.session_id):
            self.extend(
                *(session.id, run.id, entries),
                input_tokens=session.input_tokens + usage.input,
                output_tokens=session.output_tokens + usage.output,
                cost=session.cost + (cost or 0),
                context_tokens=context or session.context_tokens,
                model="mock/two",
                active_at=now,
            )

    def compact(self, data):
        if not self.sessions:
            return
        session, now = self.any_session(data), self.tick()
        last = session.message_count
        near = [place + step for place in (session.kept_from, last + 1) for step in (-1, 0, 1)]
        kept_from = data.draw(st.sampled_from(near) | st.integers(-1, last + 3))
        possible = session.kept_from < kept_from <= last + 1
        assert self.store.compact(session.id, f"until {kept_from}", kept_from, now) is possible
        if possible:
            changes = {"summary": f"until {kept_from}", "kept_from": kept_from, "updated_at": now}
            changes |= {"context_tokens": 0}
            self.sessions[session.id] = replace(session, **changes, compactions=session.compactions + 1)

    def configure(self, data):
        now, key, made = self.tick(), data.draw(KEYS), data.draw(SETTINGS)
        holder = self.holder(key)
        assert self.store.configure(key, made, now) is (holder is not None)
        if holder:
            self.sessions[holder.id] = replace(holder, settings=made, updated_at=now)

    def archive(self, data):
        now, key = self.tick(), data.draw(KEYS)
        holder = self.holder(key)
        assert self.store.archive(key, now) is (holder is not None)
        if holder:
            name = f"archived:{holder.id}:{key}"
            self.sessions[holder.id] = replace(holder, key=name, archived_at=now)

    def delete(self, data):
        if self.sessions:
            session = self.sessions.pop(self.any_session(data).id)
            del self.entries[session.id]
            assert self.store.delete_session(session.key) is True

    def restart(self, data):
        self.store.close()
        self.store = open_store(self.folder)
        for run_id, run in self.runs.items():
            if run.ended_at is None:
                record = self.store.get_run(run_id)
                assert (record.status, record.error_code) == ("failed", "interrupted")
                self.runs[run_id] = record

    def check_sessions(self):
        listed = {session.id: session for session in self.store.list_sessions(None, 999, archived=True)}
        assert listed == self.sessions
        live = {session.id for session in self.sessions.values() if session.archived_at is None}
        assert {session.id for session in self.store.list_sessions(None, 999)} == live
        for session in self.sessions.values():
            entries = tuple(self.entries[session.id])
            whole, loaded = self.store.transcript(session.key), self.store.load(session.key)
            assert (whole.session, whole.history) == (session, entries)
            assert (loaded.session, loaded.history) == (session, entries[session.kept_from - 1 :])

    def check_runs(self):
        assert {run.id: run for run in self.store.list_runs(None, 999)} == self.runs
        ended = [run for run in self.runs.values() if run.ended_at is not None]
        usage = sum((run.usage for run in ended), Usage())
        unpriced = [run for run in ended if run.cost is None and run.usage.total]
        total = UsageRow((), len(ended), usage, sum(run.cost or 0 for run in ended), len(unpriced))
        assert self.store.usage(UsageQuery(by=())) == [total]


OPERATIONS = [
    *["begin", "begin", "append", "finish", "finish", "compact", "compact"],
    *["begin_beside_the_session_of_the_key", "configure", "archive", "delete", "restart"],
]


# Without shrinking: that would take minutes, and thirty calls can be read as they are.
@settings(max_examples=40, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_any_sequence_of_calls_leaves_what_a_plain_model_says(data):
    with tempfile.TemporaryDirectory() as folder:
        both = StoreBesideItsModel(Path(folder))
        try:
            for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=10, max_size=30)):
                getattr(both, operation)(data)
                both.check_sessions()
                both.check_runs()
        finally:
            both.store.close()
