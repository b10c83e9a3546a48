"""Answers in JSON: what is taken for one, and what of it is objected to."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from app.agents.schema_child import value_fault as here
from app.agents.schemas import schema_fault, value_fault
from app.agents.structured import OutputViolation, checked_output
from app.cancel import Cancelled, CancelReason, CancelToken
from app.wire import dumps

OBJECT = {"type": "json_object"}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def by(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def checked(text: str, response_format: dict[str, Any] = OBJECT) -> str:
    return checked_output(response_format, text, CancelToken())


def violation(text: str, response_format: dict[str, Any] = OBJECT) -> str:
    with pytest.raises(OutputViolation) as caught:
        checked(text, response_format)
    return str(caught.value)


# what is taken for an answer


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        ' \n{"a": 1}\n\n',
        '\ufeff{"a": 1}',
        '```json\n{"a": 1}\n```',
        '```\n{"a": 1}\n```',
        'Here it is:\n```json\n{"a": 1}\n```\nAnything else?',
        'Sure! {"a": 1}',
        '{"a": 1} I hope that this helps.',
    ],
)
def test_the_only_json_in_a_text_is_the_answer(text: str) -> None:
    assert checked(text) == '{"a": 1}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no idea",
        '{"a": 1',
        '{"a": 1} {"a": 2}',
        '{"a": 1}\n[2]',
        '[1] {"a": 1}',
        '```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```',
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": 1,}',
        "[" * 2000 + "]" * 2000,
    ],
)
def test_what_is_no_json_or_more_than_one_is_objected_to(text: str) -> None:
    assert violation(text).startswith("It is not JSON: ")


@pytest.mark.parametrize("text", ["[]", '"{}"', "1", "null", "true"])
def test_json_mode_wants_an_object(text: str) -> None:
    assert "object" in violation(text)
    assert "object" in violation(text, {"type": "json_schema", "json_schema": {"name": "without"}})


def test_numbers_and_escapes_stay_as_the_model_wrote_them() -> None:
    text = '{"a": 1.10, "b": "\\u00e9\\/", "c": 12345678901234567890123}'
    assert checked(f"```json\n{text}\n```") == text


def test_a_schema_may_ask_for_what_is_no_object() -> None:
    assert checked(" 42 ", by({"type": "integer"})) == "42"
    assert checked('```\n"x"\n```', by({"type": "string"})) == '"x"'


# what the model is told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"name": "Ada"}, "$: 'age' is a required property."),
        ({"name": "Ada", "age": "36"}, "$.age: '36' is not of type 'integer'."),
        (
            {"name": 1, "age": "36"},
            "$.name: 1 is not of type 'string'; $.age: '36' is not of type 'integer'.",
        ),
    ],
)
def test_a_violation_says_where_and_what(answer: Any, told: str) -> None:
    assert violation(json.dumps(answer), by(PERSON)) == told


def test_a_violation_is_short_whatever_is_wrong() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    assert len(violation(json.dumps(["word " * 10_000] * 50), by(schema))) < 1500
    assert len(violation(json.dumps({"k" * 5000: 1}), by({"additionalProperties": {"type": "string"}}))) < 800
    assert "is not of type 'string'" in violation(
        json.dumps({"a": list(range(9999))}), by({"properties": {"a": {"type": "string"}}})
    )


def test_references_within_the_schema_are_followed() -> None:
    tree = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.com/tree",
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "required": ["kids"],
            }
        },
    }
    assert schema_fault(tree) is None
    assert checked('{"kids": [{"kids": []}]}', by(tree))
    assert violation('{"kids": [{"kids": [{}]}]}', by(tree)).startswith("$.kids[0].kids[0]: 'kids' is a req")


# schemas


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "objet"}, r"\$\.type: 'objet' is not"),
        ({"properties": {"a": {"minLength": "3"}}}, r"\$\.properties\.a\.minLength: '3' is not of type"),
        ({"required": "a"}, r"\$\.required"),
        ({"$ref": "https://example.com/schema"}, "nothing is fetched"),
        ({"$ref": "other.json#/a"}, "nothing is fetched"),
        ({"items": {"$ref": "#/$defs/gone"}}, "does not point at a schema"),
        ({"items": {"$ref": "#/required"}, "required": []}, "does not point at a schema"),
        ({"$ref": "#/hidden", "hidden": {"type": 5}}, r"\$\.type: 5 is not"),
        ({"$ref": "#/hidden", "hidden": {"pattern": "("}}, "cannot be read"),
        ({"properties": {"a": {"pattern": "("}}}, "cannot be read"),
        ({"patternProperties": {"[": {}}}, "cannot be read"),
        ({"items": {"$id": "https://example.com/a"}}, r"`\$id` is not served"),
        ({"$dynamicRef": "#x"}, r"`\$dynamicRef` is not served"),
    ],
)
def test_a_schema_that_answers_cannot_be_judged_by_is_known_before(schema: Any, fault: str) -> None:
    large = {**schema, "description": "x" * 10_000}
    for one in (schema, large):  # here, and in a process of its own
        assert re.search(fault, schema_fault(one) or "")


def test_a_property_may_be_called_like_a_keyword() -> None:
    names = ("$ref", "pattern", "$id", "items", "$dynamicRef", "uniqueItems", "unevaluatedItems", "$defs")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    assert schema_fault(schema) is None
    assert checked(json.dumps(dict.fromkeys(names, "x")), by(schema))
    assert violation('{"pattern": 1}', by(schema)) == "$.pattern: 1 is not of type 'string'."


# the property


SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 1e300, 2**70, "", "a", "ab"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
KINDS = ("null", "boolean", "integer", "number", "string", "array", "object")


FLAT: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(KINDS) | st.lists(st.sampled_from(KINDS), min_size=1, unique=True),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "const": VALUES,
    "required": st.lists(st.sampled_from("abc"), unique=True),
    "minItems": st.integers(0, 3),
    "maxProperties": st.integers(0, 3),
    "maxLength": st.integers(0, 3),
    "minimum": st.integers(-3, 3),
    "multipleOf": st.sampled_from([0.1, 0.5, 1, 2]),
    "uniqueItems": st.booleans(),
}
NAMED, LISTED = ("properties", "$defs"), ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "not")
REFS = ("#", "#/$defs/a", "#/properties/a", "#/items")


@st.composite
def schemas(draw: st.DrawFn, refs: tuple[str, ...] = (), depth: int = 3) -> Any:
    """A schema with one to three keywords."""
    if not depth:
        return draw(st.sampled_from([True, False, {}, {"type": "object"}, {"type": "integer"}]))
    deeper = schemas(refs, depth - 1)
    keywords = [*FLAT, *NAMED, *LISTED, *SINGLE]
    schema: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(keywords), min_size=1, max_size=3)):
        if name in FLAT:
            schema[name] = draw(FLAT[name])
        elif name in NAMED:
            schema[name] = draw(st.dictionaries(st.sampled_from("abc"), deeper, max_size=2))
        else:
            schema[name] = draw(st.lists(deeper, min_size=1, max_size=2) if name in LISTED else deeper)
    return {"$ref": draw(st.sampled_from(refs)), **schema} if refs and draw(st.booleans()) else schema


@settings(max_examples=300, deadline=None)
@given(schema=schemas(), value=VALUES)
def test_an_answer_is_taken_exactly_if_the_schema_allows_it(schema: Any, value: Any) -> None:
    assert schema_fault(schema) is None
    text = dumps(value).decode()
    if Draft202012Validator(schema).is_valid(value):
        assert checked(f"Here:\n{text}" if isinstance(value, dict) else text, by(schema)) == text
    else:
        assert violation(text, by(schema))


@settings(max_examples=100, deadline=None)
@given(schema=schemas(REFS), value=VALUES)
def test_whatever_refers_to_whatever_there_is_a_verdict(schema: Any, value: Any) -> None:
    if schema_fault(schema) is None:
        fault = here(schema, value)
        assert fault is None or fault.endswith(".")


@settings(max_examples=300, deadline=None)
@given(
    schema=st.just({})
    | st.dictionaries(
        st.sampled_from(
            ["type", "properties", "items", "$ref", "pattern", "anyOf", "$defs", "required", "enum", "not"]
        ),
        VALUES,
    )
)
def test_whatever_is_sent_as_a_schema_is_taken_or_refused(schema: Any) -> None:
    fault = schema_fault(schema)
    assert fault is None or fault.endswith(".")


@given(text=st.text() | st.text(alphabet='{}[]",:1 \\`\nnul'))
def test_whatever_the_model_says_is_json_or_objected_to(text: str) -> None:
    try:
        taken = checked(text)
    except OutputViolation:
        return
    assert isinstance(json.loads(taken), dict)


# what could take for ever


def doubled(levels: int) -> dict[str, Any]:
    """Each part holds the next one twice."""
    parts = {f"p{i}": {"allOf": [{"$ref": f"#/$defs/p{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/p0", "$defs": {**parts, f"p{levels}": {"type": "object"}}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, {"a": "a" * 60 + "b"}),
        (doubled(40), {}),
        ({"$ref": "#"}, {}),
    ],
)
def test_work_without_end_is_stopped_and_holds_up_nobody(schema: Any, value: Any) -> None:
    assert schema_fault(schema) is None
    began, used = time.monotonic(), time.thread_time()

    assert value_fault(schema, value, CancelToken())

    assert time.monotonic() - began < 10
    assert time.thread_time() - used < 0.5


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"allOf": [{"type": "object"}] * 5000}, {"a": 1}),
        ({"anyOf": [{"const": 1}] * 5000 + [{"type": "object"}]}, {"a": "x" * 100_000}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"b": i} for i in range(9000)]}),
        ({"properties": {"a": {"items": {"enum": [f"v{i}" for i in range(3000)]}}}}, {"a": ["v2999"] * 2000}),
        ({"properties": {"a": {"pattern": "^[a-z]+$"}}}, {"a": "abc"}),
    ],
)
def test_much_work_is_done_elsewhere(schema: Any, value: Any) -> None:
    used = time.thread_time()
    assert value_fault(schema, value, CancelToken()) is None
    assert time.thread_time() - used < 0.25


def test_a_cancelled_check_ends_at_once() -> None:
    cancel = CancelToken()
    cancel.cancel(CancelReason.USER)
    with pytest.raises(Cancelled):
        value_fault({"pattern": "(a+)+$"}, "a" * 60 + "b", cancel)


def test_a_usual_answer_is_judged_in_no_time() -> None:
    schema = {
        "type": "object",
        "properties": {f"p{i}": {"type": "array", "items": {"enum": ["a", "b"]}} for i in range(20)},
        "required": [f"p{i}" for i in range(20)],
        "additionalProperties": False,
    }
    value = {f"p{i}": ["a", "b", "a"] for i in range(20)}
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert value_fault(schema, value, CancelToken()) is None
        times.append(time.perf_counter() - began)
    assert min(times) < 0.02  # a process takes longer to begin


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"p{i}": {"pattern": f"[\\x00-\\U0010ffff]{i}"} for i in range(100)}},
        {"const": _nested(60), "allOf": [{"$ref": "#/const" + "/not" * i} for i in range(60)]},
        {"anyOf": [{}] * 2_600},
        {"anyOf": [True] * 1_600},
        {"required": [{"a": i} for i in range(800)]},
        {"type": [name for i in range(900) for name in (i, str(i))]},
        {"anyOf": [{"type": "x"}] * 400},
    ],
    ids=("patterns", "references", "objects", "truths", "not-names", "mixed", "faults"),
)
def test_no_schema_keeps_everybody_else_waiting(schema: Any) -> None:
    began = time.thread_time()
    schema_fault(schema)
    assert time.thread_time() - began < 0.1


def test_a_part_is_weighed_once_in_however_many_spellings_it_is_referred_to() -> None:
    spelt = (
        "".join(f"%{ord(c):02x}" if n >> i & 1 else c for i, c in enumerate("definitely")) for n in range(900)
    )
    parts = {"properties": {f"p{i}": {"type": "string"} for i in range(2_000)}}
    schema = {"$defs": {"definitely": parts}, "anyOf": [{"$ref": f"#/$defs/{name}"} for name in spelt]}
    began = time.thread_time()
    value_fault(schema, {"a": 1}, CancelToken())
    assert time.thread_time() - began < 0.3
