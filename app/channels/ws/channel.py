"""The WebSocket channel of one gateway: every path upgrades, and plain HTTP is none the wiser."""

from __future__ import annotations

import base64
import binascii
import socket
import ssl
import time
import uuid
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, current_app, request
from flask_sock import Sock
from simple_websocket import Server as Upgraded

from ...errors import GatewayError, InvalidRequest, Unavailable
from ...observe.metrics import Metrics
from ...observe.series import Total
from ...runs.outcomes import Outcomes
from ...runtime import Runtime
from ...sessions.keys import main_key
from ...version import version
from ..auth import Guard
from ..caller import CALLER
from ..client import Environ, client_socket
from ..http import error_response
from .asked import IMAGE_BYTES
from .connection import Connection, Desk
from .context import Channel
from .feed import Feed
from .handshake import Handshake
from .hello import Server
from .hub import Hub
from .methods import (
    agent,
    approvals,
    catalog,
    chat,
    conversations,
    logs,
    operator,
    sessions,
    settings,
    status,
    stubs,
    usage,
)
from .protocol import Limits, Methods
from .socket import Handover, prepare

_EVENTS = (
    "connect.challenge", "agent", "chat", "sessions.changed", "session.message", "presence", "tick",
    "health", "shutdown", "exec.approval.requested", "exec.approval.resolved",
)  # fmt: skip
_FAMILIES = (
    agent, approvals, catalog, chat, conversations, logs, operator, sessions, settings, status, stubs, usage,
)  # fmt: skip
_SOCKETS = ("werkzeug.socket", "gunicorn.socket")


def open_channel(runtime: Runtime, guard: Guard, limits: Limits | None = None) -> Channel:
    """The channel of ``runtime``, which closes it; what an earlier process has acknowledged goes on."""
    release = version()
    hub = Hub(runtime.executor, _now, limits or Limits(), release)
    channel = Channel(
        runtime=runtime,
        hub=hub,
        feed=Feed(hub, runtime.store, _now, runtime.executor),
        outcomes=Outcomes(runtime.runs, runtime.store, _now, runtime.state.bus),
        guard=guard,
        limits=limits or Limits(),
        version=release,
        started_at=_now(),
        clock=_now,
        new_id=_new_id,
    )
    runtime.farewells.append(hub.shutdown)
    runtime.store.watch(channel.feed.stored)
    runtime.runs.observe(channel.feed.observe)
    runtime.runs.observe(channel.outcomes.observe)  # who waits for an answer gets it after the last event
    approvals.approvals_feed(hub, runtime.tools.approvals)
    hub.watch_health(lambda: status.health(runtime, channel.clock()))
    _follow_others(channel)
    runtime.state.resume_with(channel.outcomes.resume)
    _measure(hub, runtime.watch.metrics)
    return channel


def _follow_others(channel: Channel) -> None:
    """Hear of runs of other processes as of those of this one."""
    relay = channel.runtime.state.relay
    if relay is not None:
        relay.follow(channel.feed.observe)
        relay.follow(channel.outcomes.observe)
        channel.hub.join(relay, channel.runtime.state.bus)


def _measure(hub: Hub, metrics: Metrics | None) -> None:
    if metrics is None:
        return
    series = metrics.series
    dropped, given_up = Total(series.frames_dropped), Total(series.clients_dropped)

    def look() -> None:
        series.sockets.set(hub.connected)
        dropped.show(hub.backlog.dropped)
        given_up.show(hub.backlog.given_up)

    metrics.look(look)


def open_desk(channel: Channel) -> Desk:
    """What the connections of ``channel`` share."""
    methods = _methods(channel)
    handshake = Handshake(channel.guard, channel.runtime.config.gateway.control_ui.allowed_origins)
    return Desk(channel, handshake, _server(channel, methods), methods)


def _methods(channel: Channel) -> Methods:
    return {name: method for family in _FAMILIES for name, method in family.methods(channel).items()}


def _server(channel: Channel, methods: Methods) -> Server:
    agents = channel.runtime.agents
    return Server(
        version=channel.version,
        host=socket.gethostname(),
        auth_mode=channel.guard.mode,
        default_agent=agents.default_id,
        main_key=main_key(agents.default_id, agents.main_key),
        methods=tuple(sorted(methods)),
        events=_EVENTS,
        attachment_bytes=IMAGE_BYTES,
        limits=channel.limits,
    )


def create_blueprint(
    desk: Callable[[], Desk], is_ours: Callable[[str], bool], name: str = "openclaw_ws"
) -> Blueprint:
    """Answers upgrades on those paths that ``is_ours`` says, unless they are WebSocket routes of the host."""
    blueprint = Blueprint(name, __name__)

    def serve(upgraded: Upgraded) -> None:
        lent = upgraded.sock.socket
        upgraded.ws = None  # its parser of the upgrade has done its work, and is large
        connection = Connection(lent, request.environ, desk())
        prepare(lent)
        connection.serve()

    # A rule that nobody's request matches: what it says of methods and of plain requests would
    # change the answers of every path. `upgrade` below decides instead.
    Sock().route("/", bp=blueprint, endpoint="connection", build_only=True)(serve)

    def upgrade() -> Response | None:
        # A rule that matches an upgrade is a WebSocket of the host's.
        if not _asks_for_upgrade(request.environ) or request.url_rule or not is_ours(request.path):
            return None
        try:
            _hand_over(request.environ, desk().channel)
        except GatewayError as error:
            return _refused(error)
        view: Any = current_app.view_functions[f"{blueprint.name}.connection"]
        response: Response = view()
        return response

    blueprint.before_app_request(upgrade)
    return blueprint


def _asks_for_upgrade(environ: Environ) -> bool:
    return str(environ.get("HTTP_UPGRADE", "")).strip().lower() == "websocket"


def _hand_over(environ: dict[str, object], channel: Channel) -> None:
    """Check the opening handshake (RFC 6455 4.2.1) and take the socket from the server.

    :raises InvalidRequest: it is incomplete. :raises Unavailable: there is no room.
    :raises _NoWebSockets: the server cannot do this.
    """
    connection = str(environ.get("HTTP_CONNECTION", "")).lower().split(",")
    if environ.get("REQUEST_METHOD") != "GET" or "upgrade" not in map(str.strip, connection):
        raise InvalidRequest("A WebSocket is opened by GET with 'Connection: Upgrade'.")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != "13":
        raise _WrongVersion("Only version 13 of the WebSocket protocol is spoken here.")
    if not _is_key(str(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""))):
        raise InvalidRequest("The Sec-WebSocket-Key is not 16 bytes in base64.")
    sock = client_socket(environ)
    if sock is None or isinstance(sock, ssl.SSLSocket) or not environ.get("wsgi.multithread"):
        raise _NoWebSockets
    if not channel.hub.has_room:
        raise Unavailable("The gateway has no room for another connection. Please try again.")
    if (caller := channel.guard.named(request)) is not None:
        environ[CALLER] = caller
    for name in _SOCKETS:
        if name in environ:
            environ[name] = Handover(sock)
    # Compression would cost every connection three times the memory, and more time than it saves.
    environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)


class _NoWebSockets(GatewayError):
    """The server keeps its sockets to itself, or would serve nobody else meanwhile."""

    status, type, code = 501, "invalid_request_error", "websocket_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "This server cannot serve WebSockets: it takes one request at a time, ends TLS itself or keeps"
            " its sockets to itself. gunicorn's gevent and gthread workers can, as can Flask's own server."
        )


class _WrongVersion(InvalidRequest):
    status = 426

    @property
    def headers(self) -> dict[str, str]:
        """RFC 6455 section 4.4."""
        return {"Sec-WebSocket-Version": "13"}


def _refused(error: GatewayError) -> Response:
    response = error_response(error)
    if client_socket(request.environ) is not None:  # other servers take the header for a mistake
        response.headers["Connection"] = "close"
    return response


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text.strip(), validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _now() -> int:
    return time.time_ns() // 1_000_000


def _new_id() -> str:
    return str(uuid.uuid4())
