"""``make bench``: measure the gateway beside the relay and the bare provider, print one table.

Numbers are for reading, not for passing: the exit status is 0 whatever they are. ``--quick``
takes about half a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from . import servers
from .load import ARRIVALS, Task
from .scale import Scale
from .servers import ROOT, Server

Numbers = dict[str, float]

_CLIENTS = (1, 32, 256)
_ROUNDS = 3
_RATE = 20  # chunks a second on each stream


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much.

    :ivar seconds: of requests, per server and number of clients.
    :ivar streams: how many at a time.
    :ivar stream_seconds: of each stream, once all of them are open.
    :ivar many: stored sessions that are compared with next to none.
    :ivar soak: requests after which memory must be where it was.
    :ivar idle: WebSocket connections that say nothing.
    """

    seconds: float
    streams: tuple[int, ...]
    stream_seconds: float
    many: int
    soak: int
    idle: int


FULL = Plan(seconds=3, streams=(1, 100, 1000), stream_seconds=4, many=20_000, soak=5_000, idle=1_000)
QUICK = Plan(seconds=0.4, streams=(1, 50, 200), stream_seconds=0.7, many=1_000, soak=500, idle=200)


class Report:
    """The table; a row per measure, with the aim beside the number."""

    def __init__(self, title: str) -> None:
        self._table = Table(title=title)
        self._table.add_column("measure")
        for name in ("direct", "relay", "gateway", "gateway / relay", "aim"):
            self._table.add_column(name, justify="right")
        self._table.add_column("")

    def row(
        self,
        measure: str,
        values: Sequence[float | None],
        aim: str = "",
        met: bool | None = None,
    ) -> None:
        """:param values: direct, relay, gateway. :param met: None without an aim."""
        _, relayed, ours = values
        ratio = f"{ours / relayed:.2f}x" if relayed and ours is not None else ""
        verdict = "" if met is None else "[green]PASS[/]" if met else "[yellow]—[/]"
        self._table.add_row(measure, *map(_shown, values), ratio, aim, verdict)

    def section(self) -> None:
        """A line under the last row."""
        self._table.add_section()

    def print(self, console: Console) -> None:
        """Show the table."""
        console.print(self._table)


class Bench:
    """One run of everything."""

    def __init__(self, plan: Plan, report: Report, state: Path) -> None:
        self._plan = plan
        self._report = report
        self._state = state

    def run(self) -> None:
        """Start the servers, measure, stop them."""
        with ExitStack() as stack:
            direct = stack.enter_context(servers.provider())
            relay = stack.enter_context(servers.relay(direct))
            gateway = stack.enter_context(servers.gateway(direct, self._state / "main"))
            targets = (direct, relay, gateway)
            self._cold_start(relay, gateway)
            for count in reversed(self._plan.streams):  # many first: memory grows once and is kept for reuse
                self._streams(targets, count)
            self._first_byte(targets)
            for clients in _CLIENTS:
                self._requests(targets, clients)
            self._sessions(gateway)
            self._soak(gateway)
            self._web_sockets(gateway)
        self._growth()

    def _cold_start(self, relay: Server, gateway: Server) -> None:
        took = (None, relay.start_seconds, gateway.start_seconds)
        self._report.row("ready to serve, s", took, "≤ 2", gateway.start_seconds <= 2)
        memory = gateway.resident_mb
        held = (None, relay.resident_mb, memory)
        self._report.row("memory at rest, all processes, MB", held, "≤ 120", memory <= 120)
        self._report.section()

    def _streams(self, targets: Sequence[Server], count: int) -> None:
        opening = 2 * count / ARRIVALS
        chunks = int((self._plan.stream_seconds + opening) * _RATE)
        wish = _wish(chunks, 1 / _RATE)
        results = [_load(server, "streams", count, wish) for server in targets]
        add = self._adder(f"{count:,} stream{'s' if count > 1 else ''}", results)
        relay = results[1]
        add("first token, ms", "first_token_ms")
        if count > 1:
            twice = 2 * relay.get("cpu_ms_per_1000", 0)
            add("CPU per 1,000 chunks, ms", "cpu_ms_per_1000", "≤ 2x relay", lambda cpu: cpu <= twice)
        if count == max(self._plan.streams):
            enough = 0.97 * _RATE * count
            add("chunks/s", "rate", f"{_RATE * count:,}", lambda rate: rate >= enough)
            add("chunk delay, p99, ms", "lag_p99_ms", "≤ 250", lambda lag: lag <= 250)
            add("memory per stream, KiB", "kib_per_stream", "≤ 60", lambda kib: kib <= 60)
        else:
            add("chunks/s", "rate")
            add("chunk delay, p99, ms", "lag_p99_ms")
        add("longest chunk delay, ms", "lag_max_ms")
        self._report.section()

    def _first_byte(self, targets: Sequence[Server]) -> None:
        """The provider answers at once and says its first word late: who waits for which?"""
        results = [_load(server, "streams", 1, _wish(3, 0.02, 0.2)) for server in targets]
        add = self._adder("1 stream, silent for 200 ms", results)
        add("first byte, ms", "first_byte_ms", "≤ 10", lambda latency: latency <= 10)
        self._report.section()

    def _requests(self, targets: Sequence[Server], clients: int) -> None:
        results = [_load(server, "requests", clients, _wish(5), self._plan.seconds) for server in targets]
        add = self._adder(f"{clients} client{'s' if clients > 1 else ''}", results)
        add("CPU per request, ms", "cpu_ms", "≤ 2.5", lambda cpu: cpu <= 2.5)
        add("requests/s", "rate")
        add("latency, p50, ms", "p50_ms")
        add("latency, p99, ms", "p99_ms")
        base = results[0]["p50_ms"]
        added = [None, *(result["p50_ms"] - base for result in results[1:])]
        self._report.row(f"{clients}: added latency, p50, ms", added)
        self._report.section()

    def _sessions(self, gateway: Server) -> None:
        result = _load(gateway, "requests", 32, _wish(5), self._plan.seconds, user="guest")
        add = self._adder("32 clients with sessions", [{}, {}, result])
        add("CPU per request, ms", "cpu_ms", "≤ 2.5", lambda cpu: cpu <= 2.5)
        add("requests/s", "rate")

    def _soak(self, gateway: Server) -> None:
        # Whatever is filled once is full by now.
        count = self._plan.soak
        result = _load(gateway, "requests", 32, _wish(5), 60, count=count, user="soak")
        grown = result["rss_after_mb"] - result["rss_before_mb"]
        aim = (None, None, grown)
        self._report.row(f"memory growth over {count:,} requests, MB", aim, "≤ 3", grown <= 3)
        self._report.section()

    def _web_sockets(self, gateway: Server) -> None:
        """One run heard by many, questions without a run, and clients that only listen."""
        heard = _listen(gateway, "fan-out", 100, 0, _wish(40, 0.05))
        add = self._adder("100 WebSocket listeners", [{}, {}, heard])
        add("CPU per 1,000 frames, ms", "cpu_ms_per_1000", "≤ 100", lambda cpu: cpu <= 100)
        add("delay, p99, ms", "lag_p99_ms", "≤ 250", lambda lag: lag <= 250)
        asked = _listen(gateway, "health", 8, self._plan.seconds)
        add = self._adder("8 WebSocket clients, health", [{}, {}, asked])
        for measure, key in (
            ("requests/s", "rate"),
            ("CPU per request, ms", "cpu_ms"),
            ("p99, ms", "p99_ms"),
        ):
            add(measure, key)
        idle = _listen(gateway, "idle", self._plan.idle, max(2, self._plan.seconds))
        add = self._adder(f"{self._plan.idle:,} idle WebSockets", [{}, {}, idle])
        add("memory each, KiB", "kib_each", "≤ 40", lambda kib: kib <= 40)
        add("CPU of all, %", "cpu_percent", "≤ 1", lambda cpu: cpu <= 1)
        add("CPU per greeting, ms", "cpu_ms_to_connect")
        self._report.section()

    def _growth(self) -> None:
        """The same turns beside next to no stored sessions and beside many, in turns."""
        counts = (10, self._plan.many)
        costs: list[list[float]] = [[], []]
        with ExitStack() as stack:
            direct = stack.enter_context(servers.provider())
            gateways = []
            for count in counts:
                state = self._state / f"with-{count}"
                servers.store_sessions(state, count)
                gateways.append(stack.enter_context(servers.gateway(direct, state)))
            for number in range(_ROUNDS):
                for server, cost in zip(gateways, costs, strict=True):
                    wish, seconds = _wish(5), self._plan.seconds / 2
                    result = _load(server, "requests", 8, wish, seconds, user=f"guest-{number}")
                    cost.append(result["cpu_ms"])
        few, many = (median(cost) for cost in costs)
        self._report.row("CPU per request beside 10 sessions, ms", (None, None, few))
        measure = f"CPU per request beside {counts[1]:,} sessions, ms"
        self._report.row(measure, (None, None, many), "≤ 1.1x", many <= 1.1 * few)

    def _adder(self, what: str, results: Sequence[Numbers]) -> Callable[..., None]:
        def add(measure: str, key: str, aim: str = "", met: Callable[[float], bool] | None = None) -> None:
            values = [result.get(key) for result in results]
            ours = values[2]
            verdict = None if met is None else ours is not None and met(ours)
            self._report.row(f"{what}: {measure}", values, aim, verdict)

        failed = sum(result.get("failed", 0) for result in results)
        if failed:
            self._report.row(f"{what}: FAILED", [result.get("failed") for result in results])
        return add


def _wish(chunks: int, interval: float = 0.0, delay: float = 0.0) -> str:
    return f"chunks={chunks} interval={interval:.3f} delay={delay:.3f}"


def _load(
    server: Server,
    kind: str,
    clients: int,
    wish: str,
    seconds: float = 0.0,
    *,
    count: int = 0,
    user: str = "",
) -> Numbers:
    task = Task(kind, server.port, clients, wish, server.pids, seconds, count, user, servers.TOKEN)
    return _measure("benchmarks.load", task)


def _ask(server: Server, clients: int, seconds: float, user: str) -> Numbers:
    return _load(server, "requests", clients, _wish(3), seconds, user=user)


def _listen(server: Server, kind: str, clients: int, seconds: float, wish: str = "") -> Numbers:
    task = Task(kind, server.port, clients, wish, server.pids, seconds, token=servers.TOKEN)
    return _measure("benchmarks.listeners", task)


def _measure(module: str, task: Task) -> Numbers:
    command = [sys.executable, "-m", module, json.dumps(asdict(task))]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=150)
    numbers: Numbers = json.loads(done.stdout)
    return numbers


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="shorter, and so less exact")
    arguments.add_argument("part", nargs="?", choices=("scale",), help="only this part")
    wanted = arguments.parse_args()
    plan = QUICK if wanted.quick else FULL
    report = Report("The gateway, with authentication, lanes, sessions and records on")
    started = time.monotonic()
    console = Console(width=max(118, Console().width))
    with tempfile.TemporaryDirectory(prefix="openclaw-bench-") as directory:
        scale = Scale(_ask, Path(directory), plan.seconds)
        try:
            if wanted.part is None:
                Bench(plan, report, Path(directory)).run()
            scale.run()
        finally:
            if wanted.part is None:
                report.print(console)
            scale.print(console)
            console.print(f"Took {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
