"""What is remembered of a chat completion that can be come back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import NotFound
from ...runs.journal import Journal, JournaledRun
from .chunks import Completion


@dataclass(slots=True)
class Kept:
    """Is in :attr:`JournaledRun.about`.

    :ivar model: as the client wrote it.
    :ivar metadata: the client's notes; replaced as a whole.
    :ivar fingerprint: of what was asked; None without a key.
    """

    completion: Completion
    model: str
    metadata: Mapping[str, str]
    fingerprint: str | None


def kept_of(run: JournaledRun | None) -> Kept | None:
    """What is kept of a run, if it is a chat completion."""
    return run.about if run is not None and isinstance(run.about, Kept) else None


def find_kept(journal: Journal, run_id: str) -> tuple[JournaledRun, Kept] | None:
    """The journaled chat completion with this id."""
    run = journal.get(run_id)
    kept = kept_of(run)
    return (run, kept) if run is not None and kept is not None and run.id == run_id else None


def no_such_completion(run_id: str) -> NotFound:
    """The refusal of an id under which nothing is known, or nothing any more."""
    return NotFound(f"There is no chat completion {run_id[:100]!r}, or none is kept under this id.")
