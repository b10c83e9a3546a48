"""Connections to model providers: where they lead, and how each can be shut down from any thread.

urllib3 offers no way to interrupt a call that still waits for its response headers. So every call carries
an :class:`Exchange`, which follows the call to the socket in use.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from io import BufferedReader
from ipaddress import ip_address
from typing import Any, TypeAlias, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

from ..abortable import Abortable

_BUFFER = 512


class Exchange(Abortable):
    """One request and its response.

    :ivar connected: something could be sent. :ivar reused: on a connection that has served other calls.
    :ivar fresh_only: such a connection is not wanted.
    """

    def __init__(self, unix_socket: str | None) -> None:
        super().__init__()
        self.reused = False
        self.connected = False
        self.fresh_only = False
        self._unix_socket = unix_socket
        self._socket: socket.socket | None = None

    def connect(self, connection: HTTPConnection) -> socket.socket:
        """A new connection to where ``connection`` points."""
        self.reused = self.connected = False
        failure: OSError | None = None
        for family, kind, protocol, address in self._addresses(connection):
            sock = socket.socket(family, kind, protocol)
            try:
                self.follow(sock)
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
            self.follow(sock)
        self.reused = reused
        self.connected = True
        self._socket = sock

    def set_timeout(self, seconds: float) -> None:
        """Seconds that a read may take from now on."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.settimeout(seconds)

    def release(self) -> None:
        """See :meth:`Abortable.release`."""
        self._socket = None
        super().release()

    def _addresses(self, connection: HTTPConnection) -> list[tuple[int, int, int, Any]]:
        if self._unix_socket is not None:
            return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, self._unix_socket)]
        found = socket.getaddrinfo(connection.host, connection.port, 0, socket.SOCK_STREAM)
        return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


# The way from HttpClient.post through urllib3 to the connection: every thread and every
# greenlet has its own context, and the value is only set while a request is being sent.
current_exchange: ContextVar[Exchange] = ContextVar("exchange")


class _Response(http.client.HTTPResponse):
    """A response that buffers little: deltas are small, and a thousand may be open."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = cast(BufferedReader, sock.makefile("rb", _BUFFER))


class _Connection(HTTPConnection):
    """Tells the exchange under way which socket it uses."""

    response_class = _Response
    exchange: Exchange | None = None

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
        self.exchange = current_exchange.get()
        return self.exchange.connect(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange = current_exchange.get()
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
        if current_exchange.get().fresh_only:
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
Route: TypeAlias = _Pool | urllib3.ProxyManager


class Routes:
    """The ways to all hosts, each with a pool of connections. Any thread may call any method.

    :param unix_socket: path of a socket that every connection goes to, whatever the URL says.
    :param pool_size: idle connections kept per host. More may be open; nobody waits for one.
    """

    def __init__(self, unix_socket: str | None, pool_size: int) -> None:
        self._unix_socket = unix_socket
        self._pool_size = pool_size
        self._lock = threading.Lock()  # guards the two below
        self._ssl_context: ssl.SSLContext | None = None
        self._routes: dict[tuple[str, str], Route] = {}

    def find(self, url: str) -> tuple[Route, str]:
        """Whom to ask for ``url``, and for what: a proxy has to be told of the host.

        :raises ValueError: nobody can be asked for that.
        """
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

    def close(self) -> None:
        """Close all connections that nobody uses; those in use are closed when they are given back."""
        with self._lock:
            routes = list(self._routes.values())
            self._routes.clear()
        for route in routes:
            if isinstance(route, urllib3.ProxyManager):
                route.clear()
            else:
                route.close()

    def _new_route(self, url: SplitResult) -> Route:
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
