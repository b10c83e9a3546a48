"""Stop sequences that a model's API does not know."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events import ReasoningDelta, TextDelta
from app.messages import ToolCall, Usage
from app.providers.base import ModelDone, ModelEvent
from app.providers.stops import until_stop

DONE = ModelDone("stop", (), Usage(3, 2))


class Call:
    """A model call that notes whether it was ended early."""

    def __init__(self, pieces: Sequence[str], done: ModelDone = DONE) -> None:
        self.over = False
        self._pieces = pieces
        self._done = done

    def events(self) -> Generator[ModelEvent, None, None]:
        try:
            yield ReasoningDelta("END")
            for piece in self._pieces:
                yield TextDelta(piece)
            yield self._done
        finally:
            self.over = True


def read(
    pieces: Sequence[str], stops: Sequence[str], done: ModelDone = DONE
) -> tuple[str, ModelEvent, list[str]]:
    """The text shown, the last event, and the pieces of text."""
    call = Call(pieces, done)
    thought, *events = until_stop(call.events(), stops)
    assert thought == ReasoningDelta("END")
    assert call.over
    shown = [event.text for event in events if isinstance(event, TextDelta)]
    assert all(shown)
    return "".join(shown), events[-1], shown


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (["one END two"], ["END"], "one "),
        (["one E", "N", "D two"], ["END"], "one "),
        (["one E", "N", "E"], ["END"], "one ENE"),
        (["END"], ["END"], ""),
        (["a", "ab"], ["aab"], ""),
        (["aa", "ab"], ["aab"], "a"),
        (["x then y"], ["y", "then"], "x "),
        (["abc"], ["abc", "b"], "a"),
        (["abc"], ["bc", "abc"], ""),
        (["no stop"], ["END", "\n"], "no stop"),
        (["E"], ["END"], "E"),
        (["ü\n", "\nObservation:"], ["\nObservation:"], "ü\n"),
    ],
)
def test_the_text_ends_before_the_sequence_that_is_complete_first(
    pieces: list[str], stops: list[str], text: str
) -> None:
    assert read(pieces, stops)[0] == text


def test_a_call_that_is_stopped_says_so_and_knows_no_counts() -> None:
    calls = (ToolCall("c", "f", "{}"),)

    assert read(["a END b"], ["END"], ModelDone("tool_calls", calls))[1] == ModelDone("stop")
    assert read(["a b"], ["END"], ModelDone("tool_calls", calls))[1] == ModelDone("tool_calls", calls)


def test_text_that_cannot_be_a_beginning_is_shown_at_once() -> None:
    assert read(["one ", "two E", "ast"], ["END"])[2] == ["one ", "two ", "East"]


TEXTS = st.text("ab\n", max_size=12)


@given(
    st.lists(TEXTS.filter(bool), max_size=6),
    st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=4),
)
def test_however_the_text_is_cut_it_ends_at_the_same_place(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]

    text, last, _ = read(pieces, stops)

    assert text == (whole[: min(ends)[1]] if ends else whole)
    assert last == (ModelDone("stop") if ends else DONE)
