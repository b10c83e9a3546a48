"""Tells everybody who is connected of every run, whichever channel it came in by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ...errors import StoreError
from ...events import TERMINAL, RunEvent, TextDelta
from ...runs.executor import Deadline, Executor
from ...runs.remote import Followed
from ...runs.run import Listener
from ...sessions.records import Added
from ...sessions.store import Store
from ...wire import dumps
from .audiences import READERS, followers, may_read
from .events import DELTA_MILLISECONDS, Frame, Narrator, final
from .history import shown
from .hub import Hub
from .protocol import Peer

_SHOWS_TOOLS = ("on", "full")
_SPELLINGS = 4_000


@dataclass(slots=True)
class _Live:
    """A run that is told. Tools may speak at the same time, but one after another is told."""

    narrator: Narrator
    session_key: str
    verbose: bool | None = None  # whether the session shows tools to all; None while nobody has asked
    over: bool = False
    delta: Deadline | None = None  # when it is time for what is held back
    lock: threading.Lock = field(default_factory=threading.Lock)


class Feed:
    """Turns runs into ``agent`` and ``chat`` events, and what is stored into ``session.message`` events.

    Any thread may call any method; none blocks for long.
    """

    def __init__(self, hub: Hub, store: Store, clock: Callable[[], int], executor: Executor) -> None:
        """:param clock: unix time in milliseconds."""
        self._hub = hub
        self._executor = executor
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()  # guards both collections
        self._live: dict[str, _Live] = {}
        # run -> peer -> the session key as it wrote it
        self._spellings: OrderedDict[str, dict[str, str]] = OrderedDict()

    def observe(self, run: Followed) -> Listener:
        """Listens to a run, which is about to begin or to end, or goes on in another process."""
        live = _Live(Narrator(run.id, run.session_key, run.agent_id), run.session_key)
        with self._lock:
            self._live[run.id] = live
        return partial(self._hear, run.id, live)

    def _hear(self, run_id: str, live: _Live, event: RunEvent) -> None:
        if isinstance(event, TextDelta) and not self._hub.has_peers:
            live.narrator.hear(event)  # no lock: one thread writes the answer, and nobody is told of it
            return
        ends = isinstance(event, TERMINAL)
        with live.lock:
            if live.over:
                return
            live.over = ends
            if self._hub.has_peers:
                for frame in live.narrator.tell(event, self._clock()):
                    self._send(run_id, live, frame)
                self._remember_delta(run_id, live)
            else:
                live.narrator.hear(event)
        if ends:
            with self._lock:
                self._live.pop(run_id, None)
                self._spellings.pop(run_id, None)

    def answers(self, run_id: str, peer: Peer, written: str | None) -> None:
        """Show a run's session key to ``peer`` as it has written it; to be said before the run starts.

        Clients of protocol 4 expect the key in its full form, all others their own.
        """
        if peer.protocol == 3 and written is not None:
            with self._lock:
                self._spellings.setdefault(run_id, {})[peer.id] = written
                if len(self._spellings) > _SPELLINGS:  # of runs that never came about
                    self._spellings.popitem(last=False)

    def say(self, run_id: str, session_key: str, agent_id: str, text: str) -> None:
        """Tell everybody what the gateway itself has answered: a ``chat`` final without a run."""
        payload = final(run_id, session_key, agent_id, text, self._clock())
        self._broadcast(run_id, Frame("chat", payload), may_read)
        self._hub.announce_elsewhere("chat", READERS, dumps(payload))
        with self._lock:
            self._spellings.pop(run_id, None)

    def stored(self, added: Added) -> None:
        """Tell those who follow a session's messages what was added to them."""
        audience = followers(added.session_key)
        for entry in added.entries if self._hub.reaches(audience) else ():
            payload = {
                "sessionKey": added.session_key,
                "agentId": added.agent_id,
                "runId": entry.run_id,
                "message": shown(entry),
            }
            self._hub.announce("session.message", audience, dumps(payload))

    def in_flight(self, session_key: str) -> tuple[str, str] | None:
        """The run that is under way in a session, and what it has said so far."""
        with self._lock:
            everybody = list(self._live.items())
        for run_id, live in everybody:
            if live.session_key == session_key:
                with live.lock:
                    return run_id, live.narrator.text
        return None

    def _remember_delta(self, run_id: str, live: _Live) -> None:
        """A model that pauses must not keep from anybody what it has said. ``live`` is locked."""
        if live.narrator.behind and (live.delta is None or live.delta.cleared):
            live.delta = self._executor.after(DELTA_MILLISECONDS / 1000, lambda: self._catch_up(run_id, live))

    def _catch_up(self, run_id: str, live: _Live) -> None:
        with live.lock:
            for frame in live.narrator.catch_up(self._clock()):
                self._send(run_id, live, frame)
            self._remember_delta(run_id, live)

    def _send(self, run_id: str, live: _Live, frame: Frame) -> None:
        def wants_tools(peer: Peer) -> bool:
            return may_read(peer) and self._shows_tools(peer, live)

        self._broadcast(run_id, frame, wants_tools if frame.about_tools else may_read)

    def _broadcast(self, run_id: str, frame: Frame, accepts: Callable[[Peer], bool]) -> None:
        """Encode once for all, and once more for each that knows the session by another name."""
        audience = [peer for peer in self._hub.peers() if accepts(peer)]
        if not audience:
            return
        with self._lock:
            spellings = dict(self._spellings.get(run_id, ()))
        encoded = dumps(frame.payload)
        for peer in audience:
            key = spellings.get(peer.id)
            payload = encoded if key is None else dumps(frame.payload | {"sessionKey": key})
            peer.event(frame.name, payload, droppable=frame.droppable)

    def _shows_tools(self, peer: Peer, live: _Live) -> bool:
        if peer.protocol == 4:
            return "tool-events" in peer.client.caps
        if live.verbose is None:
            live.verbose = self._is_verbose(live.session_key)
        return live.verbose

    def _is_verbose(self, session_key: str) -> bool:
        try:
            session = self._store.session(session_key)
        except StoreError:
            return False
        return session is not None and session.settings.verbose in _SHOWS_TOOLS
