"""Long output of tools, kept on disk for as long as somebody may want to read it."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from ..runs.executor import Executor

_DAY = 86_400.0
_KEPT = 7 * _DAY


def keep_swept(scratch: Path, executor: Executor, every: float = _DAY) -> None:
    """Remove what has been left alone for a week: now, and again ``every`` so many seconds."""

    def again() -> None:
        executor.spawn("openclaw-sweep", lambda: keep_swept(scratch, executor, every))

    _sweep(scratch, time.time() - _KEPT)
    executor.after(every, again)


def _sweep(scratch: Path, oldest: float) -> None:
    with suppress(OSError):
        for folder in scratch.iterdir():
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
