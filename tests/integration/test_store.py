"""The contract of the session store, and what SQLite adds to it."""

import errno
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError

from app.errors import StoreError
from app.messages import AssistantMessage, ImagePart, TextPart, ToolCall, ToolMessage, Usage, UserMessage
from app.sessions.records import Entry, NewEntry, Run, RunEnd, RunStart, Session
from app.sessions.sql import open_store

ROOT = Path(__file__).parents[2]
KEY = "agent:main:openai-user:alice"
FILE = "gateway.sqlite3"


def start(run_id, session_id="s1", key=KEY, agent_id="main", at=1000):
    return RunStart(run_id, key, session_id, agent_id, "openai", "mock/one", at)


def end(run_id, status="completed", at=2000):
    return RunEnd(run_id, status, "stop", Usage(10, 5, 2, 1), "mock/two", None, None, at, 1)


def said(text):
    return NewEntry(AssistantMessage(text), "stop")


def take_turn(store, run_id, session_id="s1", key=KEY, agent_id="main", at=1000):
    store.begin(start(run_id, session_id, key, agent_id, at), [UserMessage.of(f"question {run_id}")])
    store.finish(end(run_id, at=at + 1), [said(f"answer {run_id}")])


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
    assert loaded.session == Session("s1", KEY, "main", 1000, 1000, 1, 0, 0, "mock/one")
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
    assert loaded.session == Session("s1", KEY, "main", 1000, 2000, 2, 10, 5, "mock/two")
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
    statements = list(executed)
    store.close()

    plans = query_plans(filled, statements)
    assert len(statements) > 12
    assert len(plans) > 8
    assert [step for step in plans if not step.startswith("SEARCH")] == []


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
        assert store.delete_session(KEY)
        store.close()

    assert len(threads) == 10
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
