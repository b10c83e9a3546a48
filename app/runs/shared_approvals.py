"""Commands that wait for an operator's word in any process, and words given in any other."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import cast, get_args

from ..bus import Bus
from ..log import get_logger
from ..tools.approvals import Approval, Approvals, Decision, Outcome
from ..wire import InvalidJson, dumps, loads

_GROUP = "approvals"
_TOPIC = "approvals"
_DECISIONS = get_args(Decision)
# Seconds for which others remember what waits here; nothing waits longer without being announced anew.
_KEPT = 3_600.0

_log = get_logger("exec")


class SharedApprovals:
    """:class:`~app.tools.approvals.Elsewhere` by the bus. Any thread may call any method."""

    def __init__(self, bus: Bus, own: Approvals) -> None:
        self._bus = bus
        self._own = own
        self._lock = threading.Lock()  # what was looked up last is announced last

    def open(self) -> None:
        """Tell others from now on what waits here, and hear what they decide."""
        self._own.elsewhere = self
        self._own.subscribe(self._announce)
        self._bus.subscribe(_TOPIC, self._hear)

    def pending(self) -> list[Approval]:
        """See :meth:`~app.tools.approvals.Elsewhere.pending`."""
        now = time.time() * 1000
        known = filter(None, map(_approval, self._bus.present(_GROUP).values()))
        return sorted((one for one in known if one.expires_at > now), key=lambda one: one.created_at)

    def resolve(self, approval_id: str, decision: Decision) -> bool:
        """See :meth:`~app.tools.approvals.Elsewhere.resolve`."""
        waits = any(one.id == approval_id for one in self.pending())
        if waits:
            self._bus.publish(_TOPIC, dumps([approval_id, decision]))
        return waits

    def _announce(self, _approval: Approval, _outcome: Outcome | None) -> None:
        with self._lock:
            waiting = {one.id: dumps(asdict(one)) for one in self._own.own()}
            self._bus.announce(_GROUP, waiting, _KEPT)

    def _hear(self, message: bytes) -> None:
        try:
            match loads(message):
                case [str(approval_id), str(decision)] if decision in _DECISIONS:
                    self._own.resolve_own(approval_id, cast(Decision, decision))
        except InvalidJson:
            _log.warning("what an operator has decided elsewhere could not be read")


def _approval(text: bytes) -> Approval | None:
    try:
        match loads(text):
            case {
                "id": str(approval_id),
                "agent_id": str(agent_id),
                "session_key": str(session_key),
                "run_id": str(run_id),
                "command": str(command),
                "directory": str(directory),
                "created_at": int(created_at),
                "expires_at": int(expires_at),
            }:
                where = (agent_id, session_key, run_id)
                return Approval(approval_id, *where, command, directory, created_at, expires_at)
    except InvalidJson:
        pass
    _log.warning("a command that waits elsewhere could not be read")
    return None
