"""Who is calling: one guard for every channel.

The secret is the owner's: a wrong one is answered alike whatever is wrong with it, compared in
constant time, and counted. In an application with users of its own, the host may say who calls.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Container, Iterable
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from flask import Request

from ..bus import Bus
from ..config import AuthConfig
from ..errors import Unauthorized
from ..log import get_logger
from .caller import CALLER, Caller
from .client import Address, Environ, Network, client_address, is_forwarded, peer_address
from .cors import require_same_site
from .limiter import FailureLimiter

# Says who has sent a request of the host's; None for nobody whom it knows.
Authenticate: TypeAlias = Callable[[Request], Caller | None]

AuthMode: TypeAlias = Literal["token", "password", "none"]

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
        authenticate: Authenticate | None = None,
        bus: Bus | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param authenticate: asks the host who calls, before any secret is looked at.
        :param bus: of the gateway; who is locked out of one worker is locked out of all.
        :param monotonic: the limiter's clock, in seconds.
        """
        self.mode: AuthMode = auth.mode
        self._anybody = auth.allow_open_network
        self._digest = sha256(auth.secret.encode()).digest() if auth.secret else b""
        self._authenticate = authenticate
        self._trusted = tuple(trusted_proxies)
        self._exempt_loopback = auth.rate_limit.exempt_loopback
        self._limiter = FailureLimiter(auth.rate_limit, monotonic, bus)

    def admit(self, request: Request, origins: Container[str] = ()) -> None:
        """Let one HTTP request in, on the host's word or for the gateway's secret.

        From then on :func:`~.caller.caller_of` says who it is.

        :param origins: of pages elsewhere that may send requests without a secret.
        :raises Unauthorized, TooManyFailures: see :meth:`check`.
        :raises Forbidden: the caller lacks the scope, or a page of elsewhere has used their browser.
        :raises InvalidRequest: the caller's browser may have been used: what it sends is not JSON.
        """
        caller = self.named(request)
        if caller is None:
            self.check(request.environ, origins)
        else:
            require_same_site(request, origins)
            caller.require("operator.read" if request.method in ("GET", "HEAD") else "operator.write")
            request.environ[CALLER] = caller

    def named(self, request: Request) -> Caller | None:
        """Who calls, if the host knows.

        :raises TypeError: the host has said something else; whatever it raises itself.
        """
        caller = None if self._authenticate is None else self._authenticate(request)
        if not isinstance(caller, Caller | None):
            raise TypeError(f"`authenticate` must return a Caller or None, not {type(caller).__name__}.")
        return caller

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
        if self.mode == "none" and self._authenticate is None:
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
        self._fail(client, exempt=exempt, hint=self._hint(environ))

    def _hint(self, environ: Environ) -> str:
        """What the operator should know of this failure: behind a proxy nobody named, all clients are one."""
        unnamed = is_forwarded(environ) and client_address(environ, self._trusted) == peer_address(environ)
        return "; is that a proxy? Then gateway.trustedProxies should name it" if unnamed else ""

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

    def _fail(self, client: str, *, exempt: bool, hint: str) -> None:
        failures = self._limiter.record(client, may_lock=not exempt)
        _log.warning("wrong secret from %s (%d lately)%s", client, failures, hint)
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
