"""Stored responses: who goes on in place, who gets a copy, and what is deleted with what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.messages import AssistantMessage, Message, Usage, UserMessage
from app.sessions.keys import conversation_key, fresh_key
from app.sessions.records import Branch, NewEntry, NewResponse, RunEnd, RunStart, SessionSettings
from app.sessions.sql import open_store
from app.sessions.store import Store
from tests.integration.stores import ENGINES, place_for

FILE = "gateway.sqlite3"
BODY = '{"status":"completed"}'


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with place_for(request.param, tmp_path) as place, closing(open_store(place)) as store:
        yield store


def branch(name: str) -> Branch:
    return Branch(fresh_key("main", name, "openresponses"), f"s-{name}")


def begin(store: Store, name: str, parent: str | None = None, key: str | None = None) -> str | None:
    """The key of the session that response ``name`` goes on in."""
    own = branch(name)
    new = NewResponse(name, "main", 1_000, "{}", parent)
    return store.open_response(new, Branch(key or own.key, own.session_id))


def run(store: Store, name: str, key: str) -> None:
    """A turn in a session, by a run of this id."""
    session = store.session(key)
    session_id = session.id if session else f"s-{name}"
    store.begin(
        RunStart(name, key, session_id, "main", "openai", "m", 1_000), [UserMessage.of(f"ask {name}")]
    )
    answer = NewEntry(AssistantMessage(f"say {name}"), "stop")
    store.finish(RunEnd(name, "completed", "stop", Usage(), "m", None, None, 1_001, 1), [answer])


def respond(store: Store, name: str, parent: str | None = None, key: str | None = None) -> str:
    found = begin(store, name, parent, key)
    assert found is not None
    run(store, name, found)
    store.close_response(name, BODY)
    return found


def texts(messages: list[Message] | None) -> list[str]:
    assert messages is not None
    return [message.text for message in messages]


def asked(messages: list[Message] | None) -> list[str]:
    return [text.removeprefix("ask ") for text in texts(messages) if text.startswith("ask")]


def test_a_response_is_there_once_it_is_finished(store: Store) -> None:
    begin(store, "a")
    opened = store.get_response("a")
    assert opened is not None
    assert (opened.open, opened.body, opened.last_seq) == (True, None, None)
    run(store, "a", branch("a").key)
    store.close_response("a", BODY)
    closed = store.get_response("a")
    assert closed is not None
    assert (closed.open, closed.body, closed.session_id, closed.last_seq) == (False, BODY, "s-a", 2)
    assert store.get_response("b") is None


def test_the_first_to_follow_goes_on_in_place_and_all_others_get_a_copy(store: Store) -> None:
    home = respond(store, "a")
    assert respond(store, "b", "a") == home
    forks = [respond(store, name, "a") for name in ("c", "d")]
    assert forks == [branch("c").key, branch("d").key]
    assert texts(store.response_messages("b")) == ["ask a", "say a", "ask b", "say b"]
    assert texts(store.response_messages("c")) == ["ask a", "say a", "ask c", "say c"]
    assert texts(store.response_messages("a")) == ["ask a", "say a"]


def test_fifty_who_follow_at_once_never_share(store: Store) -> None:
    respond(store, "a")
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda number: respond(store, f"n{number}", "a"), range(50)))
    assert len(set(keys)) == 50
    for number in range(50):
        assert asked(store.response_messages(f"n{number}")) == ["a", f"n{number}"]


def test_what_was_said_meanwhile_by_others_is_not_followed(store: Store) -> None:
    home = respond(store, "a", key="agent:main:openresponses-user:alice")
    run(store, "stranger", home)
    assert respond(store, "b", "a") == branch("b").key
    assert asked(store.response_messages("b")) == ["a", "b"]


def test_whoever_follows_a_response_of_a_conversation_leaves_it(store: Store) -> None:
    key = conversation_key("main", "conv_1")
    respond(store, "a", key=key)
    assert respond(store, "b", "a") == branch("b").key


def test_a_copy_keeps_the_settings_and_begins_to_count_anew(store: Store) -> None:
    home = respond(store, "a")
    assert store.configure(home, SessionSettings(model="x/y"), 1_100)
    respond(store, "b", "a")
    session = store.session(respond(store, "c", "a"))
    assert session is not None
    assert (session.settings.model, session.message_count, session.agent_id) == ("x/y", 4, "main")


def test_a_summary_is_copied_only_if_it_tells_of_nothing_later(store: Store) -> None:
    home = respond(store, "a")
    respond(store, "b", "a")
    respond(store, "c", "b")
    session = store.session(home)
    assert session is not None
    assert store.compact(session.id, "a and a half", 4, 1_100)
    later, earlier = store.load(respond(store, "d", "b")), store.load(respond(store, "e", "a"))
    assert later.session is not None
    assert earlier.session is not None
    assert (later.session.summary, later.session.kept_from) == ("a and a half", 4)
    assert (earlier.session.summary, earlier.session.kept_from) == (None, 1)
    assert [entry.message.text for entry in earlier.history] == ["ask a", "say a", "ask e", "say e"]


def test_what_is_open_or_gone_or_never_began_cannot_be_followed(store: Store) -> None:
    begin(store, "open")
    begin(store, "unbegun")
    store.close_response("unbegun", BODY)
    respond(store, "deleted")
    assert store.delete_response("deleted")
    for parent in ("open", "unbegun", "deleted", "nobody"):
        assert begin(store, "child", parent) is None
        assert store.response_messages(parent) is None
    assert store.get_response("child") is None


def test_a_response_that_was_abandoned_leaves_no_trace(store: Store) -> None:
    home = respond(store, "a")
    assert begin(store, "b", "a") == home
    assert begin(store, "c", "a") == branch("c").key
    for name in ("b", "c"):
        store.abandon_response(name, branch(name))
        assert store.get_response(name) is None
    assert store.session(branch("c").key) is None
    assert store.session(home) is not None
    assert begin(store, "d", "a") == home


def test_the_session_goes_with_its_last_response(store: Store) -> None:
    home = respond(store, "a")
    respond(store, "b", "a")
    assert store.delete_response("a")
    assert asked(store.response_messages("b")) == ["a", "b"]
    begin(store, "c", "b")
    assert store.delete_response("b")
    assert store.session(home) is not None  # somebody is about to go on there
    run(store, "c", home)
    store.close_response("c", BODY)
    assert store.delete_response("c")
    assert store.session(home) is None
    assert not store.delete_response("c")


@pytest.mark.parametrize("key", ["agent:main:openresponses-user:a", "agent:main:conversation:c", "chat"])
def test_a_session_that_somebody_named_outlives_its_responses(store: Store, key: str) -> None:
    respond(store, "a", key=key)
    assert store.delete_response("a")
    assert store.session(key) is not None


def test_responses_go_with_their_session(store: Store) -> None:
    home = respond(store, "a")
    respond(store, "b", "a")
    respond(store, "c", "a")
    assert store.delete_session(home)
    assert [store.get_response(name) is None for name in ("a", "b", "c")] == [True, True, False]


def test_the_next_process_closes_what_was_left_open(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as store:
        respond(store, "a")
        key = begin(store, "b", "a")
        assert key is not None
        start = RunStart("b", key, "s-a", "main", "openai", "m", 1_000)
        store.begin(start, [UserMessage.of("ask b")])
        begin(store, "c")
    with closing(open_store(tmp_path)) as store:
        found = [store.get_response(name) for name in "abc"]
        assert [one and (one.open, one.body, one.last_seq) for one in found] == [
            (False, BODY, 2),
            (False, None, 3),
            (False, None, None),
        ]
        assert respond(store, "d", "b") == key  # the question is there, whatever came of it


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=25, deadline=None)
@given(tree=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=12))
def test_every_response_sees_its_ancestors_and_nobody_else(
    tmp_path_factory: pytest.TempPathFactory, engine: str, tree: list[tuple[int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with place_for(engine, folder) as place, closing(open_store(place)) as store:
        lines: dict[str, list[str]] = {}
        for number, (choice, fresh) in enumerate(tree):
            name, earlier = f"n{number}", sorted(lines)
            parent = None if fresh or not earlier else earlier[choice % len(earlier)]
            respond(store, name, parent)
            lines[name] = [*(lines[parent] if parent else []), name]
        for name, line in lines.items():
            assert asked(store.response_messages(name)) == line
        sessions = store.list_sessions(None, 100)
        assert len({session.key for session in sessions}) == len(sessions)


# files of earlier versions

BACK_TO_3 = """
    DROP TABLE places; DROP TABLE workers;
    ALTER TABLE responses DROP COLUMN worker; ALTER TABLE runs DROP COLUMN cancel;
    ALTER TABLE runs DROP COLUMN worker; PRAGMA user_version = 3;
"""
BACK_TO_2 = f"""
    {BACK_TO_3}
    DROP TABLE responses; ALTER TABLE runs DROP COLUMN fingerprint; PRAGMA user_version = 2;
"""


@pytest.mark.parametrize("back", [BACK_TO_2, BACK_TO_3])
def test_a_store_of_an_earlier_version_opens_and_goes_on(tmp_path: Path, back: str) -> None:
    with closing(open_store(tmp_path)) as store:
        run(store, "old", "chat")
    with closing(sqlite3.connect(tmp_path / FILE)) as raw:
        new = schema(raw)
        raw.executescript(back)
        assert schema(raw) != new
    for _ in range(2):
        with closing(open_store(tmp_path)) as store:
            assert [entry.message.text for entry in store.load("chat").history] == ["ask old", "say old"]
    with closing(sqlite3.connect(tmp_path / FILE)) as raw:
        assert schema(raw) == new
        assert raw.execute("PRAGMA foreign_key_list('responses')").fetchone()[2:7] == (
            *("sessions", "session_id", "id", "NO ACTION", "CASCADE"),
        )
    with closing(open_store(tmp_path)) as store:
        names = [f"n{number}" for number in range(3)]
        respond(store, names[0])
        for parent, name in pairwise(names):
            respond(store, name, parent)
        assert asked(store.response_messages("n2")) == names


def schema(raw: sqlite3.Connection) -> list[object]:
    tables = ("sessions", "messages", "runs", "responses", "workers", "places")
    columns = [raw.execute("SELECT * FROM pragma_table_info(?)", (table,)).fetchall() for table in tables]
    indexes = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name").fetchall()
    return [raw.execute("PRAGMA user_version").fetchone(), columns, indexes]
