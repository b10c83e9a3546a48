"""Who is calling: one guard for every channel.

The secret is the whole identity: who has it is the owner. A wrong one is answered alike
whatever is wrong with it, compared in constant time, and counted.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from ..config import AuthConfig, RateLimitConfig
from ..errors import TooManyFailures, Unauthorized
from ..log import get_logger
from .client import Address, Environ, Network, client_address, is_forwarded, peer_address

AuthMode: TypeAlias = Literal["token", "password", "none"]

MAX_CLIENTS = 10_000
LONGEST_DELAY = 5.0

_log = get_logger("auth")


class Guard:
    """Lets a request through or raises. Any thread may call it.

    :ivar mode: what kind of secret is asked for.
    """

    def __init__(
        self,
        auth: AuthConfig,
        trusted_proxies: Iterable[Network] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param monotonic: the limiter's clock, in seconds."""
        self.mode: AuthMode = auth.mode
        self._anybody = auth.allow_open_network
        self._digest = sha256(auth.secret.encode()).digest()
        self._trusted = tuple(trusted_proxies)
        self._exempt_loopback = auth.rate_limit.exempt_loopback
        self._limiter = FailureLimiter(auth.rate_limit, monotonic)

    def check(self, environ: Environ, origins: Container[str] = ()) -> None:
        """Authenticate one request by its ``Authorization`` header.

        :param origins: of pages elsewhere that may send requests where no secret is asked for.
        :raises Unauthorized: no bearer, or a wrong one.
        :raises TooManyFailures: this client has been wrong too often lately.
        """
        bearer = bearer_of(environ)
        self._check(environ, () if bearer is None else (bearer,), origins)

    def check_secret(self, environ: Environ, secrets: Iterable[str]) -> None:
        """Authenticate a connection by what its client sent after it was opened.

        :param environ: of the request that opened the connection.
        :param secrets: one of them has to be right; together they are one attempt.
        :raises Unauthorized: none, or only wrong ones.
        :raises TooManyFailures: this client has been wrong too often lately.
        """
        self._check(environ, tuple(secret.encode(errors="replace") for secret in secrets))

    def _check(self, environ: Environ, secrets: tuple[bytes, ...], origins: Container[str] = ()) -> None:
        if self.mode == "none":
            self._check_place(environ, origins)
            return
        client = _counted_as(client_address(environ, self._trusted))
        exempt = self._exempt_loopback and is_direct_loopback(environ)
        if not exempt:
            self._limiter.check(client)
        if not secrets:
            raise Unauthorized
        if any(map(self._is_secret, secrets)):
            self._limiter.forget(client)
            return
        self._fail(client, exempt=exempt)

    def _check_place(self, environ: Environ, origins: Container[str]) -> None:
        """Without a secret, being on this machine is what lets a request in.

        :raises Unauthorized: it comes from elsewhere and the operator did not allow that, or
            a browser sent it for a page that is not of this machine. Such a page may name its
            own host and have the name lead here, so the name counts as well as the address.
        """
        host = environ.get("HTTP_HOST", "localhost")
        local = is_direct_loopback(environ) and is_loopback_url(f"//{host}")
        origin = environ.get("HTTP_ORIGIN")
        known = origin is None or str(origin).lower() in origins
        foreign = not known and not (local and is_loopback_url(str(origin)))
        if foreign or not (local or self._anybody):
            raise Unauthorized

    def _is_secret(self, candidate: bytes) -> bool:
        # Digests have one length and are bytes: nothing about the secret decides how long
        # the comparison takes, and no input can make it raise.
        return hmac.compare_digest(sha256(candidate).digest(), self._digest)

    def _fail(self, client: str, *, exempt: bool) -> None:
        failures = self._limiter.record(client, may_lock=not exempt)
        _log.warning("wrong secret from %s (%d lately)", client, failures)
        if exempt:
            # The owner at the own machine is never locked out, only slowed down.
            threading.Event().wait(min(0.25 * 2 ** min(failures - 1, 5), LONGEST_DELAY))
        raise Unauthorized


def _counted_as(address: Address | None) -> str:
    """Whose failures these are: an IPv6 host has a whole /64 of addresses to choose from."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), 64), strict=False))
    return str(address)


def bearer_of(environ: Environ) -> bytes | None:
    """The bearer token's bytes; None if there is none. The scheme is case-insensitive."""
    scheme, space, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() != "bearer" or not space:
        return None
    # WSGI hands header bytes over as latin-1 text.
    return token.strip().encode("latin-1", "replace") or None


@dataclass(slots=True)
class _History:
    failures: list[float] = field(default_factory=list)
    locked_until: float = 0.0


class FailureLimiter:
    """Counts wrong secrets per client and locks clients out. Bounded in memory."""

    def __init__(self, limits: RateLimitConfig, monotonic: Callable[[], float]) -> None:
        self._lock = threading.Lock()  # guards _clients
        self._clients: dict[str, _History] = {}
        self._attempts = limits.max_attempts
        self._window = limits.window_ms / 1000
        self._lockout = limits.lockout_ms / 1000
        self._now = monotonic

    def check(self, client: str) -> None:
        """:raises TooManyFailures: the client is locked out, with the seconds that are left."""
        with self._lock:
            history = self._clients.get(client)
            left = history.locked_until - self._now() if history else 0.0
        if left > 0:
            raise TooManyFailures(left)

    def forget(self, client: str) -> None:
        """The client knew the secret: its history is void."""
        if client in self._clients:
            with self._lock:
                self._clients.pop(client, None)

    def record(self, client: str, *, may_lock: bool) -> int:
        """Count a failure; returns how many there were within the window."""
        now = self._now()
        with self._lock:
            history = self._clients.get(client) or self._admit(client, now)
            history.failures = [t for t in history.failures if now - t < self._window][-self._attempts :]
            history.failures.append(now)
            if may_lock and len(history.failures) >= self._attempts:
                history.locked_until = now + self._lockout
            return len(history.failures)

    def _admit(self, client: str, now: float) -> _History:
        if len(self._clients) >= MAX_CLIENTS:
            self._make_room(now)
        return self._clients.setdefault(client, _History())

    def _make_room(self, now: float) -> None:
        """Drop what has expired, else the oldest client that is not locked.

        :raises TooManyFailures: everybody is locked: an attack from thousands of addresses.
        """
        unlocked = [name for name, history in self._clients.items() if history.locked_until <= now]
        expired = [name for name in unlocked if now - self._clients[name].failures[-1] >= self._window]
        for name in expired or unlocked[:1]:
            del self._clients[name]
        if not unlocked:
            raise TooManyFailures(self._lockout)


def is_direct_loopback(environ: Environ) -> bool:
    """True if the caller is on this machine and no proxy stands between."""
    peer = peer_address(environ)
    return peer is not None and peer.is_loopback and not is_forwarded(environ)


def is_loopback_url(url: str) -> bool:
    """True if the host of ``url`` is a name of this machine for itself."""
    try:
        return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False
