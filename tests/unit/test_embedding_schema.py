"""The request and the answer of `/v1/embeddings`, and long texts in parts."""

from __future__ import annotations

import base64
import json
import struct
from array import array
from math import hypot, isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.openai.embeddings import (
    EmbeddingsRequest,
    embedding_object,
    embeddings_body,
    parse_embeddings_request,
)
from app.errors import InvalidRequest
from app.messages import Usage
from app.providers.base import Embeddings
from app.providers.embedded_child import BATCH
from app.providers.embedded_parts import Means, parts_of

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)


def parse(**fields: Any) -> EmbeddingsRequest:
    return parse_embeddings_request({"model": "openclaw", "input": "hi"} | fields)


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value


# the request


def test_what_is_not_said_has_its_default() -> None:
    assert parse() == EmbeddingsRequest("openclaw", ("hi",), as_base64=False, dimensions=None, user=None)


def test_all_fields_are_read_and_unknown_ones_ignored() -> None:
    asked = parse(input=["a", " "], encoding_format="base64", dimensions=3, user=" me ", colour="red")

    assert asked == EmbeddingsRequest("openclaw", ("a", " "), as_base64=True, dimensions=3, user="me")


def test_null_is_as_good_as_nothing() -> None:
    assert parse(encoding_format=None, dimensions=None, user=None) == parse()


@pytest.mark.parametrize(
    ("stated", "inputs"),
    [
        ("hi", ("hi",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        (["x"] * 2048, ("x",) * 2048),
        ([1] * 8000, ((1,) * 8000,)),
    ],
)
def test_inputs_are_texts_or_tokens_one_or_many(stated: Any, inputs: Any) -> None:
    assert parse(input=stated).inputs == inputs


@pytest.mark.parametrize(
    ("stated", "param"),
    [
        (None, "input"),
        ("", "input"),
        ([], "input"),
        (7, "input"),
        (True, "input"),
        ({"text": "hi"}, "input"),
        (["x"] * 2049, "input"),
        (["a", ""], "input[1]"),
        (["a", 1], "input[1]"),
        (["a", None], "input[1]"),
        (["a", ["b"]], "input[1]"),
        ([1.5], "input[0]"),
        ([None], "input[0]"),
        ([[]], "input[0]"),
        ([[1], []], "input[1]"),
        ([[1], "b"], "input[1]"),
        ([[1, "b"]], "input[0]"),
        ([[True]], "input[0]"),
        ([[-1]], "input[0]"),
        ([1, -1], "input"),
        ([1, 2**31], "input"),
        ([1, "a"], "input"),
        ([True], "input"),
    ],
)
def test_other_inputs_are_refused_by_name(stated: Any, param: str) -> None:
    error = refusal(input=stated)

    assert error.param == param
    assert f"`{param}`" in str(error)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"encoding_format": ["float"]}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": -1}, "dimensions"),
        ({"dimensions": 1.5}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"dimensions": 2**31}, "dimensions"),
        ({"user": 5}, "user"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


@pytest.mark.parametrize("body", [None, [], "hi", 5])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_embeddings_request(body)


# the answer


@given(FLOATS)
def test_both_formats_hold_the_very_same_numbers(numbers: list[float]) -> None:
    vector = array("f", numbers)

    as_numbers = json.loads(embedding_object(vector, 3, parse()))
    as_text = json.loads(embedding_object(vector, 3, parse(encoding_format="base64")))

    assert as_numbers == {"object": "embedding", "index": 3, "embedding": numbers}
    data = base64.b64decode(as_text.pop("embedding"), validate=True)
    assert list(struct.unpack(f"<{len(numbers)}f", data)) == numbers
    assert as_text == {"object": "embedding", "index": 3}


def test_the_answer_repeats_the_model_and_counts_the_inputs_tokens() -> None:
    entry = embedding_object(array("f", [0.5]), 0, parse())

    assert json.loads(embeddings_body([entry, entry], 'a"b', Usage(input=5))) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}] * 2,
        "model": 'a"b',
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }


# long texts


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


@given(st.lists(st.integers(min_value=1, max_value=5 * BATCH), max_size=5))
def test_parts_are_short_of_about_one_length_and_leave_nothing_out(counts: list[int]) -> None:
    texts = ["word " * count for count in counts]

    parts = list(parts_of(texts, words))

    for number, text in enumerate(texts):
        own = [part for owner, part in parts if owner == number]
        if len(words(text)) <= BATCH:
            assert own == [text]
            continue
        cut = [part for part in own if isinstance(part, tuple)]
        assert [token for part in cut for token in part] == words(text)
        assert all(BATCH / 3 < len(part) <= BATCH for part in cut)
    assert [owner for owner, _ in parts] == sorted(owner for owner, _ in parts)


def test_a_short_text_is_not_cut_into_tokens_to_find_out() -> None:
    assert list(parts_of(["short", "kürzer"], lambda text: pytest.fail(text))) == [
        (0, "short"),
        (1, "kürzer"),
    ]


def test_the_vector_of_a_long_text_is_the_mean_of_its_parts_and_has_the_length_1() -> None:
    means = Means(2)
    means.add([0, 1], Embeddings((array("f", [1, 0]), array("f", [0, 1])), Usage(input=3)))
    means.add([1], Embeddings((array("f", [1, 0]),), Usage(input=4)))

    answer = means.embeddings()

    assert list(answer.vectors[0]) == [1.0, 0.0]
    assert all(isclose(number, 0.5**0.5, rel_tol=1e-6) for number in answer.vectors[1])
    assert isclose(hypot(*answer.vectors[1]), 1, rel_tol=1e-6)
    assert answer.usage == Usage(input=7)


def test_parts_that_cancel_each_other_out_are_no_division_by_zero() -> None:
    means = Means(1)
    means.add([0, 0], Embeddings((array("f", [1]), array("f", [-1]))))

    assert list(means.embeddings().vectors[0]) == [0.0]
