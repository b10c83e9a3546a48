"""Heavy work in child processes: it ends in time, and nothing of it stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.messages import JsonValue
from app.tools.child import run_child
from app.tools.registry import ToolError


@pytest.fixture(autouse=True)
def no_process_and_no_descriptor_left() -> Iterator[None]:
    before, open_before = set(psutil.Process().children(recursive=True)), descriptors()
    yield
    assert set(psutil.Process().children(recursive=True)) == before
    assert descriptors() == open_before


def descriptors() -> int:
    return psutil.Process().num_fds()


def program(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(f"import json, os, sys, time\njob = json.load(sys.stdin)\n{text}\n")
    return path


def run(
    tmp_path: Path, text: str, job: JsonValue = None, timeout: float = 20, cancel: CancelToken | None = None
) -> JsonValue:
    return run_child(program(tmp_path, text), job, timeout=timeout, cancel=cancel or CancelToken())


def test_the_job_goes_in_and_the_answer_comes_back(tmp_path: Path) -> None:
    answer = run(tmp_path, "json.dump({'you said': job}, sys.stdout)", ["é", 1, None])

    assert answer == {"you said": ["é", 1, None]}


def test_a_large_job_and_a_large_answer_fit(tmp_path: Path) -> None:
    text = "x" * 3_000_000

    assert run(tmp_path, "json.dump(job, sys.stdout)", text) == text


def test_the_child_sees_nothing_of_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    text = (
        "opened = sorted(map(int, os.listdir('/proc/self/fd')))\n"
        "leads = os.getsid(0) == os.getpid()\n"
        "json.dump([sorted(os.environ), os.getcwd(), leads, opened, sys.path], sys.stdout)"
    )

    answer: Any = run(tmp_path, text)
    environment, directory, leads, opened, path = answer

    assert set(environment) <= {"LANG", "LD_LIBRARY_PATH", "LC_CTYPE"}
    assert (directory, leads) == ("/", True)
    assert opened == [0, 1, 2, 3]  # the last one reads the directory itself
    assert str(tmp_path) not in path
    assert any(place.endswith("site-packages") for place in path)


def test_a_child_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    began = time.monotonic()

    with pytest.raises(ToolError, match=r"^This took longer than 0\.5 seconds and was stopped\.$"):
        run(tmp_path, "while True: pass", timeout=0.5)

    assert time.monotonic() - began < 5


def test_a_child_that_never_reads_is_stopped_too(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import time\ntime.sleep(60)")

    with pytest.raises(ToolError, match="took longer"):
        run_child(path, "x" * 4_000_000, timeout=0.5, cancel=CancelToken())


def test_a_child_that_drips_does_not_outlive_the_limit(tmp_path: Path) -> None:
    text = "while True: os.write(1, b' '); time.sleep(0.02)"

    with pytest.raises(ToolError, match="took longer"):
        run(tmp_path, text, timeout=0.5)


def test_cancelling_ends_a_busy_child_at_once(tmp_path: Path) -> None:
    cancel, began = CancelToken(), tmp_path / "began"
    stopped: list[float] = []

    def stop() -> None:
        while not began.exists():
            time.sleep(0.01)
        stopped.append(time.monotonic())
        cancel.cancel(CancelReason.USER)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Cancelled):
        run(tmp_path, f"open({str(began)!r}, 'w')\nwhile True: pass", cancel=cancel)
    ended = time.monotonic()
    thread.join()

    assert ended - stopped[0] < 0.9


def test_a_cancelled_run_starts_no_child(tmp_path: Path) -> None:
    cancel, began = CancelToken(), tmp_path / "began"
    cancel.cancel(CancelReason.USER)

    with pytest.raises(Cancelled):
        run(tmp_path, f"open({str(began)!r}, 'w')", cancel=cancel)

    assert not began.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("raise RuntimeError('/a/secret/path')", "exit code 1"),
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("pass", "exit code 0"),
        ("os.close(1); os.close(0); time.sleep(60)", "it hung"),
    ],
)
def test_a_child_without_an_answer_is_reported_without_its_secrets(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ToolError) as caught:
        run(tmp_path, text)

    assert str(caught.value) == f"The helper process ended without an answer ({reason})."


def test_a_program_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"ended without an answer \(exit code 2\)"):
        run_child(tmp_path / "nowhere.py", "x" * 4_000_000, timeout=20, cancel=CancelToken())


@pytest.mark.parametrize("text", ["print('{')", "print('NaN')", "os.write(1, bytes([255]))", "print('1 2')"])
def test_garbage_is_not_an_answer(tmp_path: Path, text: str) -> None:
    with pytest.raises(ToolError, match="cannot be read"):
        run(tmp_path, text)


def test_endless_output_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="too much to say"):
        run(tmp_path, "while True: os.write(1, b'x' * 65536)")


def test_memory_has_a_limit(tmp_path: Path) -> None:
    text = (
        "try: bytearray(1 << 30); json.dump('got it', sys.stdout)\n"
        "except MemoryError: json.dump('refused', sys.stdout)"
    )

    assert run(tmp_path, text) == "refused"


def test_the_whole_family_is_gone_with_the_child(tmp_path: Path) -> None:
    text = (
        "import signal\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    os.closerange(0, 3)\n"
        "    time.sleep(600)\n"
        "json.dump(pid, sys.stdout)"
    )

    grandchild = run(tmp_path, text)

    assert isinstance(grandchild, int)
    deadline = time.monotonic() + 5
    while alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(grandchild)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys, time, gevent
from pathlib import Path
from app.cancel import Cancelled, CancelReason, CancelToken
from app.tools.child import run_child
from app.tools.registry import ToolError

busy, ticks = Path(sys.argv[1]), []

def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)

def job(cancel):
    try:
        return run_child(busy, None, timeout=1.0, cancel=cancel)
    except ToolError as error:
        return str(error)
    except Cancelled:
        return "cancelled"

gevent.spawn(tick)
token = CancelToken()
late, stopped = gevent.spawn(job, CancelToken()), gevent.spawn(job, token)
gevent.spawn_later(0.3, token.cancel, CancelReason.USER)
began = time.monotonic()
print(stopped.get(), time.monotonic() - began < 0.9)
print(late.get())
print(max(b - a for a, b in zip(ticks, ticks[1:])) < 0.5)
"""


def test_under_gevent_everybody_else_goes_on(tmp_path: Path) -> None:
    busy = program(tmp_path, "while True: pass")
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", GEVENT, str(busy)],
        cwd=root,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "cancelled True\nThis took longer than 1 seconds and was stopped.\nTrue\n", (
        done.stderr
    )
