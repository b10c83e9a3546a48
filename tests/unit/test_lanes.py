"""Lanes: order of arrival, a fixed width, nothing left behind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import SessionBusy
from app.runs.lanes import Lane, Place, SessionLanes

PATIENCE = 5.0


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def finish(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def waiter(place: Place, token: CancelToken, log: list[str], name: str) -> Callable[[], None]:
    """Waits for its turn, writes it down and gives its place back, whatever happens."""

    def work() -> None:
        try:
            place.wait(token)
            log.append(name)
        except Cancelled:
            log.append(f"{name} cancelled")
        finally:
            place.leave()

    return work


def test_the_first_in_an_empty_lane_need_not_wait() -> None:
    lane = Lane(1)

    lane.enter().wait(CancelToken())

    assert len(lane) == 1


def test_runs_take_their_turns_in_order_of_arrival() -> None:
    lane, log = Lane(1), []
    first = lane.enter()
    places = [lane.enter() for _ in range(20)]
    threads = [start(waiter(place, CancelToken(), log, str(i))) for i, place in enumerate(places)]
    assert log == []

    first.leave()
    finish(*threads)

    assert log == [str(i) for i in range(20)]
    assert len(lane) == 0


def test_a_cancelled_waiter_gives_up_and_those_behind_it_move_up() -> None:
    lane, log, token = Lane(1), [], CancelToken()
    first, second, third = lane.enter(), lane.enter(), lane.enter()
    impatient = start(waiter(second, token, log, "second"))

    token.cancel(CancelReason.USER)
    finish(impatient)
    assert log == ["second cancelled"]
    assert len(lane) == 2
    patient = start(waiter(third, CancelToken(), log, "third"))
    first.leave()
    finish(patient)

    assert log == ["second cancelled", "third"]
    assert len(lane) == 0


def test_whoever_is_cancelled_does_not_get_a_turn_that_is_free() -> None:
    token = CancelToken()
    token.cancel(CancelReason.USER)

    with pytest.raises(Cancelled):
        Lane(1).enter().wait(token)


def test_leaving_twice_lets_only_one_run_through() -> None:
    lane = Lane(1)
    first, second, third = lane.enter(), lane.enter(), lane.enter()

    first.leave()
    first.leave()

    second.wait(CancelToken())
    token, log = CancelToken(), []
    last = start(waiter(third, token, log, "third"))
    token.cancel(CancelReason.USER)
    finish(last)
    assert log == ["third cancelled"]
    second.leave()
    assert len(lane) == 0


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 4),
    runs=st.lists(st.sampled_from(["finish", "cancel"]), min_size=1, max_size=16),
)
def test_no_more_runs_than_the_lane_is_wide_ever_run_at_once(width: int, runs: list[str]) -> None:
    lane, lock = Lane(width), threading.Lock()
    tokens = [CancelToken() for _ in runs]
    inside: set[CancelToken] = set()
    crowds, outcomes = [0], Counter[str]()

    def run(token: CancelToken) -> None:
        place = lane.enter()
        try:
            place.wait(token)
            with lock:
                inside.add(token)
                crowds.append(len(inside))
            token.sleep(0.001)
            outcome = "finished"
        except Cancelled:
            outcome = "cancelled"
        with lock:
            inside.discard(token)
            outcomes[outcome] += 1
        place.leave()

    threads = [start(lambda t=token: run(t)) for token in tokens]
    for token, fate in zip(tokens, runs, strict=True):
        if fate == "cancel":
            token.cancel(CancelReason.USER)
    finish(*threads)

    assert max(crowds) <= width
    assert outcomes.total() == len(runs)
    assert outcomes["finished"] >= runs.count("finish")
    assert len(lane) == 0


# sessions


def test_each_session_has_a_lane_of_its_own() -> None:
    lanes = SessionLanes(limit=5)

    lanes.enter("a", "run").wait(CancelToken())
    lanes.enter("b", "run").wait(CancelToken())

    assert len(lanes) == 2


def test_runs_of_one_session_take_turns() -> None:
    lanes, log = SessionLanes(limit=5), []
    first, second = lanes.enter("a", "run"), lanes.enter("a", "run")
    thread = start(waiter(second, CancelToken(), log, "second"))
    assert log == []

    first.leave()
    finish(thread)
    second.leave()

    assert log == ["second"]
    assert len(lanes) == 0


def test_a_full_session_refuses_and_takes_more_once_somebody_left() -> None:
    lanes = SessionLanes(limit=2)
    first = lanes.enter("a", "run")
    lanes.enter("a", "run")

    with pytest.raises(SessionBusy) as caught:
        lanes.enter("a", "run")
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})

    lanes.enter("b", "run")
    first.leave()
    lanes.enter("a", "run").leave()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=20))
def test_no_lane_is_left_and_no_two_runs_of_a_session_overlap(runs: list[tuple[str, bool]]) -> None:
    lanes, lock = SessionLanes(limit=100), threading.Lock()
    inside: Counter[str] = Counter()
    overlaps: list[str] = []
    tokens = [CancelToken() for _ in runs]

    def run(key: str, token: CancelToken) -> None:
        place = lanes.enter(key, "run")
        try:
            place.wait(token)
            with lock:
                inside[key] += 1
                if inside[key] > 1:
                    overlaps.append(key)
            threading.Event().wait(0.0005)
            with lock:
                inside[key] -= 1
        except Cancelled:
            pass
        finally:
            place.leave()

    threads = [start(lambda k=key, t=token: run(k, t)) for (key, _), token in zip(runs, tokens, strict=True)]
    for (_, cancelled), token in zip(runs, tokens, strict=True):
        if cancelled:
            token.cancel(CancelReason.DISCONNECT)
    finish(*threads)

    assert overlaps == []
    assert len(lanes) == 0
