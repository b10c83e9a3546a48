"""JSON at the edges."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wire import InvalidJson, clean, dumps, loads

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_is_written_reads_the_same(value: object) -> None:
    assert loads(dumps(value)) == value


@given(JSON)
def test_every_json_reader_can_read_it(value: object) -> None:
    assert json.loads(dumps(value)) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_invalid_json(data: bytes) -> None:
    with suppress(InvalidJson):
        value = loads(data)
        assert loads(dumps(value)) == value


def test_json_is_compact_utf_8() -> None:
    assert dumps({"a": [1, "é👍\n"], "b": None}) == '{"a":[1,"é👍\\n"],"b":null}'.encode()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xef\xbb\xbf{}", {}),
        (b'"\\ud83d"', "\ufffd"),
        (b'["a\\udc00b", {"\\ud800": 1}]', ["a\ufffdb", {"\ufffd": 1}]),
        (b'"\\ud83d\\udc4d"', "👍"),
        (b"123456789012345678901234567890", 123456789012345678901234567890.0),
        (b" [1.5, true] ", [1.5, True]),
    ],
)
def test_unusual_json_is_read(data: bytes, value: object) -> None:
    assert loads(data) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "expecting value at line 1, column 1"),
        (b"{", "expecting property name enclosed in double quotes at line 1, column 2"),
        (b"[1,\n x]", "expecting value at line 2, column 2"),
        (b"NaN", "NaN is not a JSON value"),
        (b"[-Infinity]", "-Infinity is not a JSON value"),
        (b'"\xff"', "it is not UTF-8 at byte 1"),
        (b"\xff\xfe{\x00}\x00", "it is not UTF-8 at byte 0"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused_in_words(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        loads(data)

    assert str(caught.value) == reason


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=20))
def test_cleaned_text_can_be_encoded_and_clean_text_stays_as_it_is(text: str) -> None:
    cleaned = clean(text)

    cleaned.encode()
    assert clean(cleaned) == cleaned
    if cleaned != text:
        assert any("\ud800" <= char <= "\udfff" for char in text)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_integers_of_any_size_are_written_as_they_are(number: int) -> None:
    assert dumps([number]) == f"[{number}]".encode()


def test_lone_surrogates_are_replaced_on_the_way_out() -> None:
    assert dumps({"a": "x\ud83d"}) == '{"a":"x\ufffd"}'.encode()


def test_what_json_cannot_hold_is_not_written() -> None:
    with pytest.raises((TypeError, ValueError)):
        dumps({"a": object()})
