"""The thread that hears what other processes say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..log import get_logger
from .engine import TROUBLE, Engine, Line
from .listeners import Listeners
from .names import to_bytes, to_text

ID_BYTES = 8  # of a process, in front of everything that it says

_CONFIRM_SECONDS = 0.4
_RETRY_SECONDS, _AGAIN_SECONDS = 1.0, 0.05  # after a failure; after a line that was lost
# The sender calls it by its wake channel every second: after that long a silence nobody is there.
_SILENCE_SECONDS = 5.0
_AT_ONCE = 500  # channels in one command
_TURN = 64  # messages, after which other greenlets have their turn

_log = get_logger("bus")


@dataclass(frozen=True, slots=True)
class Channels:
    """The names that topics have in Redis.

    Channels are the same for all databases of a server, so the database's number is in the name.

    :ivar wake: of this process alone. :ivar listening: where listeners are made known.
    """

    topics: bytes
    wake: bytes
    listening: bytes

    @classmethod
    def of(cls, prefix: str, database: int, process: bytes) -> Channels:
        """The channels of one process."""
        base = to_bytes(f"{prefix}{database}:")
        return cls(base + b"topic:", base + b"wake:" + process.hex().encode(), base + b"listening")

    def of_topic(self, topic: str) -> bytes:
        """The channel of a topic."""
        return self.topics + to_bytes(topic)

    def topic_of(self, channel: bytes) -> str:
        """The topic of a channel."""
        return to_text(channel.removeprefix(self.topics))


class Receiver:
    """Hears all topics of this process over one connection, which its thread alone reads and writes.

    :ivar listening: it has such a connection.
    """

    def __init__(
        self,
        engine: Engine,
        listeners: Listeners,
        channels: Channels,
        process: bytes,
        *,
        wake: Callable[[], None],
        told: Callable[[str], None],
        came: Callable[[str], None],
    ) -> None:
        """:param wake: has something said on the wake channel.

        :param told: called with a topic that this process hears from now on.
        :param came: called with a topic that another process hears from now on.
        """
        self.listening = False
        self._engine = engine
        self._listeners = listeners
        self._channels = channels
        self._process = process
        self._wake, self._told, self._came = wake, told, came
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._nudged = threading.Event()
        self._thread: int | None = None
        self._line: Line | None = None
        self._lock = threading.Lock()  # guards changes of `listening`, and everything below
        self._topics: dict[str, threading.Event] = {}  # each event is set while Redis has confirmed it
        self._fresh: list[str] = []  # of them, those that Redis has not been asked for
        self._left: set[str] = set()  # perhaps nobody listens to these any more

    def add(self, topic: str) -> None:
        """A topic has a listener: return once it is heard, or after half a second."""
        with self._lock:
            heard = self._topics.get(topic)
            is_new = heard is None
            if heard is None:
                heard = self._topics[topic] = threading.Event()
                self._fresh.append(topic)
            listening = self.listening
        if listening and is_new:
            self._wake()
        if listening and self._engine.up and threading.get_ident() != self._thread:
            heard.wait(_CONFIRM_SECONDS)

    def remove(self, topic: str) -> None:
        """A topic has perhaps no listener any more; Redis is told when it suits."""
        with self._lock:
            if self.listening:
                self._left.add(topic)
            elif not self._listeners.any_of(topic):
                self._topics.pop(topic, None)

    def hears(self, topic: str) -> bool:
        """True if Redis sends this process what is said on a topic."""
        heard = self._topics.get(topic)
        return heard is not None and heard.is_set()

    def wait_until_listening(self, seconds: float) -> None:
        """Return once others can be heard, or after ``seconds``."""
        self._ready.wait(seconds)

    def run(self) -> None:
        """What the thread does until :meth:`close`."""
        self._thread = threading.get_ident()
        while not self._closing.is_set():
            if not self._engine.up:
                self._nudged.wait(_RETRY_SECONDS)
                self._nudged.clear()
                continue
            try:
                self._listen()
            except Exception as error:  # this thread must not end, and a close may look like anything
                self._give_up(error)
            # One that never heard anything is not wanted there, for want of rights perhaps.
            self._closing.wait(_AGAIN_SECONDS if self._hang_up() else _RETRY_SECONDS)

    def nudge(self) -> None:
        """Redis is there again: no need to wait for the next try."""
        self._nudged.set()

    def close(self) -> None:
        """End, wherever the thread waits."""
        self._closing.set()
        self._nudged.set()
        self._hang_up()

    def _listen(self) -> None:
        self._line = line = self._engine.connect(_SILENCE_SECONDS)
        self._start(line)
        messages = 0
        while not self._closing.is_set():
            kind, channel, data = line.read_response()
            self._take(line, kind, channel, data)
            messages += 1
            if messages % _TURN == 0:
                time.sleep(0)

    def _give_up(self, error: Exception) -> None:
        if self._closing.is_set():
            return
        self._engine.trip(error)  # it may still be there for all others: who sends finds out
        if not isinstance(error, TROUBLE):
            _log.exception("hearing other workers failed")

    def _hang_up(self) -> bool:
        """Give the connection back; True if something was heard over it."""
        with self._lock:
            self.listening = False
        if self._line is not None:
            self._line.disconnect()
        heard = self._ready.is_set()
        self._ready.clear()
        return heard

    def _start(self, line: Line) -> None:
        with self._lock:
            for topic in [topic for topic in self._topics if not self._listeners.any_of(topic)]:
                del self._topics[topic]
            for heard in self._topics.values():
                heard.clear()
            topics = list(self._topics)
            self._fresh.clear()
            self._left.clear()
            self.listening = True
        line.send_command("SUBSCRIBE", self._channels.wake, self._channels.listening)
        self._send(line, "SUBSCRIBE", topics)

    def _follow_changes(self, line: Line) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
            left = [topic for topic in self._left if not self._listeners.any_of(topic)]
            left = [topic for topic in left if self._topics.pop(topic, None) is not None]
            self._left.clear()
        self._send(line, "SUBSCRIBE", fresh)
        self._send(line, "UNSUBSCRIBE", left)

    def _send(self, line: Line, command: str, topics: Sequence[str]) -> None:
        for start in range(0, len(topics), _AT_ONCE):
            part = topics[start : start + _AT_ONCE]
            line.send_command(command, *map(self._channels.of_topic, part))

    def _take(self, line: Line, kind: bytes, channel: bytes, data: bytes) -> None:
        if kind == b"message":
            self._hear(line, channel, data)
        elif kind == b"subscribe":
            self._confirm(channel)

    def _hear(self, line: Line, channel: bytes, data: bytes) -> None:
        if channel == self._channels.wake:
            self._follow_changes(line)
        elif data.startswith(self._process):
            pass  # its own listeners have heard it when it was said
        elif channel == self._channels.listening:
            self._came(to_text(data[ID_BYTES:]))
        else:
            self._listeners.tell(self._channels.topic_of(channel), data[ID_BYTES:])

    def _confirm(self, channel: bytes) -> None:
        if channel == self._channels.wake:
            self._ready.set()
        elif channel != self._channels.listening:
            topic = self._channels.topic_of(channel)
            heard = self._topics.get(topic)
            if heard is not None:
                heard.set()
                self._told(topic)
