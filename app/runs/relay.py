"""Runs of other processes, as far as somebody here listens, and ours as far as somebody there does.

What is lost on the way is made up for: a text by the next message, an end by the run's record.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..bus import Bus
from ..events import TERMINAL, RunEvent, RunStarted, TerminalEvent, TextDelta
from ..log import get_logger
from ..messages import JsonValue
from ..text import GrowingText
from ..wire import InvalidJson, dumps, loads
from .event_packing import UnreadableEvent
from .remote import Part, RemoteRun, pack_part, unpack_part
from .run import Listener, Run

TOPIC = "runs"
_ASKED = "runs-wanted"  # that somebody has begun to listen; those who have runs listen to this

_TOGETHER = 32  # events
_SECONDS = 0.05  # within which events go together
_HEARSAY = 5.0  # seconds for which one who has just begun to listen is taken to be there
_OVER = 10_000  # runs of which it is remembered that they are over
_SILENCE = 15.0  # seconds after which a run of which nothing is heard is looked up

_log = get_logger("bus")


RemoteObserver: TypeAlias = Callable[[RemoteRun], Listener | None]
# An event for clients of another process: its name, who may have it, and its payload in JSON.
FrameHearer: TypeAlias = Callable[[str, str, bytes], None]


class Relay:
    """Carries runs' events between the processes of a gateway. Any thread may call any method.

    :meth:`observe` is an observer of this process's runs.
    """

    def __init__(
        self,
        bus: Bus,
        me: str,
        after: Callable[[float, Callable[[], object]], object],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param me: tells this process from all others.
        :param after: calls a function once, a number of seconds from now.
        """
        self._bus = bus
        self._me = me
        self._after = after
        self._monotonic = monotonic
        # Reentrant, and held while listeners hear: a run's events come one after the other.
        self._lock = threading.RLock()  # guards everything below
        self._observers: tuple[RemoteObserver, ...] = ()
        self._hear_frame: FrameHearer | None = None
        self._here = False
        self._silence: Callable[[], None] | None = None
        self._asked_again = 0.0
        self._listeners_until = 0.0
        self._told: dict[str, _Told] = {}
        self._heard: dict[str, _Heard] = {}
        self._over: OrderedDict[str, None] = OrderedDict()
        bus.subscribe(_ASKED, self._make_known)

    @property
    def wanted(self) -> bool:
        """True if somebody in another process may be listening. Takes no lock."""
        return self._bus.wanted(TOPIC) or self._monotonic() < self._listeners_until

    def observe(self, run: Run) -> Listener:
        """Listens to a run of this process."""
        told = _Told(self, RemoteRun(run.id, run.session_key, run.agent_id, run.detached))
        with self._lock:
            self._told[run.id] = told
            self._heard.pop(run.id, None)  # another process had queued it, and this one has taken it over
        return told.hear

    def follow(self, observer: RemoteObserver) -> None:
        """Ask ``observer`` who is to hear of each run of another process of which something is heard."""
        with self._lock:
            self._observers = (*self._observers, observer)

    def on_frame(self, hear: FrameHearer) -> None:
        """Call ``hear`` with what :meth:`send_frame` was given in another process."""
        self._hear_frame = hear

    def attend(self, listens: Callable[[], bool]) -> None:
        """Somebody may have begun to listen here, or have stopped.

        :param listens: whether somebody does now; takes no lock.
        """
        with self._lock:
            before, self._here = self._here, listens()
            if self._here and self._silence is None:
                self._silence = self._bus.subscribe(TOPIC, self._receive)
            self._stop_if_done()
            begins = self._here and not before
        if begins:
            self._bus.publish(_ASKED, self._me.encode())

    def send_frame(self, name: str, audience: str, payload: bytes) -> None:
        """Show an event to clients of other processes, if there may be some."""
        if self.wanted:
            self._publish("frame", [name, audience, payload.decode()])

    def tell_end(self, run: RemoteRun, ending: TerminalEvent) -> None:
        """Tell everybody, here and elsewhere, how a run ended whose process is lost."""
        part = Part(run, [ending])
        self.send(part)
        with self._lock:
            self._take_in(part)

    def silent(self) -> list[RemoteRun]:
        """The runs of other processes of which nothing was heard for long."""
        since = self._monotonic() - _SILENCE
        with self._lock:
            return [heard.run for heard in self._heard.values() if heard.at < since]

    def settle(self, run: RemoteRun, ending: TerminalEvent | None) -> None:
        """Take note of the end of a run that was silent; None if it goes on."""
        with self._lock:
            heard = self._heard.get(run.id)
            if heard is None:
                return
            heard.at = self._monotonic()
            if ending is not None:
                self._take_in(Part(run, [ending]))

    def send(self, part: Part) -> None:
        """Publish events of a run of this process; its teller calls this."""
        self._publish("run", pack_part(part))

    def later(self, action: Callable[[], object]) -> None:
        """Call ``action`` when it is time for the events that go together."""
        self._after(_SECONDS, action)

    def ended(self, run_id: str) -> None:
        """A run of this process is over."""
        with self._lock:
            self._told.pop(run_id, None)

    def _publish(self, what: str, values: Sequence[JsonValue]) -> None:
        self._bus.publish(TOPIC, dumps([self._me, what, *values]))

    def _receive(self, message: bytes) -> None:
        if message.startswith(b'["' + self._me.encode() + b'"'):
            return
        try:
            known = self._dispatch(loads(message))
        except (InvalidJson, UnreadableEvent):
            known = False
        if not known:
            _log.warning("something that another process says of runs could not be read")

    def _dispatch(self, message: JsonValue) -> bool:
        """Show a message to those whom it concerns; False if it is none."""
        match message:
            case [_, "frame", str(name), str(audience), str(text)]:
                payload = text.encode()
                loads(payload)  # clients get it as it is
                if self._hear_frame is not None:
                    self._hear_frame(name, audience, payload)
                return True
            case [_, "run", *values] if part := unpack_part(values):
                with self._lock:
                    self._take_in(part)
                return True
        return False

    def _make_known(self, who: bytes) -> None:
        """Somebody has begun to listen: what goes on is told from the beginning, but not by this thread."""
        if who != self._me.encode():
            self._listeners_until = self._monotonic() + _HEARSAY
            self._after(0, self._introduce)

    def _introduce(self) -> None:
        with self._lock:
            everybody = list(self._told.values())
        for told in everybody:
            told.introduce()

    def _take_in(self, part: Part) -> None:
        """Show to listeners what is new of a run. Under the lock."""
        run, events = part.run, part.events
        heard = self._heard.get(run.id)
        if heard is None:
            if not self._here or run.id in self._over or run.id in self._told:
                return
            heard = self._heard[run.id] = _Heard(run, self._listening(run), self._monotonic())
        heard.at = self._monotonic()
        whole = heard.catch_up(part)
        if not (whole or (events and isinstance(events[-1], TERMINAL))):
            self._ask_again()
        for event in events:
            if whole or not isinstance(event, TextDelta):
                heard.hear(event)
            if isinstance(event, TERMINAL):
                self._close(run.id)

    def _close(self, run_id: str) -> None:
        del self._heard[run_id]
        self._over[run_id] = None
        while len(self._over) > _OVER:
            self._over.popitem(last=False)
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        """Those runs are heard to their ends of which something was heard."""
        if self._silence is not None and not self._here and not self._heard:
            self._silence()
            self._silence = None

    def _ask_again(self) -> None:
        """Something was lost: whoever has a run tells it from the beginning."""
        now = self._monotonic()
        if now - self._asked_again > 1:
            self._asked_again = now
            self._bus.publish(_ASKED, self._me.encode())

    def _listening(self, run: RemoteRun) -> list[Listener]:
        found = (observe(run) for observe in self._observers)
        return [hear for hear in found if hear is not None]


class _Told:
    """A run of this process: collects its events, and sends them while somebody listens.

    :ivar run: as others see it; the run itself, which knows its listeners, is gone as soon as it is over.
    """

    def __init__(self, relay: Relay, run: RemoteRun) -> None:
        self.run = run
        self._relay = relay
        self._lock = threading.Lock()  # guards everything below
        self._started_at: int | None = None  # when it left its lanes
        self._said = GrowingText()
        self._waiting: list[RunEvent] = []
        self._waiting_since = 0  # how many letters were said before the events that wait
        self._introduced = False
        self._timed = False

    def hear(self, event: RunEvent) -> None:
        """Take the next event; the run's threads call this."""
        ends = isinstance(event, TERMINAL)
        with self._lock:
            self._waiting.append(event)
            if isinstance(event, TextDelta):
                self._said.add(event.text)
            elif isinstance(event, RunStarted):
                self._started_at = event.at
            if not self._relay.wanted:
                self._drop()
            elif ends or len(self._waiting) >= _TOGETHER:
                self._send()
            elif not self._timed:
                self._timed = True
                self._relay.later(self._flush)
        if ends:
            self._relay.ended(self.run.id)

    def introduce(self) -> None:
        """Tell all of it from the beginning."""
        with self._lock:
            self._introduced = False
            self._send()

    def _flush(self) -> None:
        with self._lock:
            self._timed = False
            if self._waiting:
                self._send()

    def _drop(self) -> None:
        self._waiting.clear()
        self._waiting_since = len(self._said)
        self._introduced = False

    def _send(self) -> None:
        said = None if self._introduced else str(self._said)[: self._waiting_since]
        self._relay.send(Part(self.run, self._waiting, self._waiting_since, said, self._started_at))
        self._drop()
        self._introduced = True


@dataclass(slots=True)
class _Heard:
    """A run of another process, as far as it was told."""

    run: RemoteRun
    listeners: list[Listener]
    at: float  # when something was heard of it last
    length: int = 0
    started: bool = False

    def catch_up(self, part: Part) -> bool:
        """Hear what was missed, as far as it is told; whether that is all of it."""
        if part.started_at is not None and not self.started:
            self.hear(RunStarted(part.started_at))
        if part.said is not None and self.length < part.at:
            self.hear(TextDelta(part.said[self.length :]))
        return self.length == part.at

    def hear(self, event: RunEvent) -> None:
        """Show an event to those who listen."""
        if isinstance(event, RunStarted):
            if self.started:
                return
            self.started = True
        elif isinstance(event, TextDelta):
            self.length += len(event.text)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # the others hear it all the same
                _log.exception("a listener to run %s failed", self.run.id)
