"""What the processes of a gateway tell each other of runs that can be come back to.

Whoever has such a run writes its events into a log, with their numbers, and lays a card beside it that says
whose it is. From these two every other process can read the run as its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..bus import Bus
from ..events import TERMINAL, RunEvent
from ..log import get_logger
from ..messages import JsonObject, JsonValue
from ..wire import InvalidJson, dumps, loads
from .event_packing import UnreadableEvent, pack_events, unpack_events

_TOGETHER = 32  # events
_SECONDS = 0.05  # within which events go together
_LONGEST = 86_400.0  # seconds for which a run may be silent, or go on
_CARE = "care"

_log = get_logger("bus")


@dataclass(frozen=True, slots=True)
class Card:
    """Whose a run is. Times are Unix milliseconds.

    :ivar about: what its channel wants to know again. :ivar name: another one by which it is found.
    """

    id: str
    agent_id: str
    created_at: int
    about: JsonObject | None = None
    name: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All by which the run is found."""
        return (self.id,) if self.name is None else (self.id, self.name)


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive events of a run; ``first`` is the number of the first one."""

    first: int
    events: tuple[RunEvent, ...]


class Logbook:
    """Cards and logs. Any thread may call any method.

    :param after: calls a function once, a number of seconds from now.
    :param seconds: for how long a run is kept after its end.
    """

    def __init__(
        self, bus: Bus, after: Callable[[float, Callable[[], object]], object], seconds: float
    ) -> None:
        self._bus = bus
        self._after = after
        self._seconds = seconds

    def open(
        self, touch: Callable[[str], object], forget: Callable[[str], object], reread: Callable[[str], object]
    ) -> None:
        """Do what other processes ask for.

        :param touch: somebody there still cares for a run of this one.
        :param forget: somebody there has deleted it.
        :param reread: somebody there has written something new on its card; may wait for the bus.
        """
        asked: dict[str, Callable[[str], object]] = {
            "touch": touch,
            "forget": forget,
            "reread": lambda run_id: self._after(0, partial(reread, run_id)),
        }

        def hear(message: bytes) -> None:
            what, _, run_id = message.decode(errors="replace").partition(" ")
            if what in asked:
                asked[what](run_id)

        self._bus.subscribe(_CARE, hear)

    def begin(self, card: Card) -> Scribe:
        """Take a run of this process into the book."""
        self._lay(card, _LONGEST)
        return Scribe(self, card)

    def rewrite(self, card: Card) -> None:
        """Put another card in the place of a run's."""
        self._take(card)
        self._lay(card, _LONGEST)
        self._bus.publish(_CARE, f"reread {card.id}".encode())

    def card(self, name: str) -> Card | None:
        """The card of the run with this id or name, if one is kept."""
        text = self._bus.held(_name(name))
        try:
            return None if text is None else _card(loads(text))
        except (InvalidJson, KeyError, TypeError) as error:
            _log.warning("the card of a run could not be read: %s", type(error).__name__)
            return None

    def pages(self, run_id: str) -> list[Page]:
        """What is kept of a run's events, in order."""
        return [page for _, text in self._bus.replay(_name(run_id)) if (page := _page(text))]

    def follow(self, run_id: str, hear: Callable[[Page], None]) -> Callable[[], None]:
        """Show to ``hear`` what comes; returns a function that ends it."""

        def read(message: bytes) -> None:
            if page := _page(message):
                hear(page)

        return self._bus.subscribe(_name(run_id), read)

    def touch(self, run_id: str) -> None:
        """Somebody here still cares for a run of another process."""
        self._bus.publish(_CARE, f"touch {run_id}".encode())

    def forget(self, card: Card) -> None:
        """Somebody here has deleted a run of another process."""
        self._take(card)
        self._bus.publish(_CARE, f"forget {card.id}".encode())

    def write(self, run_id: str, page: Page) -> None:
        """Add to a run's log, and show it to those who follow."""
        text = dumps([page.first, pack_events(page.events)])
        over = isinstance(page.events[-1], TERMINAL)
        self._bus.record(_name(run_id), [text], self._seconds if over else _LONGEST)
        self._bus.publish(_name(run_id), text)

    def end(self, card: Card) -> None:
        """The run is over: its time runs."""
        self._lay(card, self._seconds)

    def drop(self, card: Card) -> None:
        """The run is not to be found any more."""
        for name in card.names:
            self._bus.release(_name(name), _text(card))

    def later(self, action: Callable[[], object]) -> None:
        """Call ``action`` when it is time for the events that go together."""
        self._after(_SECONDS, action)

    def _lay(self, card: Card, seconds: float) -> None:
        for name in card.names:
            self._bus.claim(_name(name), _text(card), seconds)

    def _take(self, card: Card) -> None:
        for name in card.names:
            text = self._bus.held(_name(name))
            if text is not None:
                self._bus.release(_name(name), text)


class Scribe:
    """Writes down one run of this process. Any thread may call any method.

    :ivar card: as others find it.
    """

    def __init__(self, book: Logbook, card: Card) -> None:
        self.card = card
        self._book = book
        self._lock = threading.Lock()  # guards everything below
        self._waiting: list[RunEvent] = []
        self._written = 0
        self._timed = False

    def put(self, events: Sequence[RunEvent]) -> None:
        """Take the run's next events, numbered from 1."""
        over = isinstance(events[-1], TERMINAL)
        with self._lock:
            self._waiting += events
            if over or len(self._waiting) >= _TOGETHER:
                self._write()
            elif not self._timed:
                self._timed = True
                self._book.later(self._flush)
        if over:
            self._book.end(self.card)

    def rewrite(self, about: JsonObject) -> None:
        """Put something new on the run's card."""
        self.card = replace(self.card, about=about)
        self._book.rewrite(self.card)

    def reread(self) -> None:
        """Somebody in another process has put something new on the card."""
        self.card = self._book.card(self.card.id) or self.card

    def drop(self) -> None:
        """The run is not to be found any more."""
        self._book.drop(self.card)

    def _flush(self) -> None:
        with self._lock:
            self._timed = False
            if self._waiting:
                self._write()

    def _write(self) -> None:
        events, self._waiting = tuple(self._waiting), []
        self._book.write(self.card.id, Page(self._written + 1, events))
        self._written += len(events)


def _name(run_id: str) -> str:
    return f"log:{run_id}"


def _text(card: Card) -> bytes:
    return dumps(
        {
            "id": card.id,
            "agent": card.agent_id,
            "created": card.created_at,
            "about": card.about,
            "name": card.name,
        }
    )


def _card(value: JsonValue) -> Card:
    match value:
        case {
            "id": str(run_id),
            "agent": str(agent),
            "created": int(created),
            "about": None | dict() as about,
            "name": None | str() as name,
        }:
            return Card(run_id, agent, created, about, name)
    raise TypeError


def _page(text: bytes) -> Page | None:
    try:
        match loads(text):
            case [int(first), [_, *_] as events]:
                return Page(first, tuple(unpack_events(events)))
    except (InvalidJson, UnreadableEvent):
        pass
    _log.warning("what another process has written down could not be read")
    return None
