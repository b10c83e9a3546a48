"""What every bus does, in one process and over Redis alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bus import Bus
from app.bus.local import LocalBus
from app.bus.redis import RedisBus
from app.runs.executor import Executor
from tests.e2e.gateway_process import wait_until
from tests.redis_engine import RedisEngine

SHORT = 0.3


@dataclass
class Pair:
    """Two workers' buses; without Redis both are the same."""

    here: Bus
    there: Bus

    @property
    def shared(self) -> bool:
        return self.here is not self.there


@pytest.fixture(scope="module")
def engine() -> Iterator[RedisEngine]:
    with RedisEngine() as engine:
        yield engine


@pytest.fixture(params=["local", "redis"])
def pair(request: pytest.FixtureRequest, engine: RedisEngine) -> Iterator[Pair]:
    if request.param == "local":
        bus = LocalBus()
        yield Pair(bus, bus)
        return
    engine.command("FLUSHALL")
    pair = Pair(*(RedisBus(engine.url, Executor().spawn) for _ in range(2)))
    yield pair
    pair.here.close()
    pair.there.close()


def eventually(condition: Callable[[], Any]) -> Any:
    return wait_until(condition, 10)


def newest(bus: Bus) -> int:
    """The number of the last entry of a run's log, 0 if there is none."""
    return max((number for number, _ in bus.replay("run")), default=0)


def at_once(work: Callable[[int], Any], threads: int = 50) -> list[Any]:
    """What so many calls return that begin together."""
    together = threading.Barrier(threads)

    def one(number: int) -> Any:
        together.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def test_what_is_said_is_heard_in_its_order_here_and_there(pair: Pair) -> None:
    here: list[bytes] = []
    there: list[bytes] = []
    pair.here.subscribe("news", here.append)
    pair.there.subscribe("news", there.append)
    said = [b"%d" % number for number in range(1_000)]

    for message in said:
        pair.here.publish("news", message)

    assert here == said
    eventually(lambda: len(there) >= len(said))
    assert there == said


def test_listeners_of_this_process_have_heard_it_when_publish_returns(pair: Pair) -> None:
    threads: list[int] = []
    pair.here.subscribe("news", lambda _: threads.append(threading.get_ident()))

    pair.here.publish("news", b"")

    assert threads == [threading.get_ident()]


def test_whoever_has_subscribed_misses_nothing_that_others_say_afterwards(pair: Pair) -> None:
    for number in range(30):
        heard: list[bytes] = []
        end = pair.there.subscribe(f"topic {number}", heard.append)
        pair.here.publish(f"topic {number}", b"at once")
        eventually(lambda heard=heard: heard == [b"at once"])
        end()


def test_other_topics_are_not_heard(pair: Pair) -> None:
    heard: list[bytes] = []
    pair.there.subscribe("news", heard.append)

    for topic in ("new", "newss", "news:", "topic:news", "*", ""):
        pair.here.publish(topic, b"wrong")
    pair.here.publish("news", b"right")

    eventually(lambda: heard)
    assert heard == [b"right"]


def test_a_message_may_be_any_bytes_of_any_length(pair: Pair) -> None:
    heard: list[bytes] = []
    pair.there.subscribe("gr\xfcn \U0001f980", heard.append)
    said = [b"", b"\x00\r\n$5\r\n\xff", bytes(range(256)), b"x" * 3_000_000]

    for message in said:
        pair.here.publish("gr\xfcn \U0001f980", message)

    eventually(lambda: len(heard) == len(said))
    assert heard == said


@pytest.mark.parametrize(
    "name", ["gr\xfcn \U0001f980", "half \ud83e a pair", "", "a:b *?[x] {y}\r\n", "x" * 2_000]
)
def test_a_name_may_be_any_text(pair: Pair, name: str) -> None:
    heard: list[bytes] = []
    pair.there.subscribe(name, heard.append)

    pair.here.publish(name, b"1")
    pair.here.record(name, [b"1"], 60)
    pair.here.announce(name, {name: b"1"}, 60)

    assert pair.here.claim(name, b"mine", 60) is None
    assert pair.there.held(name) == b"mine"
    assert (pair.here.count(name, 60), pair.there.count(name, 60)) == (1, 2)
    eventually(lambda: heard == [b"1"])
    eventually(lambda: pair.there.replay(name) == [(1, b"1")])
    eventually(lambda: pair.there.present(name) == {name: b"1"})
    assert pair.here.healthy


def test_who_has_stopped_listening_hears_nothing_more(pair: Pair) -> None:
    gone: list[bytes] = []
    left: list[bytes] = []
    end = pair.there.subscribe("news", gone.append)
    pair.there.subscribe("news", left.append)

    end()
    end()
    pair.here.publish("news", b"1")

    eventually(lambda: left)
    assert gone == []


def test_a_listener_may_stop_itself_and_the_next_one_while_it_hears(pair: Pair) -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    third: list[bytes] = []
    ends: list[Callable[[], None]] = []

    def hear_once(message: bytes) -> None:
        first.append(message)
        for end in ends:
            end()

    ends.append(pair.there.subscribe("news", hear_once))
    ends.append(pair.there.subscribe("news", second.append))
    pair.there.subscribe("news", third.append)

    pair.here.publish("news", b"1")
    pair.here.publish("news", b"2")

    eventually(lambda: len(third) == 2)
    assert (first, second, third) == ([b"1"], [], [b"1", b"2"])


def test_a_listener_may_subscribe_and_publish_while_it_hears(pair: Pair) -> None:
    answers: list[bytes] = []

    def answer(message: bytes) -> None:
        pair.there.subscribe(f"more {message.decode()}", answers.append)
        pair.there.publish("answers", message)

    pair.there.subscribe("questions", answer)
    pair.here.subscribe("answers", answers.append)

    pair.here.publish("questions", b"1")

    eventually(lambda: answers == [b"1"])

    def heard_more() -> bool:
        pair.here.publish("more 1", b"2")
        return b"2" in answers

    eventually(heard_more)


def test_a_listener_that_fails_costs_the_others_nothing(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    heard: list[bytes] = []
    pair.there.subscribe("news", fail)
    pair.there.subscribe("news", heard.append)

    pair.here.publish("news", b"1")
    pair.here.publish("news", b"2")

    eventually(lambda: len(heard) == 2)
    assert "a listener of 'news' failed" in caplog.text


def test_it_is_known_whether_somebody_listens_elsewhere(pair: Pair) -> None:
    pair.here.subscribe("mine", lambda _: None)
    for topic in ("mine", "theirs", "nobody's"):
        eventually(lambda topic=topic: not pair.here.wanted(topic))

    end = pair.there.subscribe("theirs", lambda _: None)
    if pair.shared:
        eventually(lambda: pair.here.wanted("theirs"))
    assert not pair.here.wanted("nobody's")
    end()

    eventually(lambda: not pair.here.wanted("theirs"))


def test_a_log_is_numbered_from_1_and_read_from_anywhere(pair: Pair) -> None:
    pair.here.record("run", [b"a", b"b"], 60)
    pair.here.record("run", [], 60)
    pair.here.record("run", [b"c"], 60)
    whole = [(1, b"a"), (2, b"b"), (3, b"c")]

    assert pair.here.replay("run") == whole
    assert eventually(lambda: pair.there.replay("run") == whole)
    assert pair.there.replay("run", 2) == [(3, b"c")]
    assert pair.there.replay("run", 3) == pair.there.replay("run", 30) == []
    assert pair.there.replay("another") == []


def test_what_was_recorded_is_there_when_the_bell_rings(pair: Pair) -> None:
    seen: list[int] = []
    pair.there.subscribe("bell", lambda _: seen.append(newest(pair.there)))

    for _ in range(50):
        pair.here.record("run", [b"entry"], 60)
        pair.here.publish("bell", b"")

    eventually(lambda: len(seen) == 50)
    assert all(read >= number for number, read in enumerate(seen, 1))


def test_of_a_long_log_the_newest_entries_are_kept_under_their_numbers(pair: Pair) -> None:
    for start in range(0, 5_000, 100):
        pair.here.record("run", [b"%d" % number for number in range(start + 1, start + 101)], 60)

    eventually(lambda: newest(pair.there) == 5_000)
    kept = pair.there.replay("run", 10)

    assert kept == [(number, b"%d" % number) for number in range(kept[0][0], 5_001)]
    assert 2_000 <= len(kept) < 2_500


def test_a_log_of_large_entries_is_bounded_too(pair: Pair) -> None:
    for _ in range(30):
        pair.here.record("run", [b"x" * 2**20], 60)

    eventually(lambda: newest(pair.there) == 30)
    kept = pair.there.replay("run")

    assert 3 <= len(kept) <= 5
    pair.here.record("huge", [b"x" * 5 * 2**20], 60)
    eventually(lambda: len(pair.there.replay("huge")) == 1)


def test_a_log_is_forgotten_after_its_time(pair: Pair) -> None:
    pair.here.record("run", [b"a"], SHORT)

    assert pair.here.replay("run") == [(1, b"a")]
    eventually(lambda: pair.here.replay("run") == pair.there.replay("run") == [])


def test_of_many_that_claim_a_name_one_gets_it_and_all_know_which(pair: Pair) -> None:
    def claim(number: int) -> bytes | None:
        bus = pair.here if number % 2 else pair.there
        return bus.claim("key", b"worker %d" % number, 60)

    answers = at_once(claim)

    (winner,) = [number for number, answer in enumerate(answers) if answer is None]
    assert {answer for answer in answers if answer is not None} == {b"worker %d" % winner}
    assert pair.here.held("key") == pair.there.held("key") == b"worker %d" % winner


def test_a_claim_is_given_up_by_who_has_it_only(pair: Pair) -> None:
    assert pair.here.claim("key", b"mine", 60) is None

    pair.there.release("key", b"theirs")
    assert pair.there.held("key") == b"mine"
    pair.there.release("unknown", b"theirs")

    pair.here.release("key", b"mine")
    assert pair.there.held("key") is None
    assert pair.there.claim("key", b"theirs", 60) is None


def test_a_claim_ends_by_itself_and_lasts_as_long_as_it_is_taken_again(pair: Pair) -> None:
    assert pair.here.claim("lapsing", b"mine", SHORT) is None
    assert pair.here.claim("lasting", b"mine", SHORT) is None
    assert pair.here.claim("lasting", b"mine", 60) is None

    eventually(lambda: pair.there.claim("lapsing", b"theirs", 60) is None)
    assert pair.there.claim("lasting", b"theirs", 60) == b"mine"


def test_all_count_together_and_exactly(pair: Pair) -> None:
    def count(number: int) -> list[int]:
        bus = pair.here if number % 2 else pair.there
        return [bus.count("failures", 60) for _ in range(20)]

    counted = [value for values in at_once(count, 20) for value in values]

    assert sorted(counted) == list(range(1, 401))
    assert pair.here.count("failures", 60, 100) == 500
    assert pair.here.count("others", 60) == 1


def test_a_counter_starts_anew_after_its_time_whoever_counts_meanwhile(pair: Pair) -> None:
    assert pair.here.count("failures", SHORT) == 1
    highest = 1

    def starts_anew() -> bool:
        nonlocal highest
        value = pair.there.count("failures", SHORT)
        highest = max(highest, value)
        return value < highest

    eventually(starts_anew)


def test_a_counter_can_be_set_back(pair: Pair) -> None:
    pair.here.count("failures", 60, 5)

    pair.there.forget("failures")
    pair.there.forget("unknown")

    assert pair.there.count("failures", 60) == 1


def test_all_know_who_is_there_by_what_was_announced_last(pair: Pair) -> None:
    pair.here.announce("clients", {"ann": b"1", "bob": b"2"}, 60)
    pair.here.announce("clients", {"ann": b"\x00\xff"}, 60)
    pair.here.announce("others", {"eve": b"3"}, 60)

    assert pair.here.present("clients") == {"ann": b"\x00\xff"}
    eventually(lambda: pair.there.present("clients") == {"ann": b"\x00\xff"})

    pair.here.announce("clients", {}, 60)
    assert pair.here.present("clients") == {}
    eventually(lambda: pair.there.present("clients") == {})
    assert pair.there.present("unknown") == {}


def test_who_announces_nothing_for_long_is_gone(pair: Pair) -> None:
    pair.here.announce("clients", {"ann": b"1"}, SHORT)

    assert pair.here.present("clients") == {"ann": b"1"}
    eventually(lambda: pair.here.present("clients") == pair.there.present("clients") == {})


def test_closing_twice_is_as_good_as_once_and_whatever_is_asked_then_is_answered(pair: Pair) -> None:
    pair.here.close()
    pair.here.close()

    pair.here.publish("news", b"1")
    pair.here.subscribe("news", lambda _: None)()
    pair.here.record("run", [b"a"], 60)
    assert pair.here.replay("run") == [(1, b"a")]
    assert pair.here.claim("key", b"mine", 60) is None
    assert pair.here.count("failures", 60) == 1
    assert pair.here.present("clients") == {}


said = st.tuples(st.sampled_from(["here", "there"]), st.sampled_from("ab"), st.binary(max_size=40))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(said, max_size=120), bursts=st.integers(1, 40))
def test_whatever_is_said_everybody_hears_each_worker_in_its_order(
    pair: Pair, plan: list[tuple[str, str, bytes]], bursts: int
) -> None:
    heard: dict[tuple[str, str], list[bytes]] = {
        (at, topic): [] for at in ("here", "there") for topic in "ab"
    }
    ends = [getattr(pair, at).subscribe(topic, heard[at, topic].append) for at, topic in heard]

    for number, (speaker, topic, message) in enumerate(plan):
        getattr(pair, speaker).publish(topic, speaker.encode() + b" " + message)
        if number % bursts == 0:
            pair.here.replay("anything")  # lets what waits go its way in between

    for (_, topic), messages in heard.items():
        expected = [(s, s.encode() + b" " + message) for s, t, message in plan if t == topic]
        eventually(lambda messages=messages, expected=expected: len(messages) >= len(expected))
        for speaker in ("here", "there"):
            own = [message for message in messages if message.startswith(speaker.encode())]
            assert own == [message for s, message in expected if s == speaker]
    for end in ends:
        end()
