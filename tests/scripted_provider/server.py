"""The server behind the scripted provider: threads, keep-alive, real sockets."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import socketserver
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from .formats import Format, format_for
from .replies import Garbage, Hang, Raw, Reply, ScriptedReply, Status

_TICK = 0.01


class _Gone(Exception):
    """The client has left, or the server stops."""


@dataclass(frozen=True)
class Received:
    """A request as it came; header names in lower case; ``client`` is the peer's address."""

    path: str
    headers: dict[str, str]
    body: Any
    client: Any = None

    @property
    def user_text(self) -> str:
        """The text of the last user message that has one; tool results have none."""
        for message in reversed(self.body.get("messages") or self.body.get("input") or []):
            if isinstance(message, dict) and message.get("role") == "user":
                content = message["content"]
                if isinstance(content, str):
                    return content
                if texts := [part["text"] for part in content if part.get("type") in {"text", "input_text"}]:
                    return "\n".join(texts)
        return ""


class ScriptedProvider:
    """Plays a model API on a loopback port, or on a unix socket if ``unix_socket`` is given."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix_socket: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[ScriptedReply] = deque()
        self._rules: list[tuple[str, ScriptedReply]] = []
        self._requests: list[Received] = []
        self._sockets: set[socket.socket] = set()
        self.active = 0
        self.max_active = 0
        self.connections = 0
        self.disconnects = 0
        self.stopping = False
        if unix_socket is None:
            self._server: _Server = _Server((host, port), _Handler)
            self.base_url = f"http://{host}:{self._server.server_address[1]}/v1"
        else:
            self._server = _UnixServer(unix_socket, _UnixHandler)  # type: ignore[arg-type]
            self.base_url = "http://localhost/v1"
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.base_url = f"https://localhost:{self._server.server_address[1]}/v1"
        self._server.provider = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    # scripting

    def script(self, *replies: ScriptedReply) -> None:
        """Answer the next requests with these, one each."""
        with self._changed:
            self._queue.extend(replies)

    def unscript(self) -> None:
        """Forget the replies that nobody has asked for."""
        with self._changed:
            self._queue.clear()

    def on(self, word: str, reply: ScriptedReply) -> None:
        """Answer with ``reply`` whenever the last user message contains ``word``."""
        with self._changed:
            self._rules.append((word, reply))

    # observing

    @property
    def requests(self) -> list[Received]:
        """All requests so far."""
        with self._changed:
            return list(self._requests)

    def wait_for_requests(self, count: int, timeout: float = 5.0) -> bool:
        """True as soon as ``count`` requests have arrived."""
        return self._wait(lambda: len(self._requests) >= count, timeout)

    def wait_for_disconnect(self, timeout: float = 5.0, count: int = 1) -> bool:
        """True as soon as ``count`` clients have left in the middle of an answer."""
        return self._wait(lambda: self.disconnects >= count, timeout)

    def wait_until_idle(self, timeout: float = 5.0) -> bool:
        """True as soon as no answer is under way."""
        return self._wait(lambda: self.active == 0, timeout)

    # life

    def start(self) -> ScriptedProvider:
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and end every connection."""
        with self._changed:
            self.stopping = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._changed:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._wait(lambda: not self._sockets, 5.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve_until_interrupted(self) -> None:
        """Serve in the calling thread."""
        try:
            self._server.serve_forever()
        except KeyboardInterrupt:
            self._server.server_close()

    # used by the handlers

    def connected(self, sock: socket.socket) -> None:
        with self._changed:
            self.connections += 1
            self._sockets.add(sock)

    def disconnected(self, sock: socket.socket) -> None:
        with self._changed:
            self._sockets.discard(sock)
            self._changed.notify_all()

    def begin(self, received: Received) -> ScriptedReply:
        """Note a request and choose its answer: the queue first, then the rules, then the echo."""
        with self._changed:
            self._requests.append(received)
            self.active += 1
            self.max_active = max(self.max_active, self.active)
            self._changed.notify_all()
            if self._queue:
                return self._queue.popleft()
            text = received.user_text
            return next((reply for word, reply in self._rules if word in text), Reply(f"echo: {text}"))

    def end(self, *, client_left: bool) -> None:
        with self._changed:
            self.active -= 1
            self.disconnects += client_left
            self._changed.notify_all()

    def _wait(self, condition: Any, timeout: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512
    provider: ScriptedProvider

    def process_request(self, request: Any, client_address: Any) -> None:
        self.provider.connected(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.provider.disconnected(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.path, headers, json.loads(body), self.client_address)
        reply = self.server.provider.begin(received)
        client_left = False
        try:
            self._answer(reply, received)
        except (_Gone, ConnectionError):
            client_left = not self.server.provider.stopping
            self.close_connection = True
        finally:
            self.server.provider.end(client_left=client_left)

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "tests"}]}
        self._send_json(200 if self.path.endswith("/models") else 404, models)

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, reply: ScriptedReply, received: Received) -> None:
        wire = format_for(self.path, received.body)
        if wire is None:
            reply = Status(404, {"error": {"message": "No such path.", "type": "invalid_request_error"}})
        elif refusal := wire.refuses(received.body, received.headers):
            reply = refusal
        match reply:
            case Status():
                self._send_json(reply.status, reply.body, reply.headers)
            case Raw():
                self._send_raw(reply)
            case Garbage():
                self.wfile.write(reply.data)
                self.close_connection = True
            case Hang():
                self._hang(reply, wire)
            case Reply() if wire is not None:
                self._reply(reply, received.body, wire)

    def _reply(self, reply: Reply, request: dict[str, Any], wire: Format) -> None:
        if request.get("stream", wire.streams_unasked) and not reply.ignore_stream:
            self._stream(reply, wire)
            return
        self._hold_gate(reply)
        self._pause(reply.delay)
        self._send_json(200, wire.whole(reply))

    def _stream(self, reply: Reply, wire: Format) -> None:
        self._start_stream({"Content-Type": wire.content_type})
        self._write_each(wire.opening(reply))
        for number, piece in enumerate(reply.pieces):
            if not self._survives(reply, number, wire):
                return
            self._pause(reply.delay, reply.comments_every, wire.comment)
            self._write_each(wire.piece(piece))
        if not self._survives(reply, len(reply.pieces), wire):
            return
        self._write_each(wire.ending(reply))
        self._end_stream()

    def _survives(self, reply: Reply, number: int, wire: Format) -> bool:
        """Let the fault planned before piece ``number`` happen; False if the answer is over."""
        if number == reply.gate_at:
            self._hold_gate(reply)
        if number == reply.hang_after:
            self._wait_for_client_to_leave()
        if number == reply.cut_after:
            self._cut()
            return False
        if number == reply.error_after:
            self._write(wire.error(reply.error))
            self._end_stream()
            return False
        return True

    def _hang(self, reply: Hang, wire: Format | None) -> None:
        if not reply.before_headers and wire is not None:
            self._start_stream({"Content-Type": wire.content_type})
        self._wait_for_client_to_leave()

    def _send_raw(self, reply: Raw) -> None:
        self._start_stream(reply.headers)
        for piece in [reply.body] if isinstance(reply.body, bytes) else reply.body:
            self._write(piece)
        if reply.cut:
            self._cut()
        else:
            self._end_stream()

    def _send_json(self, status: int, body: Any, headers: Any = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        self._head(status, fields)
        self.wfile.write(data)

    def _head(self, status: int, fields: Any) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()

    def _start_stream(self, fields: Any) -> None:
        self._head(200, {**fields, "Transfer-Encoding": "chunked"})

    def _write_each(self, events: list[bytes]) -> None:
        for event in events:
            self._write(event)

    def _write(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _cut(self) -> None:
        self.close_connection = True

    # waiting

    def _hold_gate(self, reply: Reply) -> None:
        while reply.gate is not None and not reply.gate.wait(_TICK):
            self._check_client()

    def _pause(self, seconds: float, comments_every: float | None = None, comment: bytes = b"") -> None:
        now = time.monotonic()
        end, comment_at = now + seconds, now + (comments_every or seconds + 1)
        while (now := time.monotonic()) < end:
            if now >= comment_at:
                self._write(comment)
                comment_at += comments_every or 0
            self._check_client()
            time.sleep(min(_TICK, max(0.0, end - now)))

    def _wait_for_client_to_leave(self) -> None:
        while True:
            self._check_client()
            time.sleep(_TICK)

    def _check_client(self) -> None:
        if self.server.provider.stopping:
            raise _Gone
        poller = select.poll()
        poller.register(self.connection, select.POLLIN)
        # The method of the plain socket, because a TLS socket does not peek.
        if poller.poll(0) and not socket.socket.recv(self.connection, 1, socket.MSG_PEEK):
            raise _Gone


class _UnixHandler(_Handler):
    disable_nagle_algorithm = False
