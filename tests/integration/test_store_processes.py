"""Several processes on one Postgres: one at a time in a session; the dead and the frozen write nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.messages import UserMessage
from app.sessions.sql import migrate_database, open_store
from app.sessions.tables import SCHEMA_VERSION
from tests.engines import PostgresServer, postgres_server
from tests.integration.stores import KEY, end, said, start, texts

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


@pytest.fixture
def server() -> PostgresServer:
    return postgres_server()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    with server.database() as url:
        yield url


@contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that runs ``code``; it does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


MIGRATE = "import sys; from app.cli import main; sys.argv = ['openclaw', 'migrate']; main()"


def test_processes_that_start_at_once_set_the_database_up_together(url: str) -> None:
    env = os.environ | {"DATABASE_URL": url}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = sorted(process.communicate(timeout=PATIENCE)[0] for process in started)

    assert [process.returncode for process in started] == [0] * 4
    assert said == sorted(
        [f"The database was set up (version {SCHEMA_VERSION}).\n"]
        + [f"The database is up to date (version {SCHEMA_VERSION}).\n"] * 3
    )


TAKE_TURNS = """
import os, sys, threading, time
from app.messages import UserMessage
from app.sessions.sql import open_store
from tests.integration.stores import end, said, start
from dataclasses import replace

url, name, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(url)
store.join(name, name, 4.0)

def live():
    while store.beat(name, 4.0):
        time.sleep(0.2)

def talk(thread):
    for turn in range(turns):
        run_id, number = f"{name}-{thread}-{turn}", (thread + turn) % 3
        key, session_id = f"key{number}", f"s{number}"
        if store.enter_lane(key, run_id, name, 99) != "held":
            while not store.take_lane(run_id):
                time.sleep(0.002)
        store.begin(replace(start(run_id, session_id, key), worker=name), [UserMessage.of("question")])
        store.append(session_id, run_id, [said("middle")], 1_500, name)
        store.finish(replace(end(run_id), worker=name), [said("answer")])
        store.leave_lane(run_id)
        os.write(1, f"{run_id}\\n".encode())  # in one piece

threading.Thread(target=live, daemon=True).start()
threads = [threading.Thread(target=talk, args=(n,)) for n in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
store.quit(name)
os.write(1, b"done\\n")
"""


def test_one_run_at_a_time_goes_on_in_a_session_even_if_processes_are_killed(url: str) -> None:
    with closing(open_store(url)) as store:
        for number in range(3):
            store.create(f"key{number}", f"s{number}", "main", 1)
        finished: list[str] = []
        with (
            python(TAKE_TURNS, url, "p0", 8) as one,
            python(TAKE_TURNS, url, "p1", 8) as two,
            python(TAKE_TURNS, url, "p2", 999) as doomed,
            python(TAKE_TURNS, url, "p3", 999) as doomed_too,
        ):
            for process in (doomed, doomed_too):
                finished += lines_of(process, 3)
            for process in (doomed, doomed_too):
                process.send_signal(signal.SIGKILL)
                told = process.communicate(timeout=PATIENCE)[0]
                finished += told.split("\n")[:-1]  # what comes after the last line was cut short
            deadline = time.monotonic() + PATIENCE
            while one.poll() is None or two.poll() is None:
                assert time.monotonic() < deadline
                store.sweep(5_000)
                time.sleep(0.05)
            for process in (one, two):
                *done, last = process.communicate(timeout=PATIENCE)[0].split()
                assert last == "done"
                finished += done

        assert store.open_runs() == []
        assert len(finished) == len(set(finished)) >= 2 * 3 * 8 + 6
        for number in range(3):
            history = store.transcript(f"key{number}").history
            assert [entry.seq for entry in history] == list(range(1, len(history) + 1))
            runs = [entry.run_id for entry in history]
            turns = {run_id: [runs.index(run_id), runs.count(run_id)] for run_id in runs}
            for run_id, (first, count) in turns.items():  # what a run has said stands together
                said_by = [entry.message.text for entry in history[first : first + count]]
                assert said_by == ["question", "middle", "answer"][:count]
                assert count == 3 or run_id.startswith(("p2", "p3"))
            mine = {run_id for run_id in finished if session_of(run_id) == number}
            assert mine <= {run_id for run_id, (_, count) in turns.items() if count == 3}


def session_of(run_id: str) -> int:
    _, thread, turn = run_id.split("-")
    return (int(thread) + int(turn)) % 3


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


WRITE_AFTER_A_WHILE = """
import sys
from dataclasses import replace
from app.errors import Fenced
from app.messages import UserMessage
from app.sessions.sql import open_store
from tests.integration.stores import KEY, end, said, start

store = open_store(sys.argv[1])
store.join("frozen", "frozen", 0.3)
print(store.enter_lane(KEY, "r1", "frozen", 9), flush=True)
store.begin(replace(start("r1"), worker="frozen"), [UserMessage.of("before")])
print("begun", flush=True)
sys.stdin.readline()

def attempt(work, *values):
    try:
        return work(*values)
    except Fenced:
        return "fenced"

print(attempt(store.append, "s1", "r1", [said("late")], 1, "frozen"))
print(attempt(store.compact, "s1", "late", 2, 1, "r1", "frozen"))
print(attempt(store.finish, replace(end("r1"), worker="frozen"), [said("late")]))
print(attempt(store.begin, replace(start("r9"), worker="frozen"), [UserMessage.of("late")]))
print(attempt(store.take_lane, "r1"))
print(attempt(store.enter_lane, KEY, "r9", "frozen", 9))
print(attempt(store.adopt, "frozen"))
print(store.beat("frozen", 60))
"""


def test_a_process_that_was_frozen_for_too_long_writes_nothing_when_it_comes_back(url: str) -> None:
    with closing(open_store(url)) as store, python(WRITE_AFTER_A_WHILE, url) as frozen:
        assert lines_of(frozen, 2) == ["held", "begun"]
        frozen.send_signal(signal.SIGSTOP)
        store.join("awake", "awake", 60)
        assert store.enter_lane(KEY, "r2", "awake", 9) == "waiting"
        deadline = time.monotonic() + PATIENCE
        while not store.sweep(5_000):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert store.take_lane("r2") is True
        store.begin(replace(start("r2"), worker="awake"), [UserMessage.of("after")])

        frozen.send_signal(signal.SIGCONT)
        told, _ = frozen.communicate("\n", timeout=PATIENCE)

        assert told.split() == [
            *["fenced", "fenced", "False", "fenced"],
            *["fenced", "fenced", "fenced", "False"],
        ]
        assert store.finish(replace(end("r2"), worker="awake"), [said("answer")]) is True
        assert texts(store) == ["before", "after", "answer"]


GREEN = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, sys, time
from app.messages import UserMessage
from app.sessions.sql import open_store
from tests.integration.stores import end, said, start

store = open_store(sys.argv[1])
for n in range(5):
    store.create(f"key{n}", f"s{n}", "main", 1)

def work(number):
    for n in range(4):
        run_id, place = f"{number}-{n}", number % 5
        store.begin(start(run_id, f"s{place}", f"key{place}"), [UserMessage.of("q")])
        store.finish(end(run_id), [said("a")])

gevent.joinall([gevent.spawn(work, number) for number in range(40)], raise_error=True)
print(*(len(store.load(f"key{n}").history) for n in range(5)), flush=True)
sys.stdin.readline()
waiting = [gevent.spawn(store.load, f"key{n}") for n in range(3)]
began, turns = time.monotonic(), 0
while not all(one.ready() for one in waiting):
    gevent.sleep(0.01)
    turns += 1
print(time.monotonic() - began > 0.5, turns > 20, sum(len(one.get().history) for one in waiting))
"""


def test_greenlets_wait_for_the_database_and_stop_nobody_else(server: PostgresServer, url: str) -> None:
    migrate_database(url)
    with python(GREEN, url) as green:
        assert lines_of(green, 1) == ["64 64 64 64 64"]
        server.freeze()
        try:
            assert green.stdin is not None
            green.stdin.write("\n")
            green.stdin.flush()
            time.sleep(1)  # the time for which the database hangs
        finally:
            server.thaw()
        assert lines_of(green, 1) == ["True True 192"]
