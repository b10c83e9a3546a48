"""What the methods of the protocol work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...runs.outcomes import Outcomes
from ...runtime import Runtime
from ..auth import Guard
from .feed import Feed
from .hub import Hub
from .protocol import Limits


@dataclass(frozen=True)
class Channel:
    """One gateway's WebSocket channel. Immutable; the parts guard themselves.

    :ivar version: of this gateway, as clients are told.
    :ivar started_at: unix time in milliseconds.
    :ivar clock: unix time in milliseconds.
    :ivar new_id: a new unique id.
    """

    runtime: Runtime
    hub: Hub
    feed: Feed
    outcomes: Outcomes
    guard: Guard
    limits: Limits
    version: str
    started_at: int
    clock: Callable[[], int]
    new_id: Callable[[], str]
