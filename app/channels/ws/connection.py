"""One client, from the upgrade to its end: the handshake, then requests and what is to be told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ...context import Context, working_for
from ...errors import GatewayError
from ...log import get_logger
from ...messages import JsonValue
from ..client import Environ
from . import frames
from .context import Channel
from .handshake import Accepted, Handshake, Rejected, challenge
from .hello import Server, Snapshot, hello
from .protocol import ANSWERED, Call, Client, Method, Methods, Refusal, Version
from .scopes import method_for
from .socket import NORMAL, TRY_AGAIN_LATER, Inbox, Outbox

_BUSY = "too many requests of this connection are being worked on"
_FULL = "the gateway has no room for another connection"
_RETRY_MS = 1_000

_log = get_logger("ws")


@dataclass(frozen=True, slots=True)
class Desk:
    """What all connections of a gateway share."""

    channel: Channel
    handshake: Handshake
    server: Server
    methods: Methods


class Connection:
    """One client; a :class:`~.protocol.Peer` once it has said hello."""

    protocol: Version
    client: Client
    scopes: frozenset[str]

    def __init__(self, sock: socket.socket, environ: Environ, desk: Desk) -> None:
        """:param sock: is read by whoever calls :meth:`serve`. :param environ: of the upgrade."""
        limits, runtime = desk.channel.limits, desk.channel.runtime
        self.id = desk.channel.new_id()
        self.subscriptions: set[str] = set()
        self._desk = desk
        self._environ: Environ | None = environ
        self._executor = runtime.executor
        self._outbox = Outbox(
            sock,
            runtime.executor,
            limits.buffered_bytes,
            limits.farewell_seconds,
            desk.channel.hub.backlog,
        )
        self._inbox = Inbox(sock, self._outbox, limits.handshake_bytes)
        self._in_flight: set[object] = set()  # only the reader adds

    def serve(self) -> None:
        """Talk to the client until one of us leaves. Never raises."""
        hub = self._desk.channel.hub
        try:
            messages = iter(self._inbox)
            if not hub.admit(self):
                self._dismiss(TRY_AGAIN_LATER, "try again later", messages)
            elif self._let_in(messages):
                hub.register(self)
                self._inbox.limit = self._desk.channel.limits.message_bytes
                for message in messages:
                    self._receive(message)
        except Exception:
            _log.exception("connection %s failed", self.id)
        finally:
            hub.leave(self)
            self._outbox.cut()
            _log.info("connection %s %s", self.id, self._inbox.ending)

    def respond(self, request_id: str, payload: JsonValue = None) -> None:
        """Answer a request with success."""
        self._outbox.send(frames.response(request_id, payload))

    def refuse(self, request_id: str, refusal: Refusal) -> None:
        """Answer a request with an error."""
        self._outbox.send(frames.error(request_id, refusal))

    def event(
        self, name: str, payload: bytes, *, state_version: bytes | None = None, droppable: bool = False
    ) -> None:
        """Send an event with the connection's next number."""
        self._outbox.send_numbered(
            lambda seq: frames.event(name, payload, seq=seq, state_version=state_version),
            droppable=droppable,
        )

    def close(self, code: int, reason: str) -> None:
        """Close the connection once what is queued has been sent, or after a short grace."""
        self._inbox.ending = f"was closed with {code} {reason}"
        self._outbox.close(code, reason)

    def _let_in(self, messages: Iterator[bytes]) -> bool:
        channel = self._desk.channel
        nonce = channel.new_id()
        self._outbox.send(challenge(nonce, channel.clock()))
        patience = self._executor.after(
            channel.limits.handshake_seconds, partial(self.close, NORMAL, "handshake timeout")
        )
        try:
            first = next(messages, None)
        finally:
            patience.clear()
        return first is not None and self._judge(first, nonce, messages)

    def _judge(self, first: bytes, nonce: str, messages: Iterator[bytes]) -> bool:
        environ, self._environ = self._environ or {}, None  # of no use any more, and large
        now = self._desk.channel.clock()
        try:
            accepted = self._desk.handshake.accept(first, environ=environ, nonce=nonce, now_ms=now)
        except Rejected as rejected:
            if rejected.frame is not None:
                self._outbox.send(rejected.frame)
            self._dismiss(rejected.code, rejected.reason, messages)
            return False
        if not self._desk.channel.hub.welcome(self):
            self.refuse(accepted.request_id, Refusal(_FULL, code="UNAVAILABLE", retry_after_ms=_RETRY_MS))
            self._dismiss(TRY_AGAIN_LATER, "try again later", messages)
            return False
        self._welcome(accepted)
        return True

    def _dismiss(self, code: int, reason: str, messages: Iterator[bytes]) -> None:
        """Close, and stay until the client has read why."""
        self.close(code, reason)
        for _ in messages:
            pass

    def _welcome(self, accepted: Accepted) -> None:
        self.protocol, self.client = accepted.protocol, accepted.client
        self.scopes = accepted.scopes
        _log.info(
            "connection %s is %.60r %.30r, mode %.30r, protocol %d",
            self.id, self.client.id, self.client.version, self.client.mode, self.protocol,
        )  # fmt: skip
        self.respond(accepted.request_id, hello(accepted, self._desk.server, self._snapshot(), self.id))

    def _snapshot(self) -> Snapshot:
        channel = self._desk.channel
        versions = channel.hub.versions
        return Snapshot(
            presence=channel.hub.presence(),
            health={},
            presence_version=versions.presence,
            health_version=versions.health,
            uptime_ms=channel.clock() - channel.started_at,
        )

    def _receive(self, message: bytes) -> None:
        request = frames.parse(message)
        if isinstance(request, frames.Malformed):
            if request.reply is not None:
                self.refuse(request.reply, Refusal(request.message))
            return
        try:
            method = method_for(request.method, self._desk.methods, self.scopes, self.protocol)
            call = Call(request.id, request.method, request.params, self)
            if method.waits:
                self._begin(method, call)
            else:
                self._answer(method, call)
        except Refusal as refusal:
            self.refuse(request.id, refusal)

    def _begin(self, method: Method, call: Call) -> None:
        """Answer in a thread of its own.

        :raises Refusal: too many are at work for this connection, or no thread is to be had.
        """
        if len(self._in_flight) >= self._desk.channel.limits.in_flight:
            raise Refusal(_BUSY, code="UNAVAILABLE", retry_after_ms=_RETRY_MS)
        place = object()
        self._in_flight.add(place)

        def work() -> None:
            try:
                self._answer(method, call)
            finally:
                self._in_flight.discard(place)

        try:
            self._executor.spawn(f"openclaw-ws-{call.method:.40}", work)
        except RuntimeError:
            self._in_flight.discard(place)
            raise Refusal("the gateway is busy", code="UNAVAILABLE", retry_after_ms=_RETRY_MS) from None

    def _answer(self, method: Method, call: Call) -> None:
        try:
            with working_for(Context(request_id=self.id)):
                answer = method.handler(call)
            if answer is not ANSWERED:
                self.respond(call.id, answer)
        except Refusal as refusal:
            self.refuse(call.id, refusal)
        except GatewayError as error:
            self.refuse(call.id, refusal_of(error))
        except Exception:
            _log.exception("method %.60r failed", call.method)
            self.refuse(call.id, Refusal("internal error", code="UNAVAILABLE"))


def refusal_of(error: GatewayError) -> Refusal:
    """An error of the gateway in the words of this protocol."""
    return Refusal(
        error.message,
        code="INVALID_REQUEST" if error.status < 500 and error.retry_after is None else "UNAVAILABLE",
        details={"code": error.code} if error.code else None,
        retry_after_ms=None if error.retry_after is None else round(1000 * error.retry_after),
    )
