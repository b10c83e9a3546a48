"""The vocabulary of the protocol: who is connected, what is asked, and what a refusal says.

Sources: OpenClaw's published gateway protocol, versions 3 (2026.1) and 4 (2026.9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, Protocol, TypeAlias

from ...messages import JsonObject, JsonValue

Version: TypeAlias = Literal[3, 4]
Scope: TypeAlias = Literal[
    "operator.read",
    "operator.write",
    "operator.admin",
    "operator.approvals",
    "operator.pairing",
    "operator.questions",
]

VERSIONS: tuple[Version, ...] = (4, 3)


class Refusal(Exception):
    """A request that is answered with an error.

    :ivar code: ``INVALID_REQUEST``, ``UNAVAILABLE``, ``FORBIDDEN``, ``APPROVAL_NOT_FOUND``, …
    :ivar payload: goes beside the error, for a failed run.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "INVALID_REQUEST",
        details: JsonObject | None = None,
        retry_after_ms: int | None = None,
        payload: JsonValue = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details
        self.retry_after_ms = retry_after_ms
        self.payload = payload


@dataclass(frozen=True, slots=True)
class Client:
    """What a client says about itself when it connects.

    :ivar device_id: only if the device has proved itself.
    """

    id: str
    version: str
    platform: str
    mode: str
    display_name: str = ""
    instance_id: str = ""
    device_id: str = ""
    caps: frozenset[str] = frozenset()


class Peer(Protocol):
    """A connection after its handshake. Any thread may call any method; none of them blocks.

    :ivar id: unique among all connections.
    :ivar protocol: the negotiated version.
    :ivar subscriptions: ``sessions`` and ``messages:<session key>``; the hub reads them.
    """

    id: str
    protocol: Version
    client: Client
    scopes: frozenset[str]
    subscriptions: set[str]

    def respond(self, request_id: str, payload: JsonValue = None) -> None:
        """Answer a request with success. A request may be answered more than once."""

    def refuse(self, request_id: str, refusal: Refusal) -> None:
        """Answer a request with an error."""

    def event(
        self, name: str, payload: bytes, *, state_version: bytes | None = None, droppable: bool = False
    ) -> None:
        """Send an event, in the connection's own sequence.

        :param payload: encoded JSON; encode once, send to many.
        :param state_version: encoded JSON for presence and health events.
        :param droppable: may be left out, without a gap in the sequence, when the client is slow.
        """

    def close(self, code: int, reason: str) -> None:
        """Close the connection once what is queued has been sent, or after a short grace."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    :ivar params: an object; what was absent, null or no object is an empty one.
    """

    id: str
    method: str
    params: Mapping[str, JsonValue]
    peer: Peer


class Answered(Enum):
    """What a handler returns that has answered by itself, or will: nothing more is sent for it."""

    YES = "answered"


ANSWERED: Final = Answered.YES

Handler: TypeAlias = Callable[[Call], "JsonValue | Answered"]


@dataclass(frozen=True, slots=True)
class Method:
    """A method that is served.

    :ivar scope: what a connection needs; None lets everybody in who is connected.
    :ivar handler: returns the payload of the answer, or :data:`ANSWERED`, or raises
        :class:`Refusal` or a ``GatewayError``. Runs in the connection's reader unless ``waits``.
    :ivar waits: the handler may take long; it gets a thread of its own.
    """

    scope: Scope | None
    handler: Handler
    waits: bool = False


Methods: TypeAlias = Mapping[str, Method]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take, and all of them. Sizes in bytes, times in seconds.

    :ivar connections: that have said hello.
    :ivar strangers: connections that have not.
    :ivar followed: sessions whose messages one connection is told.
    """

    handshake_seconds: float = 15.0
    handshake_bytes: int = 64 * 1024
    message_bytes: int = 25 * 2**20
    buffered_bytes: int = 8 * 2**20
    all_buffered_bytes: int = 256 * 2**20
    in_flight: int = 64
    followed: int = 200
    tick_seconds: float = 30.0
    farewell_seconds: float = 3.0
    connections: int = 2_000
    strangers: int = 1_000


def text(params: Mapping[str, JsonValue], name: str, method: str, *, required: bool = False) -> str | None:
    """A text parameter; None if it is absent, null or blank and not required.

    :raises Refusal: wrong type, or missing although required.
    """
    value = params.get(name)
    if isinstance(value, str) and value.strip():
        return value
    if value is not None and not isinstance(value, str):
        raise Refusal(f"invalid {method} params: at /{name}: must be string")
    if required:
        raise Refusal(f"invalid {method} params: must have required property '{name}'")
    return None


def count(
    params: Mapping[str, JsonValue], name: str, method: str, *, default: int, most: int, least: int = 0
) -> int:
    """A whole number from ``least`` to ``most``; larger ones are cut down, absent is ``default``.

    :raises Refusal: no number, or less than ``least``.
    """
    value = params.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 or value < least:
        raise Refusal(f"invalid {method} params: at /{name}: must be integer >= {least}")
    return min(int(value), most)
