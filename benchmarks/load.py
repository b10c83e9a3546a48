"""Many clients of one server, in a process of their own: ``python -m benchmarks.load JSON``.

Takes a :class:`Task` as JSON and prints a flat JSON object of numbers. Raw sockets and no
HTTP library: what is measured is the server.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STAMP = re.compile(rb"@(\d+\.\d{6})")
ARRIVALS = 250  # streams that begin in a second: they do not come all in one instant
_PATIENCE = 60.0  # seconds over the time that a run should take


@dataclass(frozen=True, slots=True)
class Task:
    """What to do with which server.

    :ivar kind: ``requests`` (each client asks again as soon as it has an answer) or ``streams``
        (each client reads one stream).
    :ivar pids: the server's processes, whose CPU and memory are measured.
    :ivar wish: how the provider should answer, see ``provider.py``.
    :ivar seconds: how long ``requests`` are sent.
    :ivar count: end ``requests`` after so many instead, if not 0.
    :ivar user: prefix of users, a new one with each request; "" for requests without a session.
    """

    kind: str
    port: int
    clients: int
    wish: str
    pids: Sequence[int] = ()
    seconds: float = 3.0
    count: int = 0
    user: str = ""
    token: str = "bench"

    def request(self, number: int) -> bytes:
        """The bytes of one HTTP request."""
        body = {
            "model": "openclaw",
            "stream": self.kind == "streams",
            "messages": [{"role": "user", "content": f"Please answer with {self.wish}"}],
        }
        if self.user:
            body["user"] = f"{self.user}-{number}"
        text = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        return head.encode() + text


@dataclass(slots=True)
class Usage:
    """What a server has used up to now: seconds of CPU, bytes of memory."""

    at: float
    cpu: float
    rss: int

    @classmethod
    def now(cls, pids: Sequence[int]) -> Usage:
        """Sums over ``pids``."""
        processes = [psutil.Process(pid) for pid in pids]
        times = [process.cpu_times() for process in processes]
        cpu = sum(spent.user + spent.system for spent in times)
        return cls(time.monotonic(), cpu, sum(process.memory_info().rss for process in processes))


class _Client(asyncio.Protocol):
    """A connection that knows where an answer ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.start()

    def start(self) -> None:
        raise NotImplementedError


class Asker(_Client):
    """Sends the next request as soon as the last one is answered."""

    def __init__(self, run: RequestRun) -> None:
        self._run = run
        self._received = b""
        self._sent = 0.0

    def start(self) -> None:
        request = self._run.next_request()
        if request is None:
            self.transport.close()
            return
        self._received = b""
        self._sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if _is_complete(self._received):
            self._run.answered(time.perf_counter() - self._sent, self._received.startswith(b"HTTP/1.1 200"))
            self.start()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._run.left()


class RequestRun:
    """A closed loop of clients, for some seconds or for some requests."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._number = 0
        self._latencies: list[float] = []
        self._failed = 0
        self._clients = task.clients
        self._over = asyncio.Event()

    def next_request(self) -> bytes | None:
        """The next request, or None when it is enough."""
        over = self._number >= self._task.count if self._task.count else time.monotonic() > self._until
        if over:
            return None
        self._number += 1
        return self._task.request(self._number)

    def answered(self, latency: float, ok: bool) -> None:
        self._latencies.append(latency)
        self._failed += not ok

    def left(self) -> None:
        self._clients -= 1
        if not self._clients:
            self._over.set()

    async def run(self) -> dict[str, float]:
        """Send it all and wait for all answers."""
        before = Usage.now(self._task.pids)
        self._until = before.at + self._task.seconds
        await _connect(self._task, lambda: Asker(self))
        async with asyncio.timeout(self._task.seconds + _PATIENCE):
            await self._over.wait()
        after = Usage.now(self._task.pids)
        count = len(self._latencies)
        return {
            "rate": count / (after.at - before.at),
            "p50_ms": 1000 * quantile(self._latencies, 0.5),
            "p99_ms": 1000 * quantile(self._latencies, 0.99),
            "cpu_ms": 1000 * (after.cpu - before.cpu) / max(1, count),
            "rss_before_mb": before.rss / 1e6,
            "rss_after_mb": after.rss / 1e6,
            "requests": count,
            "failed": self._failed,
        }


class Reader(_Client):
    """Reads one stream."""

    def __init__(self, run: StreamRun) -> None:
        self._run = run
        self._rest = b""
        self._state = "waiting"

    def start(self) -> None:
        self._sent = time.monotonic()
        self.transport.write(self._run.next_request())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._state == "waiting" and b"data: " in data:
            self._state = "open"
            self._run.first_bytes.append(now - self._sent)
        events, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        stamps = _STAMP.findall(events)
        if stamps and self._state == "open":
            self._state = "reading"
            self._run.first_token(now - self._sent)
        for stamp in stamps:
            self._run.lags.append(now - float(stamp))
        if b"data: [DONE]" in events:
            self._state = "done"
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._run.left(ok=self._state == "done")


@dataclass
class StreamRun:
    """Streams that are all open at the same time. CPU and memory are measured while all of them flow."""

    task: Task
    first_bytes: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    _first_tokens: list[float] = field(default_factory=list)
    _number: int = 0
    _ended: int = 0
    _failed: int = 0

    def next_request(self) -> bytes:
        self._number += 1
        return self.task.request(self._number)

    def first_token(self, latency: float) -> None:
        self._first_tokens.append(latency)
        if len(self._first_tokens) == self.task.clients:
            self._all_open = Usage.now(self.task.pids)
            self._chunks_at_open = len(self.lags)

    def left(self, *, ok: bool) -> None:
        if not self._ended:
            self._first_end = Usage.now(self.task.pids)
            self._chunks_at_end = len(self.lags)
        self._ended += 1
        self._failed += not ok
        if self._ended == self.task.clients:
            self._over.set()

    async def run(self) -> dict[str, float]:
        """Open all streams and read them to their ends."""
        self._over = asyncio.Event()
        before = Usage.now(self.task.pids)
        await _connect(self.task, lambda: Reader(self))
        async with asyncio.timeout(self.task.seconds + _PATIENCE):
            await self._over.wait()
        if self._failed:
            return {"failed": self._failed}
        if self._all_open.at >= self._first_end.at:  # so slow that they were never open all at once
            self._all_open, self._chunks_at_open = before, 0
        steady = self._chunks_at_end - self._chunks_at_open
        cpu = self._first_end.cpu - self._all_open.cpu
        late = self.lags[self._chunks_at_open : self._chunks_at_end]
        return {
            "first_byte_ms": 1000 * quantile(self.first_bytes, 0.5),
            "first_token_ms": 1000 * quantile(self._first_tokens, 0.5),
            "lag_p50_ms": 1000 * quantile(late, 0.5),
            "lag_p99_ms": 1000 * quantile(late, 0.99),
            "lag_max_ms": 1000 * max(late),
            "rate": steady / (self._first_end.at - self._all_open.at),
            "cpu_ms_per_1000": 1e6 * cpu / steady,
            "kib_per_stream": (self._first_end.rss - before.rss) / 1024 / self.task.clients,
            "failed": 0,
        }


async def _connect(task: Task, client: Callable[[], _Client]) -> None:
    loop = asyncio.get_running_loop()
    for number in range(task.clients):
        await loop.create_connection(client, "127.0.0.1", task.port)
        if task.kind == "streams" and number % 10 == 9:
            await asyncio.sleep(10 / ARRIVALS)


def _is_complete(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = _LENGTH.search(head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def quantile(values: Sequence[float], q: float) -> float:
    """What the share ``q`` of ``values`` does not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    run = RequestRun if task.kind == "requests" else StreamRun

    async def measure() -> dict[str, float]:
        return await run(task).run()

    print(json.dumps(asyncio.run(measure())))


if __name__ == "__main__":
    main()
