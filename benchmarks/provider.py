"""A model API that costs next to nothing: ``python -m benchmarks.provider PORT``.

The last ``chunks=20 interval=0.05 delay=0`` in a request's body says how its answer comes:
how many content chunks, how many seconds apart, and how long before the first one. Every
content chunk is the time of its writing (CLOCK_MONOTONIC, the same in all processes), so
whoever gets it knows how long it took.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WISH = re.compile(rb"chunks=(\d+) interval=([\d.]+) delay=([\d.]+)")
_STREAM = re.compile(rb'"stream": *true')

_CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"bench","choices":[%s]%s}\n\n'
_CHOICE = b'{"index":0,"delta":{%s},"finish_reason":%s}'
_ROLE = _CHUNK % (_CHOICE % (b'"role":"assistant","content":""', b"null"), b"")
_CONTENT = _CHUNK % (_CHOICE % (b'"content":"@%.6f"', b"null"), b"")
_STOP = _CHUNK % (_CHOICE % (b"", b'"stop"'), b"")
_USAGE = b'"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":99}'
_WHOLE = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%s"},"finish_reason":"stop"}],%s}'
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection: one answer after the other."""

    def __init__(self) -> None:
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if found and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        chunks, interval, delay = (_WISH.findall(body) or [(b"1", b"0", b"0")])[-1]
        self._count = self._left = int(chunks)
        self._interval = float(interval)
        if not _STREAM.search(body):
            self._loop.call_later(float(delay) + self._interval * self._count, self._write_whole)
        elif self._interval or float(delay):
            self._transport.write(_STREAM_HEAD + _framed(_ROLE))
            self._due = self._loop.time() + float(delay)
            self._timer = self._loop.call_at(self._due, self._write_chunk)
        else:
            content = [_framed(_CONTENT % time.monotonic()) for _ in range(self._count)]
            self._transport.write(b"".join((_STREAM_HEAD, _framed(_ROLE), *content, self._end())))

    def _write_whole(self) -> None:
        text = b"@%.6f" % time.monotonic() * self._count
        body = _WHOLE % (text, _USAGE % self._count)
        self._transport.write(_JSON_HEAD % len(body) + body)

    def _write_chunk(self) -> None:
        if not self._left:
            self._timer = None
            self._transport.write(self._end())
            return
        self._transport.write(_framed(_CONTENT % time.monotonic()))
        self._left -= 1
        self._due += self._interval
        self._timer = self._loop.call_at(self._due, self._write_chunk)

    def _end(self) -> bytes:
        usage = _CHUNK % (b"", b"," + _USAGE % self._count)
        return _framed(_STOP) + _framed(usage) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _framed(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
