"""HTTP to places the agent chose, over urllib3: guarded, bounded, and cancellable from any thread.

Three bounds hold for a request as a whole and not for each of its pieces: its time, its bytes
and its redirects. So sockets are non-blocking once they are connected, and what waits, waits
for what is left of the time. Connections are not kept: agents seldom ask one place twice.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any, TypeVar, cast
from urllib.parse import urljoin

import certifi
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import DecodeError, HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from ...abortable import Abortable
from ...cancel import CancelToken
from ..registry import ToolError
from .guard import Guard, Target, parse_url

_MIB = 1 << 20
_READ_SIZE = 64 * 1024
_OVERHEAD = 256 * 1024  # bytes on the wire that are not the body
_CONNECT_SECONDS = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; openclaw-gateway)",
    "Accept-Encoding": "gzip, deflate",
    "Accept-Language": "en;q=0.9, *;q=0.5",
    "Connection": "close",
}

# What urllib3 raises while it talks, and what http.client and the socket raise through it.
_FAILURES = (HTTPError, HTTPException, OSError, ValueError)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class WebResponse:
    """An answer, whatever its status.

    :ivar url: where it came from after all redirects.
    :ivar headers: the response headers; names in any case.
    :ivar body: decompressed.
    :ivar cut: the body was longer than permitted; this is its beginning.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool


class WebClient:
    """Sends requests where the guard lets them. One object serves all threads.

    Proxies of the environment are not used: the guard could not see where they connect to.

    :param timeout: seconds for a whole request, redirects included, lookups of names left out.
    :param max_bytes: length of a body, as sent and as decompressed.
    """

    def __init__(self, guard: Guard, *, timeout: float, max_bytes: int = 2 * _MIB) -> None:
        self._guard = guard
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # guards the one below
        self._tls: ssl.SSLContext | None = None

    def request(
        self,
        method: str,
        url: str,
        cancel: CancelToken,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        redirects: int = 0,
        timeout: float | None = None,
    ) -> WebResponse:
        """Send one request, or more if it is redirected; each is judged by itself.

        :param redirects: how many to follow. With any, send no header that is a secret.
        :param timeout: seconds for this request, if less than the client's.
        :raises ToolError: not permitted, not reached, not in time, redirected too often, or
            not answered in HTTP.
        :raises Cancelled: soon after ``cancel`` fires (a name's lookup under way is waited for).
        """
        deadline = time.monotonic() + min(self._timeout, self._timeout if timeout is None else timeout)
        target = parse_url(url)
        for _ in range(redirects + 1):
            response = self._send(method, target, {**_HEADERS, **(headers or {})}, body, deadline, cancel)
            location = response.headers.get("location")
            if response.status not in _REDIRECTS or not location:
                return response
            target = _redirected(target, location)
        raise ToolError(f"{url} was redirected more than {redirects} times, last to {target}.")

    def _send(
        self,
        method: str,
        target: Target,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline: float,
        cancel: CancelToken,
    ) -> WebResponse:
        cancel.raise_if_cancelled()
        exchange = _Exchange(self._guard.addresses(target), deadline, self._max_bytes + _OVERHEAD)
        connection = self._connection(target, exchange)
        forget = cancel.on_cancel(exchange.abort)
        try:
            connection.connect()
            connection.request(method, target.path, body, headers, preload_content=False)
            with connection.getresponse() as raw:
                data = _read(raw, self._max_bytes)
        except _FAILURES as error:
            cancel.raise_if_cancelled()
            raise ToolError(self._explained(error, target, exchange)) from None
        finally:
            forget()
            connection.close()
            exchange.release()
        cancel.raise_if_cancelled()  # a socket that was shut down also looks like the end of a body
        kept, cut = data[: self._max_bytes], len(data) > self._max_bytes
        return WebResponse(str(target), raw.status, raw.headers, kept, cut)

    def _connection(self, target: Target, exchange: _Exchange) -> HTTPConnection:
        connection: _Connection
        if target.scheme == "https":
            connection = _TlsConnection(target.host, target.port, ssl_context=self._context())
        else:
            connection = _Connection(target.host, target.port)
        connection.follow(exchange)
        return connection

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)
                self._tls.load_verify_locations(cafile=certifi.where())
                self._tls.load_default_certs()  # SSL_CERT_FILE, a company's own authority
            return self._tls

    def _explained(self, error: Exception, target: Target, exchange: _Exchange) -> str:
        host = target.host
        if isinstance(error, TimeoutError | ReadTimeoutError):
            doing = "answer completely" if exchange.connected else "let itself be reached"
            return f"{host} did not {doing} in time (limit: {self._timeout:g} seconds)."
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"The certificate of {host} is not to be trusted: {error.verify_message}."
        if isinstance(error, ssl.SSLError):
            return f"No TLS connection to {host} could be made."
        if not exchange.connected:
            return f"{host} could not be reached."
        if isinstance(error, DecodeError):
            return f"The answer of {host} cannot be decompressed."
        if isinstance(error, HTTPException | ValueError) and not isinstance(error, ConnectionError):
            return f"{host} did not answer in HTTP."
        return f"{host} broke off its answer."


class _Exchange(Abortable):
    """One request and its response: what it may still use."""

    def __init__(self, addresses: list[str], deadline: float, max_bytes: int) -> None:
        super().__init__()
        self.deadline = deadline
        self.connected = False
        self._addresses = addresses
        self._bytes_left = max_bytes

    def connect(self, port: int) -> socket.socket:
        """A connection to one of the addresses, which are tried in order."""
        failure: OSError | None = None
        for address in self._addresses:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            try:
                self.follow(sock)
                sock.settimeout(min(_CONNECT_SECONDS, self._left()))
                sock.connect((address, port))
                sock.settimeout(self._left())
            except OSError as error:
                sock.close()
                failure = error
            else:
                self.connected = True
                return sock
        raise failure or ConnectionError("no address")

    def spend(self, count: int) -> None:
        """Note that so many bytes have come in."""
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise ValueError("more bytes than any answer within the limit takes")

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Connection(HTTPConnection):
    """Connects to the addresses of its exchange, and to nothing else."""

    _exchange: _Exchange

    def follow(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self.response_class = cast(Any, partial(_Response, exchange))

    def _new_conn(self) -> socket.socket:
        assert self.port is not None
        return self._exchange.connect(self.port)


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Response(http.client.HTTPResponse):
    """A response that is read within the limits of its exchange."""

    def __init__(self, exchange: _Exchange, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedReader(sock, exchange), _READ_SIZE)


class _BoundedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, exchange: _Exchange) -> None:
        self._sock = sock
        self._exchange = exchange
        self._hold = sock.makefile("rb", buffering=0)  # the socket stays open as long as this
        sock.settimeout(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = _insist(lambda: self._sock.recv_into(buffer), self._sock, self._exchange.deadline)
        self._exchange.spend(count)
        return count

    def close(self) -> None:
        self._hold.close()
        super().close()


class _TlsContext(ssl.SSLContext):
    """Shakes hands within the socket's time-out as a whole, however small the pieces are."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        deadline = time.monotonic() + (sock.gettimeout() or 0)
        tls = super().wrap_socket(sock, *args, **{**options, "do_handshake_on_connect": False})
        try:
            tls.settimeout(0)
            _insist(tls.do_handshake, tls, deadline)
            tls.settimeout(max(0.001, deadline - time.monotonic()))
        except BaseException:
            tls.close()
            raise
        return tls


def _insist(action: Callable[[], _T], sock: socket.socket, deadline: float) -> _T:
    """Call an action on a non-blocking socket until it is through, or TimeoutError."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        event = select.POLLIN
        try:
            return action()
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except ssl.SSLWantWriteError:
            event = select.POLLOUT
        poll = select.poll()
        poll.register(sock, event)
        poll.poll(left * 1000)


def _read(raw: BaseHTTPResponse, limit: int) -> bytes:
    """The body, and one byte or more over the limit if it is longer."""
    if {part.strip() for part in raw.headers.get("content-encoding", "").lower().split(",")} - _ENCODINGS:
        raise DecodeError("an encoding that was not offered")
    data = bytearray()
    while len(data) <= limit and (more := raw.read1(min(_READ_SIZE, limit + 1 - len(data)))):
        data += more
    return bytes(data)


def _redirected(target: Target, location: str) -> Target:
    # Headers are Latin-1 by the letter and UTF-8 in practice.
    written = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return parse_url(urljoin(str(target), written))
    except ValueError:
        raise ToolError(f"{target} redirects to something that is not a URL.") from None
