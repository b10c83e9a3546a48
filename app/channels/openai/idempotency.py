"""``Idempotency-Key``: what is asked again under its key is answered again, and done once.

The run of a kept session has an id that follows from the key, so that its record is found after a
restart. Of any other no answer is stored, and it is known only as long as the journal keeps it: to other
workers until its own one dies. Whoever has the secret is the owner, so a key is the gateway's and not one
of several callers'.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from ...bus import Bus
from ...errors import Gone, InvalidRequest, KeyReused, RunInterrupted, RunUnderWay
from ...events import RunCompleted, RunFailed, TerminalEvent
from ...messages import JsonValue
from ...runs.elsewhere import RemoteJournaledRun
from ...runs.journal import Journal, JournaledRun, KeptRun
from ...runs.outcomes import ending_of
from ...sessions.records import INTERRUPTED, Run
from ...sessions.store import Store
from ...wire import canonical
from .kept import kept_of

HEADER = "idempotency-key"

_LONGEST = 255
_NAMESPACE = uuid.UUID("6b2f3c0e-8a52-4f0e-9f0b-3d1d1f7a6c15")
_LEASE = 30.0  # seconds in which a run is begun or refused, if its worker lives
_POLL = 0.03
_SHOWS_ONLY = frozenset({"stream", "stream_options"})  # how the answer comes, not what it is


def key_of(headers: Mapping[str, str]) -> str | None:
    """The key of a request, if it has one.

    :param headers: names in lower case.
    :raises InvalidRequest: it is empty, too long or not printable ASCII.
    """
    key = headers.get(HEADER)
    if key is None:
        return None
    if not (0 < len(key) <= _LONGEST and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"The Idempotency-Key must be 1 to {_LONGEST} printable ASCII characters.",
            param="Idempotency-Key",
        )
    return key


def fingerprint_of(body: JsonValue, headers: Mapping[str, str]) -> str:
    """The same for requests that ask for the same, streamed or not.

    :raises InvalidRequest: the body is nested too deeply.
    """
    asked = {k: v for k, v in body.items() if k not in _SHOWS_ONLY} if isinstance(body, dict) else body
    meant = {k: v for k, v in headers.items() if k.startswith("x-openclaw-") and k != "x-openclaw-events"}
    try:
        return sha256(canonical([asked, meant])).hexdigest()
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply to have an Idempotency-Key.") from None


@dataclass(frozen=True, slots=True)
class Told:
    """A run that is over, by its record."""

    record: Run
    ending: TerminalEvent


class Keys:
    """Finds what was asked under a key before. Any thread may call any method."""

    def __init__(self, journal: Journal, store: Store, bus: Bus) -> None:
        self._journal = journal
        self._store = store
        self._bus = bus
        # Reentrant for the condition's sake, as in RunService; guards _claimed.
        self._changed = threading.Condition(threading.RLock())
        self._claimed: set[str] = set()

    def find(self, key: str, fingerprint: str, begin: Callable[[], JournaledRun]) -> KeptRun | Told | None:
        """What was asked under ``key`` before; None if this is the first time, which ``begin`` has begun.

        Whoever asks under the same key meanwhile waits until it has begun or was refused.

        :raises KeyReused: it was something else.
        :raises RunUnderWay: it goes on, and nobody can read it any more.
        :raises RunInterrupted: it ended because the gateway did.
        :raises Gone: its session was deleted.
        :raises GatewayError: what ``begin`` raises; the key is then as free as before.
        """
        with self._claim(key), self._claim_everywhere(key):
            found = self._known(key, fingerprint)
            if found is None:
                begin()
            return found

    def _known(self, key: str, fingerprint: str) -> KeptRun | Told | None:
        run = self._journal.get(journal_name(key))
        if run is not None and not self._is_lost(run) and (kept := kept_of(run)) is not None:
            _require(kept.fingerprint == fingerprint)
            return run
        record = self._store.get_run(run_id_of(key))
        if record is None:
            return None
        _require(record.fingerprint == fingerprint)
        return Told(record, told_ending(record, self._store))

    def _is_lost(self, run: KeptRun) -> bool:
        """True for a run of a worker that died; like one before a restart it is known by its record only."""
        if not (isinstance(run, RemoteJournaledRun) and isinstance(run.ending, RunFailed)):
            return False
        if run.ending.error.code not in INTERRUPTED:
            return False
        self._journal.forget(run.id)
        return True

    @contextmanager
    def _claim_everywhere(self, key: str) -> Iterator[None]:
        """What :meth:`_claim` does in this worker, in all of them; a worker that dies with it loses it."""
        if not self._bus.shared:
            yield
            return
        name, value = f"idem:{sha256(key.encode()).hexdigest()}", secrets.token_bytes(8)
        wait = threading.Event()
        while self._bus.claim(name, value, _LEASE) is not None:
            wait.wait(_POLL)
        try:
            yield
        finally:
            self._bus.release(name, value)

    @contextmanager
    def _claim(self, key: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: key not in self._claimed)
            self._claimed.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._claimed.discard(key)
                self._changed.notify_all()


def journal_name(key: str) -> str:
    """The name under which the journal finds the run of a key."""
    return f"openai key {key}"


def run_id_of(key: str) -> str:
    """The id that the run of a key has, if its session is kept."""
    return f"chatcmpl-{uuid.uuid5(_NAMESPACE, key)}"


def told_ending(record: Run, store: Store) -> TerminalEvent:
    """How a recorded run of a kept session ended.

    :raises RunUnderWay, RunInterrupted: it has no ending to tell.
    :raises Gone: it was completed, and its session was deleted.
    """
    if record.ended_at is None:
        raise RunUnderWay
    if record.error_code in INTERRUPTED:
        raise RunInterrupted
    ending = ending_of(record, store)
    if isinstance(ending, RunCompleted) and not ending.text and not store.said_in(record):
        raise Gone("The run was completed, but its session was deleted.")
    return ending


def _require(same: bool) -> None:
    if not same:
        raise KeyReused
