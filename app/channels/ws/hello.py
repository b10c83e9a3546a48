"""What a client is told when it is let in. The same for both versions but for ``auth``."""

from __future__ import annotations

from dataclasses import dataclass

from ...messages import JsonValue
from ..auth import AuthMode
from .handshake import Accepted
from .protocol import Limits


@dataclass(frozen=True, slots=True)
class Server:
    """What the gateway says about itself to everybody.

    :ivar host: this machine's name.
    :ivar main_key: the full key of the default agent's main session.
    :ivar methods: those that are served; clients ask for nothing else.
    :ivar attachment_bytes: the largest attachment of a message.
    """

    version: str
    host: str
    auth_mode: AuthMode
    default_agent: str
    main_key: str
    methods: tuple[str, ...]
    events: tuple[str, ...]
    attachment_bytes: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How things stand when somebody is let in."""

    presence: list[JsonValue]
    health: dict[str, JsonValue]
    presence_version: int
    health_version: int
    uptime_ms: int


def hello(accepted: Accepted, server: Server, snapshot: Snapshot, connection_id: str) -> dict[str, JsonValue]:
    """The payload of the answer to ``connect``. It names no path of this machine."""
    payload: dict[str, JsonValue] = {
        "type": "hello-ok",
        "protocol": accepted.protocol,
        "server": {"version": server.version, "host": server.host, "connId": connection_id},
        "features": {"methods": [*server.methods], "events": [*server.events], "capabilities": []},
        "snapshot": _state(server, snapshot),
        "policy": _policy(server),
    }
    if accepted.protocol >= 4:
        payload["auth"] = {"role": "operator", "scopes": [*sorted(accepted.scopes)]}
    return payload


def _state(server: Server, snapshot: Snapshot) -> JsonValue:
    return {
        "presence": snapshot.presence,
        "health": snapshot.health,
        "stateVersion": {"presence": snapshot.presence_version, "health": snapshot.health_version},
        "uptimeMs": snapshot.uptime_ms,
        "authMode": server.auth_mode,
        "sessionDefaults": {
            "defaultAgentId": server.default_agent,
            "mainKey": server.main_key.rpartition(":")[2],
            "mainSessionKey": server.main_key,
            "scope": "per-sender",
            "modelConfigured": True,
            "ownership": "sole",
            "selectionRequired": False,
        },
    }


def _policy(server: Server) -> JsonValue:
    limits = server.limits
    return {
        "maxPayload": limits.message_bytes,
        "maxBufferedBytes": limits.buffered_bytes,
        "tickIntervalMs": round(limits.tick_seconds * 1000),
        "attachments": {"maxBytes": server.attachment_bytes, "maxImageBytes": server.attachment_bytes},
    }
