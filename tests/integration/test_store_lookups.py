"""What lists and previews read from the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.messages import AssistantMessage, Usage, UserMessage
from app.sessions.records import Added, NewEntry, RunEnd, RunStart, SessionSettings
from app.sessions.sql import open_store
from app.sessions.store import Store
from tests.integration.stores import ENGINES, place_for


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with place_for(request.param, tmp_path) as place, closing(open_store(place)) as store:
        yield store


def talk(store: Store, key: str, *texts: str, agent: str = "main") -> None:
    """Begin a session named after its key, whose turns are these questions and their echoes."""
    for number, text in enumerate(texts):
        run = RunStart(f"{key}-{number}", key, f"id-{key}", agent, "tests", "p/m", 1)
        store.begin(run, [UserMessage.of(text)])
        store.append(run.session_id, run.id, [NewEntry(AssistantMessage(f"{text}!"), "stop")], 2)


def end(run_id: str) -> RunEnd:
    return RunEnd(run_id, "completed", "stop", Usage(), "p/m", None, None, 3, 1)


def test_the_newest_messages_come_in_their_order(store: Store) -> None:
    talk(store, "a", "one", "two", "three")

    loaded = store.newest("a", 3)

    assert loaded.session is not None
    assert [(entry.seq, entry.message.text) for entry in loaded.history] == [
        (4, "two!"),
        (5, "three"),
        (6, "three!"),
    ]
    assert len(store.newest("a", 100).history) == 6
    assert store.newest("nobody's", 3).session is None


def test_whoever_watches_is_shown_what_is_stored_as_it_is_then_read(store: Store) -> None:
    seen: list[Added] = []
    store.watch(seen.append)

    run = RunStart("r1", "a", "id-a", "main", "tests", "p/m", 1)
    store.begin(run, [UserMessage.of("one"), UserMessage.of("two")])
    store.append("id-a", "r1", [NewEntry(AssistantMessage("hm"), "tool_calls")], 2)
    store.finish(end("r1"), [NewEntry(AssistantMessage("three"), "stop")])
    store.finish(end("r1"), [NewEntry(AssistantMessage("again"), "stop")])
    store.append("nobody's", "a note", [NewEntry(AssistantMessage("lost"))], 2)
    store.begin(RunStart("r2", "b", None, "main", "tests", "p/m", 1), [UserMessage.of("not kept")])

    assert {(one.session_key, one.agent_id) for one in seen} == {("a", "main")}
    assert [len(one.entries) for one in seen] == [2, 1, 1]
    assert tuple(entry for one in seen for entry in one.entries) == store.transcript("a").history


def test_a_watcher_that_fails_keeps_nothing_from_being_stored(store: Store) -> None:
    seen: list[Added] = []
    store.watch(lambda added: {}[added])
    store.watch(seen.append)

    talk(store, "a", "one")

    assert [entry.message.text for entry in store.transcript("a").history] == ["one", "one!"]
    assert len(seen) == 2


def test_sessions_tell_how_they_began_and_what_was_said_last(store: Store) -> None:
    talk(store, "a", "one", "two")
    talk(store, "b", "three")
    talk(store, "c", "four")
    store.create("empty", "id-empty", "main", 1)

    ends = store.ends(["id-a", "id-b", "id-empty", "nobody's"])

    texts = {session_id: [entry.message.text for entry in entries] for session_id, entries in ends.items()}
    assert texts == {"id-a": ["one", "two!"], "id-b": ["three", "three!"]}
    assert store.ends([]) == {}


def test_sessions_are_counted_without_those_put_away(store: Store) -> None:
    talk(store, "a", "one")
    talk(store, "b", "two", agent="beta")
    talk(store, "c", "three")
    store.archive("c", 3)

    assert [store.count_sessions(agent) for agent in (None, "main", "beta", "nobody")] == [2, 1, 1, 0]


def test_everything_that_was_chosen_for_a_session_is_kept(store: Store) -> None:
    settings = SessionSettings("p/m", "high", "full", "My chat", "on", "stream")
    store.create("a", "id-a", "main", 1)

    store.configure("a", settings, 2)

    session = store.session("a")
    assert session is not None
    assert session.settings == settings


def test_nobody_fills_up_the_list_of_another_namespace(store: Store) -> None:
    diary = "agent:main:caller:bob:diary"
    for number in range(2):
        store.begin(RunStart(f"r{number}", diary, f"s{number}", "main", "tests", "p/m", 1), [])
        assert number or store.archive(diary, 9)
    for number in range(3):
        talk(store, f"agent:main:caller:ann:x{number}:caller:bob:y", "hi")
        talk(store, f"agent:main:caller:b_b:{number}", "hi")
        talk(store, f"agent:main:caller:ann:agent:main:caller:bob:{number}", "hi")

    assert [one.id for one in store.list_sessions(None, 1, namespace="bob")] == ["s1"]
    listed = store.list_sessions("main", 2, namespace="bob", archived=True)
    assert {one.id for one in listed} == {"s0", "s1"}
    assert store.list_sessions("beta", 2, namespace="bob", archived=True) == []
