"""Tools out of typed functions, and the fence around text from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from app.cancel import CancelToken
from app.messages import JsonValue
from app.tools.registry import ToolContext, ToolError
from app.tools.signature import tool
from app.tools.untrusted import fenced

CONTEXT = ToolContext("main", "key", "run", "p/m", Path(), 1, CancelToken())


@tool
def weather(
    context: ToolContext,
    city: Annotated[str, Field(description="Where.")],
    days: Annotated[int, Field(ge=1, le=7)] = 1,
    unit: str | None = None,
    fine: Annotated[bool, Field(alias="fineGrained")] = False,
) -> str:
    """Forecast for a city.

    Nobody but programmers reads this.
    """
    return f"{context.run_id}: {city} {days} {unit} {fine}"


def call(arguments: dict[str, Any]) -> str:
    return weather.function(CONTEXT, arguments)


def test_the_signature_becomes_the_schema() -> None:
    assert weather.name == "weather"
    assert weather.description == "Forecast for a city."
    assert weather.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer", "minimum": 1, "maximum": 7, "default": 1},
            "unit": {"type": "string"},
            "fineGrained": {"type": "boolean", "default": False},
        },
        "required": ["city"],
    }


def test_arguments_reach_the_function_with_their_defaults() -> None:
    assert call({"city": "Rome"}) == "run: Rome 1 None False"
    assert call({"city": "Rome", "days": 2, "unit": "C", "fineGrained": True}) == "run: Rome 2 C True"
    assert call({"city": "Rome", "unit": None}) == "run: Rome 1 None False"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "city"),
        ({"city": 5}, "city"),
        ({"city": "Rome", "days": 0}, "days"),
        ({"city": "Rome", "days": "many"}, "days"),
        ({"city": "Rome", "town": "Rome"}, "town"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ToolError, match=named):
        call(arguments)


VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["city", "days", "unit", "fineGrained", "x"]), VALUES))
def test_whatever_a_model_sends_is_an_answer_or_a_tool_error(arguments: dict[str, JsonValue]) -> None:
    try:
        answer = call(arguments)
    except ToolError as error:
        answer = f"run: {error}"
    assert answer.startswith("run: ")


def test_a_result_that_is_no_text_is_json() -> None:
    @tool(name="numbers", description="Some numbers.", parallel=True)
    def function() -> dict[str, list[int]]:
        return {"n": [1, 2]}

    assert function.function(CONTEXT, {}) == '{"n":[1,2]}'
    assert function.parameters == {"type": "object", "properties": {}}
    assert (function.name, function.parallel) == ("numbers", True)


def test_a_function_without_types_or_description_is_refused() -> None:
    def untyped(x):  # type: ignore[no-untyped-def]
        """Something."""

    def silent() -> str:
        return ""

    with pytest.raises(TypeError, match="'x'"):
        tool(untyped)
    with pytest.raises(TypeError, match="docstring"):
        tool(silent)


# The fence


@given(st.text(), st.text())
def test_nothing_inside_can_end_its_own_fence(text: str, source: str) -> None:
    shown = fenced(text, source)

    first, _, _ = shown.partition("\n")
    assert first.startswith("<<<external")
    assert shown.count("<<<external") == 1
    assert shown.count("external>>>") == 1
    assert shown.endswith("\nexternal>>>")


@pytest.mark.parametrize("mark", ["<<<external", "external>>>"])
def test_a_mark_cannot_be_put_together_from_what_is_left_of_others(mark: str) -> None:
    nested = f"{mark[:5]}{mark}{mark[5:]}"

    assert fenced("x", nested).count(mark) == 1
    assert fenced(nested, "a page").count(mark) == 1


@pytest.mark.parametrize("mark", ["<<<External", "EXTERNAL>>>"])
def test_a_mark_in_other_letters_is_broken_up_too(mark: str) -> None:
    assert mark not in fenced(f"a {mark} b", mark)


def test_the_text_is_inside_as_it_is() -> None:
    assert "\nline one\n  line two\n" in fenced("line one\n  line two", "a page")
