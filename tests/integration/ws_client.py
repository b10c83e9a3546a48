"""WebSocket clients for tests: a polite one, and one that puts its frames together by hand."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any, Self

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_PATIENCE = 10.0


def upgrade_request(path: str = "/", **headers: str | None) -> bytes:
    """An opening handshake; a header given as None is left out."""
    lines = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-Websocket-Version": "13",
        "Sec-Websocket-Key": _KEY,
    }
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in (lines | named).items() if value is not None)
    return f"GET {path} HTTP/1.1\r\n{text}\r\n".encode()


def frame(
    payload: bytes = b"", opcode: int = TEXT, *, fin: bool = True, bits: int = 0, mask: bool = True
) -> bytes:
    """A client's frame. :param bits: the three reserved ones."""
    size = len(payload)
    first, masked = (0x80 if fin else 0) | bits << 4 | opcode, 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    # A mask of zeros leaves the payload as it is.
    return head + (b"\0\0\0\0" if mask else b"") + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, CLOSE)


def request(request_id: str, method: str, params: Any = None) -> bytes:
    """A request's message."""
    return json.dumps({"type": "req", "id": request_id, "method": method, "params": params}).encode()


def connect_request(token: str, protocol: int = 4, **changed: Any) -> bytes:
    params = {
        "minProtocol": protocol,
        "maxProtocol": protocol,
        "client": {"id": "test", "version": "1", "platform": "test", "mode": "ui"},
        "scopes": ["operator.admin"],
        "auth": {"token": token},
    }
    return request("hello", "connect", params | changed)


class RawClient:
    """One connection, frame by frame. Strict: what a server may not send fails the test."""

    def __init__(self, port: int, path: str = "/", *, receive_buffer: int | None = None) -> None:
        """:param receive_buffer: of the kernel, in bytes; a small one makes a slow reader."""
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(_PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        self._received = b""
        self.id = ""
        self.send(upgrade_request(path))
        head = self._until(b"\r\n\r\n").decode()
        assert head.startswith("HTTP/1.1 101 "), head
        assert "extensions" not in head.lower()

    @classmethod
    def greeted(cls, port: int, token: str, *, receive_buffer: int | None = None, **connect: Any) -> Self:
        """A client that has said hello."""
        client = cls(port, receive_buffer=receive_buffer)
        assert client.event()["event"] == "connect.challenge"
        client.send(frame(connect_request(token, **connect)))
        hello = client.answer("hello")
        assert hello["ok"], hello
        client.id = hello["payload"]["server"]["connId"]
        return client

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, request_id: str, method: str, params: Any = None) -> None:
        self.send(frame(request(request_id, method, params)))

    def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        first, size = self._take(2)
        assert first & 0xF0 == 0x80, "the gateway sends whole messages, and no reserved bits"
        assert size < 0x80, "a server does not mask"
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return first & 0x0F, self._take(size)

    def message(self) -> dict[str, Any]:
        """The next frame, which is one of text."""
        opcode, payload = self.frame()
        assert opcode == TEXT, (opcode, payload)
        message: dict[str, Any] = json.loads(payload)
        return message

    def messages(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self.message()

    def answers(self, count: int) -> list[dict[str, Any]]:
        """The next ``count`` answers; events among them are skipped."""
        found = (message for message in self.messages() if message["type"] == "res")
        return [next(found) for _ in range(count)]

    def event(self) -> dict[str, Any]:
        return next(message for message in self.messages() if message["type"] == "event")

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        return (m for m in self.messages() if m["type"] == "event" and m["event"] == name)

    def answer(self, request_id: str) -> dict[str, Any]:
        """The answer to a request; events before it are skipped."""
        return next(m for m in self.messages() if m["type"] == "res" and m["id"] == request_id)

    def end(self) -> tuple[int | None, str]:
        """Code and reason of the gateway's goodbye, after which it hangs up; text before it is skipped."""
        while True:
            opcode, payload = self.frame()
            if opcode == CLOSE:
                break
        assert self.socket.recv(1) == b"", "nothing comes after a goodbye"
        if not payload:
            return None, ""
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def is_cut(self) -> bool:
        """True once the gateway has hung up, with or without a goodbye."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._read()
        head, _, self._received = self._received.partition(mark)
        return head

    def _take(self, size: int) -> bytes:
        pieces = [self._received]
        missing = size - len(self._received)
        while missing > 0:
            pieces.append(self._piece())
            missing -= len(pieces[-1])
        received = b"".join(pieces)
        self._received = received[size:]
        return received[:size]

    def _read(self) -> None:
        self._received += self._piece()

    def _piece(self) -> bytes:
        piece = self.socket.recv(262_144)
        if not piece:
            raise EOFError("the gateway hung up without a goodbye")
        return piece
