"""What holds for every test: nothing of the gateway is left running."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

_OURS = ("run-", "openclaw-")
_PATIENCE = 5.0


@pytest.fixture(autouse=True)
def no_thread_left_running() -> Iterator[None]:
    """Fail the test that leaves a thread of the gateway behind.

    A run's last act is its terminal event, so its thread may live a moment longer than a test
    that has seen the event. Threads of wider fixtures were there before and may stay.
    """
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _PATIENCE
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(_OURS):
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"the test left the thread {thread.name!r} running"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A stand-alone gateway sets logging up for its process, which is this one."""
    logger = logging.getLogger("openclaw")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate
