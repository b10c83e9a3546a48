"""What SQLite adds to the contract of the session store: a file, its lock, its damages, its costs."""

import errno
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from app.errors import StoreError
from app.messages import AssistantMessage, ToolCall, ToolMessage, Usage, UserMessage
from app.sessions.records import (
    Run,
    Session,
    SessionSettings,
    UsageQuery,
    UsageRow,
)
from app.sessions.sql import open_store
from tests.integration.stores import KEY, said, start, take_turn, texts

ROOT = Path(__file__).parents[2]
FILE = "gateway.sqlite3"


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


# A file of an older version


VERSION_1 = """
CREATE TABLE sessions (
    id TEXT NOT NULL, "key" TEXT NOT NULL, agent_id TEXT NOT NULL, created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL, message_count INTEGER NOT NULL, input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL, model TEXT NOT NULL,
    PRIMARY KEY (id), UNIQUE ("key")
);
CREATE TABLE messages (
    session_id TEXT NOT NULL, seq INTEGER NOT NULL, run_id TEXT NOT NULL, created_at BIGINT NOT NULL,
    stop TEXT, body TEXT NOT NULL,
    PRIMARY KEY (session_id, seq), FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE runs (
    id TEXT NOT NULL, session_key TEXT NOT NULL, session_id TEXT, agent_id TEXT NOT NULL,
    channel TEXT NOT NULL, model TEXT NOT NULL, created_at BIGINT NOT NULL, status TEXT NOT NULL,
    finish_reason TEXT, input_tokens INTEGER DEFAULT '0' NOT NULL, output_tokens INTEGER DEFAULT '0' NOT NULL,
    cached_tokens INTEGER DEFAULT '0' NOT NULL, reasoning_tokens INTEGER DEFAULT '0' NOT NULL,
    error_code TEXT, error_message TEXT, ended_at BIGINT, attempts INTEGER DEFAULT '0' NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX ix_sessions_updated_at ON sessions (updated_at);
CREATE INDEX ix_runs_open ON runs (ended_at) WHERE ended_at IS NULL;
CREATE INDEX ix_runs_created_at ON runs (created_at);
INSERT INTO sessions VALUES('s1','agent:main:openai-user:alice','main',1000,4000,5,10,5,'mock/two');
INSERT INTO sessions VALUES('s2','second','beta',100,200,0,0,0,'mock/one');
INSERT INTO messages VALUES('s1',1,'r1',1000,NULL,'{"role":"user","content":[{"type":"text","text":"hi"}]}');
INSERT INTO messages VALUES('s1',2,'r1',1500,'tool_calls','{"role":"assistant","content":"","tool_calls":[{"id":"c1","name":"read","arguments":"{}"}]}');
INSERT INTO messages VALUES('s1',3,'r1',1500,NULL,'{"role":"tool","call_id":"c1","name":"read","content":"text","is_error":false}');
INSERT INTO messages VALUES('s1',4,'r1',2000,'stop','{"role":"assistant","content":"hello","tool_calls":[]}');
INSERT INTO messages VALUES('s1',5,'r3',4000,NULL,'{"role":"user","content":[{"type":"text","text":"again"}]}');
INSERT INTO runs VALUES('r1','agent:main:openai-user:alice','s1','main','openai','mock/two',1000,'completed','stop',10,5,2,1,NULL,NULL,2000,2);
INSERT INTO runs VALUES('r2','lonely',NULL,'main','cli','mock/two',3000,'failed',NULL,0,0,0,0,'provider_error','no',3500,1);
INSERT INTO runs VALUES('r3','agent:main:openai-user:alice','s1','main','openai','mock/one',4000,'in_progress',NULL,0,0,0,0,NULL,NULL,NULL,0);
"""  # noqa: E501 - as the first version wrote it


@pytest.fixture
def version_1(folder):
    """A store as the first version left it when it was killed: one run open, its log not yet in the file."""
    folder.mkdir()
    with python(KILLED_IN_VERSION_1, folder / FILE, VERSION_1) as gateway:
        gateway.communicate(timeout=60)
    assert (folder / f"{FILE}-wal").stat().st_size > 0
    return folder


KILLED_IN_VERSION_1 = """
import os, signal, sqlite3, sys

db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.executescript("PRAGMA journal_mode = WAL; BEGIN;" + sys.argv[2] + "PRAGMA user_version = 1; COMMIT;")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_of_version_1_opens_with_everything_in_it(version_1):
    for _ in range(2):  # the second time it is one of version 2
        store = open_store(version_1)
        loaded = store.load(KEY)
        sessions, runs = store.list_sessions(None, 10), store.list_runs(None, 10)
        store.close()

        first = Session("s1", KEY, "main", 1000, 4000, 5, 10, 5, "mock/two", active_at=4000)
        assert sessions == [
            first,
            Session("s2", "second", "beta", 100, 200, 0, 0, 0, "mock/one", active_at=200),
        ]
        assert [entry.message for entry in loaded.history] == [
            UserMessage.of("hi"),
            AssistantMessage("", (ToolCall("c1", "read", "{}"),)),
            ToolMessage("c1", "read", "text"),
            AssistantMessage("hello"),
            UserMessage.of("again"),
        ]
        assert [run.status for run in runs] == ["failed", "failed", "completed"]
        assert runs[0].error_code == "interrupted"
        assert runs[2] == Run(
            *("r1", KEY, "s1", "main", "openai", "mock/two", 1000),
            *("completed", "stop", Usage(10, 5, 2, 1), None, None, 2000, 2),
        )


def test_an_upgraded_store_goes_on_like_any_other(version_1):
    with closing(open_store(version_1)) as store:
        take_turn(store, "r4", at=9000)
        assert store.compact("s1", "They met.", 6, 9500)
        assert texts(store) == ["question r4", "answer r4"]
        assert store.archive("second", 9600)
        assert store.usage(UsageQuery(by=())) == [UsageRow((), 4, Usage(20, 10, 4, 2), 0.0, 2)]


def test_an_upgraded_store_has_the_schema_of_a_new_one(version_1, tmp_path):
    open_store(version_1).close()
    open_store(tmp_path / "new").close()

    assert schema(version_1) == schema(tmp_path / "new")
    assert len(schema(version_1)["columns"]) > 40


def schema(folder):
    """Version, columns, indexes, foreign keys: everything but the spelling."""
    with closing(sqlite3.connect(folder / FILE)) as raw:
        return {
            "version": raw.execute("PRAGMA user_version").fetchall(),
            "columns": raw.execute(
                "SELECT m.name, c.* FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
                " ORDER BY m.name, c.cid"
            ).fetchall(),
            "indexes": raw.execute(
                "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name"
            ).fetchall(),
            "references": raw.execute("SELECT * FROM pragma_foreign_key_list('messages')").fetchall(),
        }


KILLED_IN_UPGRADE = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from app.sessions.sql import open_store

left = int(sys.argv[2])

def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "before_cursor_execute", count)
open_store(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("steps", [1, 2, 9, 12, 16, 17])
def test_a_store_whose_upgrade_is_killed_is_still_one_of_version_1(version_1, steps):
    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        before = list(raw.iterdump())

    with python(KILLED_IN_UPGRADE, version_1, steps) as upgrade:
        upgrade.communicate(timeout=60)

    assert upgrade.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        assert list(raw.iterdump()) == before
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
    with closing(open_store(version_1)) as store:
        assert len(store.load(KEY).history) == 5


def test_a_store_that_only_looks_like_version_1_is_left_as_it_is(version_1):
    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        raw.execute("ALTER TABLE runs ADD COLUMN calls TEXT")  # which is the last step of the upgrade
        before = list(raw.iterdump())

    with pytest.raises(StoreError):
        open_store(version_1)

    with closing(sqlite3.connect(version_1 / FILE)) as raw:
        assert list(raw.iterdump()) == before


def test_a_reader_leaves_the_upgrade_to_the_gateway_and_says_so(version_1):
    with pytest.raises(StoreError, match="older version"):
        open_store(version_1, readonly=True)

    open_store(version_1).close()
    with closing(open_store(version_1, readonly=True)) as reader:
        assert len(reader.load(KEY).history) == 5


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


@pytest.mark.parametrize("damaged", ["", "{", "[]", "null", "[1]", '{"model":1}', b"\xff"])
def test_a_damaged_choice_or_list_of_calls_costs_nothing_else(filled, damaged):
    raw = sqlite3.connect(filled / FILE)
    raw.execute("UPDATE sessions SET settings = ? WHERE id = 's3'", (damaged,))
    raw.execute("UPDATE runs SET calls = ? WHERE id = 'r3'", (damaged,))
    raw.commit()
    raw.close()

    with closing(open_store(filled)) as store:
        loaded = store.load("agent:main:openai-user:3")
        assert (loaded.session.settings, len(loaded.history)) == (SessionSettings(), 2)
        assert store.get_run("r3").calls == ()
        assert len(store.list_sessions(None, 100)) == len(store.list_runs(None, 100)) == 20


def test_what_a_later_version_adds_to_the_choices_is_passed_over(filled):
    raw = sqlite3.connect(filled / FILE)
    raw.execute("""UPDATE sessions SET settings = '{"model":"a/b","mood":"good"}' WHERE id = 's3'""")
    raw.commit()
    raw.close()

    with closing(open_store(filled)) as store:
        assert store.load("agent:main:openai-user:3").session.settings == SessionSettings(model="a/b")


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


COMPACT_FOREVER = """
import sys
from itertools import count
from pathlib import Path
from app.messages import UserMessage
from app.sessions.records import RunStart
from app.sessions.sql import open_store

store, name = open_store(Path(sys.argv[1])), sys.argv[2]
for n in count():
    run = RunStart(f"{name}-{n}", "key", f"{name}-{n // 9}", "main", "openai", "m", n)
    first = store.begin(run, [UserMessage.of("x" * 3000)] * 2)
    store.compact(run.session_id, f"{first} " * 900, first + 1, n)
    print("compacted", run.session_id, first, flush=True)
    if n % 9 == 8:
        store.archive("key", n)
        print("archived", run.session_id, n, flush=True)
"""


def test_a_summary_and_its_place_survive_a_kill_together(folder):
    said = []
    for name in ("a", "b"):
        with python(COMPACT_FOREVER, folder, name) as writer:
            said += [writer.stdout.readline().split() for _ in range(100)]
            writer.send_signal(signal.SIGKILL)
            said += [line.split() for line in writer.stdout if line.endswith("\n")]
        with closing(open_store(folder)) as store:
            store.archive("key", 0)  # whatever was being written

    with closing(open_store(folder, readonly=True)) as store:
        sessions = {session.id: session for session in store.list_sessions(None, 9999, archived=True)}
    for session in sessions.values():
        # One that was killed before its first compaction has neither.
        assert session.summary == (f"{session.kept_from - 1} " * 900 if session.kept_from > 1 else None)
        assert session.kept_from <= session.message_count <= session.kept_from + 2
    assert len(said) >= 200
    for step, session_id, number in said:
        if step == "archived":
            assert sessions[session_id].archived_at == int(number)
        else:
            assert sessions[session_id].kept_from > int(number)


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
    store.begin(start("another run", "s5", "agent:main:openai-user:5"), [])
    store.append("s5", "another run", [said("more")], 1)
    store.get_run("r5")
    store.compact("s5", "summary", 3, 1)
    store.configure("agent:main:openai-user:5", SessionSettings(), 1)
    store.archive("agent:main:openai-user:5", 1)
    statements = list(executed)
    store.close()

    plans = query_plans(filled, statements)
    assert len(statements) > 12
    assert len(plans) > 8
    steps = [step for step in plans if not step.startswith("SCALAR SUBQUERY")]  # a heading
    assert [step for step in steps if not step.startswith("SEARCH")] == []


def test_what_was_summed_up_is_not_read_again(filled, executed):
    with closing(open_store(filled)) as store:
        store.compact("s5", "summary", 2, 1)
        executed.clear()
        store.load("agent:main:openai-user:5")
        _, history = executed

    _, place = query_plans(filled, executed)
    assert place == "SEARCH messages USING INDEX sqlite_autoindex_messages_1 (session_id=? AND seq>?)"
    assert history[1] == ("s5", 2)


def test_children_and_usage_are_found_by_an_index(filled, executed):
    with closing(open_store(filled)) as store:
        executed.clear()
        store.list_sessions(None, 10, parent_key="parent")
        store.usage(UsageQuery(since=1, until=2, by=("day", "agent", "model", "session")))
        children, usage = executed

    assert "SEARCH sessions USING INDEX ix_sessions_parent (parent_key=?)" in query_plans(filled, [children])
    assert "SEARCH runs USING INDEX ix_runs_created_at (created_at>? AND created_at<?)" in query_plans(
        filled, [usage]
    )


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
        store.append("s1", "note", [said("more")], 1)
        with pytest.raises(StoreError, match="replaced"):
            store.begin(start("r2", "s2"), [])
        assert len(store.load(KEY).history) == 3
        assert store.get_run("r1").status == "completed"
        assert (len(store.list_runs(None, 9)), len(store.list_sessions(None, 9))) == (1, 1)
        assert len(store.transcript(KEY).history) == 3
        assert len(store.usage(UsageQuery())) == 1
        assert store.compact("s1", "summary", 2, 5000)
        assert store.configure(KEY, SessionSettings(), 5000)
        assert store.archive(KEY, 5000)
        assert store.delete_session(f"archived:s1:{KEY}")
        store.close()

    assert len(threads) == 15
    assert set(threads).isdisjoint({threading.get_ident()})


GREEN = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, sqlite3, sys, time
from pathlib import Path
from app.errors import StoreError
from app.messages import UserMessage
from app.sessions.records import RunStart
from app.sessions.sql import open_store
from openclaw_gunicorn import native_thread

folder = Path(sys.argv[1])
store = open_store(folder, offload=native_thread() if sys.argv[2] == "thread" else None)

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
