"""Who lives, who is in a session's lane, and that the dead write nothing: on every engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Fenced, RunUnderWay, StoreError
from app.messages import AssistantMessage, Usage, UserMessage
from app.sessions.records import Branch, NewEntry, NewResponse, RunEnd, RunStart
from app.sessions.sql import open_store
from app.sessions.store import Store
from tests.integration.stores import ENGINES, place_for

KEY = "agent:main:chat"
LONG, SHORT = 60.0, 0.05
HI = [UserMessage.of("hi")]


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with place_for(request.param, tmp_path) as place, closing(open_store(place)) as store:
        yield store


def start(run_id: str, worker: str = "", session_id: str | None = "s1", key: str = KEY) -> RunStart:
    return RunStart(run_id, key, session_id, "main", "openai", "m", 1_000, worker=worker)


def end(run_id: str, worker: str = "") -> RunEnd:
    return RunEnd(run_id, "completed", "stop", Usage(1, 1), "m", None, None, 2_000, 1, worker=worker)


def said(text: str) -> NewEntry:
    return NewEntry(AssistantMessage(text), "stop")


def texts(store: Store, key: str = KEY) -> list[str]:
    return [entry.message.text for entry in store.transcript(key).history]


def let_die(store: Store, *workers: str) -> None:
    """Wait until the time of these workers is up, and one of the others has noticed."""
    for worker in workers:
        assert store.beat(worker, SHORT)
    deadline = time.monotonic() + 10
    while set(store.others("")) & set(workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_lives_from_its_join_until_it_quits(store: Store) -> None:
    assert store.beat("w1", LONG) is False
    store.join("w1", "w1", LONG)
    store.join("w2", "w2", LONG)

    assert store.beat("w1", LONG) is True
    assert (store.others("w1"), store.others("w2")) == (["w2"], ["w1"])
    store.quit("w2")
    assert (store.others("w1"), store.beat("w2", LONG)) == ([], False)
    store.quit("w2")


def test_who_is_late_lives_on_unless_somebody_has_noticed(store: Store) -> None:
    for worker in ("late", "dead"):
        store.join(worker, worker, LONG)
    let_die(store, "late", "dead")

    assert store.beat("late", LONG) is True
    assert store.sweep(5_000) == []

    assert store.beat("late", LONG) is True
    assert store.beat("dead", LONG) is False


def test_the_runs_of_a_dead_worker_have_failed_and_those_of_others_go_on(store: Store) -> None:
    for worker in ("dead", "alive"):
        store.join(worker, worker, LONG)
        store.begin(start(f"of-{worker}", worker, f"s-{worker}", f"key-{worker}"), HI)
    store.begin(start("ended", "dead", None), [])
    store.finish(end("ended", "dead"), [])
    let_die(store, "dead")

    lost = store.sweep(5_000)

    assert [(run.id, run.session_key, run.agent_id, run.worker) for run in lost] == [
        ("of-dead", "key-dead", "main", "dead")
    ]
    record = store.get_run("of-dead")
    assert record is not None
    assert (record.status, record.error_code, record.ended_at) == ("failed", "interrupted", 5_000)
    assert lost == [record]
    assert [run.id for run in store.open_runs()] == ["of-alive"]
    ended = store.get_run("ended")
    assert ended is not None
    assert ended.status == "completed"
    assert store.sweep(6_000) == []


def test_a_run_that_was_swept_writes_nothing_any_more(store: Store) -> None:
    store.join("w1", "w1", LONG)
    store.begin(start("r1", "w1"), HI)
    store.append("s1", "r1", [said("one")], 1_500, "w1")
    let_die(store, "w1")
    store.sweep(5_000)
    before = store.transcript(KEY), store.get_run("r1")

    with pytest.raises(Fenced):
        store.append("s1", "r1", [said("two")], 6_000, "w1")
    with pytest.raises(Fenced):
        store.compact("s1", "summary", 2, 6_000, "r1", "w1")
    assert store.finish(end("r1", "w1"), [said("three")]) is False
    with pytest.raises(Fenced):
        store.begin(start("r2", "w1"), HI)
    with pytest.raises(Fenced):
        store.begin(start("r3", "w1", None, "elsewhere"), [])

    assert (store.transcript(KEY), store.get_run("r1")) == before
    assert (store.get_run("r2"), store.get_run("r3")) == (None, None)


def test_a_run_that_goes_on_elsewhere_takes_nothing_from_its_former_worker(store: Store) -> None:
    for worker in ("w1", "w2"):
        store.join(worker, worker, LONG)
    store.begin(start("r1", "w1"), HI)
    let_die(store, "w1")
    store.sweep(5_000)
    store.begin(start("r1", "w2"), [])

    with pytest.raises(Fenced):
        store.append("s1", "r1", [said("stale")], 6_000, "w1")
    with pytest.raises(Fenced):
        store.compact("s1", "stale", 2, 6_000, "r1", "w1")
    assert store.finish(end("r1", "w1"), [said("stale")]) is False

    assert store.append("s1", "r1", [said("fresh")], 6_000, "w2") == 2
    assert store.compact("s1", "summary", 2, 6_000, "r1", "w2") is True
    assert store.finish(end("r1", "w2"), [said("end")]) is True
    assert texts(store) == ["hi", "fresh", "end"]


def test_a_run_that_is_over_adds_nothing_and_a_note_is_no_run(store: Store) -> None:
    store.begin(start("r1"), HI)
    assert store.finish(end("r1"), []) is True

    with pytest.raises(Fenced):
        store.append("s1", "r1", [said("late")], 3_000)
    assert store.compact("s1", "by hand", 2, 3_000) is True
    assert store.append("s1", "note-1", [said("note")], 3_000) == 2
    assert store.append("gone", "note-2", [said("note")], 3_000) == 0


def test_what_a_dead_worker_has_queued_is_adopted_once(store: Store) -> None:
    for worker in ("w1", "w2", "w3"):
        store.join(worker, worker, LONG)
    for number, name in enumerate(["b", "a", "c"]):
        store.enqueue(replace(start(name, "w1"), created_at=1_000 + number // 2), f"request {name}")
    store.enqueue(start("of-w2", "w2"), "its own")
    assert store.adopt("w2") == []  # whose they are lives
    let_die(store, "w1")
    store.sweep(5_000)

    assert [(run.id, run.request) for run in store.adopt("w2")] == [
        ("a", "request a"),
        ("b", "request b"),
        ("c", "request c"),
    ]
    assert store.adopt("w3") == store.adopt("w2") == []
    assert {run.worker for run in store.open_runs()} == {"w2"}
    with pytest.raises(Fenced):
        store.adopt("w1")


def test_an_end_in_order_leaves_the_queue_to_others(store: Store) -> None:
    for worker in ("w1", "w2"):
        store.join(worker, worker, LONG)
    store.enqueue(start("r1", "w1"), "request")

    store.quit("w1")

    assert [run.id for run in store.adopt("w2")] == ["r1"]
    store.begin(start("r1", "w2"), HI)
    with pytest.raises(StoreError):
        store.begin(start("r1", "w2"), HI)
    assert store.adopt("w2") == []


def test_the_responses_of_a_dead_worker_are_closed_unless_their_run_waits(store: Store) -> None:
    for worker in ("dead", "alive"):
        store.join(worker, worker, LONG)
    for name, worker in (("begun", "dead"), ("unbegun", "dead"), ("queued", "dead"), ("alive", "alive")):
        store.open_response(
            NewResponse(name, "main", 1, "{}", worker=worker), Branch(f"key-{name}", f"s-{name}")
        )
    store.begin(start("begun", "dead", "s-begun", "key-begun"), HI)
    store.enqueue(start("queued", "dead", "s-queued", "key-queued"), "request")
    let_die(store, "dead")
    store.sweep(5_000)

    found = {name: store.get_response(name) for name in ("begun", "unbegun", "queued", "alive")}
    assert {name: one.open for name, one in found.items() if one} == {
        "begun": False,
        "unbegun": False,
        "queued": True,
        "alive": True,
    }
    begun = found["begun"]
    assert begun is not None
    assert (begun.session_id, begun.last_seq, begun.body) == ("s-begun", 1, None)


def test_a_wish_to_cancel_reaches_whoever_has_the_run_until_it_is_over(store: Store) -> None:
    store.join("w1", "w1", LONG)
    store.begin(start("r1", "w1"), HI)
    store.enqueue(start("r2", "w1", key="other"), "request")
    assert store.cancels("w1") == {}

    assert store.ask_cancel("r1", "user") is True
    assert store.ask_cancel("r1", "second thoughts") is True
    assert store.ask_cancel("r2", "user") is True
    assert store.ask_cancel("nobody's", "user") is False
    assert store.cancels("w1") == {"r1": "user", "r2": "user"}
    assert store.cancels("w2") == {}

    store.begin(start("r2", "w1", "s2", "other"), HI)
    store.finish(end("r1", "w1"), [])
    assert store.cancels("w1") == {"r2": "user"}
    assert store.ask_cancel("r1", "user") is False


def test_open_runs_are_told_by_session_the_oldest_first(store: Store) -> None:
    store.begin(replace(start("new"), created_at=2_000), HI)
    store.enqueue(start("old"), "request")
    store.begin(start("other", session_id="s2", key="other"), HI)
    store.begin(start("over", session_id=None), [])
    store.finish(end("over"), [])

    assert [run.id for run in store.open_runs(KEY)] == ["old", "new"]
    assert {run.id for run in store.open_runs()} == {"old", "new", "other"}
    assert store.open_runs("nobody's") == []


# Lanes


def test_the_first_holds_the_lane_and_others_follow_in_their_order(store: Store) -> None:
    store.join("w1", "w1", LONG)
    assert store.enter_lane(KEY, "a", "w1", 9) == "held"
    assert [store.enter_lane(KEY, run, "w1", 9) for run in "bcd"] == ["waiting"] * 3
    assert store.enter_lane("another", "e", "w1", 9) == "held"

    assert [store.take_lane(run) for run in "abcd"] == [True, False, False, False]
    store.leave_lane("c")  # it was cancelled while it waited
    store.leave_lane("a")
    assert [store.take_lane(run) for run in "db"] == [False, True]
    assert store.take_lane("b") is True
    store.leave_lane("b")
    store.leave_lane("b")
    assert store.take_lane("d") is True


def test_a_place_is_taken_once_and_a_line_is_full_at_its_limit(store: Store) -> None:
    store.join("w1", "w1", LONG)
    assert [store.enter_lane(KEY, run, "w1", 2) for run in "abc"] == ["held", "waiting", "full"]
    assert [store.enter_lane(KEY, run, "w1", 2) for run in "ab"] == ["held", "waiting"]

    store.leave_lane("a")

    assert store.enter_lane(KEY, "c", "w1", 2) == "waiting"
    assert [store.take_lane(run) for run in "bc"] == [True, False]
    with pytest.raises(Fenced):
        store.take_lane("a")


def test_a_run_that_stands_in_line_for_one_worker_does_not_for_another(store: Store) -> None:
    for worker in ("w1", "w2"):
        store.join(worker, worker, LONG)
    assert [store.enter_lane(KEY, run, "w1", 9) for run in "ab"] == ["held", "waiting"]

    for run in "ab":
        with pytest.raises(RunUnderWay):
            store.enter_lane(KEY, run, "w2", 9)

    assert [store.take_lane(run) for run in "ab"] == [True, False]


def test_a_lane_outlives_the_worker_that_held_it(store: Store) -> None:
    for worker in ("dead", "alive"):
        store.join(worker, worker, LONG)
    store.enter_lane(KEY, "a", "dead", 9)
    store.enter_lane(KEY, "b", "alive", 9)
    store.enter_lane(KEY, "c", "dead", 9)
    let_die(store, "dead")
    assert store.take_lane("b") is False

    store.sweep(5_000)

    assert store.take_lane("b") is True
    for run in "ac":
        with pytest.raises(Fenced):
            store.take_lane(run)
    with pytest.raises(Fenced):
        store.enter_lane(KEY, "d", "dead", 9)


LANE_STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "take", "leave"]), st.sampled_from("kl"), st.integers(0, 5)),
    max_size=40,
)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=25, deadline=None)
@given(steps=LANE_STEPS)
def test_a_lane_is_a_queue(
    tmp_path_factory: pytest.TempPathFactory, engine: str, steps: list[tuple[str, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with place_for(engine, folder) as place, closing(open_store(place)) as store:
        store.join("w1", "w1", LONG)
        lines: dict[str, list[str]] = {"k": [], "l": []}
        held: set[str] = set()
        for step, key, number in steps:
            run, line = f"{key}{number}", lines[key]
            if step == "enter":
                full = run not in line and len(line) == 4
                if not full and run not in line:
                    line.append(run)
                    held |= {run} if line == [run] else set()
                expected = "full" if full else "held" if run in held else "waiting"
                assert store.enter_lane(key, run, "w1", 4) == expected
            elif step == "leave":
                store.leave_lane(run)
                lines[key] = [other for other in line if other != run]
                held.discard(run)
            elif run in line:
                held |= {run} if line[0] == run else set()
                assert store.take_lane(run) is (run in held)
            else:
                with pytest.raises(Fenced):
                    store.take_lane(run)


# What is stored is the same everywhere


@settings(max_examples=60, deadline=None)
@given(words=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@pytest.mark.parametrize("engine", ENGINES)
def test_any_text_is_stored_and_found_again(one_of_each: dict[str, Store], engine: str, words: str) -> None:
    store, kept = one_of_each[engine], words.replace("\0", "\ufffd")
    key, run_id, session_id = f"k{words}", f"r{words}", f"s{words}"
    if (session := store.session(key)) is not None:
        store.delete_session(key)
    run_id = f"{run_id}-{session.id if session else ''}-{time.monotonic_ns()}"
    store.begin(start(run_id, session_id=session_id, key=key), [UserMessage.of(words)])
    store.append(session_id, run_id, [said(words)], 1)
    store.compact(session_id, words, 2, 1)
    store.finish(replace(end(run_id), status="failed", error_message=words, error_code=words), [])

    record, loaded = store.get_run(run_id), store.transcript(key)
    assert record is not None
    assert (record.session_key, record.error_message, record.error_code) == (f"k{kept}", kept, kept)
    assert loaded.session is not None
    assert (loaded.session.id, loaded.session.key, loaded.session.summary) == (f"s{kept}", f"k{kept}", kept)
    assert [entry.message.text for entry in loaded.history] == [words, words]
    assert (store.get_response(words), store.load(f"other{words}").session) == (None, None)


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    with (
        place_for("sqlite", tmp_path_factory.mktemp("state")) as folder,
        place_for("postgres", None) as url,
        closing(open_store(folder)) as on_file,
        closing(open_store(url)) as on_server,
    ):
        yield {"sqlite": on_file, "postgres": on_server}
