import re

from hypothesis import given
from hypothesis import strategies as st

from app.tools.mcp.naming import tool_names

TOOLS = st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), unique=True)


def test_a_tool_is_called_after_its_server() -> None:
    assert tool_names([("time", "convert_time"), ("git", "git-log")]) == [
        "time__convert_time",
        "git__git-log",
    ]


def test_what_no_model_api_takes_becomes_an_underscore() -> None:
    assert tool_names([("my notes", "look up/now!")]) == ["my_notes__look_up_now_"]


def test_tools_that_would_share_a_name_are_told_apart() -> None:
    names = tool_names([("a", "b.c"), ("a", "b/c"), ("a__b", "c"), ("a", "b__c")])

    assert len(set(names)) == 4
    assert all(re.fullmatch(r"a__b_+c_[0-9a-f]{8}", name) for name in names)


def test_long_names_that_begin_alike_are_told_apart() -> None:
    one, other = tool_names([("a", "x" * 100 + "1"), ("a", "x" * 100 + "2")])

    assert one != other
    assert len(one) == len(other) == 64


@given(TOOLS)
def test_every_name_is_one_that_a_model_api_takes(tools: list[tuple[str, str]]) -> None:
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in tool_names(tools))


@given(TOOLS)
def test_names_are_unique(tools: list[tuple[str, str]]) -> None:
    assert len(set(tool_names(tools))) == len(tools)


@given(TOOLS.flatmap(lambda tools: st.tuples(st.just(tools), st.permutations(tools))))
def test_names_do_not_depend_on_the_order(pair: tuple[list[tuple[str, str]], list[tuple[str, str]]]) -> None:
    tools, shuffled = pair

    assert dict(zip(tools, tool_names(tools), strict=True)) == dict(
        zip(shuffled, tool_names(shuffled), strict=True)
    )
