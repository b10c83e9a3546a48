"""All connections of one gateway: who is here, and what all of them are told."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ...bus import Bus
from ...errors import GatewayError
from ...log import get_logger
from ...messages import JsonObject, JsonValue
from ...runs.executor import Deadline, Executor
from ...runs.relay import Relay
from ...wire import InvalidJson, dumps, loads
from .audiences import EVERYBODY
from .audiences import accepts as accepted_in
from .backlog import Backlog
from .protocol import Limits, Peer
from .socket import TRY_AGAIN_LATER

SERVICE_RESTART = 1012

# A list of everybody that goes to everybody grows with the square of their number.
_SHOWN = 100
# Whoever comes and goes within this time, in seconds, is told about once.
_PRESENCE_DELAY = 0.25
_TICKS_PER_HEALTH = 2
_TICKS_KEPT = 3  # for which other processes show clients of one of which nothing is heard
_GROUP = "presence"
# They come for one question each.
_PASSERS_BY = ("cli", "probe")

_log = get_logger("ws")


def everybody(_: Peer) -> bool:
    """The audience of what is no secret to anyone who is connected."""
    return True


@dataclass(frozen=True, slots=True)
class Versions:
    """How often presence and health have changed."""

    presence: int = 1
    health: int = 1

    def encoded(self) -> bytes:
        """As events carry them."""
        return dumps({"presence": self.presence, "health": self.health})


class Hub:
    """Connections that have said hello. Any thread may call any method; none but :meth:`shutdown` waits.

    One timer serves all of them, and only while there are any.
    """

    def __init__(self, executor: Executor, clock: Callable[[], int], limits: Limits, version: str) -> None:
        """:param clock: unix time in milliseconds. :param version: this gateway's."""
        self._executor = executor
        self._clock = clock
        self._limits = limits
        self._gateway = _gateway_entry(version, clock())
        # Reentrant for the condition's sake, as in RunService. Guards everything below.
        self._lock = threading.RLock()
        self._left = threading.Condition(self._lock)
        self._open: dict[str, Peer] = {}
        self._strangers: dict[str, Peer] = {}  # those of them that have not said hello, the oldest first
        self._guests: set[str] = set()  # those that have, and have a place
        self._peers: dict[str, Peer] = {}
        self._present: dict[str, dict[str, JsonValue]] = {}
        self._ticks = 0
        self._timer: Deadline | None = None
        self._news: Deadline | None = None
        self._health: Callable[[], JsonObject] | None = None
        self._relay: Relay | None = None
        self._bus: Bus | None = None
        self.versions = Versions()
        self.backlog = Backlog(limits.all_buffered_bytes)
        self.closing = False

    @property
    def has_peers(self) -> bool:
        """True if somebody has said hello and is still here. Takes no lock."""
        return bool(self._peers)

    @property
    def connected(self) -> int:
        """How many have said hello and are still here."""
        return len(self._peers)

    def peers(self) -> list[Peer]:
        """Everybody who has said hello and is still here."""
        with self._lock:
            return list(self._peers.values())

    def presence(self) -> list[JsonValue]:
        """Who is here: the gateway itself first, then the clients that have come to stay."""
        with self._lock:
            own = dict(self._present)
        elsewhere = self._bus.present(_GROUP) if self._bus is not None else {}
        others: list[JsonValue] = [
            one for name, text in elsewhere.items() if name not in own and (one := _read_entry(text))
        ]
        return [{**self._gateway, "ts": self._clock()}, *[*others, *own.values()][-_SHOWN:]]

    def broadcast(
        self,
        name: str,
        payload: bytes,
        *,
        accepts: Callable[[Peer], bool] = everybody,
        droppable: bool = False,
        state_version: bytes | None = None,
    ) -> None:
        """Send an event to everybody whom ``accepts`` lets have it.

        :param payload: encoded JSON. :param state_version: encoded JSON.
        """
        for peer in self.peers():
            if accepts(peer):
                peer.event(name, payload, state_version=state_version, droppable=droppable)

    def join(self, relay: Relay, bus: Bus) -> None:
        """Share from now on what concerns the clients of other processes, and hear of those."""
        self._relay = relay
        self._bus = bus
        relay.on_frame(self._show)

    def reaches(self, audience: str) -> bool:
        """True if somebody may be in ``audience``, here or in another process."""
        if self._relay is not None and self._relay.wanted:
            return True
        return any(map(accepted_in(audience), self.peers())) if self.has_peers else False

    def announce(self, name: str, audience: str, payload: bytes) -> None:
        """Send an event to all of ``audience``, those of other processes included.

        :param payload: encoded JSON.
        """
        self._show(name, audience, payload)
        self.announce_elsewhere(name, audience, payload)

    def announce_elsewhere(self, name: str, audience: str, payload: bytes) -> None:
        """As :meth:`announce`, but only to those of other processes."""
        if self._relay is not None:
            self._relay.send_frame(name, audience, payload)

    def _show(self, name: str, audience: str, payload: bytes) -> None:
        if name == _GROUP:
            with self._lock:
                self.versions = Versions(self.versions.presence + 1, self.versions.health)
            self._show_presence(payload)
        elif self.has_peers:
            self.broadcast(name, payload, accepts=accepted_in(audience))

    def _tell_relay(self) -> None:
        """Outside of the lock: whoever tells of a run from elsewhere asks for it."""
        if self._relay is not None:
            self._relay.attend(lambda: self.has_peers)

    def watch_health(self, health: Callable[[], JsonObject]) -> None:
        """Tell everybody now and then what ``health`` returns, for as long as somebody is here."""
        self._health = health

    @property
    def has_room(self) -> bool:
        """True if another client may say hello."""
        return not self.closing and len(self._guests) < self._limits.connections

    def admit(self, peer: Peer) -> bool:
        """Take note of a connection that has just been opened; False if there is no room for it.

        Too many that say nothing take no place from those that have said hello: the oldest has to go.
        """
        with self._lock:
            if not self.has_room:
                return False
            self._open[peer.id] = self._strangers[peer.id] = peer
            crowded = len(self._strangers) > self._limits.strangers
            oldest = self._strangers.pop(next(iter(self._strangers))) if crowded else None
        if oldest is not None:
            oldest.close(TRY_AGAIN_LATER, "try again later")
        return True

    def welcome(self, peer: Peer) -> bool:
        """Give a place to one who may say hello; False if there is none, or it had to go meanwhile."""
        with self._lock:
            if self._strangers.pop(peer.id, None) is None or not self.has_room:
                return False
            self._guests.add(peer.id)
            return True

    def register(self, peer: Peer) -> None:
        """From now on ``peer`` gets what is broadcast. Its hello is on its way already."""
        with self._lock:
            if self.closing:
                self._dismiss(peer)
                return
            self._peers[peer.id] = peer
            if peer.client.mode not in _PASSERS_BY:
                self._present[peer.id] = _client_entry(peer, self._clock())
                self._announce_soon()
            if self._timer is None:
                self._timer = self._executor.after(self._limits.tick_seconds, self._tick)
        self._tell_relay()

    def leave(self, peer: Peer) -> None:
        """Forget ``peer``, whether it had said hello or not."""
        with self._lock:
            self._open.pop(peer.id, None)
            self._strangers.pop(peer.id, None)
            self._guests.discard(peer.id)
            self._peers.pop(peer.id, None)
            if self._present.pop(peer.id, None) is not None:
                self._announce_soon()
            if not self._peers and self._timer is not None:
                self._timer.clear()
                self._timer = None
            self._left.notify_all()
        self._tell_relay()

    def shutdown(self) -> None:
        """Tell everybody that the gateway stops, close all connections, wait a few seconds for their ends."""
        with self._lock:
            self.closing = True
            everyone = list(self._open.values())
        self.broadcast("shutdown", dumps({"reason": "gateway stopping"}))
        for peer in everyone:
            self._dismiss(peer)
        with self._lock:
            self._left.wait_for(lambda: not self._open, 1 + self._limits.farewell_seconds)

    def _dismiss(self, peer: Peer) -> None:
        peer.close(SERVICE_RESTART, "service restart")

    def _announce_soon(self) -> None:
        """Under the lock. In a while, so that a crowd is announced once."""
        self.versions = Versions(self.versions.presence + 1, self.versions.health)
        if self._news is None and (self._peers or self._bus) and not self.closing:
            self._news = self._executor.after(_PRESENCE_DELAY, self._announce)

    def _announce(self) -> None:
        with self._lock:
            self._news = None
        if self._bus is None:
            self._show_presence(dumps({"presence": self.presence()}))
            return
        with suppress(RuntimeError):  # no thread is to be had: with the next change, then
            self._executor.spawn("openclaw-ws-presence", self._announce_everywhere)

    def _announce_everywhere(self) -> None:
        self._say_who_is_here()
        self.announce(_GROUP, EVERYBODY, dumps({"presence": self.presence()}))

    def _say_who_is_here(self) -> None:
        """Others show our clients as long as they hear of them."""
        if self._bus is not None:
            with self._lock:
                own = {name: dumps(entry) for name, entry in self._present.items()}
            self._bus.announce(_GROUP, own, _TICKS_KEPT * self._limits.tick_seconds)

    def _show_presence(self, payload: bytes) -> None:
        with self._lock:
            versions = self.versions.encoded()
        self.broadcast(_GROUP, payload, droppable=True, state_version=versions)

    def _tick(self) -> None:
        with self._lock:
            # Everybody may have left, and others come with a timer of theirs, since this one fired.
            if self._timer is None or not self._timer.cleared or self.closing:
                return
            self._timer = self._executor.after(self._limits.tick_seconds, self._tick)
            self._ticks += 1
        self.broadcast("tick", dumps({"ts": self._clock()}), droppable=True)
        self._say_who_is_here()
        if self._health is not None and self._ticks % _TICKS_PER_HEALTH == 0:
            with suppress(RuntimeError):  # no thread is to be had: the next time, then
                self._executor.spawn("openclaw-ws-health", self._tell_health)

    def _tell_health(self) -> None:
        if self._health is None:
            return
        try:
            payload = dumps(self._health())
        except GatewayError as error:
            _log.warning("nobody could be told how the gateway is: %s", error)
            return
        with self._lock:
            self.versions = Versions(self.versions.presence, self.versions.health + 1)
            versions = self.versions.encoded()
        self.broadcast("health", payload, droppable=True, state_version=versions)


def _gateway_entry(version: str, now: int) -> dict[str, JsonValue]:
    host = platform.node() or "gateway"
    system = f"{platform.system().lower()} {platform.release()}".strip()
    return {
        "host": host,
        "version": version,
        "platform": system,
        "mode": "gateway",
        "reason": "self",
        "text": f"Gateway: {host} · {version} · {system}",
        "ts": now,
    }


def _client_entry(peer: Peer, now: int) -> dict[str, JsonValue]:
    client = peer.client
    name = client.display_name or client.id
    entry: dict[str, JsonValue] = {
        "host": name,
        "version": client.version,
        "platform": client.platform,
        "mode": client.mode,
        "reason": "connect",
        "text": f"{name} · {client.version} · {client.mode}",
        "ts": now,
        "roles": ["operator"],
        "scopes": [*sorted(peer.scopes)],
        "deviceId": client.device_id,
        "instanceId": client.instance_id,
    }
    return {key: value for key, value in entry.items() if value != ""}


def _read_entry(text: bytes) -> dict[str, JsonValue] | None:
    """A client as another process has announced it."""
    try:
        entry = loads(text)
    except InvalidJson:
        entry = None
    if isinstance(entry, dict):
        return entry
    _log.warning("a client of another process could not be read")
    return None
