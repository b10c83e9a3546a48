"""HTTP to model providers, over urllib3: pooled, and cancellable from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from http.client import HTTPException
from types import TracebackType
from typing import Self, cast

import urllib3
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from .base import CallTimeouts
from .connections import Exchange, Routes, current_exchange

_READ_SIZE = 64 * 1024
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
        self._routes = Routes(unix_socket, pool_size)
        self._lock = threading.Lock()  # guards the two below
        self._closed = False
        self._exchanges: set[Exchange] = set()

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
        exchange = Exchange(self._unix_socket)
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
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.abort()
        self._routes.close()

    def _admit(self, exchange: Exchange, provider: str) -> None:
        with self._lock:
            if self._closed:
                raise ProviderError(
                    ProviderReason.UNAVAILABLE, f"Provider {provider!r} is shut down.", provider=provider
                )
            self._exchanges.add(exchange)

    def _dismiss(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.discard(exchange)

    def _send(
        self, exchange: Exchange, url: str, headers: Mapping[str, str], body: bytes, timeouts: CallTimeouts
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

        route, target = self._routes.find(url)
        token = current_exchange.set(exchange)
        try:
            return urlopen()
        except ProtocolError as error:
            if not _was_stale(error, exchange):
                raise
            exchange.fresh_only = True
            return urlopen()
        finally:
            current_exchange.reset(token)


class HttpResponse:
    """A response whose body is still arriving. Use it in one thread and close it.

    :ivar status: the HTTP status.
    :ivar headers: the response headers; names in any case.
    """

    def __init__(
        self,
        raw: urllib3.BaseHTTPResponse,
        exchange: Exchange,
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


def _was_stale(error: ProtocolError, exchange: Exchange) -> bool:
    """True if a kept connection turned out to be closed before anything of an answer came."""
    return exchange.reused and isinstance(_cause(error), ConnectionError)


def _cause(error: Exception) -> object:
    return error.args[1] if isinstance(error, ProtocolError) and len(error.args) > 1 else None


def _request_error(error: Exception, exchange: Exchange, provider: str) -> ProviderError:
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
