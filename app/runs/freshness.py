"""When a conversation begins anew by itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Literal

from ..sessions.records import Session


@dataclass(frozen=True, slots=True)
class ResetPolicy:
    """After which silence, or at which hour of the day, a session is stale.

    :ivar zone: where ``at_hour`` is told; None is where this machine is.
    """

    mode: Literal["none", "daily", "idle"]
    at_hour: int
    idle_minutes: int | None
    zone: tzinfo | None

    def is_stale(self, session: Session, now: int) -> bool:
        """True if a message that arrives at ``now`` (Unix milliseconds) begins a new session."""
        if self.mode == "none":
            return False
        idle_minutes = self.idle_minutes or (60 if self.mode == "idle" else None)
        if idle_minutes is not None and now - session.active_at > idle_minutes * 60_000:
            return True
        return self.mode == "daily" and session.created_at < self._last_reset(now)

    def _last_reset(self, now: int) -> int:
        """The newest reset hour before ``now``, in Unix milliseconds."""
        local = datetime.fromtimestamp(now / 1000, self.zone)
        reset = local.replace(hour=self.at_hour, minute=0, second=0, microsecond=0)
        if reset > local:
            # The day before by the calendar, so that a change of the clocks moves nothing.
            day = (local - timedelta(days=1)).date()
            reset = datetime(day.year, day.month, day.day, self.at_hour, tzinfo=self.zone)
        return int(reset.timestamp() * 1000)
