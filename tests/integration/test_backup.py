"""Backups: what is written comes back as it was, whatever happens on the way; nothing foreign comes in."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.messages import AssistantMessage, Usage, UserMessage
from app.sessions.records import NewEntry, RunEnd, RunStart
from app.sessions.sql import open_store
from app.sessions.sqlite import FILE_NAME
from tests.e2e.gateway_process import CHECKOUT, wait_until
from tests.engines import postgres_server
from tests.integration.machine import CONFIG, SECRET, Machine


@pytest.fixture
def old(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "old")
    converse(machine.state, "agent:main:main", "hello", "hi")
    machine.write("workspace/memory/2026-11-23.md", "remember the milk")
    machine.write("exec-approvals.json", '{"agents": {}}')
    return machine


@pytest.fixture
def new(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "new")


def converse(state: Path, key: str, asked: str, answered: str, number: int = 1) -> None:
    with contextlib.closing(open_store(state)) as store:
        turn(store, key, asked, answered, number)


def turn(store: Any, key: str, asked: str, answered: str, number: int) -> None:
    loaded = store.load(key)
    session_id = loaded.session.id if loaded.session else f"session of {key}"
    run = RunStart(f"run-{key}-{number}", key, session_id, "main", "openai", "own/model", number)
    store.begin(run, [UserMessage.of(asked)])
    end = RunEnd(run.id, "completed", "stop", Usage(1, 2), "own/model", None, None, number + 1, 1, cost=0.5)
    store.finish(end, [NewEntry(AssistantMessage(answered), "stop")])


def backed_up(machine: Machine, *flags: str) -> Path:
    archive = machine.home / "backup.tar.gz"
    done = machine.run("backup", str(archive), "--force", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return archive


# there and back


def test_what_was_backed_up_comes_back_on_another_machine(old: Machine, new: Machine) -> None:
    archive = backed_up(old)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    done = new.run("restore", str(archive))
    assert (done.returncode, done.stderr) == (0, "")
    assert (new.rows(), new.files()) == (old.rows(), old.files())
    assert "agent:main:main" in new.run("sessions", "list").stdout


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["agent:main:main", "agent:main:ä\u2028b", "x" * 300]),
            st.text(max_size=200),
            st.text(max_size=200),
        ),
        max_size=12,
    ),
    texts=st.dictionaries(
        st.from_regex(r"[a-zA-Z0-9_. é-]{0,20}[a-z]", fullmatch=True), st.binary(max_size=3000), max_size=5
    ),
)
def test_any_state_comes_back_as_it_was(turns: list[tuple[str, str, str]], texts: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        old, new = Machine(Path(folder) / "old"), Machine(Path(folder) / "new")
        with contextlib.closing(open_store(old.state)) as store:
            for number, (key, asked, answered) in enumerate(turns):
                turn(
                    store,
                    key,
                    asked.encode(errors="ignore").decode(),
                    answered.encode(errors="ignore").decode(),
                    number,
                )
        for name, data in texts.items():
            old.write(f"workspace/{name}", "").write_bytes(data)
        archive = backed_up(old)
        assert new.run("restore", str(archive)).returncode == 0
        assert (new.rows(), new.files()) == (old.rows(), old.files())


def test_what_was_under_way_has_failed_after_the_restore(old: Machine, new: Machine) -> None:
    with contextlib.closing(open_store(old.state)) as store:
        store.begin(RunStart("r", "agent:main:x", "s", "main", "openai", "m", 1), [UserMessage.of("half a")])
        archive = backed_up(old)
    new.run("restore", str(archive))
    with contextlib.closing(open_store(new.state, readonly=True)) as store:
        run = store.get_run("r")
        assert run is not None
        assert (run.status, run.error_code) == ("failed", "interrupted")
        assert [entry.message for entry in store.transcript("agent:main:x").history] == [
            UserMessage.of("half a")
        ]


def test_a_backup_under_load_holds_whole_turns_only(old: Machine, new: Machine) -> None:
    with contextlib.closing(open_store(old.state)) as store:
        stop = threading.Event()

        def write() -> None:
            number = 10
            while not stop.is_set():
                turn(store, f"agent:main:{number % 7}", "q" * 500, "a" * 500, number)
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_until(lambda: store.count_sessions() >= 7)
            archive = backed_up(old)
        finally:
            stop.set()
            writer.join()
    new.run("restore", str(archive))
    with contextlib.closing(open_store(new.state, readonly=True)) as store:
        sessions = store.list_sessions(None, 100)
        assert len(sessions) >= 8
        interrupted = 0
        for session in sessions:
            said = [type(entry.message) for entry in store.transcript(session.key).history]
            runs = store.list_runs(session.key, 10_000)
            interrupted += sum(run.status == "failed" for run in runs)
            assert len(said) == session.message_count
            finished = [run for run in runs if run.status == "completed"]
            assert said.count(AssistantMessage) == len(finished)
            assert said.count(UserMessage) == len(runs)
        assert interrupted <= 1


def test_workspaces_elsewhere_are_backed_up_and_go_where_the_configuration_says(tmp_path: Path) -> None:
    agents = [{"id": "main"}, {"id": "out", "workspace": str(tmp_path / "far" / "away")}]
    old = Machine(tmp_path / "old", CONFIG | {"agents": {"list": agents}})
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "away" / "SOUL.md").write_text("kind")
    archive = backed_up(old)
    agents[1] = {"id": "out", "workspace": str(tmp_path / "near")}
    new = Machine(tmp_path / "new", CONFIG | {"agents": {"list": agents}})
    assert new.run("restore", str(archive)).returncode == 0
    assert (tmp_path / "near" / "SOUL.md").read_text() == "kind"
    bare = Machine(tmp_path / "bare")
    assert bare.run("restore", str(archive)).returncode == 0
    assert (bare.state / "workspace-out" / "SOUL.md").read_text() == "kind"


# another database


@pytest.fixture
def database() -> Iterator[str]:
    with postgres_server().database() as url:
        yield url


def on_postgres(home: Path, url: str) -> Machine:
    machine = Machine(home)
    machine.env["DATABASE_URL"] = url
    return machine


def test_a_state_moves_from_a_file_to_a_database_and_back(
    old: Machine, new: Machine, database: str, tmp_path: Path
) -> None:
    with contextlib.closing(open_store(old.state)) as store:
        for number in range(120):
            turn(store, f"agent:main:{number % 5}", "ä" * number, "b\u2028", number)
    shared = on_postgres(tmp_path / "shared", database)
    done = shared.run("restore", str(backed_up(old)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "agent:main:main" in shared.run("sessions", "list").stdout
    assert not list(shared.state.glob("gateway.sqlite3-*"))
    archive = backed_up(shared)
    assert database.encode() not in gzip.decompress(archive.read_bytes())
    assert new.run("restore", str(archive)).returncode == 0
    assert (new.rows(), new.files()) == (old.rows(), old.files())


def test_what_a_database_held_is_saved_before_it_is_replaced(
    old: Machine, new: Machine, database: str, tmp_path: Path
) -> None:
    shared = on_postgres(tmp_path / "shared", database)
    with contextlib.closing(open_store(database)) as store:
        turn(store, "agent:main:precious", "mine", "yours", 1)
    archive = backed_up(old)
    refused = shared.run("restore", str(archive))
    assert "There is state here already" in refused.stderr
    assert shared.run("restore", str(archive), "--force").returncode == 0
    assert "precious" not in shared.run("sessions", "list").stdout
    (saved,) = shared.state.glob("before-restore-*/database.tar.gz")
    assert new.run("restore", str(saved)).returncode == 0
    assert "precious" in new.run("sessions", "list").stdout


def test_nothing_is_restored_into_a_database_that_a_gateway_uses(
    old: Machine, database: str, tmp_path: Path
) -> None:
    shared = on_postgres(tmp_path / "shared", database)
    with contextlib.closing(open_store(database)) as store:
        store.join("some-worker", "host:4711", 30)
        done = shared.run("restore", str(backed_up(old)), "--force")
    assert done.returncode == 1
    assert "A gateway is using the database: host:4711. Stop it first." in done.stderr


def test_a_damaged_backup_leaves_a_database_as_it_was(old: Machine, database: str, tmp_path: Path) -> None:
    shared = on_postgres(tmp_path / "shared", database)
    with contextlib.closing(open_store(database)) as store:
        turn(store, "agent:main:precious", "mine", "yours", 1)
    archive = backed_up(old)
    archive.write_bytes(archive.read_bytes()[:-200])
    done = shared.run("restore", str(archive), "--force")
    assert "is damaged, cut short or no backup" in done.stderr
    assert "precious" in shared.run("sessions", "list").stdout


# secrets


def test_a_backup_has_no_secrets_unless_asked_for(old: Machine, tmp_path: Path) -> None:
    old.write(".env", f"KEY={SECRET}")
    archive = backed_up(old)
    assert SECRET.encode() not in gzip.decompress(archive.read_bytes())
    bare = Machine(tmp_path / "bare", None)
    done = bare.run("restore", str(archive))
    assert "gateway.auth.token, models.providers.own.apiKeys[0]" in done.stdout
    assert (
        json.loads(bare.config.read_text())["models"]["providers"]["own"]["baseUrl"]
        == "http://127.0.0.1:9/v1"
    )

    archive = backed_up(old, "--with-secrets")
    whole = Machine(tmp_path / "whole", None)
    assert whole.run("restore", str(archive)).returncode == 0
    assert whole.config.read_text() == old.config.read_text()
    assert stat.S_IMODE(whole.config.stat().st_mode) == 0o600
    assert (whole.state / ".env").read_text() == f"KEY={SECRET}"


def test_a_configuration_that_is_no_file_is_said_to_be_missing_from_a_backup_with_secrets(
    old: Machine,
) -> None:
    old.env["OPENCLAW_CONFIG_JSON"] = json.dumps(CONFIG)
    done = old.run("backup", str(old.home / "b.tar.gz"), "--with-secrets")
    told = "warning: the configuration is in variables of the environment and not part of the backup\n"
    assert (done.returncode, done.stderr) == (0, told)


def test_a_configuration_without_secrets_does_not_replace_one_that_has_them(
    old: Machine, new: Machine
) -> None:
    before = new.config.read_text()
    done = new.run("restore", str(backed_up(old)))
    assert "The configuration is the one that was there." in done.stdout
    assert new.config.read_text() == before


# refusals


def test_state_is_only_replaced_when_forced_and_then_moved_aside(old: Machine, new: Machine) -> None:
    converse(new.state, "agent:main:mine", "precious", "words")
    new.write("workspace/mine.md", "mine")
    before = (new.rows(), new.files())
    archive = backed_up(old)
    done = new.run("restore", str(archive))
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is state here already" in done.stderr
    assert (new.rows(), new.files()) == before

    assert new.run("restore", str(archive), "--force").returncode == 0
    assert (new.rows(), new.files()) == (old.rows(), old.files())
    (aside,) = new.state.glob("before-restore-*")
    shutil.copytree(aside, new.home / "kept")
    kept = Machine(new.home / "as-it-was")
    aside.rename(kept.state)
    assert (kept.rows(), kept.files()) == before


def test_nothing_is_restored_under_a_running_gateway(old: Machine, new: Machine) -> None:
    archive = backed_up(old)
    with contextlib.closing(open_store(new.state)):
        done = new.run("restore", str(archive))
    assert done.returncode == 1
    assert "Another gateway is using this state directory." in done.stderr


def test_a_damaged_store_can_be_replaced(old: Machine, new: Machine) -> None:
    new.state.mkdir()
    (new.state / FILE_NAME).write_bytes(b"not a database" * 1000)
    archive = backed_up(old)
    assert new.run("restore", str(archive)).returncode == 1
    assert new.run("restore", str(archive), "--force").returncode == 0
    assert new.rows() == old.rows()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_an_archive_that_was_cut_short_restores_nothing(old: Machine, new: Machine, share: float) -> None:
    old.write("workspace/noise.bin", "").write_bytes(os.urandom(200_000))
    archive = backed_up(old)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    refused(new, archive, "is damaged, cut short or no backup")


def test_a_changed_byte_is_noticed(old: Machine, new: Machine) -> None:
    archive = backed_up(old)
    data = gzip.decompress(archive.read_bytes())
    assert data.count(b"remember the milk") == 1
    archive.write_bytes(gzip.compress(data.replace(b"remember the milk", b"remember the silk")))
    refused(new, archive, "is damaged, cut short or no backup")


def refused(machine: Machine, archive: Path, text: str) -> None:
    done = machine.run("restore", str(archive))
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert machine.files() == {}
    assert not list(machine.state.glob(".restore-*"))


def entry(name: str, data: bytes = b"evil", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def manifest(**fields: Any) -> bytes:
    whole = {"format": 1, "version": "1", "schema": 1, "createdAt": 1, "rows": {}, "files": {}}
    return json.dumps(whole | {"omitted": [], "secrets": False} | fields).encode()


LINK = {"type": tarfile.SYMTYPE, "size": 0}


@pytest.mark.parametrize(
    "members",
    [
        [entry("../evil")],
        [entry("/etc/evil")],
        [entry("state/../../evil")],
        [entry("state/./a")],
        [entry("state//a")],
        [entry("state")],
        [entry("workspaces/x")],
        [entry("workspaces/../x/y")],
        [entry("state/gateway.sqlite3")],
        [entry("state/openclaw.json")],
        [entry("state/run/socket")],
        [entry("elsewhere/file")],
        [entry("state/a", linkname="../../evil", **LINK)],
        [entry("state/a", linkname="/etc/passwd", **LINK)],
        [entry("state/a", linkname="..", **LINK), entry("state/a/evil")],
        [entry("state/b/c", linkname=".", **LINK), entry("state/b/d", linkname="c/../../..", **LINK)],
        [entry("state/a", linkname="state/a", type=tarfile.LNKTYPE, size=0)],
        [entry("state/dev", type=tarfile.CHRTYPE, size=0)],
        [entry("state/pipe", type=tarfile.FIFOTYPE, size=0)],
        [entry("state/a"), entry("state/a")],
        [entry("state/a"), entry("state/a/b")],
        [entry("store/sessions/000001.jsonl", b"[]\n")],
        [entry("store/sessions/000001.jsonl", b"{}\n")],
        [entry("store/sessions/000001.jsonl", b'{"nosuch": 1}\n')],
        [entry("store/workers/000001.jsonl", b'{"id": "w"}\n')],
        [entry("state/p/q/a", linkname="d/../../z", **LINK), entry("state/p/q/d", linkname="../..", **LINK)],
        [entry("state/a", linkname="", **LINK)],
        [entry("state/a", pax_headers={"linkpath": "a\0b"}, **LINK)],
        [entry("state/a", linkname="x" * 5000, **LINK)],
        [entry("state/a", linkname="b", **LINK), entry("state/a/b")],
        [entry("state/" + "a/" * 1500 + "f")],
        [entry("state/a", pax_headers={"mtime": "nan"})],
        [entry("state/a", pax_headers={"mtime": "1e300"})],
        [entry("manifest.json", manifest(createdAt=10**30))],
        [entry("manifest.json", manifest(createdAt=-(10**18)))],
        [entry("manifest.json", manifest(rows={"sessions": "many"}))],
        [entry("manifest.json", b"[" * 100_000)],
        [entry("manifest.json", b"{}")],
        [],
    ],
    ids=lambda members: ",".join(info.name[:40] + info.linkname[:40] for info, _ in members),
)
def test_an_archive_that_means_harm_is_refused(
    new: Machine, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    refused(new, packed(tmp_path, members), "openclaw: ")
    assert not list(tmp_path.rglob("evil"))


def packed(folder: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    archive = folder / "evil.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return archive


def test_links_that_lead_elsewhere_only_together_are_refused_for_that(new: Machine, tmp_path: Path) -> None:
    links = [
        entry("state/p/q/a", linkname="d/../../z", **LINK),
        entry("state/p/q/d", linkname="../..", **LINK),
    ]
    refused(
        new, packed(tmp_path, [*links, entry("manifest.json", manifest())]), "The backup holds 'a', which"
    )


def test_a_file_of_nothing_but_holes_is_refused_before_it_fills_the_disk(new: Machine) -> None:
    header = bytearray(tarfile.TarInfo("state/a").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"00000000000\0" * 2  # one piece, of no bytes
    header[483:495] = b"00010000000\0"  # and the size of it all: 2 MiB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive = new.home / "holes.tar.gz"
    archive.write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    refused(new, archive, "The backup holds 'state/a', which no backup holds")


@pytest.mark.parametrize(
    ("member", "told"),
    [
        (lambda: entry("state/a", pax_headers={"comment": "x" * 80_000_000}), "is damaged, cut short or no"),
        (lambda: entry("store/runs/000001.jsonl", b"{}\n" * 2_000_000), "holds rows that cannot be read"),
    ],
    ids=["header", "rows"],
)
def test_what_would_fill_the_memory_is_refused_before_it_does(
    new: Machine, tmp_path: Path, member: Callable[[], tuple[tarfile.TarInfo, bytes]], told: str
) -> None:
    archive = packed(tmp_path, [member()])
    tracemalloc.start()
    try:
        refused(new, archive, told)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_a_backup_of_a_newer_release_is_refused(old: Machine, new: Machine) -> None:
    archive = backed_up(old)
    with tarfile.open(archive) as tar, tarfile.open(archive.with_name("newer.tar.gz"), "w:gz") as newer:
        for member in tar:
            data = b"" if member.isdir() else tar.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == "manifest.json":
                data = json.dumps(json.loads(data) | {"schema": 10_000}).encode()
                member.size = len(data)
            newer.addfile(member, io.BytesIO(data))
    refused(new, archive.with_name("newer.tar.gz"), "was made by a newer version of the gateway")


def test_an_existing_file_is_only_replaced_when_forced(old: Machine) -> None:
    target = old.home / "backup.tar.gz"
    target.write_text("mine")
    done = old.run("backup", str(target))
    assert (done.returncode, target.read_text()) == (1, "mine")
    assert old.run("backup", str(target), "--force").returncode == 0
    assert target.read_bytes().startswith(b"\x1f\x8b")


@pytest.mark.parametrize("name", ["missing/backup.tar.gz", "state"])
def test_a_place_that_cannot_be_written_is_a_sentence(old: Machine, name: str) -> None:
    done = old.run("backup", str(old.home / name), "--force")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_state_directory_that_cannot_be_read_is_told_from_a_place_that_cannot_be_written(
    old: Machine,
) -> None:
    state = old.home / ("x" * 300)
    done = subprocess.run(
        [sys.executable, "-m", "app", "backup", str(old.home / "backup.tar.gz")],
        cwd=CHECKOUT,
        env=old.env | {"OPENCLAW_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"openclaw: {state}")
    assert done.stderr.endswith(" cannot be read: File name too long.\n")


# what is no file, and what changes


def test_links_within_a_workspace_come_back_and_others_do_not(old: Machine, new: Machine) -> None:
    workspace = old.state / "workspace"
    (workspace / "inner").symlink_to("memory/2026-11-23.md")
    (workspace / "outer").symlink_to("/etc/passwd")
    os.mkfifo(workspace / "pipe")
    archive = old.home / "b.tar.gz"
    done = old.run("backup", str(archive))
    assert "workspace/outer is a link that leads elsewhere" in done.stderr
    assert "workspace/pipe is no file" in done.stderr
    assert new.run("restore", str(archive)).returncode == 0
    assert (new.state / "workspace" / "inner").readlink() == Path("memory/2026-11-23.md")
    assert sorted(path.name for path in (new.state / "workspace").iterdir()) == ["inner", "memory"]


def test_a_link_to_itself_is_backed_up_as_it_is(old: Machine, new: Machine) -> None:
    (old.state / "workspace" / "loop").symlink_to("loop")
    assert new.run("restore", str(backed_up(old))).returncode == 0
    assert (new.state / "workspace" / "loop").readlink() == Path("loop")


def test_a_file_whose_name_is_no_text_comes_back(old: Machine, new: Machine) -> None:
    name = os.fsdecode(b"workspace/caf\xe9.txt")
    old.write(name, "bitter")
    assert new.run("restore", str(backed_up(old))).returncode == 0
    assert (new.state / name).read_text() == "bitter"


def test_directories_without_an_end_are_left_out_and_the_rest_comes_back(old: Machine, new: Machine) -> None:
    old.write(f"workspace/{'a/' * 90}kept", "90 levels")
    old.write(f"workspace/{'b/' * 600}lost", "600 levels")
    (old.state / f"workspace/{'b/' * 99}link").symlink_to("lost")
    archive = old.home / "b.tar.gz"
    done = old.run("backup", str(archive))
    assert "nested too deeply and is left out" in done.stderr
    assert new.run("restore", str(archive)).returncode == 0
    assert (new.state / f"workspace/{'a/' * 90}kept").read_text() == "90 levels"
    assert (new.state / "workspace/memory/2026-11-23.md").exists()


def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing(old: Machine) -> None:
    old.write("workspace/noise.bin", "").write_bytes(os.urandom(2_000_000))
    archive = old.home / "backup.tar.gz"
    limited = f"ulimit -f 1000; exec {sys.executable} -m app backup {archive}"
    done = subprocess.run(
        ["sh", "-c", limited], cwd=CHECKOUT, env=old.env, capture_output=True, text=True, check=False
    )
    told = f"openclaw: {archive} cannot be written: File too large.\n"
    assert (done.returncode, done.stderr) == (1, told)
    assert not list(old.home.glob(".backup*"))


# kill -9


def test_a_backup_that_was_killed_leaves_the_last_one(old: Machine) -> None:
    archive = backed_up(old)
    before = archive.read_bytes()
    old.write("workspace/large.bin", "").write_bytes(os.urandom(60_000_000))
    with old.start("backup", str(archive), "--force") as process:
        wait_until(lambda: list(old.home.glob(".*.partial")), 30)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert archive.read_bytes() == before


def moments(machine: Machine, archive: Path, several: int) -> Iterator[float]:
    """When to kill: several moments of the time that a whole restore takes."""
    started = time.monotonic()
    with machine.start("restore", str(archive)) as process:
        assert process.wait(60) == 0
    took = time.monotonic() - started
    yield from (took * (n + 1) / (several + 1) for n in range(several))


def test_what_an_attempt_of_the_same_second_has_put_aside_stays_as_it_is(old: Machine, new: Machine) -> None:
    archive = backed_up(old)
    converse(new.state, "agent:main:mine", "precious", "words")
    now = time.time()
    for second in range(60):
        name = time.strftime("before-restore-%Y%m%dT%H%M%SZ", time.gmtime(now + second))
        new.write(f"{name}/gateway.sqlite3", "of an earlier attempt")

    done = new.run("restore", str(archive), "--force")

    assert (done.returncode, done.stderr) == (0, "")
    assert new.rows() == old.rows()
    aside = {path.name: path / "gateway.sqlite3" for path in new.state.glob("before-restore-*")}
    assert sum(path.read_bytes() == b"of an earlier attempt" for path in aside.values()) == 60
    assert len(aside) == 61


def test_a_restore_that_was_killed_leaves_a_store_that_can_be_used(
    old: Machine, new: Machine, tmp_path: Path
) -> None:
    for number in range(60):
        old.write(f"workspace/{number}.bin", "x" * 50_000)
    archive = backed_up(old)
    converse(new.state, "agent:main:mine", "precious", "words")
    mine = new.rows()
    shutil.copytree(new.state, tmp_path / "copy")
    for moment in moments(Machine(tmp_path / "clock"), archive, 6):
        shutil.rmtree(new.state)
        shutil.copytree(tmp_path / "copy", new.state)
        with new.start("restore", str(archive), "--force") as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.kill()
        assert new.rows() in (mine, old.rows())
    assert new.run("restore", str(archive), "--force").returncode == 0
    assert (new.rows(), new.files()) == (old.rows(), old.files())
