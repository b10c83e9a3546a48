"""Many WebSocket clients in a process of their own: ``python -m benchmarks.listeners JSON``.

Takes a :class:`~benchmarks.load.Task` of another kind as JSON and prints a flat JSON object of
numbers: ``idle`` (connections that say nothing), ``health`` (each client asks again as soon as it
has an answer) or ``fan-out`` (all of them hear one run).
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator

from .load import Task, Usage, quantile

_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_PATIENCE = 60.0
_HEALTH = {"type": "req", "id": "h", "method": "health"}


class Listener(asyncio.Protocol):
    """One client. ``ready`` when it has been greeted."""

    def __init__(self, token: str, heard: Callable[[Listener, bytes], None]) -> None:
        self._token = token
        self._heard = heard
        self._received = b""
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(_UPGRADE)

    def send(self, message: object) -> None:
        payload = json.dumps(message).encode()
        size = len(payload)
        head = struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x81, 0xFE, size)
        self.transport.write(head + b"\0\0\0\0" + payload)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.startswith(b"HTTP/"):
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._received = rest
        for message in self._messages():
            self._take(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("not greeted"))

    def _take(self, message: bytes) -> None:
        if self.ready.done():
            self._heard(self, message)
        elif message.startswith(b'{"type":"event","event":"connect.challenge"'):
            client = {"id": "bench", "version": "1", "platform": "bench", "mode": "cli"}
            params = {
                "minProtocol": 4,
                "maxProtocol": 4,
                "client": client,
                "scopes": ["operator.admin"],
                "auth": {"token": self._token},
            }
            self.send({"type": "req", "id": "c", "method": "connect", "params": params})
        else:
            assert b"hello-ok" in message, message
            self.ready.set_result(None)

    def _messages(self) -> Iterator[bytes]:
        data, at = self._received, 0
        while len(data) - at >= 2:
            size, begin = data[at + 1], at + 2
            if size == 126:
                begin += 2
                size = int.from_bytes(data[at + 2 : begin])
            elif size == 127:
                begin += 8
                size = int.from_bytes(data[at + 2 : begin])
            if len(data) - begin < size:
                break
            yield data[begin : begin + size]
            at = begin + size
        self._received = data[at:]


async def _connect(task: Task, heard: Callable[[Listener, bytes], None]) -> list[Listener]:
    loop = asyncio.get_running_loop()
    listeners = []
    for number in range(task.clients):
        client = Listener(task.token, heard)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", task.port)
        listeners.append(client)
        if number % 20 == 19:  # they do not come all in one instant
            await client.ready
    await asyncio.gather(*(listener.ready for listener in listeners))
    return listeners


async def idle(task: Task) -> dict[str, float]:
    """Memory of each connection, CPU of all of them at rest."""
    empty = Usage.now(task.pids)
    await _connect(task, lambda *_: None)
    await asyncio.sleep(1)
    before = Usage.now(task.pids)
    await asyncio.sleep(task.seconds)
    after = Usage.now(task.pids)
    return {
        "kib_each": (after.rss - empty.rss) / 1024 / task.clients,
        "cpu_percent": 100 * (after.cpu - before.cpu) / (after.at - before.at),
        "cpu_ms_to_connect": 1000 * (before.cpu - empty.cpu) / task.clients,
    }


async def health(task: Task) -> dict[str, float]:
    """Requests per second in a closed loop."""
    latencies: list[float] = []
    sent: dict[Listener, float] = {}

    def ask(listener: Listener) -> None:
        sent[listener] = time.perf_counter()
        listener.send(_HEALTH)

    def heard(listener: Listener, message: bytes) -> None:
        if message.startswith(b'{"type":"res"'):
            assert b'"ok":true' in message, message
            latencies.append(time.perf_counter() - sent[listener])
            ask(listener)

    listeners = await _connect(task, heard)
    before = Usage.now(task.pids)
    for listener in listeners:
        ask(listener)
    await asyncio.sleep(task.seconds)
    after = Usage.now(task.pids)
    return {
        "rate": len(latencies) / (after.at - before.at),
        "p50_ms": 1000 * quantile(latencies, 0.5),
        "p99_ms": 1000 * quantile(latencies, 0.99),
        "cpu_ms": 1000 * (after.cpu - before.cpu) / len(latencies),
    }


async def fan_out(task: Task) -> dict[str, float]:
    """One run's words to all of them: the last client asks, everybody hears."""
    lags: list[float] = []
    over = asyncio.Event()
    ended = 0

    def heard(_: Listener, message: bytes) -> None:
        nonlocal ended
        if message.startswith(b'{"type":"event","event":"agent"') and b'"stream":"assistant"' in message:
            lags.append(time.monotonic() - float(message[message.rindex(b"@") + 1 :].partition(b'"')[0]))
        elif b'"event":"chat"' in message and b'"state":"final"' in message:
            ended += 1
            if ended == task.clients:
                over.set()

    listeners = await _connect(task, heard)
    before = Usage.now(task.pids)
    params = {"message": f"Please answer with {task.wish}", "idempotencyKey": f"bench-{before.at}"}
    listeners[-1].send({"type": "req", "id": "r", "method": "agent", "params": params})
    async with asyncio.timeout(_PATIENCE):
        await over.wait()
    after = Usage.now(task.pids)
    return {
        "events": len(lags),
        "cpu_ms_per_1000": 1e6 * (after.cpu - before.cpu) / len(lags),
        "lag_p50_ms": 1000 * quantile(lags, 0.5),
        "lag_p99_ms": 1000 * quantile(lags, 0.99),
    }


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    measure = {"idle": idle, "health": health, "fan-out": fan_out}[task.kind]
    print(json.dumps(asyncio.run(measure(task))))


if __name__ == "__main__":
    main()
