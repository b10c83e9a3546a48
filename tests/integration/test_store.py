"""The contract of the session store, whatever engine is behind it."""

import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from app.errors import StoreError
from app.messages import AssistantMessage, ImagePart, TextPart, ToolCall, ToolMessage, Usage, UserMessage
from app.sessions.records import (
    Entry,
    ModelCall,
    NewEntry,
    Run,
    RunEnd,
    Session,
    SessionSettings,
    UsageQuery,
    UsageRow,
)
from app.sessions.sql import open_store
from tests.integration.stores import ENGINES, KEY, charge, end, place_for, said, start, take_turn, texts


@pytest.fixture(params=ENGINES)
def store(request, tmp_path):
    """Every engine in turn; the tests ask nothing else of it."""
    with place_for(request.param, tmp_path / "state") as place, closing(open_store(place)) as store:
        yield store


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
    store.append("s1", "note", [said("more")], 3000)
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
