"""The handshake: who may connect.

A connection sends :func:`challenge`, hands the client's first message to
:meth:`Handshake.accept`, and answers it with ``hello.hello`` before anything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

from ...errors import TooManyFailures, Unauthorized
from ...log import get_logger
from ...messages import JsonObject
from ...wire import dumps
from ..auth import AuthMode, Guard, is_direct_loopback, is_loopback_url
from ..caller import CALLER
from ..client import Environ
from . import device, frames
from .connect import Connect
from .protocol import VERSIONS, Client, Refusal, Version
from .scopes import granted

MAX_REASON_BYTES = 120

_NOT_CONNECT = "invalid handshake: first request must be connect"
_OWNERS_ONLY = (
    "WebSocket connections see all sessions: they are for the owner (scope operator.admin); use the HTTP API"
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_log = get_logger("ws")


class Rejected(Exception):
    """A first message that does not let its sender in.

    :ivar frame: what to send before closing, or None.
    :ivar code: the close code.
    :ivar reason: the close reason, at most 120 bytes.
    """

    def __init__(self, code: int, reason: str, frame: bytes | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.frame = frame


@dataclass(frozen=True, slots=True)
class Accepted:
    """Somebody who is let in, and the id of the request that is to be answered."""

    request_id: str
    protocol: Version
    client: Client
    scopes: frozenset[str]


class Handshake:
    """Judges first messages. Knows of no connection; any thread may call it."""

    def __init__(self, guard: Guard, allowed_origins: Iterable[str] = ()) -> None:
        """:param allowed_origins: sites whose pages may connect, ``https://host:port``; ``*`` for all."""
        self._guard = guard
        self._origins = frozenset(map(_normalized, allowed_origins))

    def accept(self, data: bytes | str, *, environ: Environ, nonce: str, now_ms: int) -> Accepted:
        """Let the sender of a first message in, or not.

        A wrong secret from this machine takes up to 5 seconds.

        :param environ: the WSGI environment of the upgrade.
        :param nonce: that of the challenge.
        :param now_ms: Unix time in milliseconds.
        :raises Rejected: the connection is to be closed.
        """
        request = _connect_request(data)
        try:
            return self._judge(request, environ, nonce, now_ms)
        except Refusal as refusal:
            raise _rejected(request.id, refusal) from None

    def _judge(self, request: frames.Request, environ: Environ, nonce: str, now_ms: int) -> Accepted:
        connect = Connect.read(request.params)
        protocol = _negotiated(connect, request.id)
        if connect.role != "operator":
            raise Refusal("invalid role")
        caller = None if connect.secrets else environ.get(CALLER)
        self._check_origin(environ, anywhere=caller is None)
        if connect.proof is not None:
            local = is_direct_loopback(environ)
            device.verify(connect.proof, nonce=nonce, now_ms=now_ms, loopback=local)
        if caller is None:
            self._check_secret(connect, environ)
        elif caller.confined:
            raise Refusal(_OWNERS_ONLY, code="FORBIDDEN")
        client = replace(connect.client, device_id=connect.proof.id if connect.proof else "")
        return Accepted(request.id, protocol, client, granted(connect.scopes, protocol))

    def _check_origin(self, environ: Environ, *, anywhere: bool) -> None:
        """Pages of other sites may not connect: a browser would lend them its place in the network.

        :param anywhere: what allows all sites counts; it does not where the browser's cookie is the secret.
        """
        origin, host = environ.get("HTTP_ORIGIN"), str(environ.get("HTTP_HOST", ""))
        if origin is None or _is_same_site(str(origin), host):
            return
        if not self._origins & {"*" if anywhere else "", _normalized(str(origin))}:
            _log.warning("refused a page of the origin %.200r; the host asked for is %.200r", origin, host)
            raise Refusal(
                "origin not allowed (open the Control UI from the gateway host "
                "or allow it in gateway.controlUi.allowedOrigins)",
                details={"code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": "origin not allowed"},
            )

    def _check_secret(self, connect: Connect, environ: Environ) -> None:
        try:
            self._guard.check_secret(environ, connect.secrets)
        except TooManyFailures as error:
            raise _locked_out(error) from None
        except Unauthorized:
            raise _unauthorized(self._guard.mode, connect) from None


def challenge(nonce: str, now_ms: int) -> bytes:
    """The first frame on every connection."""
    return frames.event("connect.challenge", dumps({"nonce": nonce, "ts": now_ms}))


def reason_of(text: str) -> str:
    """``text`` as a close reason: cut to what the frame of a close can hold."""
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def _connect_request(data: bytes | str) -> frames.Request:
    frame = frames.parse(data)
    if isinstance(frame, frames.Malformed):
        if frame.reply is None:
            raise Rejected(1000, "")
        raise Rejected(1008, "invalid request frame")
    if frame.method != "connect":
        raise _rejected(frame.id, Refusal(_NOT_CONNECT))
    return frame


def _rejected(request_id: str, refusal: Refusal, code: int = 1008) -> Rejected:
    return Rejected(code, reason_of(str(refusal)), frames.error(request_id, refusal))


def _negotiated(connect: Connect, request_id: str) -> Version:
    for version in VERSIONS:
        if connect.min_protocol <= version <= connect.max_protocol:
            return version
    details: JsonObject = {
        "code": "PROTOCOL_MISMATCH",
        "clientMinProtocol": connect.min_protocol,
        "clientMaxProtocol": connect.max_protocol,
        "expectedProtocol": max(VERSIONS),
        "minimumProbeProtocol": min(VERSIONS),
    }
    raise _rejected(request_id, Refusal("protocol mismatch", details=details), 1002)


def _is_same_site(origin: str, host: str) -> bool:
    """True if the page came from the host it connects to, or if both are of this machine."""
    url = _normalized(origin)
    scheme = url.partition("://")[0]
    if url == _normalized(f"{scheme}://{host}"):
        return True
    return is_loopback_url(origin) and is_loopback_url(f"//{host}")


def _normalized(origin: str) -> str:
    """An origin in lower case, without a final slash and without its scheme's own port."""
    origin = origin.strip().lower().rstrip("/")
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition("://")[0], ""))


def _unauthorized(mode: AuthMode, connect: Connect) -> Refusal:
    """What is wrong with the credentials; never what they are or should be."""
    if mode == "none":
        return _refusal(
            "this gateway has no secret and answers only its own machine; set gateway.auth.token",
            ("AUTH_UNAUTHORIZED", "unauthorized", "update_auth_configuration"),
        )
    if not connect.secrets:
        return _refusal(
            f"gateway {mode} missing (give the client the gateway's {mode})",
            (f"AUTH_{mode.upper()}_MISSING", f"{mode}_missing", "update_auth_configuration"),
        )
    hint = f"give the client the gateway's {mode}"
    if connect.proof is not None:
        # The client of 2026.1 prefers a token that another gateway gave its device, and
        # forgets that token when it is refused.
        hint = f"run the command again; if it stays, {hint}"
    return _refusal(
        f"gateway {mode} mismatch ({hint})",
        (f"AUTH_{mode.upper()}_MISMATCH", f"{mode}_mismatch", "update_auth_credentials"),
    )


def _locked_out(error: TooManyFailures) -> Refusal:
    return _refusal(
        "too many failed authentication attempts (retry later)",
        ("AUTH_RATE_LIMITED", "rate_limited", "wait_then_retry"),
        retry_after_ms=ceil((error.retry_after or 0) * 1000),
    )


def _refusal(what: str, details: tuple[str, str, str], *, retry_after_ms: int | None = None) -> Refusal:
    code, reason, step = details
    return Refusal(
        f"unauthorized: {what}",
        details={
            "code": code,
            "authReason": reason,
            "canRetryWithDeviceToken": False,
            "recommendedNextStep": step,
        },
        retry_after_ms=retry_after_ms,
    )
