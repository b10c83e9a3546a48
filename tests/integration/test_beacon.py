"""The file that says where a state directory's gateway is."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import StoreError
from app.sessions.beacon import FILE_NAME, Beacon, light, seen
from app.sessions.sql import open_store
from tests.e2e.gateway_process import CHECKOUT

HERE = Beacon(pid=4711, url="http://127.0.0.1:18790", version="1.2")


def test_a_gateway_is_seen_until_it_leaves(tmp_path: Path) -> None:
    assert seen(tmp_path) is None
    leave = light(tmp_path, HERE)
    assert seen(tmp_path) == HERE
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    leave()
    leave()
    assert seen(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_of_several_workers_the_last_one_takes_the_file_along(tmp_path: Path) -> None:
    first, second = light(tmp_path, HERE), light(tmp_path, HERE)
    first()
    assert seen(tmp_path) == HERE
    second()
    assert seen(tmp_path) is None


def test_looking_does_not_disturb_the_gateway(tmp_path: Path) -> None:
    leave = light(tmp_path, HERE)
    assert [seen(tmp_path) for _ in range(3)] == [HERE] * 3
    leave()


def test_a_gateway_that_was_killed_is_not_seen(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.sessions.beacon import Beacon, light;"
        f"light(Path({str(tmp_path)!r}), Beacon(1, 'http://x', '1'));"
        "print('lit', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"lit\n"
        assert seen(tmp_path) is not None
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert (tmp_path / FILE_NAME).exists()
    assert seen(tmp_path) is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"pid": "1", "url": 2}', b"\xff" * 9_000])
def test_a_file_that_says_something_else_is_no_gateway(tmp_path: Path, text: bytes) -> None:
    leave = light(tmp_path, HERE)
    (tmp_path / FILE_NAME).write_bytes(text)
    assert seen(tmp_path) is None
    leave()


def test_who_finds_the_state_in_use_is_told_by_whom(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)):
        leave = light(tmp_path, HERE)
        with pytest.raises(
            StoreError, match=r"is using this state directory\. It is http://127.0.0.1:18790 \(process 4711\)"
        ):
            open_store(tmp_path)
        leave()
