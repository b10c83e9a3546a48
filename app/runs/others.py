"""What a process asks about runs that are not its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..cancel import CancelReason


class Others(Protocol):
    """The other processes of a gateway. Any thread may call any method.

    :raises StoreError: from every method that asks the store.
    """

    def session_of(self, run_id: str) -> str | None:
        """The session of a run that is waiting or running in another process; None if none is."""

    def active(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """The runs of sessions that wait or run in other processes, the oldest first."""

    def cancel(self, run_id: str, reason: CancelReason) -> bool:
        """Ask for the stop of a run; True if it is waiting or running in another process."""

    def cancel_session(self, key: str, reason: CancelReason) -> list[str]:
        """Ask for the stop of all runs of a session and of its sub-agents; the ids of the session's own."""


class Nobody:
    """:class:`Others` of a process that has none."""

    def session_of(self, _: str) -> str | None:
        """See :meth:`Others.session_of`."""
        return None

    def active(self, _: Iterable[str]) -> dict[str, list[str]]:
        """See :meth:`Others.active`."""
        return {}

    def cancel(self, _run_id: str, _reason: CancelReason) -> bool:
        """See :meth:`Others.cancel`."""
        return False

    def cancel_session(self, _key: str, _reason: CancelReason) -> list[str]:
        """See :meth:`Others.cancel_session`."""
        return []


NOBODY = Nobody()
