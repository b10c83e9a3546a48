"""What the buses are made of: what is bounded, what expires, what is known of listeners elsewhere."""

from __future__ import annotations

import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.bus.audience import Audience
from app.bus.expiring import Expiring
from app.bus.logs import MOST_BYTES, MOST_ENTRIES, Logs
from app.bus.outbox import Outbox

NAMES = st.sampled_from("abcd")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, st.integers(1, 50)),
        st.tuples(st.just("drop"), NAMES, st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 30)),
    ),
    max_size=60,
)


@given(steps)
def test_a_value_is_there_until_its_time_and_no_longer(steps: list[tuple[str, str, int]]) -> None:
    values: Expiring[int] = Expiring(1_000)
    expected: dict[str, tuple[int, int]] = {}
    now = 0
    for number, (what, name, amount) in enumerate(steps):
        if what == "put":
            values.put(name, number, now + amount, now)
            expected[name] = (number, now + amount)
        elif what == "drop":
            values.drop(name)
            expected.pop(name, None)
        else:
            now += amount
        alive = {name: (value, until) for name, (value, until) in expected.items() if until > now}
        for name in "abcd":
            value, until = alive.get(name, (None, now))
            assert values.get(name, now) == value
            assert values.left(name, now) == until - now
        assert {name: value for name, value, _ in values.items(now)} == {n: v for n, (v, _) in alive.items()}


def test_what_has_expired_takes_no_room() -> None:
    values: Expiring[int] = Expiring(1_000)

    for now in range(10_000):
        values.put(str(now), now, now + 10, now)

    assert len(values) <= 65


def test_there_are_never_more_values_than_there_may_be_and_the_newest_stay() -> None:
    values: Expiring[int] = Expiring(1_000)

    for number in range(10_000):
        values.put(str(number), number, 1e9, 0)
        assert len(values) <= 1_001
        assert values.get(str(max(0, number - 700)), 0) is not None


entries = st.lists(st.lists(st.binary(max_size=20), max_size=8), max_size=30)


@given(entries, st.integers(0, 250))
def test_a_log_gives_back_what_was_added_behind_any_number(batches: list[list[bytes]], after: int) -> None:
    logs = Logs()
    whole = [entry for batch in batches for entry in batch]
    for batch in batches:
        logs.add("log", batch, 100.0, 0.0)

    numbered = list(enumerate(whole, 1))
    assert logs.after("log", after, 0.0) == [one for one in numbered if one[0] > after]
    assert logs.after("log", after, 100.0) == []
    assert [(name, last) for name, last, _ in logs.kept(0.0)] == ([("log", len(whole))] if batches else [])


def test_a_log_begins_anew_once_it_was_forgotten() -> None:
    logs = Logs()
    assert logs.add("log", [b"1", b"2"], 10.0, 0.0) == (0, 0)
    assert logs.add("log", [b"3"], 20.0, 5.0) == (2, 0)

    assert logs.add("log", [b"new"], 40.0, 30.0) == (0, 0)

    assert logs.after("log", 0, 30.0) == [(1, b"new")]


def test_a_log_is_bounded_in_number_and_in_size_and_tells_what_it_has_lost() -> None:
    logs = Logs()
    before, lost = logs.add("many", [b"x"] * (MOST_ENTRIES + 5), 100.0, 0.0)
    assert (before, lost) == (0, 5)
    assert [number for number, _ in logs.after("many", 0, 0.0)] == list(range(6, MOST_ENTRIES + 6))

    _, lost = logs.add("large", [b"x" * (MOST_BYTES // 4)] * 10, 100.0, 0.0)
    assert lost == 7
    assert logs.add("huge", [b"x" * 2 * MOST_BYTES], 100.0, 0.0) == (0, 0)
    assert len(logs.after("huge", 0, 0.0)) == 1


def test_the_longest_untouched_logs_make_room_for_others() -> None:
    logs = Logs()
    for number in range(40):
        logs.add(f"log {number}", [b"x" * 2**20], 100.0, 0.0)
        logs.add("log 0", [b"touched"], 100.0, 0.0)

    assert len(logs) < 34
    assert logs.after("log 0", 0, 0.0)
    assert logs.after("log 39", 0, 0.0)
    assert not logs.after("log 1", 0, 0.0)


def test_an_empty_log_in_number_does_not_stay_for_ever() -> None:
    logs = Logs()
    for now in range(10_000):
        logs.add(str(now), [b"x"], now + 10.0, float(now))

    assert len(logs) < 20


def taken(outbox: Outbox) -> list[Any]:
    """Everything that is in it."""
    everything: list[Any] = []
    while batch := outbox.take(0):
        everything += batch
        outbox.done(len(batch))
    return everything


@given(st.lists(st.integers(0, 10_000), max_size=400))
def test_commands_go_in_their_order_and_several_at_once(sizes: list[int]) -> None:
    outbox = Outbox()
    for number, size in enumerate(sizes):
        outbox.put((number,), size)

    assert taken(outbox) == [(number,) for number in range(len(sizes))]
    assert outbox.dropped == 0


def test_when_commands_come_faster_than_they_go_the_oldest_are_lost_and_counted() -> None:
    outbox = Outbox()
    for number in range(10_500):
        outbox.put((number,))
    assert outbox.dropped == 500
    assert taken(outbox) == [(number,) for number in range(500, 10_500)]

    for number in range(20):
        outbox.put((number,), 2**20)
    assert taken(outbox) == [(number,) for number in range(4, 20)]
    assert outbox.dropped == 504


def test_who_settles_waits_for_what_was_put_before_and_not_for_more() -> None:
    outbox = Outbox()
    outbox.put(("before",))
    settled = threading.Event()
    waiting = threading.Thread(target=lambda: (outbox.settle(10), settled.set()))
    waiting.start()
    assert outbox.take(0) == [("before",)]
    assert not settled.wait(0.05)

    outbox.put(("after",))
    outbox.done(1)

    assert settled.wait(5)
    waiting.join()
    outbox.settle(0.01)  # in vain, and not for ever
    outbox.clear()
    outbox.settle(10)
    assert outbox.dropped == 1


def test_who_takes_is_woken_by_a_command_or_without_one() -> None:
    outbox = Outbox()
    for wake, expected in ((lambda: outbox.put(("x",)), [("x",)]), (outbox.wake, [])):
        found: list[Any] = []
        taking = threading.Thread(target=lambda found=found: found.append(outbox.take(30)))
        taking.start()
        wake()
        taking.join(5)
        assert found == [expected]


def test_listeners_elsewhere_are_expected_until_it_is_known_better() -> None:
    audience = Audience()
    assert audience.wanted("news")

    assert audience.begin_round() == ["news"]
    audience.learn("news", wanted=False)
    assert not audience.wanted("news")

    audience.came("news")
    audience.came("unknown")
    assert audience.wanted("news")


def test_who_comes_while_it_is_looked_is_not_overlooked() -> None:
    audience = Audience()
    audience.wanted("news")
    audience.begin_round()
    audience.came("news")
    audience.learn("news", wanted=False)
    assert audience.wanted("news")

    audience.begin_round()
    audience.learn("news", wanted=False)
    assert not audience.wanted("news")


def test_topics_that_nobody_asks_for_are_not_looked_for_for_ever() -> None:
    audience = Audience()
    audience.wanted("rare")
    for _ in range(40):
        audience.wanted("often")
        topics = audience.begin_round()

    assert topics == ["often"]
