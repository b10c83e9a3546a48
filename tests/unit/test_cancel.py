"""The token that carries the wish to stop."""

from __future__ import annotations

import threading
import time

import pytest

from app.cancel import Cancelled, CancelReason, CancelToken

PATIENCE = 5.0


def test_a_fresh_token_lets_everything_go_on() -> None:
    token = CancelToken()

    token.raise_if_cancelled()
    token.sleep(0)

    assert not token.cancelled
    assert token.reason is None


def test_the_first_reason_stays() -> None:
    token = CancelToken()

    answers = [token.cancel(CancelReason.USER), token.cancel(CancelReason.TIMEOUT)]

    assert answers == [True, False]
    assert token.cancelled
    assert token.reason is CancelReason.USER
    with pytest.raises(Cancelled) as caught:
        token.raise_if_cancelled()
    assert caught.value.reason is CancelReason.USER


def test_being_cancelled_is_not_an_exception_that_a_tool_can_swallow() -> None:
    assert not issubclass(Cancelled, Exception)


def test_callbacks_run_once_before_cancel_returns() -> None:
    token, calls = CancelToken(), []
    token.on_cancel(lambda: calls.append(threading.current_thread()))

    token.cancel(CancelReason.USER)
    token.cancel(CancelReason.USER)

    assert calls == [threading.current_thread()]


def test_a_removed_callback_does_not_run_and_removing_twice_is_harmless() -> None:
    token, calls = CancelToken(), []
    remove = token.on_cancel(lambda: calls.append("removed"))
    token.on_cancel(lambda: calls.append("kept"))

    remove()
    remove()
    token.cancel(CancelReason.USER)
    remove()

    assert calls == ["kept"]


def test_a_callback_of_a_cancelled_token_runs_at_once() -> None:
    token, calls = CancelToken(), []
    token.cancel(CancelReason.DISCONNECT)

    remove = token.on_cancel(lambda: calls.append("now"))
    remove()

    assert calls == ["now"]


def test_a_callback_may_use_the_token() -> None:
    token, calls = CancelToken(), []

    def again() -> None:
        calls.append(token.cancel(CancelReason.TIMEOUT))
        token.on_cancel(lambda: calls.append(token.reason is CancelReason.USER))

    token.on_cancel(again)
    token.cancel(CancelReason.USER)

    assert calls == [False, True]


def test_sleep_ends_as_soon_as_somebody_cancels() -> None:
    token, woken = CancelToken(), []

    def sleeper() -> None:
        try:
            token.sleep(60)
        except Cancelled as cancelled:
            woken.append(cancelled.reason)

    thread = threading.Thread(target=sleeper, daemon=True)
    before = time.monotonic()
    thread.start()
    token.cancel(CancelReason.SHUTDOWN)
    thread.join(PATIENCE)

    assert woken == [CancelReason.SHUTDOWN]
    assert time.monotonic() - before < PATIENCE


def test_a_callback_registered_while_another_thread_cancels_runs_exactly_once() -> None:
    for _ in range(200):
        token, calls = CancelToken(), []
        start = threading.Barrier(3)

        def register(
            token: CancelToken = token, calls: list[int] = calls, start: threading.Barrier = start
        ) -> None:
            start.wait(PATIENCE)
            token.on_cancel(lambda: calls.append(1))

        def cancel(token: CancelToken = token, start: threading.Barrier = start) -> None:
            start.wait(PATIENCE)
            token.cancel(CancelReason.USER)

        threads = [threading.Thread(target=work, daemon=True) for work in (register, cancel)]
        for thread in threads:
            thread.start()
        start.wait(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
        assert calls == [1]


def test_what_has_settled_cannot_be_cancelled_any_more() -> None:
    token, calls = CancelToken(), list[int]()
    token.on_cancel(lambda: calls.append(1))
    token.settle()
    token.on_cancel(lambda: calls.append(2))
    assert not token.cancel(CancelReason.USER)
    assert not token.cancelled
    assert calls == []
