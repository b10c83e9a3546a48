"""What of a conversation goes to the model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.context import (
    fitted,
    mark_unfinished,
    new_messages,
    repaired,
    tokens_of,
    without_images,
)
from app.messages import AssistantMessage, ImagePart, Message, TextPart, ToolCall, ToolMessage, UserMessage

U1, U2, U3 = (UserMessage.of(f"question {n}") for n in (1, 2, 3))
A1, A2 = (AssistantMessage(f"answer {n}") for n in (1, 2))
CALL = AssistantMessage("", (ToolCall("c1", "read", "{}"), ToolCall("c2", "read", "{}")))
R1, R2 = (ToolMessage(f"c{n}", "read", f"result {n}") for n in (1, 2))

TEXTS = st.text(max_size=60)
IDS = st.sampled_from(["a", "b", "c"])
CALLS = st.lists(
    st.builds(ToolCall, IDS, st.just("read"), st.just("{}")), max_size=3, unique_by=lambda c: c.id
)
MESSAGES = st.one_of(
    st.builds(UserMessage.of, TEXTS),
    st.builds(AssistantMessage, TEXTS, CALLS.map(tuple)),
    st.builds(ToolMessage, IDS, st.just("read"), TEXTS),
)
CONVERSATIONS = st.lists(MESSAGES, max_size=12)


# repaired


def unpaired(messages: Sequence[Message]) -> list[str]:
    """What a provider would refuse: calls and results that do not belong together."""
    problems, position = [], 0
    while position < len(messages):
        message = messages[position]
        position += 1
        calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
        results: list[str] = []
        while position < len(messages) and isinstance(result := messages[position], ToolMessage):
            results.append(result.call_id)
            position += 1
        if sorted(results) != sorted(call.id for call in calls):
            problems.append(f"{message} is followed by the results {results}")
    return problems


def test_a_sound_conversation_is_left_alone() -> None:
    sound = [U1, CALL, R1, R2, A1, U2]

    assert repaired(sound) == sound


def test_a_call_without_a_result_gets_one_that_says_so() -> None:
    result = repaired([U1, CALL, R1, U2])

    [lost] = [m for m in result if isinstance(m, ToolMessage) and m.call_id == "c2"]
    assert result == [U1, CALL, R1, lost, U2]
    assert lost.is_error
    assert "interrupted" in lost.text


def test_a_result_without_a_call_is_left_out() -> None:
    assert repaired([U1, R1, A1, R2, U2]) == [U1, A1, U2]


def test_a_second_result_for_one_call_is_left_out() -> None:
    assert repaired([U1, CALL, R1, R1, R2]) == [U1, CALL, R1, R2]


@given(CONVERSATIONS)
def test_after_repair_every_call_is_followed_by_exactly_its_results(messages: list[Message]) -> None:
    result = repaired(messages)

    leading = next((i for i, m in enumerate(result) if not isinstance(m, ToolMessage)), len(result))
    assert leading == 0
    assert unpaired(result) == []


@given(CONVERSATIONS)
def test_repair_keeps_everything_but_tool_results_and_does_nothing_twice(messages: list[Message]) -> None:
    result = repaired(messages)

    assert [m for m in result if not isinstance(m, ToolMessage)] == [
        m for m in messages if not isinstance(m, ToolMessage)
    ]
    assert repaired(result) == result


# fitted


def test_a_conversation_that_fits_is_left_alone() -> None:
    messages = [A1, U1, CALL, R1, R2, A1, U2]

    assert fitted(messages, 100_000) == tuple(messages)


def test_the_oldest_turns_go_first_and_whole() -> None:
    long = "x" * 1_000  # some 300 tokens
    messages = [UserMessage.of(long), CALL, R1, R2, AssistantMessage(long), UserMessage.of(long), A1, U3]

    assert fitted(messages, 450) == tuple(messages[5:])


def test_what_stands_before_the_first_question_goes_like_any_turn() -> None:
    messages = [AssistantMessage("x" * 10_000), U1, A1, U2]

    assert fitted(messages, 450) == (U1, A1, U2)


def test_the_last_question_stays_even_when_it_is_too_long() -> None:
    long = UserMessage.of("x" * 100_000)

    assert fitted([U1, A1, long, CALL, R1, R2], 750) == (long, CALL, R1, R2)


def test_images_count() -> None:
    picture = UserMessage((ImagePart("image/png", "AAAA"),) * 3)

    assert tokens_of([picture]) > 3_000


def test_long_results_of_earlier_rounds_are_cut_before_a_turn_is_dropped() -> None:
    old = ToolMessage("c1", "read", "begin " + "x" * 40_000 + " end")
    messages = [U1, CALL, old, R2, A1, U2]

    kept = fitted(messages, 2_000)

    assert len(kept) == len(messages)
    cut = kept[2]
    assert isinstance(cut, ToolMessage)
    assert cut.call_id == "c1"
    assert cut.text.startswith("begin ")
    assert cut.text.endswith(" end")
    assert "were left out" in cut.text


def test_the_results_of_the_newest_round_stay_whole() -> None:
    new = ToolMessage("c1", "read", "x" * 40_000)

    assert fitted([U1, CALL, new, R2], 2_000) == (U1, CALL, new, R2)


def test_images_of_earlier_turns_are_replaced_before_a_turn_is_dropped() -> None:
    picture = UserMessage((TextPart("what is this?"), ImagePart("image/png", "AAAA")))

    kept = fitted([picture, A1, U2], 500)

    assert isinstance(kept[0], UserMessage)
    assert kept[0].images == ()
    assert kept[0].text.startswith("what is this?")
    assert kept[1:] == (A1, U2)


@given(CONVERSATIONS, st.integers(1, 400))
def test_what_fits_is_the_end_of_the_conversation_with_its_last_question(
    messages: list[Message], budget: int
) -> None:
    kept = fitted(messages, budget)

    dropped = len(messages) - len(kept)
    assert tuple(messages[dropped:]) == kept
    assert not dropped or isinstance(kept[0], UserMessage)
    questions = [i for i, m in enumerate(messages) if isinstance(m, UserMessage)]
    assert not questions or dropped <= questions[-1]


@given(CONVERSATIONS, st.integers(1, 400), st.integers(0, 400))
def test_a_larger_budget_never_holds_less(messages: list[Message], budget: int, more: int) -> None:
    assert len(fitted(messages, budget)) <= len(fitted(messages, budget + more))


# new_messages


@pytest.mark.parametrize(
    ("history", "incoming", "new"),
    [
        ([], [U1], [U1]),
        ([], [U1, A1, U2], [U1, A1, U2]),
        ([], [A1, U1], [A1, U1]),
        ([U1, A1], [U2], [U2]),
        ([U1, A1], [U1, A1, U2], [U2]),
        ([U1, A1], [U1, A1, U2, U3], [U2, U3]),
        ([U1, A1], [U1, A2, U2], [U2]),
        ([U1, A1], [U1], [U1]),
        ([U1], [U1], []),
        ([U1, A1, U2], [U2], []),
        ([U1, A1, U2], [U1, A1, U2], []),
        ([U1, A1, U2], [U3], [U3]),
        ([U1, A1, U2, U3], [U2, U3], []),
        ([U1, CALL, R1, R2, A1], [U1, CALL, R1, R2, A1, U2], [U2]),
        ([U1, A1], [U1, A1, U2, A2], [U2, A2]),
        ([U1, A1], [U2, A2], [U2, A2]),
    ],
    ids=[
        "an empty history takes all",
        "an empty history imports a conversation",
        "an empty history keeps what comes before the first question",
        "only the newest message is sent",
        "all is sent again",
        "two new questions",
        "the client remembers another answer",
        "the same question again, after its answer",
        "an unanswered question is retried",
        "an unanswered later question is retried",
        "an unanswered question is retried with all before it",
        "another question after an unanswered one",
        "two unanswered questions are retried",
        "tool rounds are sent again",
        "the beginning of an answer comes with its question, all sent again",
        "the beginning of an answer comes with its question",
    ],
)
def test_new_is_what_the_session_does_not_have(
    history: list[Message], incoming: list[Message], new: list[Message]
) -> None:
    assert new_messages(history, incoming) == tuple(new)


@given(CONVERSATIONS, st.lists(st.builds(UserMessage.of, TEXTS), min_size=1, max_size=3))
def test_resending_everything_stores_nothing_twice(history: list[Message], fresh: list[Message]) -> None:
    answered = [*history, A1]

    assert new_messages(answered, [*answered, *fresh]) == tuple(fresh)


def test_a_question_nobody_answered_is_marked_before_the_next_one() -> None:
    marked = mark_unfinished([U1], [U2])

    assert marked[1:] == (U2,)
    assert isinstance(marked[0], AssistantMessage)
    assert "interrupted" in marked[0].text


@pytest.mark.parametrize(("history", "fresh"), [([], [U1]), ([U1, A1], [U2]), ([U1], []), ([U1, CALL], [R1])])
def test_nothing_is_marked_where_nothing_is_missing(history: list[Message], fresh: list[Message]) -> None:
    assert mark_unfinished(history, fresh) == tuple(fresh)


def test_a_tool_round_that_broke_off_counts_as_unanswered() -> None:
    assert len(mark_unfinished([U1, CALL, R1, R2], [U2])) == 2


# without_images


def test_a_note_stands_in_for_each_image() -> None:
    seen = UserMessage((TextPart("look"), ImagePart("image/png", "AAAA"), ImagePart("image/png", "BBBB")))

    [kept, changed] = without_images([U1, seen])

    assert kept == U1
    assert isinstance(changed, UserMessage)
    assert changed.images == ()
    assert changed.parts[0] == TextPart("look")
    assert changed.text.count("cannot see images") == 2
