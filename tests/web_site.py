"""A web server for tests whose pages are functions."""

from __future__ import annotations

import select
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from app.cancel import CancelToken
from app.tools.registry import Tool, ToolContext


def call(tool: Tool, arguments: Any, cancel: CancelToken | None = None) -> str:
    """Call a tool as a run does."""
    context = ToolContext("main", "agent:main:main", "run-1", "p/m", Path("/"), 1, cancel or CancelToken())
    return tool.function(context, arguments)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.close_connection = True
        self.site.seen.append(self)
        with suppress(OSError):
            self.site.routes[self.path.partition("?")[0]](self)

    do_POST = do_GET  # noqa: N815 - the base class calls it by this name

    def answer(self, body: bytes, kind: str = "text/html", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def wait_until_left(self) -> None:
        """Return when the client has closed its connection, or the test is over."""
        self.site.waiting.set()
        while not self.site.over.is_set():
            if select.select([self.connection], [], [], 0.02)[0] and not self.connection.recv(4096):
                self.site.left.set()
                return

    def log_message(self, *args: object) -> None:
        pass


class Site(ThreadingHTTPServer):
    """A web server whose pages are functions; counts who connects."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.routes: dict[str, Callable[[Handler], None]] = {}
        self.seen: list[Handler] = []
        self.connections = 0
        self.waiting, self.left, self.over = threading.Event(), threading.Event(), threading.Event()
        super().__init__((host, port), type("Bound", (Handler,), {"site": self}))
        self.port = self.server_address[1]
        self.url = f"http{'s' if tls else ''}://{host}:{self.port}"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is part of these tests."""

    def page(
        self, path: str, body: bytes | str, kind: str = "text/html", status: int = 200, **headers: str
    ) -> str:
        data = body.encode() if isinstance(body, str) else body
        self.routes[path] = lambda handler: handler.answer(data, kind, status, **headers)
        return self.url + path

    def at(self, path: str, function: Callable[[Handler], None]) -> str:
        self.routes[path] = function
        return self.url + path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
