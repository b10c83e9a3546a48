"""Lanes: order of arrival, a fixed width, nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import SessionBusy
from app.runs.lanes import Lane, Place, SessionLanes

PATIENCE = 5.0


def is_running(place: Place) -> bool:
    """True if ``place`` has its turn: waiting does not block."""
    done = threading.Event()
    token = CancelToken()

    def wait() -> None:
        try:
            place.wait(token)
            done.set()
        except Cancelled:
            pass

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.05)
    running = done.is_set()
    if running:
        thread.join(PATIENCE)
    else:
        # Not through the token, which would give this very place its turn.
        leftovers.append((thread, token))
    return running


leftovers: list[tuple[threading.Thread, CancelToken]] = []


def run_all(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
