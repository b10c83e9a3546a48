"""When a model is told that it goes round in circles, and when it is stopped."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.repeat import RepeatGuard

Call = tuple[str, str, str]

LOOK: Call = ("look", '{"at": 1}', "a cat")
TURN: Call = ("turn", "{}", "done")
POLL: Call = ("process", '{"action": "poll", "id": "1"}', "running")
HISTORY: Call = ("sessions_history", '{"session": "a"}', "nothing")


def verdicts(calls: Iterable[Call]) -> list[str]:
    guard = RepeatGuard()
    return [guard.seen(*call) for call in calls]


def test_the_same_call_with_the_same_result_is_noticed_and_then_stopped() -> None:
    assert verdicts([LOOK] * 6) == ["fine", "fine", "notice", "notice", "stop", "stop"]


def test_two_calls_in_turn_are_noticed_and_then_stopped() -> None:
    assert verdicts([LOOK, TURN] * 5) == ["fine"] * 5 + ["notice"] * 4 + ["stop"]


@pytest.mark.parametrize(
    "other",
    [("gaze", '{"at": 1}', "a cat"), ("look", '{"at": 2}', "a cat"), ("look", '{"at": 1}', "a dog")],
)
def test_another_name_argument_or_result_begins_anew(other: Call) -> None:
    assert verdicts([LOOK, LOOK, other, LOOK, LOOK, other]) == ["fine"] * 6


def test_the_spelling_of_arguments_does_not_matter() -> None:
    spellings = ['{"a":1,"b":2}', '{ "b": 2, "a": 1 }', '{"a": 1, "b": 2}']

    assert verdicts(("look", text, "a cat") for text in spellings)[-1] == "notice"


def test_arguments_that_are_no_json_are_compared_as_text() -> None:
    assert verdicts([("look", "{broken", "no")] * 3)[-1] == "notice"
    assert verdicts([("look", "{" + "x" * n, "no") for n in range(6)]) == ["fine"] * 6


def test_deeply_nested_arguments_are_compared_too() -> None:
    nested = '{"a": ' + "[" * 900 + "]" * 900 + "}"

    assert verdicts([("look", nested, "no")] * 3)[-1] == "notice"


@pytest.mark.parametrize("poller", [POLL, HISTORY])
def test_a_tool_that_is_made_for_asking_again_may_do_so_longer(poller: Call) -> None:
    seen = verdicts([poller] * 30)

    assert (seen.index("notice"), seen.index("stop")) == (19, 29)


def test_polling_in_turn_with_another_call_is_polling() -> None:
    seen = verdicts([POLL, LOOK] * 30)

    assert (seen.index("notice"), seen.index("stop")) == (39, 59)


def test_other_actions_of_a_polled_tool_are_ordinary_calls() -> None:
    assert verdicts([("process", '{"action": "kill", "id": "1"}', "no such process")] * 5)[-1] == "stop"


@given(st.lists(st.sampled_from([LOOK, TURN, POLL, ("look", "{}", "")]), max_size=80))
def test_calls_that_never_repeat_in_a_row_or_in_turn_are_fine(calls: list[Call]) -> None:
    guard, last = RepeatGuard(), list[str]()
    for index, call in enumerate(calls):
        last.append(guard.seen(*call))
        tail = calls[max(0, index - 5) : index + 1]
        in_a_row = len(tail) >= 3 and len(set(tail[-3:])) == 1
        in_turn = len(tail) == 6 and tail[:2] * 3 == tail
        if not (in_a_row or in_turn):
            assert last[-1] == "fine"
        elif POLL not in tail:
            assert last[-1] != "fine"
