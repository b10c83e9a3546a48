"""Stop sequences, for APIs that have none."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from ..events import TextDelta
from .base import ModelDone, ModelEvent


def until_stop(
    events: Generator[ModelEvent, None, None], stops: Sequence[str]
) -> Generator[ModelEvent, None, None]:
    """``events`` up to where the text first contains one of ``stops``, which is not shown.

    The call ends there, so that nobody can say how many tokens it took.
    """
    watch = _Watch(stops)
    with closing(events):
        for event in events:
            if isinstance(event, TextDelta):
                if shown := watch.feed(event.text):
                    yield TextDelta(shown)
                if watch.reached:
                    yield ModelDone("stop")
                    return
                continue
            if isinstance(event, ModelDone) and watch.held:
                yield TextDelta(watch.held)
            yield event


class _Watch:
    """Shows text as it comes, but for what may be the beginning of a stop sequence.

    :ivar held: what is not shown yet.
    :ivar reached: a stop sequence has come; nothing more is shown.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self.held = ""
        self.reached = False

    def feed(self, text: str) -> str:
        text = self.held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:  # the one that is complete first
            self.reached, self.held = True, ""
            return text[: min(found)[1]]
        begun = max(_begun(text, stop) for stop in self._stops)
        self.held = text[len(text) - begun :]
        return text[: len(text) - begun]


def _begun(text: str, stop: str) -> int:
    """How many characters of ``stop`` the text ends with."""
    longest = min(len(stop) - 1, len(text))
    return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)
