"""HTTP to model providers, over urllib3: pooled, and cancellable from any thread.

urllib3 offers no way to interrupt a call that still waits for its response headers, and
closing a response does not wake its reader. So every call carries an :class:`_Exchange`,
which follows the call from socket to socket and can shut down the one in use. It keeps a
duplicate of the descriptor: the original changes hands during a TLS handshake, and its
number may already belong to somebody else when the cancellation comes.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from http.client import HTTPException
from io import BufferedReader
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, TypeAlias, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from .base import CallTimeouts

_READ_SIZE = 64 * 1024
_BUFFER = 512
_PIECE = 512  # bytes of a longer chunk that are waited for
_END_SECONDS = 5.0
_DRAIN_SECONDS = 0.2
_DRAIN_BYTES = 16 * 1024

# What urllib3 raises while it talks, and what http.client and the socket raise through it.
# A ValueError is a header that cannot be sent; its text holds the header.
_FAILURES = (HTTPError, OSError, ValueError)


class HttpClient:
    """A pool of connections. One object serves all threads; connections open on demand.

    :param unix_socket: path of a socket that every connection goes to, whatever the URL says.
    :param pool_size: idle connections kept per host. More may be open; nobody waits for one.
    """

    def __init__(self, *, unix_socket: str | None = None, pool_size: int = 1000) -> None:
        self._unix_socket = unix_socket
        self._pool_size = pool_size
        self._lock = threading.Lock()  # guards everything below
        self._closed = False
        self._ssl_context: ssl.SSLContext | None = None
        self._routes: dict[tuple[str, str], _Route] = {}
        self._exchanges: set[_Exchange] = set()

    def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeouts: CallTimeouts,
        cancel: CancelToken,
        provider: str,
    ) -> HttpResponse:
        """Send ``body`` and return once the response's headers are here, whatever its status.

        Redirects are not followed. ``provider`` names the provider in error texts.

        :raises ProviderError: CONNECTION, TIMEOUT, PROTOCOL, or UNAVAILABLE if this client is closed.
        :raises Cancelled: soon after ``cancel`` fires (a DNS lookup under way is waited for).
        """
        exchange = _Exchange(self._unix_socket)
        self._admit(exchange, provider)
        forget = cancel.on_cancel(exchange.abort)

        def end() -> None:
            forget()
            exchange.release()
            self._dismiss(exchange)

        try:
            raw = self._send(exchange, url, headers, body, timeouts)
        except _FAILURES as error:
            end()
            cancel.raise_if_cancelled()
            raise _request_error(error, exchange, provider) from None
        except BaseException:
            end()
            raise
        response = HttpResponse(raw, exchange, timeouts, cancel, provider, end)
        if cancel.cancelled:
            response.close()
        cancel.raise_if_cancelled()
        return response

    def close(self) -> None:
        """Close every connection; calls under way fail, later ones are refused."""
        with self._lock:
            self._closed = True
            exchanges, routes = list(self._exchanges), list(self._routes.values())
            self._routes.clear()
        for exchange in exchanges:
            exchange.abort()
        for route in routes:
            if isinstance(route, urllib3.ProxyManager):
                route.clear()
            else:
                route.close()

    def _admit(self, exchange: _Exchange, provider: str) -> None:
        with self._lock:
            if self._closed:
                raise ProviderError(
                    ProviderReason.UNAVAILABLE, f"Provider {provider!r} is shut down.", provider=provider
                )
            self._exchanges.add(exchange)

    def _dismiss(self, exchange: _Exchange) -> None:
        with self._lock:
            self._exchanges.discard(exchange)

    def _send(
        self, exchange: _Exchange, url: str, headers: Mapping[str, str], body: bytes, timeouts: CallTimeouts
    ) -> urllib3.BaseHTTPResponse:
        def urlopen() -> urllib3.BaseHTTPResponse:
            return route.urlopen(
                "POST",
                target,
                body=body,
                headers=dict(headers),
                timeout=urllib3.Timeout(connect=timeouts.connect, read=timeouts.first_token),
                preload_content=False,
                retries=False,
                redirect=False,
            )

        route, target = self._route(url)
        token = _current.set(exchange)
        try:
            return urlopen()
        except ProtocolError as error:
            if not _was_stale(error, exchange):
                raise
            exchange.fresh_only = True
            return urlopen()
        finally:
            _current.reset(token)

    def _route(self, url: str) -> tuple[_Route, str]:
        """Whom to ask for ``url``, and for what: a proxy has to be told of the host."""
        parts = urlsplit(url)
        with self._lock:
            place = (parts.scheme, parts.netloc)
            if place not in self._routes:
                self._routes[place] = self._new_route(parts)
            route = self._routes[place]
        if isinstance(route, urllib3.ProxyManager):
            return route, url
        path = parts.path or "/"
        return route, f"{path}?{parts.query}" if parts.query else path

    def _new_route(self, url: SplitResult) -> _Route:
        if self._ssl_context is None and url.scheme == "https":
            self._ssl_context = _new_ssl_context()
        proxy = None if self._unix_socket else _proxy_for(url)
        if proxy:
            options = {"maxsize": self._pool_size, "block": False, "ssl_context": self._ssl_context}
            manager = _proxy_manager(proxy, options)
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
            return manager
        host = url.hostname or ""
        if url.scheme == "https":
            return _TlsPool(host, url.port, maxsize=self._pool_size, ssl_context=self._ssl_context)
        return _Pool(host, url.port, maxsize=self._pool_size)


class HttpResponse:
    """A response whose body is still arriving. Use it in one thread and close it.

    :ivar status: the HTTP status.
    :ivar headers: the response headers; names in any case.
    """

    def __init__(
        self,
        raw: urllib3.BaseHTTPResponse,
        exchange: _Exchange,
        timeouts: CallTimeouts,
        cancel: CancelToken,
        provider: str,
        end: Callable[[], None],
    ) -> None:
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self._raw = raw
        self._body = _body(raw)
        self._exchange = exchange
        self._timeouts = timeouts
        self._cancel = cancel
        self._provider = provider
        self._end = end

    def read1(self) -> bytes:
        """Wait for more of the body; ``b""`` at its end.

        :raises ProviderError: TIMEOUT, TRUNCATED or PROTOCOL.
        :raises Cancelled: soon after the call's token fires.
        """
        try:
            data = next(self._body, b"")
        except _FAILURES as error:
            self._cancel.raise_if_cancelled()
            raise _body_error(error, self._provider) from None
        self._cancel.raise_if_cancelled()
        return data

    def read(self, limit: int) -> bytes:
        """The body from here on, cut after ``limit`` bytes. Raises like :meth:`read1`."""
        data = bytearray()
        while len(data) < limit and (more := self.read1()):
            data += more
        return bytes(data[:limit])

    def expect_stall(self) -> None:
        """The first data event is here: from now on the stall time-out applies."""
        self._exchange.set_timeout(self._timeouts.stall)

    def expect_end(self) -> None:
        """Little or nothing is left to come: a read may take 5 seconds at most from now on."""
        self._exchange.set_timeout(min(_END_SECONDS, self._timeouts.stall))

    def drain(self) -> None:
        """Read on to the end of the body, so that the connection can serve another call.

        Gives up after 0.2 seconds or 16 KB; never raises.
        """
        deadline = time.monotonic() + _DRAIN_SECONDS
        left = _DRAIN_BYTES
        self._exchange.set_timeout(_DRAIN_SECONDS)
        with suppress(*_FAILURES):
            while left > 0 and time.monotonic() < deadline and (data := next(self._body, b"")):
                left -= len(data)

    def close(self) -> None:
        """End the call. A body that was read to its end leaves its connection in the pool."""
        self._body.close()
        self._raw.close()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Exchange:
    """One request and its response: knows the socket in use and can shut it down.

    :meth:`abort` may be called from any thread; everything else belongs to the caller's.
    """

    def __init__(self, unix_socket: str | None) -> None:
        self.reused = False
        self.connected = False
        self.fresh_only = False
        self._unix_socket = unix_socket
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()  # guards the two below
        self._aborted = False
        self._descriptor: int | None = None

    def connect(self, connection: HTTPConnection) -> socket.socket:
        """A new connection to where ``connection`` points."""
        self.reused = self.connected = False
        failure: OSError | None = None
        for family, kind, protocol, address in self._addresses(connection):
            sock = socket.socket(family, kind, protocol)
            try:
                self._follow(sock)
                sock.settimeout(connection.timeout)
                if family != socket.AF_UNIX:
                    for option in connection.socket_options or ():
                        sock.setsockopt(*option)
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise NewConnectionError(connection, "no address could be reached") from failure

    def adopt(self, sock: socket.socket, *, reused: bool) -> None:
        """Use ``sock``, which is connected (and encrypted, if it is to be)."""
        if reused:
            self._follow(sock)
        self.reused = reused
        self.connected = True
        self._socket = sock

    def set_timeout(self, seconds: float) -> None:
        """Seconds that a read may take from now on."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.settimeout(seconds)

    def abort(self) -> None:
        """Shut the socket down: whoever waits for it wakes up with an error or an end."""
        with self._lock:
            self._aborted = True
            if self._descriptor is not None:
                _shut_down(self._descriptor)

    def release(self) -> None:
        """The socket belongs to somebody else from now on, or to nobody."""
        self._socket = None
        with self._lock:
            self._forget_descriptor()

    def _addresses(self, connection: HTTPConnection) -> list[tuple[int, int, int, Any]]:
        if self._unix_socket is not None:
            return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, self._unix_socket)]
        found = socket.getaddrinfo(connection.host, connection.port, 0, socket.SOCK_STREAM)
        return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]

    def _follow(self, sock: socket.socket) -> None:
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError
            self._forget_descriptor()
            self._descriptor = os.dup(sock.fileno())

    def _forget_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


# The way from HttpClient.post through urllib3 to the connection: every thread and every
# greenlet has its own context, and the value is only set while a request is being sent.
_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Response(http.client.HTTPResponse):
    """A response that buffers little: deltas are small, and a thousand may be open."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = cast(BufferedReader, sock.makefile("rb", _BUFFER))


class _Connection(HTTPConnection):
    """Tells the exchange under way which socket it uses."""

    response_class = _Response
    exchange: _Exchange | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the idle connection is open and silent. To poll it would cost a green thread a switch."""
        if self.sock is None:
            return False
        patience = self.sock.gettimeout()
        try:
            self.sock.settimeout(0)
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            self.sock.settimeout(patience)
            return True
        except OSError:
            pass
        return False

    def _new_conn(self) -> socket.socket:
        self.exchange = _current.get()
        return self.exchange.connect(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange = _current.get()
        if self.sock is None:
            self.connect()
        exchange.adopt(self.sock, reused=self.exchange is not exchange)
        self.exchange = exchange
        super().request(*args, **kwargs)


class _TlsConnection(_Connection, HTTPSConnection):
    is_connected = HTTPConnection.is_connected  # what is encrypted cannot be looked at


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)
        if _current.get().fresh_only:
            connection.close()  # it opens again when it is used
        return connection

    def _put_conn(self, conn: Any) -> None:
        # Before anybody else can get it: a late cancellation must not hit the next call.
        if conn is not None and conn.exchange is not None:
            conn.exchange.release()
            conn.exchange = None
        super()._put_conn(conn)


class _TlsPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


# Where the connections to one host come from; a manager costs each call its own look-up, and is for proxies.
_Route: TypeAlias = _Pool | urllib3.ProxyManager


def _body(raw: urllib3.BaseHTTPResponse) -> Generator[bytes]:
    """The body as it comes, to its end. Must be closed if it is not read to its end."""
    if (
        raw.chunked
    ):  # one generator for all of the body: each ``read1`` would cost more than its chunk is worth
        return cast(Generator[bytes], raw.read_chunked(_PIECE, decode_content=True))
    return _pieces(raw)


def _pieces(raw: urllib3.BaseHTTPResponse) -> Generator[bytes]:
    while data := raw.read1(_READ_SIZE):
        yield data


def _shut_down(descriptor: int) -> None:
    with suppress(OSError):
        sock = socket.socket(fileno=descriptor)
        try:
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.detach()


def _new_ssl_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()  # SSL_CERT_FILE, a company's own authority
    return context


def _proxy_for(url: SplitResult) -> str | None:
    host = url.hostname or ""
    if _is_loopback(host) or proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _proxy_manager(proxy: str, options: Mapping[str, Any]) -> urllib3.ProxyManager:
    url = urlsplit(proxy)
    login = f"{unquote(url.username)}:{unquote(url.password or '')}" if url.username else None
    return urllib3.ProxyManager(
        proxy,
        proxy_headers=urllib3.make_headers(proxy_basic_auth=login),
        proxy_ssl_context=_new_ssl_context() if url.scheme == "https" else None,
        **options,
    )


def _was_stale(error: ProtocolError, exchange: _Exchange) -> bool:
    """True if a kept connection turned out to be closed before anything of an answer came."""
    return exchange.reused and isinstance(_cause(error), ConnectionError)


def _cause(error: Exception) -> object:
    return error.args[1] if isinstance(error, ProtocolError) and len(error.args) > 1 else None


def _request_error(error: Exception, exchange: _Exchange, provider: str) -> ProviderError:
    cause = _cause(error)
    if isinstance(error, ValueError):
        reason, text = ProviderReason.UNAVAILABLE, "has an address or a header that cannot be used"
    elif isinstance(error, SSLError):
        reason, text = ProviderReason.CONNECTION, "could not be reached: no trusted TLS connection"
    elif not exchange.connected:
        reason, text = ProviderReason.CONNECTION, "could not be reached"
    elif isinstance(error, ReadTimeoutError) or isinstance(cause, TimeoutError):
        reason, text = ProviderReason.TIMEOUT, "did not begin to answer in time"
    elif isinstance(cause, HTTPException) and not isinstance(cause, ConnectionError):
        reason, text = ProviderReason.PROTOCOL, "did not answer in HTTP"
    else:
        reason, text = ProviderReason.CONNECTION, "closed the connection without an answer"
    return ProviderError(reason, f"Provider {provider!r} {text}.", provider=provider)


def _body_error(error: Exception, provider: str) -> ProviderError:
    if isinstance(error, ReadTimeoutError):
        reason, text = ProviderReason.TIMEOUT, "stopped answering"
    elif isinstance(error, DecodeError):
        reason, text = ProviderReason.PROTOCOL, "sent an answer that cannot be decoded"
    else:
        reason, text = ProviderReason.TRUNCATED, "broke off its answer"
    return ProviderError(reason, f"Provider {provider!r} {text}.", provider=provider)
