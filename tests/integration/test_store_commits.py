"""Commits that get lost on the way, or their confirmation: nothing is missing, and nothing doubled."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from app.errors import StoreError
from app.messages import UserMessage
from app.sessions.records import Added, SessionSettings
from app.sessions.sql import open_store
from app.sessions.store import Store
from tests.engines import postgres_server
from tests.integration.stores import KEY, end, said, start, take_turn, texts

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"  # as the protocol has it


class CuttingWire:
    """A TCP relay to a server that can cut one connection at its next commit: before it, or behind it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cut: str | None = None
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def cut(self, where: str) -> None:
        """:param where: ``before`` the server gets the next commit, or ``behind`` what it then does."""
        self._cut = where

    @property
    def armed(self) -> bool:
        return self._cut is not None

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, work: Callable[..., None], *values: object) -> None:
        self._threads.append(threading.Thread(target=work, args=values))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._spawn(self._relay, client, socket.create_connection(("127.0.0.1", self._port)))

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65_536)
                    if not data:
                        return
                    if ready is client and self._cut and COMMIT in data:
                        self._end(data, server)
                        return
                    (server if ready is client else client).sendall(data)

    def _end(self, commit: bytes, server: socket.socket) -> None:
        where, self._cut = self._cut, None
        self.cuts += 1
        if where == "behind":
            server.sendall(commit)
            server.recv(65_536)  # done, but nobody is told


@pytest.fixture
def wire() -> Iterator[CuttingWire]:
    with closing(CuttingWire(postgres_server().port)) as wire:
        yield wire


@pytest.fixture
def store(wire: CuttingWire) -> Iterator[Store]:
    server = postgres_server()
    with server.database() as url:
        with closing(open_store(url.replace(f":{server.port}/", f":{wire.port}/"))) as store:
            take_turn(store, "before")
            yield store
        assert wire.cuts >= 1


@pytest.fixture(params=["before", "behind"])
def cut(request: pytest.FixtureRequest, wire: CuttingWire) -> Callable[[], None]:
    def cut() -> None:
        assert not wire.armed
        wire.cut(request.param)

    return cut


TURN = ["question before", "answer before"]


def test_a_question_is_stored_once(store: Store, cut: Callable[[], None]) -> None:
    cut()
    assert store.begin(start("r1"), [UserMessage.of("one"), UserMessage.of("two")]) == 3

    assert texts(store) == [*TURN, "one", "two"]
    assert [run.id for run in store.open_runs()] == ["r1"]


def test_a_run_without_a_session_begins_once(store: Store, cut: Callable[[], None]) -> None:
    cut()
    assert store.begin(start("r1", None, "elsewhere"), []) == 0

    assert [run.id for run in store.open_runs()] == ["r1"]


def test_what_a_run_adds_is_stored_once_and_shown_once(store: Store, cut: Callable[[], None]) -> None:
    seen: list[Added] = []
    store.watch(seen.append)
    store.begin(start("r1"), [])

    cut()
    assert store.append("s1", "r1", [said("one"), said("two")], 1) == 3
    cut()
    assert store.append("s1", "r1", [said("one"), said("two")], 1) == 5

    assert texts(store) == [*TURN, "one", "two", "one", "two"]
    assert [len(added.entries) for added in seen] == [2, 2]


def test_an_end_counts_once_and_is_told_as_what_it_was(store: Store, cut: Callable[[], None]) -> None:
    seen: list[Added] = []
    store.watch(seen.append)
    store.begin(start("r1"), [])

    cut()
    assert store.finish(end("r1"), [said("done")]) is True
    cut()
    assert store.finish(replace(end("r1"), ended_at=9), [said("again")]) is False

    assert texts(store) == [*TURN, "done"]
    session = store.session(KEY)
    assert session is not None
    assert session.input_tokens == 20
    assert len(seen) == 1


def test_the_queue_the_lanes_and_the_lives_are_what_they_would_be(
    store: Store, cut: Callable[[], None]
) -> None:
    cut()
    store.join("w1", "w1", 60)
    cut()
    assert store.beat("w1", 60) is True
    assert store.others("") == ["w1"]
    cut()
    store.enqueue(replace(start("r1"), worker="gone"), "request")
    cut()
    assert [run.id for run in store.adopt("w1")] == ["r1"]
    cut()
    assert [store.enter_lane(KEY, run, "w1", 9) for run in "ab"] == ["held", "waiting"]
    cut()
    store.leave_lane("a")
    cut()
    assert store.take_lane("b") is True
    cut()
    assert store.ask_cancel("r1", "user") is True
    store.begin(replace(start("r1"), worker="w1"), [])
    cut()
    store.quit("w1")
    cut()
    assert [run.id for run in store.sweep(5_000)] == ["r1"]


def test_a_session_begins_once_and_keeps_its_last_settings(store: Store, cut: Callable[[], None]) -> None:
    cut()
    assert store.create("new", "s2", "main", 1) is True
    cut()
    assert store.create("new", "s3", "main", 1) is False
    cut()
    assert store.configure("new", SessionSettings(model="a/b"), 2) is True

    session = store.session("new")
    assert session is not None
    assert (session.id, session.settings.model) == ("s2", "a/b")


def test_reading_goes_on_by_itself(store: Store, cut: Callable[[], None]) -> None:
    cut()
    assert texts(store) == TURN


def test_where_there_is_no_telling_that_is_said(store: Store, wire: CuttingWire) -> None:
    wire.cut("behind")
    with pytest.raises(StoreError, match="may be stored or not"):
        store.archive(KEY, 5_000)

    assert store.session(KEY) is None
    assert texts(store, f"archived:s1:{KEY}") == TURN
