"""Commands that wait for a word, as other processes know them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from app.bus.local import LocalBus
from app.cancel import Cancelled, CancelReason, CancelToken
from app.runs.shared_approvals import SharedApprovals
from app.tools.approvals import Approval, Approvals
from app.tools.registry import ToolContext
from tests.e2e.gateway_process import wait_until

PATIENCE = 10


class Slow(Approvals):
    """Whoever asks first for what waits is held up with the answer in his hands."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)
        self.go_on = threading.Event()
        self._first = threading.Lock()

    def own(self) -> list[Approval]:
        waiting = super().own()
        self.asked.release()
        if self._first.acquire(blocking=False):
            assert self.go_on.wait(PATIENCE)
        return waiting


class Counting(LocalBus):
    """Knows how often somebody was announced."""

    announced = 0

    def announce(self, group: str, members: Mapping[str, bytes], seconds: float) -> None:
        super().announce(group, members, seconds)
        self.announced += 1


def test_of_two_that_begin_to_wait_at_once_both_are_known_elsewhere() -> None:
    own, bus, cancel = Slow(), Counting(), CancelToken()
    shared = SharedApprovals(bus, own)
    shared.open()

    def wait(number: int) -> None:
        context = ToolContext("main", "chat", f"run-{number}", "p/m", Path(), 1, cancel)
        with suppress(Cancelled):
            own.request(context, f"rm {number}", "/", PATIENCE)

    threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in (1, 2)]
    threads[0].start()
    assert own.asked.acquire(timeout=PATIENCE)
    threads[1].start()
    own.asked.acquire(timeout=0.2)  # only if it is not made to wait for the first
    own.go_on.set()

    def known() -> list[str]:
        return [one.run_id for one in shared.pending()]

    wait_until(lambda: bus.announced == 2)
    assert known() == ["run-1", "run-2"]
    cancel.cancel(CancelReason.USER)
    for thread in threads:
        thread.join(PATIENCE)
    assert known() == []
