"""Tools in a request: what is taken, what is refused and by which name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.client_tools import NO_CLIENT_TOOLS, ClientTools
from app.channels.openai.schema import parse_chat_request
from app.channels.openai.tools import MAX_TOOLS, parse_client_tools, parse_flat_client_tools
from app.errors import InvalidRequest
from app.messages import ToolCall
from app.providers.base import ToolChoice, ToolSpec

NOTHING = {"type": "object", "properties": {}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather.", "parameters": CITY, "strict": True}


def tool(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | fields}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(n) for n in names]}}


def spec(name: str = "f") -> ToolSpec:
    return ToolSpec(name, "", NOTHING)


def refusal(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_client_tools(body)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    return caught.value


def test_a_tool_is_taken_as_it_is_described() -> None:
    expected = ClientTools((ToolSpec("weather", "The weather.", CITY, strict=True),))

    assert parse_client_tools({"tools": [{"type": "function", "function": WEATHER}]}) == expected
    assert parse_flat_client_tools({"tools": [{"type": "function", **WEATHER}]}) == expected


@pytest.mark.parametrize(
    "parameters", [{}, {"parameters": None}, {"parameters": {}}, {"parameters": NOTHING}]
)
def test_a_tool_needs_nothing_but_a_name(parameters: dict[str, Any]) -> None:
    assert parse_client_tools({"tools": [tool(**parameters)]}) == ClientTools((spec(),))


def test_a_schema_without_a_type_is_one_of_an_object() -> None:
    [one] = parse_client_tools({"tools": [tool(parameters={"properties": {"a": {}}})]}).specs

    assert one.parameters == {"type": "object", "properties": {"a": {}}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ClientTools((spec("a"), spec("b")))),
        ("auto", ClientTools((spec("a"), spec("b")))),
        ("none", NO_CLIENT_TOOLS),
        ("required", ClientTools((spec("a"), spec("b")), ToolChoice(required=True))),
        (named("b"), ClientTools((spec("a"), spec("b")), ToolChoice(required=True, name="b"))),
        (allowed("auto", "b"), ClientTools((spec("b"),))),
        (allowed("required", "b", "a"), ClientTools((spec("a"), spec("b")), ToolChoice(required=True))),
    ],
)
def test_a_choice_says_what_may_and_what_must_be_called(choice: Any, expected: ClientTools) -> None:
    assert parse_client_tools({"tools": [tool("a"), tool("b")], "tool_choice": choice}) == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "function", "name": "a"}, ClientTools((spec("a"),), ToolChoice(required=True, name="a"))),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "a"}]},
            ClientTools((spec("a"),), ToolChoice(required=True)),
        ),
    ],
)
def test_a_choice_is_flat_in_the_responses_api(choice: Any, expected: ClientTools) -> None:
    body = {"tools": [{"type": "function", "name": "a"}], "tool_choice": choice}

    assert parse_flat_client_tools(body) == expected


def test_calls_come_one_at_a_time_if_the_caller_wants_that() -> None:
    assert not parse_client_tools({"tools": [tool()], "parallel_tool_calls": False}).parallel
    assert parse_client_tools({"tools": [tool()], "parallel_tool_calls": None}).parallel
    assert parse_client_tools({"parallel_tool_calls": False}) == NO_CLIENT_TOOLS


@pytest.mark.parametrize(
    "body", [{}, {"tools": []}, {"tools": None, "tool_choice": "none"}, {"functions": []}]
)
def test_no_tools_are_no_tools(body: dict[str, Any]) -> None:
    assert parse_client_tools(body) == NO_CLIENT_TOOLS


@pytest.mark.parametrize(
    ("choice", "expected"),
    [(None, ToolChoice()), ("auto", ToolChoice()), ({"name": "f"}, ToolChoice(required=True, name="f"))],
)
def test_functions_of_old_are_tools_that_are_called_one_at_a_time(choice: Any, expected: ToolChoice) -> None:
    body = {"functions": [{"name": "f"}], "function_call": choice}

    assert parse_client_tools(body) == ClientTools((spec(),), expected, parallel=False)
    assert parse_chat_request({"messages": [{"role": "user", "content": "hi"}], **body}).legacy
    assert parse_client_tools(body | {"function_call": "none"}) == NO_CLIENT_TOOLS


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"a": schema}
    return {"type": "object", "properties": schema}


TOOLS = {"tools": [tool("a")]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": "f"}, "tools"),
        ({"tools": [None]}, "tools[0]"),
        ({"tools": [tool("a"), {"function": {"name": "b"}}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": []}]}, "tools[0].function"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("é")]}, "tools[0].function.name"),
        ({"tools": [tool("a\n")]}, "tools[0].function.name"),
        ({"tools": [tool("a" * 65)]}, "tools[0].function.name"),
        ({"tools": [tool(name=7)]}, "tools[0].function.name"),  # type: ignore[arg-type]
        ({"tools": [tool("a"), tool("b"), tool("a")]}, "tools[2].function.name"),
        ({"tools": [tool(description=7)]}, "tools[0].function.description"),
        ({"tools": [tool(strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters=deep(200))]}, "tools[0].function.parameters"),
        ({"tools": [tool(f"f{n}") for n in range(MAX_TOOLS + 1)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": named("a")}, "tool_choice"),
        (TOOLS | {"tool_choice": "any"}, "tool_choice"),
        (TOOLS | {"tool_choice": 7}, "tool_choice"),
        (TOOLS | {"tool_choice": []}, "tool_choice"),
        (TOOLS | {"tool_choice": named("b")}, "tool_choice"),
        (TOOLS | {"tool_choice": {"type": "function"}}, "tool_choice.function"),
        (TOOLS | {"tool_choice": {"type": "function", "name": "a"}}, "tool_choice.function"),
        (TOOLS | {"tool_choice": {}}, "tool_choice.type"),
        (TOOLS | {"tool_choice": allowed("auto", "b")}, "tool_choice"),
        (TOOLS | {"tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools"),
        (TOOLS | {"tool_choice": allowed("must", "a")}, "tool_choice.allowed_tools.mode"),
        (TOOLS | {"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (TOOLS | {"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        (TOOLS | {"functions": [{"name": "b"}]}, "functions"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": {}}, "function_call.name"),
        ({"functions": [{}]}, "functions[0].name"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(body: dict[str, Any], param: str) -> None:
    assert refusal(**body).param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "sql"}}]}, "tools[0].type"),
        (TOOLS | {"tool_choice": {"type": "custom", "custom": {"name": "a"}}}, "tool_choice.type"),
    ],
)
def test_other_kinds_of_tools_are_refused_as_not_served(body: dict[str, Any], param: str) -> None:
    error = refusal(**body)

    assert (error.code, error.param) == ("unsupported_value", param)
    assert "custom" in error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["auto", "function"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "function", "name", "parameters", "mode", "tools"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"), JSON
        ),
    )
)
def test_whatever_comes_is_taken_or_refused_by_name(body: dict[str, Any]) -> None:
    for parse in (parse_client_tools, parse_flat_client_tools):
        try:
            tools = parse(body)
        except InvalidRequest as error:
            assert error.param  # noqa: PT017 - either outcome is fine
        else:
            assert {one.name for one in tools.offered} <= tools.names


def test_only_calls_of_what_is_offered_are_the_callers() -> None:
    calls = [ToolCall("1", "a", "{}"), ToolCall("2", "exec", "{}"), ToolCall("3", "b", "{}")]
    both = (spec("a"), spec("b"))

    assert [call.id for call in ClientTools(both).among(calls)] == ["1", "3"]
    assert [call.id for call in ClientTools(both, parallel=False).among(calls)] == ["1"]
    only_b = ClientTools(both, ToolChoice(required=True, name="b"))
    assert [call.id for call in only_b.among(calls)] == ["3"]
    assert only_b.names == {"a", "b"}
