"""A run's events on tape: packed, numbered, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events import ReasoningDelta, RunCompleted, RunEvent, TextDelta, ToolFinished, ToolStarted
from app.messages import Usage
from app.runs.tape import Tape

PLENTY = 2**30

texts = st.text(max_size=6)
events = st.one_of(
    st.builds(TextDelta, texts),
    st.builds(TextDelta, texts),
    st.builds(ReasoningDelta, texts),
    st.builds(ToolStarted, texts, texts, texts),
    st.builds(ToolFinished, texts, texts, st.booleans(), st.integers(0, 3).map(lambda n: n * 40_000 * "x")),
)


def written(events: list[RunEvent], limit: int = PLENTY) -> Tape:
    tape = Tape(limit)
    for event in events:
        tape.append(event)
    return tape


def read(tape: Tape, after: int = 0) -> list[RunEvent]:
    found: list[RunEvent] = []
    while more := tape.after(after + len(found)):
        found += more
    return found


@given(st.lists(events, max_size=30), st.integers(1, 60), st.data())
def test_whatever_follows_a_number_comes_as_it_was(
    few: list[RunEvent], times: int, data: st.DataObject
) -> None:
    many = few * times
    tape = written(many)

    after = data.draw(st.integers(0, len(many)))

    assert tape.last == len(many)
    assert read(tape, after) == many[after:]


@given(st.lists(events, min_size=1, max_size=30), st.integers(1, 60), st.integers(1, 200_000))
def test_what_does_not_fit_goes_from_the_front_and_the_newest_stays(
    few: list[RunEvent], times: int, limit: int
) -> None:
    many = few * times
    tape = written(many, limit)

    assert tape.last == len(many)
    assert tape.lost < len(many)
    assert read(tape, tape.lost) == many[tape.lost :]
    for gone in {0, tape.lost // 2, tape.lost - 1} & set(range(tape.lost)):
        with pytest.raises(LookupError):
            tape.after(gone)


def test_the_pieces_of_a_long_answer_take_little_more_room_than_its_letters() -> None:
    tape = written([TextDelta("word ") for _ in range(100_000)])

    assert 500_000 <= tape.size < 1_700_000


def test_a_tape_stays_within_its_limit() -> None:
    tape = Tape(200_000)
    for number in range(20_000):
        tape.append(TextDelta(f"{number} {'x' * 90}"))
        assert tape.size <= 200_000 or tape.lost == 0

    assert 100_000 < tape.size <= 200_000


def test_an_event_larger_than_the_limit_is_kept_while_it_is_the_newest() -> None:
    tape = written([TextDelta("a"), RunCompleted("x" * 1_000_000, "stop", Usage())], limit=1_000)

    assert read(tape, tape.last - 1) == [RunCompleted("x" * 1_000_000, "stop", Usage())]
