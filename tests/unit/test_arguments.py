"""What is understood of a model's tool arguments, and that only valid JSON is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.arguments import clean_calls, parse_arguments
from app.messages import ToolCall
from app.tools.registry import ToolError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)
# Beginnings, ends and splices of what models write, and plain noise.
SCRAPS = st.lists(
    st.sampled_from(
        ["{", "}", '"a"', "'a'", ":", ",", "[", "]", "\\", "\\d", '"', "\n", "1", "1e999", "NaN", "Infinity",
         "0x1", "// x", "\ufeff", "\ud800", "\\ud800", "a", " ", "null", '{"a": 1}', "9" * 5000]
    ),
    max_size=12,
).map("".join)  # fmt: skip


def problem(text: str) -> str:
    with pytest.raises(ToolError) as caught:
        parse_arguments(text)
    return str(caught.value)


def call(arguments: str, call_id: str = "call_1") -> ToolCall:
    return ToolCall(call_id, "look", arguments)


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def strictly(text: str) -> Any:
    text.encode()
    return json.loads(text, parse_constant=refuse)


# reading


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        (" \n", {}),
        ("{}", {}),
        ('{"path": "a.txt", "n": 1}', {"path": "a.txt", "n": 1}),
        ('{"text": "one\ntwo\tthree"}', {"text": "one\ntwo\tthree"}),
        ('{"a": [1, 2,], }', {"a": [1, 2]}),
        ("{'a': 'it is', b: \"x\"}", {"a": "it is", "b": "x"}),
        ('{"a": 1} // done', {"a": 1}),
        ("{'path': 'C:\\\\dir\\\\new'}", {"path": "C:\\dir\\new"}),
        ('\ufeff{"a": 1}', {"a": 1}),
        ('{"a": "\\ud83e\\udd9e\\ud800"}', {"a": "🦞\ufffd"}),
    ],
)
def test_what_a_model_meant_is_understood(text: str, arguments: dict[str, Any]) -> None:
    assert parse_arguments(text) == arguments


@pytest.mark.parametrize(
    "text",
    [
        '{"path": "a.txt',
        '{"path": "a.txt"',
        '{"a": 1}{"b": 2}',
        '{"a": NaN}',
        "{a: Infinity}",
        '{"a": 1e999}',
        "{'pattern': '\\d+'}",
        '{"pattern": "\\d+"}',
        "{'a': 'b\\\nc'}",
        "look at this",
        '{"a": ' + "[" * 100_000,
        '{"a": ' + "9" * 5_000 + "}",
    ],
)
def test_what_is_cut_off_or_open_to_guesses_is_not_read(text: str) -> None:
    assert problem(text).startswith("The arguments are not valid JSON: ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": 1e999}', "a number is too large"),
        ('{"a": ' + "9" * 5_000 + "}", "a number is too large"),
        ('{"a": ' + "[" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_in_words_of_our_own(text: str, fault: str) -> None:
    assert problem(text) == f"The arguments are not valid JSON: {fault}. Send the call again, corrected."


@pytest.mark.parametrize("text", ["[1]", '"{}"', "1", "null", "[1,]"])
def test_arguments_are_an_object(text: str) -> None:
    assert problem(text).startswith("The arguments must be one JSON object.")


def test_the_model_is_told_where_the_mistake_is_and_what_stands_there() -> None:
    text = problem('{"path": "a.txt",\n "lines": [1 2]}')

    assert "line 2, column 14" in text
    assert "2]}" in text


def test_the_place_of_a_mistake_is_quoted_in_brief() -> None:
    assert len(problem('{"a": "' + "x" * 100_000)) < 300


def test_only_strict_json_is_read_at_any_length() -> None:
    long = "x" * 300_000

    assert parse_arguments('{"a": "' + long + '"}') == {"a": long}
    assert "not valid JSON" in problem("{'a': '" + long + "'}")


@given(OBJECTS)
def test_every_json_object_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert parse_arguments(json.dumps(value)) == value
    assert parse_arguments(json.dumps(value, ensure_ascii=False, indent=1)) == value


@given(st.text() | SCRAPS)
def test_any_text_is_an_object_or_a_problem(text: str) -> None:
    try:
        arguments = parse_arguments(text)
    except ToolError as error:
        str(error).encode()
    else:
        strictly(json.dumps(arguments, ensure_ascii=False, allow_nan=False))


# what is sent back


def test_good_calls_stay_as_they_were_written() -> None:
    calls = (call('{ "a" : 1.0 }', "a"), call('{"b":"ü"}', "b"))

    assert clean_calls(calls) == (calls, {})


def test_arguments_that_were_understood_become_strict_json() -> None:
    [cleaned], problems = clean_calls([call("{'a': [1,],}")])

    assert (cleaned.arguments, problems) == ('{"a":[1]}', {})


@pytest.mark.parametrize("text", ['{"a":"\\ud800"}', '{"a":"\ud800"}', '\ufeff{"a":"\ufffd"}'])
def test_what_some_readers_would_choke_on_is_written_anew(text: str) -> None:
    [cleaned], problems = clean_calls([call(text)])

    assert (cleaned.arguments, problems) == ('{"a":"\ufffd"}', {})


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    [cleaned], problems = clean_calls([call("")])

    assert (cleaned.arguments, problems) == ("{}", {})


def test_unreadable_arguments_become_a_problem_of_that_call_alone() -> None:
    calls, problems = clean_calls([call('{"a": 1}', "good"), call('{"a": ', "bad")])

    assert [one.arguments for one in calls] == ['{"a": 1}', "{}"]
    assert list(problems) == ["bad"]
    assert "not valid JSON" in problems["bad"]


def test_calls_of_the_same_id_get_ids_of_their_own() -> None:
    calls, problems = clean_calls([call("{}", "x"), call("broken", "x"), call("{}", ""), call("{}", "x")])

    assert [one.id for one in calls] == ["x", "x_2", "call_3", "x_3"]
    assert list(problems) == ["x_2"]


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "a_2"]), st.text() | SCRAPS), max_size=6))
def test_whatever_a_model_writes_only_valid_calls_are_kept(written: list[tuple[str, str]]) -> None:
    calls, problems = clean_calls([call(text, call_id) for call_id, text in written])

    ids = [one.id for one in calls]
    assert len(ids) == len(set(ids)) == len(written)
    assert all(ids)
    assert set(problems) <= set(ids)
    for one, (_, text) in zip(calls, written, strict=True):
        assert isinstance(strictly(one.arguments), dict)
        if one.id not in problems:
            assert parse_arguments(one.arguments) == parse_arguments(text)
    assert clean_calls(calls) == (calls, {})
