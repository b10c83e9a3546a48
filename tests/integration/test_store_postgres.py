"""What Postgres adds to the contract of the session store: it can be away, and come back; others share it."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from operator import gt
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, event

from app.cli import openclaw
from app.errors import Fenced, StoreError, StoreUnavailable
from app.messages import UserMessage
from app.sessions.postgres import open_postgres
from app.sessions.records import Branch, NewResponse, RunStart, SessionSettings, UsageQuery
from app.sessions.sql import migrate_database, open_store
from app.sessions.store import Store
from app.sessions.tables import SCHEMA_VERSION
from tests.engines import PostgresServer, postgres_server
from tests.integration.stores import KEY, end, said, start, take_turn, texts

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


@pytest.fixture
def server() -> PostgresServer:
    return postgres_server()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    with server.database() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(open_store(url)) as store:
        yield store


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as raw:
        return raw.execute(query.encode()).fetchall()


# The schema


def test_the_first_call_makes_the_schema_and_leaves_everything_else_alone(url: str) -> None:
    with psycopg.connect(url) as host:
        host.execute("CREATE TABLE sessions (id INT)")
        host.execute("INSERT INTO sessions VALUES (7)")
        host.commit()

    with closing(open_store(url)) as store:
        take_turn(store, "r1")
        assert texts(store) == ["question r1", "answer r1"]

    assert rows(url, "SELECT id FROM public.sessions") == [(7,)]
    found = {schema for (schema,) in rows(url, "SELECT DISTINCT schemaname FROM pg_tables")}
    assert found - {"pg_catalog", "information_schema"} == {"public", "openclaw"}
    assert rows(url, "SHOW search_path") == [('"$user", public',)]


def test_migrating_says_from_which_version_to_which(url: str) -> None:
    env = {"OPENCLAW_DATABASE_URL": url}

    said = [CliRunner().invoke(openclaw, ["migrate"], env=env) for _ in range(2)]

    assert [(one.exit_code, one.output) for one in said] == [
        (0, f"The database was set up (version {SCHEMA_VERSION}).\n"),
        (0, f"The database is up to date (version {SCHEMA_VERSION}).\n"),
    ]
    assert migrate_database(url) == (SCHEMA_VERSION, SCHEMA_VERSION)


def test_without_a_database_there_is_nothing_to_migrate(tmp_path: Path) -> None:
    env = {"OPENCLAW_STATE_DIR": str(tmp_path / "state"), "DATABASE_URL": ""}

    done = CliRunner().invoke(openclaw, ["migrate"], env=env)

    assert (done.exit_code, done.output) == (0, "No database is configured: nothing to do.\n")
    assert not (tmp_path / "state").exists()


def test_steps_lead_from_a_version_to_the_next_wholly_or_not_at_all(url: str) -> None:
    def steps(version: int) -> list[str]:
        assert version == SCHEMA_VERSION
        return ["ALTER TABLE runs ADD COLUMN mood TEXT", "CREATE INDEX ix_runs_mood ON runs (mood)"]

    def broken(version: int) -> list[str]:
        return ["ALTER TABLE runs ADD COLUMN flawed TEXT", "CREATE INDEX ix_runs_mood ON runs (nothing)"]

    with closing(open_postgres(url)) as database:
        assert database.upgrade() == 0
        with pytest.raises(StoreError):
            database.upgrade(broken, SCHEMA_VERSION + 1)
        assert database.upgrade(steps, SCHEMA_VERSION + 1) == SCHEMA_VERSION
        assert database.upgrade(steps, SCHEMA_VERSION + 1) == SCHEMA_VERSION + 1

    columns = rows(url, "SELECT column_name FROM information_schema.columns WHERE table_schema = 'openclaw'")
    assert ("mood",) in columns
    assert ("flawed",) not in columns
    assert rows(url, "SELECT version FROM openclaw.schema_version") == [(SCHEMA_VERSION + 1,)]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str) -> None:
    migrate_database(url)
    with psycopg.connect(url) as raw:
        raw.execute("UPDATE openclaw.schema_version SET version = 99")
        raw.commit()

    for readonly in (False, True):
        with (
            closing(open_store(url, readonly=readonly)) as store,
            pytest.raises(StoreError, match="newer version"),
        ):
            store.load(KEY)
    with pytest.raises(StoreError, match="newer version"):
        migrate_database(url)

    assert rows(url, "SELECT version FROM openclaw.schema_version") == [(99,)]


def test_a_reader_makes_nothing_and_writes_nothing(url: str) -> None:
    with closing(open_store(url, readonly=True)) as reader:
        with pytest.raises(StoreError, match="nothing in the database yet"):
            reader.load(KEY)
        assert rows(url, "SELECT 1 FROM pg_namespace WHERE nspname = 'openclaw'") == []

        with closing(open_store(url)) as writer:
            take_turn(writer, "r1")
        assert texts(reader) == ["question r1", "answer r1"]
        with pytest.raises(StoreError, match="only be read"):
            reader.delete_session(KEY)


def test_a_schema_of_somebody_else_is_refused(url: str) -> None:
    with psycopg.connect(url) as raw:
        raw.execute("CREATE SCHEMA openclaw")
        raw.execute("CREATE TABLE openclaw.sessions (id INT)")
        raw.commit()

    with closing(open_store(url)) as store, pytest.raises(StoreError, match="not this gateway's"):
        store.load(KEY)

    assert rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'openclaw'") == [("sessions",)]


def test_a_user_who_may_not_create_the_schema_is_told_so_and_may_use_one_of_his_own(
    server: PostgresServer, url: str
) -> None:
    theirs = url.replace("openclaw@", "limited@")
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("CREATE ROLE limited LOGIN")
        try:
            with pytest.raises(StoreError, match="GRANT CREATE ON DATABASE"):
                migrate_database(theirs)
            raw.execute("CREATE SCHEMA openclaw AUTHORIZATION limited")
            assert migrate_database(theirs) == (0, SCHEMA_VERSION)
            with closing(open_store(theirs)) as store:
                take_turn(store, "r1")
                assert len(store.usage(UsageQuery())) == 1
        finally:
            raw.execute("DROP OWNED BY limited")
            raw.execute("DROP ROLE limited")


def test_tables_that_were_dropped_are_made_again(url: str, store: Store) -> None:
    take_turn(store, "r1")
    with psycopg.connect(url) as raw:
        raw.execute("DROP SCHEMA openclaw CASCADE")
        raw.commit()

    assert store.load(KEY).session is None
    take_turn(store, "r2")
    assert texts(store) == ["question r2", "answer r2"]


# A database that is not there


def test_a_database_that_was_never_there_keeps_nobody_waiting_and_works_once_it_is(
    server: PostgresServer, url: str
) -> None:
    server.stop()
    try:
        with closing(open_store(url)) as store:
            for _ in range(3):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable) as refused:
                    store.load(KEY)
                assert time.monotonic() - began < 3
                assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
            server.start()
            take_turn(store, "r1")
            assert texts(store) == ["question r1", "answer r1"]
    finally:
        if server.stopped:
            server.start()


def test_migrating_a_database_that_cannot_be_reached_fails(server: PostgresServer) -> None:
    address = f"postgresql://bob:sesame-open@127.0.0.1:{server.port + 1}/somewhere"

    done = CliRunner().invoke(openclaw, ["migrate"], env={"OPENCLAW_DATABASE_URL": address})

    assert done.exit_code != 0
    assert isinstance(done.exception, StoreUnavailable)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("127.0.0.1:{port}/absent-one", "does not exist"),
        ("127.0.0.1:{free}/absent-one", "cannot be reached"),
        ("no.such.host.invalid/absent-one", "cannot be reached"),
        ("127.0.0.1:{port}/absent-one?sslmode=require", "encryption"),
        ("127.0.0.1:{port}/absent-one?nonsense=absent-one", "check its URL"),
    ],
)
def test_no_error_of_a_connection_names_a_host_a_user_or_a_password(
    server: PostgresServer, place: str, words: str
) -> None:
    address = place.format(port=server.port, free=server.port + 1)

    with (
        closing(open_store(f"postgres://bob:sesame-open@{address}")) as store,
        pytest.raises(StoreError, match=words) as refused,
    ):
        store.load(KEY)

    told = "".join(traceback.format_exception(refused.value)) + repr(store)
    for secret in ("bob", "sesame-open", "127.0.0.1", "no.such.host", "absent-one", str(server.port)):
        assert secret not in told.replace("test_no_error_of_a_connection", "")


def test_a_server_without_room_is_worth_another_attempt(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
        try:
            with (
                closing(open_store(url.replace("openclaw@", "crowded@"))) as store,
                pytest.raises(StoreUnavailable, match="no connection free"),
            ):
                store.load(KEY)
        finally:
            raw.execute("DROP ROLE crowded")


def test_without_its_driver_that_is_said() -> None:
    code = "import sys; sys.modules['psycopg'] = None; from app.cli import main; sys.argv[1:] = ['migrate'];"
    code += "main()"
    env = os.environ | {"DATABASE_URL": "postgres://somewhere/chats"}

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("openclaw: A database needs the package psycopg: pip install")


@pytest.mark.parametrize("address", ["", "nonsense", "postgres://host:port/name", "postgres://[::1/name"])
def test_an_address_that_is_none_is_refused_without_being_repeated(address: str) -> None:
    with pytest.raises(StoreError, match="URL of the database cannot be read") as refused:
        open_store(address)

    assert refused.value.__cause__ is None


def test_nobody_waits_for_a_database_that_has_been_away_for_long(
    server: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_postgres(url, patience=0.5)) as database, caplog.at_level(logging.WARNING):
        assert database.read(lambda db: db.exec_driver_sql("SELECT 1").scalar()) == 1
        server.stop()
        try:
            times = []
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    database.read(lambda db: db.exec_driver_sql("SELECT 1").scalar())
                times.append(time.monotonic() - began)
            assert times[0] > 0.4
            assert times[1] < 0.4
        finally:
            server.start()
        assert database.read(lambda db: db.exec_driver_sql("SELECT 1").scalar()) == 1

    assert caplog.text.count("the store waits for its database") == 1


def test_a_write_waits_for_the_end_of_a_failover(url: str) -> None:
    migrate_database(url)
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as raw, closing(open_store(url)) as store:
        raw.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        try:
            assert store.load(KEY).session is None
            with ThreadPoolExecutor(1) as pool:
                turn = pool.submit(take_turn, store, "r1")
                time.sleep(0.2)
                assert not turn.done()
                raw.execute("SET default_transaction_read_only = off")
                raw.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
                turn.result(PATIENCE)
        finally:
            raw.execute("SET default_transaction_read_only = off")
            raw.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        assert texts(store) == ["question r1", "answer r1"]


def test_a_session_that_somebody_has_locked_is_told_of_in_time(url: str, store: Store) -> None:
    take_turn(store, "r1")
    with psycopg.connect(url) as raw:
        raw.execute("SELECT 1 FROM openclaw.sessions FOR UPDATE")
        began = time.monotonic()
        with pytest.raises(StoreError, match="busy with the same session"):
            store.configure(KEY, SessionSettings(model="a/b"), 1)
        assert 4 < time.monotonic() - began < 8

    assert store.configure(KEY, SessionSettings(model="a/b"), 1) is True


def test_what_was_acknowledged_survives_crashes_of_the_database_and_is_there_once(
    server: PostgresServer, store: Store
) -> None:
    stop, acknowledged = threading.Event(), [list[str]() for _ in range(8)]
    for number in range(4):
        assert store.create(f"key{number}", f"s{number}", "main", 1)

    def write(number: int) -> None:
        key, session_id, turn = f"key{number % 4}", f"s{number % 4}", 0
        while not stop.is_set():
            run_id = f"{number}-{turn}"
            store.begin(start(run_id, session_id, key), [UserMessage.of(f"q {run_id}")])
            store.append(session_id, run_id, [said(f"m {run_id}")], 1_500)
            assert store.finish(end(run_id), [said(f"a {run_id}")]) is True
            acknowledged[number].append(run_id)
            turn += 1

    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, number) for number in range(8)]
        try:
            for _ in range(3):
                before = [len(done) for done in acknowledged]
                wait_until(lambda before=before: all(map(gt, map(len, acknowledged), before)))  # type: ignore[misc]
                server.crash()
                server.start()
        finally:
            stop.set()
        for writer in writers:
            writer.result(PATIENCE)

    for number in range(4):
        history = store.transcript(f"key{number}").history
        assert [entry.seq for entry in history] == list(range(1, len(history) + 1))
        found = sorted(entry.message.text for entry in history)
        done = [run_id for place in (number, number + 4) for run_id in acknowledged[place]]
        assert found == sorted(f"{kind} {run_id}" for run_id in done for kind in "qma")
        session = store.session(f"key{number}")
        assert session is not None
        assert session.input_tokens == 10 * len(done)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_no_statement_of_a_turn_reads_a_whole_table(url: str) -> None:
    executed: list[tuple[str, Any]] = []

    def remember(
        _connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool
    ) -> None:
        executed.append((statement, values[0] if many else values))

    with closing(open_store(url)) as store:
        for number in range(3):
            take_turn(store, f"r{number}", f"s{number}", f"key{number}")
        store.join("w1", "w1", 60)
        event.listen(Engine, "before_cursor_execute", remember)
        try:
            store.enter_lane("key1", "r9", "w1", 9)
            store.take_lane("r9")
            store.load("key1")
            store.begin(replace(start("r9", "s1", "key1"), worker="w1"), [UserMessage.of("q")])
            store.append("s1", "r9", [said("m")], 1, "w1")
            store.compact("s1", "all", 2, 1, "r9", "w1")
            store.finish(replace(end("r9"), worker="w1"), [said("a")])
            store.leave_lane("r9")
            store.get_run("r9")
            store.open_runs("key1")
            store.cancels("w1")
            store.list_sessions(None, 10)
            store.list_runs(None, 10)
        finally:
            event.remove(Engine, "before_cursor_execute", remember)

    assert len(executed) > 20
    assert [step for step in plans(url, executed) if "Seq Scan" in step] == []


def plans(url: str, executed: list[tuple[str, Any]]) -> list[str]:
    """How the server would find the rows if there were many."""
    with psycopg.connect(url) as raw:
        raw.execute("SET search_path = openclaw; SET enable_seqscan = off")
        found = [
            raw.execute(f"EXPLAIN {statement}".encode(), values).fetchall() for statement, values in executed
        ]
        raw.rollback()
    return [step for plan in found for (step,) in plan]


# Several processes at once are in test_store_processes.py; here, several stores.


def test_two_stores_see_each_other_at_once_and_close_alone(url: str) -> None:
    with closing(open_store(url)) as one, closing(open_store(url)) as two:
        take_turn(one, "r1")
        take_turn(two, "r2")
        assert texts(one) == texts(two) == ["question r1", "answer r1", "question r2", "answer r2"]
        one.close()
        take_turn(two, "r3")
        with pytest.raises(StoreError, match="closed"):
            one.load(KEY)


def test_a_sweep_waits_for_what_is_being_written_and_then_nothing_is(url: str) -> None:
    with closing(open_store(url)) as one, closing(open_store(url)) as two:
        for round_ in range(15):
            worker, run_id = f"w{round_}", f"r{round_}"
            one.join(worker, worker, 0.01)
            one.begin(start_by(run_id, worker), [UserMessage.of(run_id)])
            wait_until(lambda: not two.others(""))
            with ThreadPoolExecutor(2) as pool:
                swept = pool.submit(two.sweep, 9_000)
                added = pool.submit(count_appends, one, run_id, worker)
                assert [run.id for run in swept.result(PATIENCE)] == [run_id]
                stored = added.result(PATIENCE)
            record = two.get_run(run_id)
            assert record is not None
            assert record.error_code == "interrupted"
            said_in = [entry.message.text for entry in two.said_in(record)]
            assert said_in == [run_id, *["more"] * stored]


def test_any_mixture_of_calls_at_once_leaves_whole_sessions_and_no_surprises(url: str) -> None:
    with closing(open_store(url)) as one, closing(open_store(url)) as two, ThreadPoolExecutor(8) as pool:
        one.join("w1", "w1", 600)
        done = pool.map(lambda seed: mix(random.Random(seed), (one, two)[seed % 2], seed), range(8))

        assert {str(error) for errors in done for error in errors} <= {CONFLICT}
        for session in one.list_sessions(None, 999, archived=True):
            history = one.transcript(session.key).history
            assert [entry.seq for entry in history] == list(range(1, session.message_count + 1))
        assert one.open_runs() == []
    assert rows(url, "SELECT * FROM openclaw.places") == []


CONFLICT = "The session was replaced or the run recorded meanwhile. Please try again."


def mix(dice: random.Random, store: Store, seed: int) -> list[StoreError]:
    """Calls that get into each other's way; those that were refused."""
    refused: list[StoreError] = []
    for number in range(25):
        run_id, key = f"r{seed}-{number}", f"agent:main:openresponses:{dice.randrange(3)}"
        try:
            mixed_turn(dice, store, run_id, key)
        except Fenced:  # somebody has swept it
            pass
        except StoreError as error:
            refused.append(error)
    return refused


def mixed_turn(dice: random.Random, store: Store, run_id: str, key: str) -> None:
    parent = dice.choice([None, f"r{dice.randrange(8)}-{dice.randrange(25)}"])
    place = store.open_response(
        NewResponse(run_id, "main", 1, "{}", parent), Branch(key if parent is None else f"k{run_id}", run_id)
    )
    if place is None:
        return
    store.enter_lane(key, run_id, "w1", 99)
    session = store.session(place)
    try:
        store.begin(start(run_id, session.id if session else f"s{run_id}", place), [UserMessage.of("q")])
        store.append(session.id if session else f"s{run_id}", run_id, [said("m")], 1)
        dice.choice(
            [
                lambda: store.archive(place, 1),
                lambda: store.delete_session(place),
                lambda: store.compact(session.id if session else f"s{run_id}", "all", 2, 1, run_id),
                lambda: store.configure(place, SessionSettings(model="a/b"), 1),
                lambda: store.sweep(1),
                lambda: store.create(place, f"n{run_id}", "main", 1),
            ]
        )()
    finally:
        store.finish(end(run_id), [said("a")])
        store.close_response(run_id, "{}")
        store.leave_lane(run_id)
    if dice.random() < 0.3:
        store.delete_response(run_id)


def start_by(run_id: str, worker: str) -> RunStart:
    return replace(start(run_id), worker=worker)


def count_appends(store: Store, run_id: str, worker: str) -> int:
    """Append until that is refused; how often it was not."""
    for count in range(10_000):
        try:
            store.append("s1", run_id, [said("more")], 1_500, worker)
        except Fenced:
            return count
    raise AssertionError("never refused")
