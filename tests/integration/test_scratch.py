"""Long output of tools that nobody reads any more."""

from __future__ import annotations

import os
import time
from pathlib import Path

from app.runs.executor import Executor
from app.runtime.scratch import keep_swept
from tests.integration.runs import wait_until


def output(scratch: Path, name: str, days_old: float) -> Path:
    folder = scratch / name
    folder.mkdir(parents=True)
    (folder / "result.txt").write_text("long")
    then = time.time() - days_old * 86_400
    os.utime(folder, (then, then))
    return folder


def test_what_was_left_alone_for_a_week_goes_now_and_later(tmp_path: Path) -> None:
    executor = Executor()
    old, fresh = output(tmp_path, "old", 8), output(tmp_path, "fresh", 6)

    keep_swept(tmp_path, executor, every=0.02)

    assert not old.exists()
    later = output(tmp_path, "later", 8)
    wait_until(lambda: not later.exists())
    assert fresh.exists()
    executor.close()


def test_where_there_is_no_output_there_is_nothing_to_do(tmp_path: Path) -> None:
    executor = Executor()

    keep_swept(tmp_path / "missing", executor)

    executor.close()
    assert not (tmp_path / "missing").exists()
