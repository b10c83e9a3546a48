"""What a store remembers of conversations that it has read: never anything but what the database holds."""

from contextlib import closing

import pytest
from sqlalchemy import create_engine, text

from app.sessions.sql import open_store
from app.sessions.sqlite import FILE_NAME
from tests.integration.stores import ENGINES, KEY, place_for, take_turn, texts


@pytest.fixture(params=ENGINES)
def place(request, tmp_path):
    with place_for(request.param, tmp_path / "state") as place:
        yield place


@pytest.fixture
def store(place):
    with closing(open_store(place)) as store:
        yield store


def edit(place, *statements):
    """Change the database behind the store's back."""
    url = place if isinstance(place, str) else f"sqlite:///{place / FILE_NAME}"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_each_turn_is_read_once_it_is_there_by_whomever_it_was_written(place, store):
    with closing(open_store(place, readonly=True)) as fresh:
        for number in range(5):
            take_turn(store, f"r{number}")
            assert store.load(KEY) == fresh.transcript(KEY)
    assert store.load(KEY) == store.load(KEY)

    edit(place, "UPDATE messages SET seq = 11 WHERE seq = 10", "UPDATE messages SET seq = 10 WHERE seq = 9")
    assert [entry.seq for entry in store.load(KEY).history] == [*range(1, 9), 10, 11]


def test_what_the_database_has_lost_is_not_told_any_more(place, store):
    take_turn(store, "r1")
    take_turn(store, "r2")
    assert len(texts(store)) == 4

    edit(place, "DELETE FROM messages WHERE seq > 2", "UPDATE sessions SET message_count = 2")
    assert texts(store) == ["question r1", "answer r1"]
    take_turn(store, "r3")
    assert texts(store) == ["question r1", "answer r1", "question r3", "answer r3"]


def test_what_the_database_has_instead_is_told(place, store):
    take_turn(store, "r1")
    take_turn(store, "r2")
    assert len(texts(store)) == 4

    edit(place, "UPDATE messages SET run_id = 'r0', body = replace(body, 'r2', 'again')")

    assert texts(store) == ["question r1", "answer r1", "question again", "answer again"]


def test_a_summary_takes_the_place_of_what_was_read_before(store):
    for number in range(3):
        take_turn(store, f"r{number}")
    assert len(texts(store)) == 6

    assert store.compact("s1", "in short", 5, 5000)

    assert texts(store) == ["question r2", "answer r2"]
    take_turn(store, "r3")
    assert texts(store) == ["question r2", "answer r2", "question r3", "answer r3"]


def test_a_session_that_begins_again_knows_nothing_of_the_one_before(store):
    take_turn(store, "r1")
    assert len(texts(store)) == 2
    store.delete_session(KEY)
    assert texts(store) == []

    take_turn(store, "r2", session_id="s2")

    assert texts(store) == ["question r2", "answer r2"]
