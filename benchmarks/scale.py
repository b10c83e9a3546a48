"""What more workers bring, and what it costs that they are one gateway.

One process on SQLite, one on Postgres, and one, two and four workers on Postgres and Redis, each
under the same load. CPU is per request, told apart by who spends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.engines import postgres_server
from tests.redis_engine import RedisEngine

from . import servers
from .servers import Server

Numbers = dict[str, float]
# Server, number of clients, seconds, and the prefix of users; "" for requests without a session.
Load = Callable[[Server, int, float, str], Numbers]

_CLIENTS = 64


@dataclass(frozen=True, slots=True)
class Place:
    """How the gateway is set up."""

    name: str
    env: Mapping[str, str]


class Scale:
    """Measures every place with the same load."""

    def __init__(self, load: Load, state: Path, seconds: float) -> None:
        self._load = load
        self._state = state
        self._seconds = seconds
        self._table = Table(title="One gateway on several workers; CPU in ms per request")
        self._table.add_column("requests")
        self._table.add_column("place")
        for name in ("requests/s", "p99, ms", "CPU: gateway", "Postgres", "Redis"):
            self._table.add_column(name, justify="right")
        self._rows: dict[str, list[list[str]]] = {"without a session": [], "of kept sessions": []}

    def run(self) -> None:
        """Start everything, measure, stop it."""
        with ExitStack() as stack:
            upstream = stack.enter_context(servers.provider())
            redis = stack.enter_context(RedisEngine())
            for number, place in enumerate(_places(redis.url, stack)):
                state = self._state / f"scale{number}"
                with servers.gateway(upstream, state, dict(place.env)) as gateway:
                    self._measure(place, gateway, redis)

    def print(self, console: Console) -> None:
        """Show the table."""
        for kind, rows in self._rows.items():
            for row in rows:
                self._table.add_row(kind, *row)
            self._table.add_section()
        console.print(self._table)

    def _measure(self, place: Place, gateway: Server, redis: RedisEngine) -> None:
        for kind, user in zip(self._rows, ("", f"scale-{place.name}"), strict=True):
            self._load(gateway, _CLIENTS, 0.3, f"first-{user}" if user else "")  # what is done once
            with _spent(postgres_server().pid) as database, _spent(redis.pid) as bell:
                numbers = self._load(gateway, _CLIENTS, self._seconds, user)
            count = max(1.0, numbers["requests"])
            cells = [f"{numbers['rate']:,.0f}", f"{numbers['p99_ms']:,.0f}", f"{numbers['cpu_ms']:.2f}"]
            cells += [f"{1000 * spent[0] / count:.2f}" for spent in (database, bell)]
            self._rows[kind].append([place.name, *cells])


@contextmanager
def _spent(pid: int) -> Iterator[list[float]]:
    """Seconds of CPU that a process and its children spend within the block, those included that end."""
    before, spent = _cpu(pid), [0.0]
    yield spent
    spent[0] = _cpu(pid) - before


def _cpu(pid: int) -> float:
    main = psutil.Process(pid)
    times = [main.cpu_times()]
    for child in main.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times.append(child.cpu_times())
    ended = times[0].children_user + times[0].children_system
    return ended + sum(spent.user + spent.system for spent in times)


def _places(redis_url: str, stack: ExitStack) -> Iterator[Place]:
    yield Place("SQLite, 1 process", {})
    database = stack.enter_context(postgres_server().database())
    yield Place("Postgres, 1 process", {"DATABASE_URL": database})
    shared = {"DATABASE_URL": database, "REDIS_URL": redis_url}
    for workers in (1, 2, 4):
        name = f"Postgres + Redis, {workers} worker{'s' if workers > 1 else ''}"
        yield Place(name, shared | {"WEB_CONCURRENCY": str(workers)})
