"""The bus over Redis: several processes, and what happens while Redis does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from app.bus.redis import RedisBus
from app.errors import ConfigError
from app.runs.executor import Executor
from tests.bus_process import BusProcess
from tests.e2e.gateway_process import free_port, wait_until
from tests.redis_engine import RedisEngine
from tests.tls_front import TlsFront

PATIENCE = 15


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[RedisEngine]:
    with RedisEngine() as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: RedisEngine) -> Iterator[RedisEngine]:
    """Empty, and running again after the test whatever that has done to it."""
    shared_engine.command("FLUSHALL")
    yield shared_engine
    shared_engine.resume()
    if not shared_engine.running:
        shared_engine.start()


@pytest.fixture(scope="module")
def processes(shared_engine: RedisEngine) -> Iterator[tuple[BusProcess, BusProcess]]:
    """Two workers beside this one, the second of them under gevent. They live through all outages."""
    with BusProcess(shared_engine.url) as plain, BusProcess(shared_engine.url, gevent=True) as green:
        yield plain, green


@pytest.fixture
def plain(processes: tuple[BusProcess, BusProcess]) -> BusProcess:
    eventually(lambda: processes[0].ask("healthy"))
    return processes[0]


@pytest.fixture
def green(processes: tuple[BusProcess, BusProcess]) -> BusProcess:
    eventually(lambda: processes[1].ask("healthy"))
    return processes[1]


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own, for the processes have heard others."""
    return str(request.node.name)


def open_bus(url: str, **options: Any) -> RedisBus:
    return RedisBus(url, Executor().spawn, **options)


@pytest.fixture
def bus(engine: RedisEngine) -> Iterator[RedisBus]:
    with closing(open_bus(engine.url)) as bus:
        assert bus.healthy
        yield bus


def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    return wait_until(condition, PATIENCE, what)


def numbers(name: str, messages: list[str]) -> list[int]:
    """What a speaker has numbered, in the order of hearing."""
    return [int(message.split()[1]) for message in messages if message.startswith(f"{name} ")]


def test_processes_hear_each_other_in_order_and_nothing_twice(
    bus: RedisBus, plain: BusProcess, green: BusProcess, topic: str
) -> None:
    heard: list[str] = []
    bus.subscribe(topic, lambda message: heard.append(message.decode()))
    for process, name in ((plain, "plain"), (green, "green")):
        process.ask("listen", topic)
        process.tell("publish_numbers", topic, name, 2_000)
    for number in range(2_000):
        bus.publish(topic, b"here %d" % number)
    plain.answer()
    green.answer()

    eventually(lambda: len(heard) >= 2_000)
    everything = [heard]
    for ask in (plain.ask, green.ask):
        eventually(lambda ask=ask: len(ask("heard", topic)) >= 4_000)
    bus.publish(topic, b"end 1")
    for ask in (plain.ask, green.ask):
        eventually(lambda ask=ask: numbers("end", ask("heard", topic)))
        everything.append(ask("heard", topic))

    for messages, others in zip(everything, (("here",), ("here", "plain"), ("here", "green")), strict=True):
        for name in others:
            assert numbers(name, messages) == list(range(2_000))


def test_of_several_processes_with_many_threads_one_gets_the_name_and_all_count_exactly(
    engine: RedisEngine, bus: RedisBus, plain: BusProcess, green: BusProcess
) -> None:
    with BusProcess(engine.url) as third, BusProcess(engine.url) as fourth:
        everybody = (plain, green, third, fourth)
        for number, process in enumerate(everybody):
            process.tell("at_once", 13, "claim", "key", f"b:{number}-#", 60)
        claims = [answer for process in everybody for answer in process.answer()]
        for process in everybody:
            process.tell("at_once", 50, "count", "failures", 60)
        counts = [answer for process in everybody for answer in process.answer()]

    winner = bus.held("key")
    assert winner is not None
    assert claims.count(None) == 1
    assert set(claims) == {None, winner.decode()}
    assert sorted(counts) == list(range(1, 201))


def test_who_ends_in_order_is_gone_at_once_and_who_is_killed_when_his_time_is_over(
    engine: RedisEngine, bus: RedisBus
) -> None:
    with closing(open_bus(engine.url)) as ending:
        ending.announce("clients", {"ann": b"1"}, 60)
        eventually(lambda: bus.present("clients") == {"ann": b"1"})
    assert bus.present("clients") == {}

    crashing = BusProcess(engine.url)
    crashing.ask("announce", "clients", {"bob": "b:2"}, 1)
    eventually(lambda: bus.present("clients") == {"bob": b"2"})
    crashing.kill()
    eventually(lambda: bus.present("clients") == {})


def calls_of(bus: RedisBus) -> list[Callable[[], object]]:
    """One of everything that goes to Redis."""
    return [
        lambda: bus.publish("news", b"lost"),
        lambda: bus.wanted("news"),
        lambda: bus.record("run", [b"entry"], 60),
        lambda: bus.replay("run"),
        lambda: bus.claim("key", b"mine", 60),
        lambda: bus.held("key"),
        lambda: bus.release("another", b"mine"),
        lambda: bus.count("failures", 60),
        lambda: bus.forget("another"),
        lambda: bus.announce("clients", {"ann": b"1"}, 60),
        lambda: bus.present("clients"),
        lambda: bus.subscribe("more", lambda _: None)(),
    ]


def seconds_of(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    durations = []
    for _ in range(rounds):
        for call in calls:
            began = time.monotonic()
            call()
            durations.append(time.monotonic() - began)
    return durations


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_while_redis_is_away_nothing_raises_and_nothing_waits(
    engine: RedisEngine, bus: RedisBus, how: str
) -> None:
    for call in calls_of(bus):
        call()

    getattr(engine, how)()
    durations = seconds_of(calls_of(bus), 50)

    assert max(durations) < 0.75, "half a second, and some for a busy machine"
    assert sum(durations) / len(durations) < 0.005
    assert not bus.healthy
    assert bus.held("key") == b"mine"
    assert bus.count("failures", 60) == 52
    assert bus.present("clients") == {"ann": b"1"}
    assert [number for number, _ in bus.replay("run")] == list(range(1, 52))


@pytest.mark.parametrize("how", ["restart", "pause"])
def test_when_redis_is_back_all_is_as_before_without_help(
    engine: RedisEngine, bus: RedisBus, plain: BusProcess, green: BusProcess, topic: str, how: str
) -> None:
    heard: list[bytes] = []
    bus.subscribe(topic, heard.append)
    plain.ask("listen", topic)
    green.ask("listen", topic)
    assert bus.claim(topic, b"mine", 60) is None
    bus.announce(topic, {"ann": b"1"}, 60)
    bus.record(topic, [b"1", b"2"], 60)

    engine.kill() if how == "restart" else engine.pause()
    bus.record(topic, [b"3"], 60)
    eventually(lambda: not bus.healthy, "an outage")
    bus.record(topic, [b"4"], 60)
    engine.start() if how == "restart" else engine.resume()
    eventually(lambda: bus.healthy and plain.ask("healthy") and green.ask("healthy"), "the return")

    assert plain.ask("claim", topic, "b:theirs", 60) == "mine"
    assert green.ask("present", topic) == {"ann": "1"}
    bus.record(topic, [b"5"], 60)
    eventually(lambda: green.ask("replay", topic) == [[n, str(n)] for n in range(1, 6)], "the log")
    plain.ask("publish_numbers", topic, "plain", 100)
    for ask in (plain.ask, green.ask):
        eventually(lambda ask=ask: len(ask("heard", topic)) >= 100)
        assert numbers("plain", ask("heard", topic)) == list(range(100))
    eventually(lambda: len(heard) == 100)


def test_under_restarts_nothing_is_heard_twice_or_out_of_order(
    engine: RedisEngine, bus: RedisBus, plain: BusProcess, topic: str
) -> None:
    plain.ask("listen", topic)
    for number in range(3_000):
        bus.publish(topic, b"here %d" % number)
        if number in (500, 1_500):
            engine.restart()
        if number % 50 == 0:
            time.sleep(0.002)

    def heard_the_last() -> bool:
        bus.publish(topic, b"last 1")
        return bool(numbers("last", plain.ask("heard", topic)))

    eventually(heard_the_last)
    heard = numbers("here", plain.ask("heard", topic))
    assert heard == sorted(set(heard))
    assert heard


def test_a_connection_that_was_cut_is_made_again_at_once(
    engine: RedisEngine, bus: RedisBus, plain: BusProcess, topic: str
) -> None:
    plain.ask("listen", topic)
    for kind in ("pubsub", "normal"):
        engine.command("CLIENT", "KILL", "TYPE", kind)

        def hears(kind: str = kind) -> bool:
            bus.publish(topic, kind.encode())
            return kind in plain.ask("heard", topic)

        began = time.monotonic()
        eventually(hears)
        assert time.monotonic() - began < 3


def test_a_gateway_that_starts_before_redis_finds_it_later() -> None:
    engine = RedisEngine()
    with closing(open_bus(engine.url)) as bus:
        assert not bus.healthy
        heard: list[bytes] = []
        bus.subscribe("news", heard.append)
        bus.publish("news", b"1")
        assert heard == [b"1"]
        assert bus.claim("key", b"mine", 60) is None

        with engine, closing(open_bus(engine.url)) as there:
            eventually(lambda: bus.healthy)
            there.publish("news", b"2")
            eventually(lambda: heard == [b"1", b"2"])
            assert there.held("key") == b"mine"


def test_closing_takes_no_time_even_if_redis_does_not_answer(engine: RedisEngine) -> None:
    for trouble in (lambda: None, engine.pause, engine.kill):
        bus = open_bus(engine.url)
        trouble()
        began = time.monotonic()
        bus.close()
        assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    ("one", "other"),
    [({"prefix": "a:"}, {"prefix": "b:"}), ({"number": 0}, {"number": 1})],
    ids=["prefixes", "databases"],
)
def test_gateways_of_different_prefixes_or_databases_share_nothing(
    engine: RedisEngine, one: dict[str, Any], other: dict[str, Any]
) -> None:
    def opened(prefix: str = "p:", number: int = 0) -> RedisBus:
        return open_bus(engine.url[:-1] + str(number), prefix=prefix)

    with closing(opened(**one)) as here, closing(opened(**one)) as near, closing(opened(**other)) as far:
        heard_near: list[bytes] = []
        heard_far: list[bytes] = []
        near.subscribe("news", heard_near.append)
        far.subscribe("news", heard_far.append)
        here.publish("news", b"1")
        here.record("run", [b"1"], 60)
        here.claim("key", b"mine", 60)
        here.count("failures", 60)
        here.announce("clients", {"ann": b"1"}, 60)

        eventually(lambda: heard_near == [b"1"] and near.present("clients"))
        assert (near.held("key"), near.count("failures", 60), near.replay("run")) == (b"mine", 2, [(1, b"1")])
        assert (far.held("key"), far.count("failures", 60), far.replay("run")) == (None, 1, [])
        assert (heard_far, far.present("clients")) == ([], {})


def test_a_password_is_used_and_a_wrong_one_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with RedisEngine(password="right-password-1") as engine:
        with closing(open_bus(engine.url)) as bus:
            assert bus.healthy
            assert bus.count("failures", 60) == 1
        assert caplog.text == ""
        with closing(open_bus(engine.url.replace("right", "wrong"))) as bus:
            eventually(lambda: caplog.text)
            assert not bus.healthy
            assert bus.count("failures", 60) == 1
    assert "Redis is away" in caplog.text
    assert "password-1" not in caplog.text


def test_a_command_that_redis_refuses_does_not_make_it_away(caplog: pytest.LogCaptureFixture) -> None:
    with (
        RedisEngine("--maxmemory", "1mb", "--maxmemory-policy", "noeviction") as engine,
        closing(open_bus(engine.url)) as bus,
        closing(open_bus(engine.url)) as there,
    ):
        heard: list[bytes] = []
        there.subscribe("news", heard.append)
        for number in range(100):
            assert bus.claim(f"key {number}", b"x" * 2**16, 60) is None
        bus.publish("news", b"1")
        eventually(lambda: heard)
        assert bus.healthy
        assert bus.held("key 0") is not None
    assert caplog.text.count("Redis refuses a command") == 1


def test_a_user_who_may_not_listen_does_not_knock_all_the_time(
    engine: RedisEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def connections() -> int:
        statistics = dict(
            line.split(b":") for line in engine.command("INFO", "stats").splitlines()[2:] if line
        )
        return int(statistics[b"total_connections_received"])

    engine.command("ACL", "SETUSER", "deaf", "on", ">word", "~*", "+@all", "resetchannels")
    with closing(open_bus(engine.url.replace("//", "//deaf:word@"))) as bus:
        eventually(lambda: caplog.text)
        before = connections()
        time.sleep(1.5)
        assert connections() - before <= 5
        assert not bus.healthy
        assert (bus.claim("a", b"1", 60), bus.count("a", 60)) == (None, 1)
        assert engine.command("EXISTS", "openclaw:claim:a") == b":1\r\n"
    assert caplog.text.count("no permissions") == 1


def test_what_another_program_says_there_is_passed_over(
    engine: RedisEngine, bus: RedisBus, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []
    bus.subscribe(topic, heard.append)
    bus.announce("clients", {"ann": b"1"}, 60)
    eventually(lambda: engine.command("EXISTS", "openclaw:group:clients") == b":1\r\n")
    with closing(redis.Redis(port=engine.port)) as other:
        for channel in ("listening", f"topic:{topic}", "topic:\udcff", "wake:"):
            for message in (b"", b"\xff" * 7, b"\0" * 8, b"\0" * 8 + b"\xff\xfe", b"x" * 2**20):
                other.publish(f"openclaw:0:{channel}".encode(errors="surrogateescape"), message)
        other.sadd("openclaw:group:clients", "them", b"\xff")
        other.hset("openclaw:group:clients:them", mapping={b"\xff": b"?", "bob": b"2"})
        other.publish(f"openclaw:0:topic:{topic}", b"12345678the end")
    eventually(lambda: b"the end" in heard)

    assert bus.healthy
    assert bus.present("clients") == {"ann": b"1", "bob": b"2", "\ufffd": b"?"}
    for name in ("claim:a", "log:a", "count:a", "group:a"):
        engine.command("GEOADD", f"openclaw:{name}", 1, 1, "x")
    assert (bus.claim("a", b"1", 60), bus.replay("a"), bus.count("a", 60)) == (None, [], 1)
    assert bus.present("a") == {}
    assert bus.healthy
    assert "Traceback" not in caplog.text


def test_with_tls_a_certificate_of_its_own_is_trusted_only_if_the_url_says_so(
    engine: RedisEngine, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with TlsFront(engine.port, tmp_path) as front:
        url = f"rediss://127.0.0.1:{front.port}/0"
        with closing(open_bus(url)) as bus:
            assert not bus.healthy
            eventually(lambda: "certificate verify failed" in caplog.text)
        for option in ("?ssl_cert_reqs=none", f"?ssl_ca_certs={front.certificate}"):
            with closing(open_bus(url + option)) as bus, closing(open_bus(engine.url)) as plain:
                eventually(lambda bus=bus: bus.healthy)
                heard: list[bytes] = []
                bus.subscribe("news", heard.append)
                for number in range(200):
                    bus.publish("echo", b"x" * 5_000)
                    plain.publish("news", b"%d" % number)
                eventually(lambda heard=heard: len(heard) == 200)
                assert bus.count(option, 60) == 1


@pytest.mark.parametrize(
    "url",
    ["postgres://u:s3cret-word@host/0", "s3cret-word", "redis://:s3cret-word@host:port/0",
     "rediss://:s3cret-word@host/0?ssl_cert_reqs=maybe", "redis://:s3cret-word@host/0?colour=red"],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused_and_not_told(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://") as refusal:
        open_bus(url)
    assert "s3cret-word" not in str(refusal.value)


def test_an_unknown_host_is_redis_that_is_away() -> None:
    with closing(open_bus(f"redis://127.0.0.1:{free_port()}/0")) as bus:
        assert not bus.healthy
        assert bus.count("failures", 60) == 1
