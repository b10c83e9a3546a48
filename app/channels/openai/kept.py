"""What is remembered of a chat completion that can be come back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import NotFound
from ...messages import JsonObject
from ...runs.elsewhere import RemoteJournaledRun
from ...runs.journal import Journal, KeptRun
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

    def card(self) -> JsonObject:
        """The same in JSON's types, for other processes."""
        return {
            "completion": self.completion.card(),
            "model": self.model,
            "metadata": dict(self.metadata),
            "fingerprint": self.fingerprint,
        }


def kept_of(run: KeptRun | None) -> Kept | None:
    """What is kept of a run, if it is a chat completion."""
    if isinstance(run, RemoteJournaledRun):
        return _of_card(run.card.about)
    if run is None or not isinstance(run.about, Kept):
        return None
    noted = _of_card(run.card)  # by now, perhaps in another process
    if noted is not None:
        run.about.metadata = noted.metadata
    return run.about


def find_kept(journal: Journal, run_id: str) -> tuple[KeptRun, Kept] | None:
    """The journaled chat completion with this id."""
    run = journal.get(run_id)
    kept = kept_of(run)
    return (run, kept) if run is not None and kept is not None and run.id == run_id else None


def _of_card(card: Any) -> Kept | None:
    match card:
        case {
            "completion": dict(completion),
            "model": str(model),
            "metadata": dict(metadata),
            "fingerprint": None | str() as fingerprint,
        }:
            return Kept(Completion.of_card(completion), model, metadata, fingerprint)
    return None


def no_such_completion(run_id: str) -> NotFound:
    """The refusal of an id under which nothing is known, or nothing any more."""
    return NotFound(f"There is no chat completion {run_id[:100]!r}, or none is kept under this id.")
