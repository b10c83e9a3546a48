"""Commands: real shells, real processes, and nothing of them left."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.events import ProgressEvent, ToolUpdated
from app.runs.executor import Executor
from app.tools.approvals import Proposal
from app.tools.exec import CommandLimits, Commands
from app.tools.registry import ToolContext, ToolError

ROOT = Path(__file__).parents[2]
SECRET = "sk-very-secret-value"


def admit(context: ToolContext, proposal: Proposal) -> str:
    return proposal.command


@dataclass
class Bench:
    """Commands of one gateway, and a run that uses them."""

    commands: Commands
    context: ToolContext
    events: list[ProgressEvent]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def exec(self, command: str, **arguments: Any) -> str:
        run, _ = self.commands.tools()
        env = {"MARK": self.mark, **arguments.pop("env", {})}
        return run.function(self.context, {"command": command, "env": env, **arguments})

    def error(self, command: str, **arguments: Any) -> str:
        with pytest.raises(ToolError) as caught:
            self.exec(command, **arguments)
        return str(caught.value)

    def process(self, action: str, session: str | None = None, **arguments: Any) -> str:
        _, process = self.commands.tools()
        named = {} if session is None else {"sessionId": session}
        return process.function(self.context, {"action": action, **named, **arguments})

    def background(self, command: str, **arguments: Any) -> str:
        text = self.exec(command, background=True, **arguments)
        match = re.search(r"\(session ([\w-]+), pid \d+\)", text)
        assert match is not None, text
        return match[1]

    def left(self) -> list[int]:
        """All processes that were started by these commands and have not cleared their environment."""
        return marked(self.mark)


def marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes() + (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # it has just ended
            continue
    return found


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(params=[True, False], ids=["isolated", "plain"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    executor, made = Executor(), []
    (tmp_path / "workspace" / "sub").mkdir(parents=True)
    environment = {**os.environ, "PROVIDER_API_KEY": SECRET}

    def make(**limits: Any) -> Bench:
        limits = {"grace_seconds": 0.2, **limits}
        commands = Commands(
            spawn=executor.spawn,
            environment=environment,
            admit=admit,
            limits=CommandLimits(**limits),
            hidden=(tmp_path / "config.json", tmp_path / "missing.json"),
            sealed=tmp_path,
        )
        events: list[ProgressEvent] = []
        context = ToolContext(
            "main",
            "agent:main:main",
            "run-1",
            "p/m",
            tmp_path / "workspace",
            1,
            CancelToken(),
            call_id="call-1",
            scratch=tmp_path / "scratch",
            emit=events.append,
        )
        made.append(bench := Bench(commands, context, events))
        return bench

    yield make
    for bench in made:
        bench.commands.close()
        assert bench.left() == []
    executor.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


# What comes back


def test_the_result_is_standard_output_and_standard_error_together(bench: Bench) -> None:
    assert bench.exec("echo one; echo two >&2; echo three") == "one\ntwo\nthree\n"


def test_silence_is_said_in_words(bench: Bench) -> None:
    assert bench.exec("true") == "(no output)"


def test_an_exit_code_is_an_error_that_keeps_the_output(bench: Bench) -> None:
    assert bench.error("echo half; exit 3") == "half\n\n(Command exited with code 3)"


def test_an_indented_first_line_stays_indented(bench: Bench) -> None:
    assert bench.error("echo '  - item'; false") == "  - item\n\n(Command exited with code 1)"


def test_a_signal_is_named(bench: Bench) -> None:
    assert bench.error("kill -SEGV $$") == "(Command was ended by SIGSEGV)"


def test_a_command_runs_in_the_directory_asked_for(bench: Bench) -> None:
    workspace = bench.context.workspace

    assert bench.exec("pwd") == f"{workspace}\n"
    assert bench.exec("pwd", workdir="sub") == f"{workspace / 'sub'}\n"


@pytest.mark.parametrize("workdir", ["..", "/", "link", "missing", "a\0b"])
def test_a_directory_outside_the_workspace_is_refused(bench: Bench, workdir: str) -> None:
    (bench.context.workspace / "link").symlink_to("/")

    assert bench.error("pwd", workdir=workdir).startswith("workdir: ")


def test_standard_input_is_empty(bench: Bench) -> None:
    assert bench.exec("cat; echo done", timeout=5) == "done\n"


def test_bytes_that_are_no_text_do_no_harm(bench: Bench) -> None:
    assert bench.exec(r"printf 'a\000b\377c\342\202'") == "ab\ufffdc\ufffd"


def test_a_pipe_that_breaks_ends_its_writer_quietly(bench: Bench) -> None:
    assert bench.exec("yes | head -n 1; echo ${PIPESTATUS[0]}") == "y\n141\n"


def test_what_models_of_other_gateways_send_changes_nothing(bench: Bench) -> None:
    extras = {"pty": True, "elevated": True, "host": "gateway", "security": "full", "ask": "off"}

    assert bench.exec("echo hi", **extras) == "hi\n"


@pytest.mark.parametrize(
    ("command", "env"),
    [("a\0b", {}), ("x" * 100_001, {}), ("env", {"A=B": "1"}), ("env", {"BASH_FUNC_ls%%": "() { id; }"})],
)
def test_what_no_shell_takes_is_an_error(bench: Bench, command: str, env: dict[str, str]) -> None:
    assert bench.error(command, env=env).startswith(("command: ", "env: "))


# Output beyond all bounds


def test_long_output_keeps_both_ends_and_goes_to_a_file(bench: Bench) -> None:
    text = bench.exec("seq 1 100000")

    path = Path(re.search(r"the whole output is in (\S+) …", text)[1])  # type: ignore[index]
    assert text.startswith("1\n2\n3\n")
    assert text.endswith("99999\n100000\n")
    assert len(text) < 17_000
    assert path.parent == bench.context.scratch
    assert path.read_text().split() == [str(n) for n in range(1, 100_001)]
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)


def test_short_output_leaves_no_file(bench: Bench) -> None:
    bench.exec("echo short")

    assert bench.context.scratch is not None
    assert not bench.context.scratch.exists()


def test_a_flood_of_output_takes_neither_memory_nor_disk(make: Callable[..., Bench]) -> None:
    bench = make(spill_bytes=1_000_000)
    before = resident()

    text = bench.exec("head -c 300000000 /dev/zero | tr '\\0' x; echo; echo the end")

    assert text.endswith("x\nthe end\n")
    assert "299,984,009 bytes are left out here" in text
    assert "the first part of the output is in" in text
    assert [path.stat().st_size for path in bench.context.scratch.iterdir()] == [1_000_000]  # type: ignore[union-attr]
    assert resident() - before < 30_000_000


def test_output_that_never_ends_is_ended_by_the_clock(bench: Bench) -> None:
    text = bench.error("yes", timeout=0.5)

    assert text.startswith("y\ny\n")
    assert text.endswith("(Command timed out after 0.5 seconds and was ended)")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# Nothing is left


def test_what_is_left_in_the_background_ends_with_the_command(
    make: Callable[..., Bench], isolate: bool
) -> None:
    bench = make(isolate=isolate)

    text = bench.exec("sleep 100 & echo hi")

    assert text == "hi\n\n(Processes it had left running, 1 in all, were ended.)"
    assert bench.left() == []


def test_a_daemon_that_ignores_sigterm_ends_with_the_command(
    make: Callable[..., Bench], isolate: bool
) -> None:
    bench = make(isolate=isolate)
    daemon = "trap '' TERM HUP; echo up > up; while :; do sleep 1; done"

    text = bench.exec(f'setsid bash -c "{daemon}" >/dev/null 2>&1 & until [ -e up ]; do sleep 0.05; done')

    assert "were ended" in text
    assert bench.left() == []


def test_helpers_that_are_about_to_end_may_do_so(bench: Bench) -> None:
    assert bench.exec("echo hi > >(sleep 0.1; cat)") == "hi\n"


def test_the_time_limit_ends_the_whole_tree(make: Callable[..., Bench], isolate: bool) -> None:
    bench = make(isolate=isolate)
    started = time.monotonic()

    text = bench.error("(trap '' TERM; sleep 100; sleep 100) & sleep 100", timeout=0.3)

    assert text == "(Command timed out after 0.3 seconds and was ended)"
    assert time.monotonic() - started < 4
    assert bench.left() == []


def test_a_fork_bomb_is_ended(make: Callable[..., Bench], isolate: bool) -> None:
    bench = make(isolate=isolate, max_processes=40)
    # Bounded by itself too, should the test fail: seven generations and ten seconds.
    bomb = "bomb() { [ $1 -gt 7 ] || { bomb $(($1+1)) & bomb $(($1+1)) & }; sleep 10; }; bomb 0"

    text = bench.error(bomb, timeout=20)

    assert text.endswith("(Command had more than 40 processes and was ended)")
    assert bench.left() == []


def test_a_cancelled_run_ends_its_command_at_once(make: Callable[..., Bench], isolate: bool) -> None:
    bench = make(isolate=isolate, grace_seconds=CommandLimits().grace_seconds)
    cancelled_at = []

    def cancel() -> None:
        until(lambda: len(bench.left()) > 2)
        cancelled_at.append(time.monotonic())
        bench.context.cancel.cancel(CancelReason.DISCONNECT)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(Cancelled):
        bench.exec("trap '' TERM; setsid sleep 100 & sleep 100; sleep 100")
    canceller.join()

    until(lambda: bench.left() == [])
    assert time.monotonic() - cancelled_at[0] < 3


def test_a_cancelled_run_starts_nothing(bench: Bench) -> None:
    bench.context.cancel.cancel(CancelReason.USER)

    with pytest.raises(Cancelled):
        bench.exec("touch started")

    assert not (bench.context.workspace / "started").exists()


GATEWAY = """
import sys
from pathlib import Path
from app.cancel import CancelToken
from app.runs.executor import Executor
from app.tools.exec import CommandLimits, Commands
from app.tools.registry import ToolContext

commands = Commands(
    spawn=Executor().spawn,
    environment={},
    admit=lambda context, proposal: proposal.command,
    limits=CommandLimits(grace_seconds=0.2, isolate=sys.argv[1] == "True"),
)
context = ToolContext("main", "key", "run", "p/m", Path(sys.argv[2]), 1, CancelToken())
run, _ = commands.tools()
command = "trap '' TERM; setsid sleep 100 & echo up > up; sleep 100; sleep 100"
run.function(context, {"command": command, "env": {"MARK": sys.argv[3]}})
"""


def test_a_gateway_that_is_killed_leaves_nothing(tmp_path: Path, isolate: bool) -> None:
    mark = uuid.uuid4().hex
    gateway = subprocess.Popen([sys.executable, "-c", GATEWAY, str(isolate), str(tmp_path), mark], cwd=ROOT)
    until((tmp_path / "up").exists, 15)
    assert len(marked(mark)) > 2

    os.kill(gateway.pid, signal.SIGKILL)
    gateway.wait()

    until(lambda: marked(mark) == [])


def test_a_warden_that_is_killed_takes_its_command_with_it(bench: Bench) -> None:
    text = bench.exec("setsid sleep 100 & echo up; sleep 100", yieldMs=300)
    assert len(bench.left()) == 2

    os.kill(int(re.search(r"pid (\d+)", text)[1]), signal.SIGKILL)  # type: ignore[index]

    until(lambda: bench.left() == [])
    until(lambda: bench.commands.news(bench.context.session_key))


def test_many_quick_commands_leave_nothing_open(bench: Bench) -> None:
    bench.exec("true")
    others = set(psutil.Process().children())
    files, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    for number in range(25):
        assert bench.exec(f"echo {number}") == f"{number}\n"

    until(lambda: threading.active_count() <= threads)
    assert len(list(Path("/proc/self/fd").iterdir())) <= files
    assert set(psutil.Process().children()) <= others


# Secrets


def test_a_command_can_write_to_its_workspace_and_to_nothing_else_of_the_state(
    bench: Bench, tmp_path: Path
) -> None:
    bench.exec("echo mine > kept.txt; echo no > ../missing.json; mkdir ../skills; ls ..")

    assert (tmp_path / "workspace" / "kept.txt").read_text() == "mine\n"
    assert not (tmp_path / "missing.json").exists()
    assert not (tmp_path / "skills").exists()


def test_a_hidden_file_is_empty_for_commands_and_cannot_be_changed(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("the token")

    shown = bench.exec(
        "cat ../config.json; umount ../config.json 2>&1; cat ../config.json; echo x > ../config.json"
    )

    assert "the token" not in shown
    assert config.read_text() == "the token"


def test_no_secret_of_the_gateway_is_in_the_environment(bench: Bench) -> None:
    shown = bench.exec("env; cat /proc/$PPID/environ | tr '\\0' '\\n'; history; echo hist=$HISTFILE")

    assert SECRET not in shown
    assert "PATH=" in shown
    assert shown.endswith("hist=\n")


def test_a_command_sees_no_process_but_its_own(bench: Bench) -> None:
    if not namespaces_work():
        pytest.skip("this kernel allows no namespaces")
    shown = bench.exec("umount /proc 2>/dev/null; unshare -Urm umount /proc 2>/dev/null; ls -d /proc/[0-9]*")

    assert len(shown.split()) < 5


def namespaces_work() -> bool:
    flags = "-pmf" if os.geteuid() == 0 else "-Urpmf"
    return subprocess.run(["unshare", flags, "--mount-proc", "true"], capture_output=True).returncode == 0


def test_the_agent_s_variables_and_the_call_s_are_there(bench: Bench) -> None:
    bench.context = replace(bench.context, env={"SKILL": "one", "BOTH": "skill"})

    assert bench.exec("echo $SKILL $BOTH $CALL", env={"BOTH": "call", "CALL": "two"}) == "one call two\n"


# The background


def test_a_command_that_takes_long_goes_on_in_the_background(bench: Bench) -> None:
    text = bench.exec("echo begin; read -t 1 < <(sleep 1); echo end", yieldMs=300)

    name = re.search(r"begin\n\nCommand still running \(session ([\w-]+), pid \d+\)", text)[1]  # type: ignore[index]
    until(lambda: "exited with code 0" in bench.process("list"))
    assert bench.process("poll", name) == "end\n\n(Command exited with code 0)"
    assert bench.process("log", name) == "begin\nend\n\n[lines 0 to 2 of 2]"


def test_progress_is_shown_a_few_times_a_second(bench: Bench) -> None:
    bench.exec("for i in $(seq 120); do echo line $i; sleep 0.01; done")

    updates = [event for event in bench.events if isinstance(event, ToolUpdated)]
    assert 1 <= len(updates) <= 8
    assert {(update.call_id, update.name) for update in updates} == {("call-1", "exec")}
    assert "line " in updates[-1].text


def test_a_background_command_can_be_written_to(bench: Bench) -> None:
    name = bench.background("while read line; do echo got $line; done; echo bye")

    assert bench.process("submit", name, data="one") == "Wrote 4 bytes."
    assert "got one" in bench.process("poll", name, timeout=5000)
    assert bench.process("write", name, data="two\n", eof=True) == "Wrote 4 bytes and closed the input."
    until(lambda: "exited" in bench.process("list"))
    assert bench.process("poll", name).startswith("got two\nbye\n")
    with pytest.raises(ToolError, match="input is closed"):
        bench.process("write", name, data="three")


def test_writing_to_a_command_that_does_not_read_ends_with_the_run(
    bench: Bench,
) -> None:
    name = bench.background("sleep 100")
    threading.Timer(0.5, lambda: bench.context.cancel.cancel(CancelReason.USER)).start()

    with pytest.raises(Cancelled):
        bench.process("write", name, data="x" * 1_000_000)


def test_a_poll_waits_for_output(bench: Bench) -> None:
    name = bench.background("sleep 0.3; echo now; sleep 100")
    started = time.monotonic()

    text = bench.process("poll", name, timeout=10_000)

    assert text == "now\n\n(Command is still running)"
    assert time.monotonic() - started < 5


def test_killing_clearing_and_removing(bench: Bench) -> None:
    first, second = bench.background("sleep 100"), bench.background("sleep 100")

    with pytest.raises(ToolError, match="still running"):
        bench.process("clear", first)
    assert bench.process("kill", first) == f"Command {first} was ended on request."
    bench.process("clear", first)
    bench.process("remove", second)

    assert bench.process("list") == "No background commands."
    assert bench.left() == []


def test_another_session_sees_nothing(bench: Bench) -> None:
    name = bench.background("sleep 100")
    other = replace(bench, context=replace(bench.context, session_key="agent:main:other"))

    assert other.process("list") == "No background commands."
    for action in ("poll", "log", "write", "kill", "remove"):
        with pytest.raises(ToolError, match="no background command"):
            other.process(action, name)
    assert "is still running :: sleep 100" in bench.process("list")


def test_the_end_of_a_background_command_is_news_once(bench: Bench) -> None:
    key = bench.context.session_key
    name = bench.background("exit 4")
    assert bench.commands.news("agent:main:other") == []
    news: list[str] = []

    until(lambda: news.extend(bench.commands.news(key)) or news)

    assert news == [f"Background command exit 4 (session {name}) has ended: it exited with code 4."]
    assert bench.commands.news(key) == []


def test_the_end_of_a_session_ends_its_commands(bench: Bench) -> None:
    bench.background("sleep 100")
    other = replace(bench, context=replace(bench.context, session_key="agent:main:other"), mark="other-mark")
    kept = other.background("sleep 100")

    bench.commands.kill_session(bench.context.session_key)

    until(lambda: bench.left() == [])
    assert bench.process("list") == "No background commands."
    assert "is still running" in other.process("poll", kept)


def test_the_end_of_a_run_can_end_its_commands(bench: Bench) -> None:
    bench.background("sleep 100")

    bench.commands.kill_run("run-1")

    until(lambda: bench.left() == [])
    assert bench.process("list") == "No background commands."


def test_too_many_commands_are_refused(make: Callable[..., Bench]) -> None:
    bench = make(max_concurrent=2)
    bench.background("sleep 100")
    bench.background("sleep 100")

    assert bench.error("true") == "Too many commands are running. End one, or try again later."


def test_the_oldest_that_has_ended_makes_room_in_the_list(make: Callable[..., Bench]) -> None:
    bench = make(max_sessions=2)
    bench.background("sleep 100")
    ended = bench.background("true")
    until(lambda: "exited" in bench.process("list"))

    bench.background("sleep 100")

    assert ended not in bench.process("list")
    assert "Too many background commands" in bench.error("true")


def test_what_ended_long_ago_is_forgotten(make: Callable[..., Bench]) -> None:
    bench = make(keep_seconds=0.2)
    bench.background("true")

    until(lambda: bench.process("list") == "No background commands.")


def test_after_the_end_of_the_gateway_nothing_starts(bench: Bench) -> None:
    bench.background("trap '' TERM; sleep 100; sleep 100")

    bench.commands.close()

    assert bench.left() == []
    assert bench.error("true") == "The gateway is shutting down."


def test_what_the_gate_refuses_does_not_run(bench: Bench, tmp_path: Path) -> None:
    def refuse(context: ToolContext, proposal: Proposal) -> str:
        raise ToolError(f"no: {proposal.command} in {proposal.directory.name}")

    executor = Executor()
    commands = Commands(spawn=executor.spawn, environment={}, admit=refuse)
    run, _ = commands.tools()

    with pytest.raises(ToolError, match="no: touch x in sub"):
        run.function(bench.context, {"command": "touch x", "workdir": "sub"})

    assert not list((bench.context.workspace / "sub").iterdir())
    executor.close()


UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys, threading, time
from pathlib import Path
from app.cancel import CancelToken
from app.runs.executor import Executor
from app.tools.exec import CommandLimits, Commands
from app.tools.registry import ToolContext, ToolError

worst, stop = [0.0], threading.Event()
def beat():
    while not stop.is_set():
        before = time.monotonic()
        time.sleep(0.01)
        worst[0] = max(worst[0], time.monotonic() - before - 0.01)
executor = Executor()
commands = Commands(
    spawn=executor.spawn,
    environment={},
    admit=lambda context, proposal: proposal.command,
    limits=CommandLimits(grace_seconds=0.2),
)
context = ToolContext("main", "key", "run", "p/m", Path(sys.argv[1]), 1, CancelToken())
run, process = commands.tools()
executor.spawn("heart", beat)
floods = [
    executor.spawn(f"flood-{n}", lambda: run.function(context, {"command": "yes | head -c 100000000"}))
    for n in range(2)
]
for flood in floods:
    flood.join()
try:
    run.function(context, {"command": "trap '' TERM; sleep 100; sleep 100", "timeout": 0.2})
except ToolError as error:
    print(error)
stop.set()
commands.close()
print("worst", worst[0])
"""


def test_under_gevent_nobody_waits_for_somebody_else_s_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    first, worst = done.stdout.splitlines()
    assert first == "(Command timed out after 0.2 seconds and was ended)"
    assert float(worst.removeprefix("worst ")) < 0.5
