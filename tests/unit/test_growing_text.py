"""A text that grows is the text of its pieces, however many they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.text import GrowingText


@given(st.text(max_size=10), st.lists(st.text(max_size=4), max_size=300))
def test_it_is_its_pieces_one_after_the_other(first: str, pieces: list[str]) -> None:
    text = GrowingText(first)
    for piece in pieces:
        text.add(piece)

    whole = first + "".join(pieces)
    assert str(text) == whole
    assert len(text) == len(whole)
    assert bool(text) == bool(whole)
