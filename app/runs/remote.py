"""A run as other processes know it, and what they are told of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..events import RunEvent
from ..messages import JsonValue
from .event_packing import merged, pack_events, unpack_events


class Followed(Protocol):
    """A run as those see it who follow all runs, wherever it is."""

    @property
    def id(self) -> str:
        """Of the run."""

    @property
    def session_key(self) -> str:
        """Its conversation."""

    @property
    def agent_id(self) -> str:
        """Who answers."""

    @property
    def detached(self) -> bool:
        """Nobody reads its stream; see :class:`~.run.RunRequest`."""


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """A run as other processes know it."""

    id: str
    session_key: str
    agent_id: str
    detached: bool


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive events of a run.

    :ivar at: how many letters were said before. :ivar said: those letters, None if they were told before.
    :ivar started_at: when the run left its lanes, Unix milliseconds; None if it has not, or nobody can say.
    """

    run: RemoteRun
    events: Sequence[RunEvent]
    at: int = 0
    said: str | None = None
    started_at: int | None = None


def pack_part(part: Part) -> list[JsonValue]:
    """What is told, as JSON values; texts that follow each other are told as one."""
    run = part.run
    about = (run.id, run.session_key, run.agent_id, run.detached)
    return [*about, part.at, part.said, part.started_at, pack_events(merged(part.events))]


def unpack_part(values: Sequence[JsonValue]) -> Part | None:
    """What :func:`pack_part` was given; None if these are other values.

    :raises UnreadableEvent: they are, but for an event.
    """
    match values:
        case [
            str(run_id),
            str(session_key),
            str(agent_id),
            bool(detached),
            int(at),
            None | str() as said,
            None | int() as started_at,
            [*events],
        ]:
            run = RemoteRun(run_id, session_key, agent_id, detached)
            return Part(run, unpack_events(events), at, said, started_at)
    return None
