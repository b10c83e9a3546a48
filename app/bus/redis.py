"""The bus of many workers: Redis carries what they tell each other, and may be away at any time."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TypeVar

from . import Hear
from .audience import Audience
from .engine import Away, Engine, script_command
from .listeners import Listeners
from .local import LocalBus
from .names import to_bytes, to_text
from .outbox import Command, Outbox
from .receiver import ID_BYTES, Channels, Receiver
from .scripts import ANNOUNCE, CLAIM, COUNT, PRESENT, RECORD, RELEASE
from .sender import Send, Sender

T = TypeVar("T")

PREFIX = "openclaw:"

_START_SECONDS = 0.5
_SETTLE_SECONDS = 0.1
_CLOSE_SECONDS = 3.0
_AT_ONCE = 200


class RedisBus:
    """See :class:`Bus`.

    A local bus stands beside Redis: it knows what this process has said, answers while Redis is away,
    and tells Redis again what that has forgotten when it is back.
    """

    shared = True

    def __init__(
        self, url: str, spawn: Callable[[str, Callable[[], None]], threading.Thread], *, prefix: str = PREFIX
    ) -> None:
        """Redis need not be there.

        :param url: ``redis://`` or ``rediss://``, options as redis-py has them.
        :param spawn: starts a thread; see :meth:`Executor.spawn`.
        :param prefix: of everything in Redis; gateways that are not one need different ones.
        :raises ConfigError: the URL cannot be used.
        """
        self._process = secrets.token_bytes(ID_BYTES)
        self._outbox = Outbox()
        self._engine = Engine(url, on_trip=self._outbox.wake)
        self._prefix = prefix
        self._channels = Channels.of(prefix, self._engine.database, self._process)
        self._listeners = Listeners()
        self._here = LocalBus(self._listeners)
        self._audience = Audience()
        self._receiver = Receiver(
            self._engine,
            self._listeners,
            self._channels,
            self._process,
            wake=self._wake,
            told=self._tell_listening,
            came=self._audience.came,
        )
        self._sender = Sender(
            self._engine,
            self._outbox,
            before_return=self._restore_names,
            after_return=self._restore_logs,
            chores=self._do_chores,
        )
        self._closed = False
        self._threads = [
            spawn("openclaw-bus-sender", self._sender.run),
            spawn("openclaw-bus-receiver", self._receiver.run),
        ]
        self._receiver.wait_until_listening(_START_SECONDS)

    @property
    def healthy(self) -> bool:
        """See :class:`Bus`."""
        return self._engine.up and self._receiver.listening

    @property
    def published(self) -> int:
        """See :class:`Bus`; commands on their way to Redis."""
        return self._outbox.accepted

    @property
    def dropped(self) -> int:
        """See :class:`Bus`; commands that were lost on their way to Redis."""
        return self._outbox.dropped

    def publish(self, topic: str, message: bytes) -> None:
        """See :meth:`Bus.publish`."""
        self._listeners.tell(topic, message)
        self._say(self._channels.of_topic(topic), message)

    def subscribe(self, topic: str, hear: Hear) -> Callable[[], None]:
        """See :meth:`Bus.subscribe`."""
        remove = self._listeners.add(topic, hear)
        self._receiver.add(topic)

        def end() -> None:
            remove()
            self._receiver.remove(topic)

        return end

    def wanted(self, topic: str) -> bool:
        """See :meth:`Bus.wanted`."""
        return self._engine.up and self._audience.wanted(topic)

    def record(self, log: str, entries: Sequence[bytes], seconds: float) -> None:
        """See :meth:`Bus.record`."""
        before, lost = self._here.add(log, entries, seconds)
        self._put(self._recording(log, before, lost, entries, seconds), sum(map(len, entries)))

    def replay(self, log: str, after: int = 0) -> list[tuple[int, bytes]]:
        """See :meth:`Bus.replay`."""
        if self._engine.up and self._here.knows(log):
            self._outbox.settle(_SETTLE_SECONDS)
        try:
            found = self._engine.ask("XRANGE", self._name("log", log), f"{after + 1}-0", "+")
        except Away:
            return self._here.replay(log, after)
        return [(int(number.partition(b"-")[0]), fields[1]) for number, fields in found]

    def claim(self, name: str, value: bytes, seconds: float) -> bytes | None:
        """See :meth:`Bus.claim`."""
        try:
            taken: bytes | None = self._engine.ask_script(
                CLAIM, [self._name("claim", name)], value, _milliseconds(seconds)
            )
        except Away:
            return self._here.claim(name, value, seconds)
        if taken is None:
            self._here.take(name, value, seconds)
        return taken

    def held(self, name: str) -> bytes | None:
        """See :meth:`Bus.held`."""
        try:
            value: bytes | None = self._engine.ask("GET", self._name("claim", name))
        except Away:
            value = None
        return self._here.held(name) if value is None else value

    def release(self, name: str, value: bytes) -> None:
        """See :meth:`Bus.release`."""
        self._here.release(name, value)
        try:
            self._engine.ask_script(RELEASE, [self._name("claim", name)], value)
        except Away:
            return  # it expires

    def count(self, name: str, seconds: float, more: int = 1) -> int:
        """See :meth:`Bus.count`."""
        here = self._here.count(name, seconds, more)
        try:
            keys = [self._name("count", name)]
            return int(self._engine.ask_script(COUNT, keys, more, _milliseconds(seconds)))
        except Away:
            return here

    def forget(self, name: str) -> None:
        """See :meth:`Bus.forget`."""
        self._here.forget(name)
        try:
            self._engine.ask("DEL", self._name("count", name))
        except Away:
            return  # it expires

    def announce(self, group: str, members: Mapping[str, bytes], seconds: float) -> None:
        """See :meth:`Bus.announce`."""
        self._here.announce(group, members, seconds)
        self._put(self._announcement(group, members, seconds), sum(map(len, members.values())))

    def present(self, group: str) -> dict[str, bytes]:
        """See :meth:`Bus.present`."""
        try:
            said = self._engine.ask_script(PRESENT, [self._name("group", group)])
        except Away:
            said = []
        everybody: dict[str, bytes] = {}
        for process, *members in said:
            if process != self._process.hex().encode():
                names = map(to_text, members[::2])
                everybody.update(zip(names, members[1::2], strict=True))
        return everybody | self._here.present(group)

    def close(self) -> None:
        """See :meth:`Bus.close`."""
        if self._closed:
            return
        self._closed = True
        for group, _, _ in self._here.groups():
            self._put(self._announcement(group, {}, 1))
        self._sender.close()
        self._receiver.close()
        for thread in self._threads:
            thread.join(_CLOSE_SECONDS)
        self._engine.close()

    def _say(self, channel: bytes, message: bytes) -> None:
        self._put(("PUBLISH", channel, self._process + message), len(message))

    def _put(self, command: Command, size: int = 0) -> None:
        if self._engine.up:
            self._outbox.put(command, size)
        else:
            self._outbox.lose(1)

    def _wake(self) -> None:
        self._say(self._channels.wake, b"")

    def _tell_listening(self, topic: str) -> None:
        self._say(self._channels.listening, to_bytes(topic))

    def _name(self, kind: str, name: str) -> bytes:
        return to_bytes(f"{self._prefix}{kind}:{name}")

    def _recording(
        self, log: str, before: int, lost: int, entries: Sequence[bytes], seconds: float
    ) -> Command:
        keys = [self._name("log", log)]
        return script_command(RECORD, keys, before, _milliseconds(seconds), lost + 1, *entries)

    def _announcement(self, group: str, members: Mapping[str, bytes], seconds: float) -> Command:
        process = self._process.hex().encode()
        name = self._name("group", group)
        said = (part for member, value in members.items() for part in (to_bytes(member), value))
        keys = [name, name + b":" + process]
        return script_command(ANNOUNCE, keys, process, _milliseconds(seconds), *said)

    def _do_chores(self, send: Send) -> None:
        """Learn who listens elsewhere, and let the receiver know that all is well."""
        topics = self._audience.begin_round()
        channels = map(self._channels.of_topic, topics)
        counts, _ = send([("PUBSUB", "NUMSUB", *channels), ("PUBLISH", self._channels.wake, self._process)])
        for topic, count in zip(topics, (counts or [])[1::2], strict=False):
            self._audience.learn(topic, count > self._receiver.hears(topic))

    def _restore_names(self, send: Send) -> None:
        """Tell Redis what this process has announced and claimed, in case it has forgotten."""
        said = (self._announcement(*group) for group in self._here.groups())
        claimed = (
            script_command(CLAIM, [self._name("claim", name)], value, _milliseconds(seconds))
            for name, value, seconds in self._here.claims()
        )
        for commands in _parts(chain(said, claimed)):
            send(commands)

    def _restore_logs(self, send: Send) -> None:
        """Send again what Redis does not have of the logs of this process."""
        self._receiver.nudge()
        for logs in _parts(self._here.logs()):
            newest = send([("XREVRANGE", self._name("log", log), "+", "-", "COUNT", 1) for log, _, _ in logs])
            for (log, last, seconds), entry in zip(logs, newest, strict=True):
                there = _number(entry[0][0]) if entry else 0
                if missing := self._here.replay(log, there) if there < last else []:
                    before = missing[0][0] - 1
                    send([self._recording(log, before, before, [one for _, one in missing], seconds)])


def _number(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _parts(things: Iterable[T]) -> Iterator[list[T]]:
    """As many at once as go well together."""
    iterator = iter(things)
    while part := list(islice(iterator, _AT_ONCE)):
        yield part
