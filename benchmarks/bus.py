"""What the bus costs: ``python -m benchmarks.bus`` starts a Redis of its own and prints a table.

Under gevent: ``python -m gevent.monkey --module benchmarks.bus``.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing

from app.bus import Bus
from app.bus.local import LocalBus
from app.bus.redis import RedisBus
from app.runs.executor import Executor
from tests.bus_process import BusProcess
from tests.redis_engine import RedisEngine

ROUNDS = 3_000


def cpu_us(work: Callable[[], object], rounds: int) -> float:
    """Microseconds of this process's CPU per call, all of its threads included."""
    began = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - began) / rounds * 1e6


def latencies_ms(bus: Bus, echo: BusProcess, rounds: int) -> list[float]:
    """From saying something until another process's answer is heard, halved."""
    heard = threading.Event()
    end = bus.subscribe("echoed", lambda _: heard.set())
    echo.ask("echo", "said", "echoed")
    durations = []
    for _ in range(rounds):
        heard.clear()
        began = time.perf_counter()
        bus.publish("said", b"x" * 300)
        assert heard.wait(5)
        durations.append((time.perf_counter() - began) * 500)
        time.sleep(0.001)
    end()
    return durations


def sent_us(send: Callable[[], object], *, together: int) -> float:
    """CPU per call that sends 300 bytes, with ``together`` of them at once."""

    def burst() -> None:
        for _ in range(together):
            send()
        time.sleep(0.0005 * together**0.5)

    return cpu_us(burst, ROUNDS // together) / together


def heard_us(bus: Bus, other: BusProcess) -> float:
    """CPU per message that comes from another process."""
    heard: list[bytes] = []
    end = bus.subscribe("flood", heard.append)
    began = time.process_time()
    other.tell("publish_numbers", "flood", "x", 5_000)
    while len(heard) < 5_000:
        time.sleep(0.002)
    spent = time.process_time() - began
    other.answer()
    end()
    return spent / 5_000 * 1e6


def calls(bus: Bus) -> dict[str, Callable[[], object]]:
    """What waits for its answer."""
    return {
        "claim": lambda: bus.claim("key", b"mine", 60),
        "held": lambda: bus.held("key"),
        "count": lambda: bus.count("failures", 60),
        "present": lambda: bus.present("clients"),
    }


def row(what: str, value: str) -> None:
    """One line of the table."""
    sys.stdout.write(f"{what:44} {value}\n")


def main() -> None:
    """Measure and print."""
    local = LocalBus()
    row("publish, in one process", f"{cpu_us(lambda: local.publish('news', b'x'), 100_000):.2f} µs")
    with (
        RedisEngine() as engine,
        closing(RedisBus(engine.url, Executor().spawn)) as bus,
        BusProcess(engine.url) as other,
    ):
        for what, send in {
            "publish": lambda: bus.publish("news", b"x" * 300),
            "record": lambda: bus.record("run", [b"x" * 300], 60),
        }.items():
            for together in (1, 10, 100):
                row(f"{what}, Redis, {together} at a time", f"{sent_us(send, together=together):.0f} µs CPU")
        row("hear, Redis", f"{heard_us(bus, other):.0f} µs CPU")
        for name, call in calls(bus).items():
            began = time.perf_counter()
            cpu = cpu_us(call, ROUNDS)
            row(f"{name}, Redis", f"{cpu:.0f} µs CPU, {(time.perf_counter() - began) / ROUNDS * 1e6:.0f} µs")
        times = sorted(latencies_ms(bus, other, 1_000))
        median, p99 = statistics.median(times), times[int(len(times) * 0.99)]
        row("to another process, Redis", f"median {median:.2f} ms, p99 {p99:.2f} ms")
        engine.kill()
        while bus.healthy:
            time.sleep(0.01)
        row("publish, Redis away", f"{cpu_us(lambda: bus.publish('news', b'x'), 20_000):.2f} µs")


if __name__ == "__main__":
    main()
