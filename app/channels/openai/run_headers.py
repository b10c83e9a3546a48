"""What the headers of a response say about its run."""

from __future__ import annotations

import re
from typing import Protocol

from ...events import TerminalEvent
from ...runs.service import RunService

_UNQUOTABLE = re.compile(r"[^ -~]")


class Answering(Protocol):
    """A run, journaled or not."""

    @property
    def id(self) -> str:
        """Of the run."""

    @property
    def agent_id(self) -> str:
        """Who answers."""

    @property
    def created_at(self) -> int:
        """When it was asked for, Unix milliseconds."""

    @property
    def started_at(self) -> int | None:
        """When it left its lanes, Unix milliseconds."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """Parameters that the model does not take."""


def run_headers(
    run: Answering, ending: TerminalEvent | None = None, ignored: tuple[str, ...] = ()
) -> dict[str, str]:
    """``x-request-id``, ``openclaw-run`` and, if there is need, ``openclaw-ignored``.

    :param ending: how the run ended, if it has. Before that, who answers and when is not known.
    :param ignored: parameters that no model would have taken.
    """
    headers = {"x-request-id": run.id, "openclaw-run": _described(run, ending)}
    if names := ignored + run.ignored:
        headers["openclaw-ignored"] = ", ".join(dict.fromkeys(names))
    return headers


def limit_headers(runs: RunService, session_key: str | None) -> dict[str, str]:
    """How many requests may be under way at a time, and how many more may come now.

    :param session_key: None for a request that has its session for itself.
    """
    limit, remaining = runs.room(session_key)
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": "0s" if remaining else "1s",
    }


def _described(run: Answering, ending: TerminalEvent | None) -> str:
    """A dictionary of RFC 9651: ``id="…", agent="main", model="…", queued=3``, in milliseconds."""
    text = f'id="{run.id}", agent="{run.agent_id}"'
    if ending is None:
        return text
    if model := getattr(ending, "model", ""):
        text += f", model={_quoted(model)}"
    if run.started_at is not None:
        text += f", queued={max(0, run.started_at - run.created_at)}"
    return text


def _quoted(text: str) -> str:
    printable = _UNQUOTABLE.sub("?", text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
