"""What lists and previews read from the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.messages import AssistantMessage, UserMessage
from app.sessions.records import NewEntry, RunStart, SessionSettings
from app.sessions.sql import open_store
from app.sessions.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path)
    yield store
    store.close()


def talk(store: Store, key: str, *texts: str, agent: str = "main") -> None:
    """Begin a session named after its key, whose turns are these questions and their echoes."""
    for number, text in enumerate(texts):
        run = RunStart(f"{key}-{number}", key, f"id-{key}", agent, "tests", "p/m", 1)
        store.begin(run, [UserMessage.of(text)])
        store.append(run.session_id, run.id, [NewEntry(AssistantMessage(f"{text}!"), "stop")], 2)


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
