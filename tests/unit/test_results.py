"""Results of calls: which call each of them answers, and what is left of a request that repeats itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.compaction import choose_cut
from app.agents.context import fitted, new_messages
from app.agents.results import before_answer, bound_results
from app.errors import InvalidRequest
from app.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage

U1, U2 = UserMessage.of("one"), UserMessage.of("two")
ANSWER = AssistantMessage("done")


def calls(*ids: str) -> AssistantMessage:
    return AssistantMessage("", tuple(ToolCall(one, f"tool_{one}", "{}") for one in ids))


def result(call_id: str, name: str | None = None) -> ToolMessage:
    return ToolMessage(call_id, f"tool_{call_id}" if name is None else name, f"result of {call_id}")


AB = calls("a", "b")
OLD = AssistantMessage("", (ToolCall("call_1", "f", "{}"), ToolCall("call_2", "f", "{}")))


def function(name: str, text: str) -> ToolMessage:
    return ToolMessage(name, name, text)


@pytest.mark.parametrize(
    ("history", "incoming", "new"),
    [
        ([U1, AB], [result("a"), result("b")], [result("a"), result("b")]),
        ([U1, AB], [U1, AB, result("b"), result("a")], [result("b"), result("a")]),
        ([U1, AB], [U1, calls("b"), result("b")], [result("b")]),
        ([U1, AB, result("a")], [U1, calls("b"), result("b")], [result("b")]),
        ([U1, AB], [result("a"), U2], [result("a"), U2]),
        ([U1, AB], [result("a", ""), result("b", "")], [result("a"), result("b")]),
        ([U1, AB], [result("a"), result("a")], [result("a")]),
        ([U1, AB, result("a"), result("b")], [result("a"), result("b")], []),
        ([U1, AB, result("a"), result("b")], [U1, AB, result("b"), result("a")], []),
        ([U1, AB, result("a"), result("b"), U2], [result("a"), result("b"), U2], []),
        ([U1, AB, result("a"), result("b"), ANSWER], [result("a"), result("b")], []),
        ([U1, AB, result("a"), result("b"), ANSWER], [U1, AB, result("a"), result("b")], []),
        (
            [U1, calls("a"), result("a"), calls("own"), result("own"), ANSWER],
            [U1, calls("a"), result("a")],
            [],
        ),
        (
            [U1, calls("a"), result("a"), calls("a")],
            [U1, calls("a"), result("a"), calls("a"), result("a")],
            [result("a")],
        ),
        (
            [U1, ANSWER],
            [U1, ANSWER, U2, calls("x"), result("x")],
            [U2, calls("x"), result("x")],
        ),
        (
            [U1, calls("a"), result("a"), ANSWER, U2, ANSWER],
            [U1, calls("a"), result("a")],
            [U1, calls("a"), result("a")],
        ),
        ([U1, ANSWER], [calls("x"), result("x")], [calls("x"), result("x")]),
        ([U1, ANSWER, U2], [U2, calls("x"), result("x")], [calls("x"), result("x")]),
        (
            [U1, OLD],
            [U1, AssistantMessage("", (ToolCall("f", "f", "{}"),)), function("f", "42")],
            [ToolMessage("call_1", "f", "42")],
        ),
        (
            [U1, OLD],
            [function("f", "42"), function("f", "43")],
            [ToolMessage("call_1", "f", "42"), ToolMessage("call_2", "f", "43")],
        ),
    ],
    ids=[
        "only the results are sent",
        "all is sent again, with the results in another order",
        "the client does not know of the agent's own call",
        "the agent's own call has its result",
        "one result is missing",
        "nobody says what tool a result is of",
        "a result is there twice",
        "results that were never answered are retried",
        "and with all before them",
        "and with a question behind them",
        "results whose answer got lost are retried",
        "and with all before them, whose answer got lost",
        "the agent has used its own tools before it answered",
        "a model gives the same id again and again",
        "a turn that the session has not seen",
        "an earlier turn is begun anew",
        "a call that the session has not seen",
        "a question that was stored, and calls that were not",
        "a function of old has no id",
        "two functions of old of one name",
    ],
)
def test_new_is_what_the_session_does_not_have(
    history: list[Message], incoming: list[Message], new: list[Message]
) -> None:
    assert new_messages(history, incoming) == tuple(new)


@pytest.mark.parametrize(
    ("history", "incoming"),
    [
        ([], [result("a")]),
        ([], [U1, result("a")]),
        ([], [U1, calls("a"), result("b")]),
        ([], [U1, calls("a"), U2, result("a")]),
        ([U1, ANSWER], [result("a")]),
        ([U1, calls("a")], [result("b")]),
        ([U1, calls("a")], [U2, result("a")]),
        ([U1, AB, result("a"), ANSWER], [result("b")]),
        ([U1, calls("a"), result("a"), ANSWER, U2, ANSWER], [result("a")]),
        ([U1, OLD], [function("g", "42")]),
    ],
    ids=[
        "no call at all",
        "a question is no call",
        "another call",
        "something was said in between",
        "the session waits for nothing",
        "the session waits for another one",
        "something was said before it",
        "the session has gone on without it",
        "the call was in an earlier turn",
        "a function that was not called",
    ],
)
def test_a_result_that_answers_no_call_is_refused(history: list[Message], incoming: list[Message]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        new_messages(history, incoming)

    assert (caught.value.param, caught.value.code) == ("messages", "unknown_tool_call")


def test_where_nobody_knows_what_was_asked_results_at_the_beginning_stay_as_they_are() -> None:
    leading = [result("a", ""), result("b", "")]

    assert bound_results(None, [*leading, U1, calls("c"), result("c", "")]) == (
        *leading,
        U1,
        calls("c"),
        result("c"),
    )
    with pytest.raises(InvalidRequest):
        bound_results(None, [U1, result("a")])


def test_an_answer_that_got_lost_is_given_again_after_the_newest_results() -> None:
    history = [U1, calls("a"), result("a"), calls("own"), result("own"), ANSWER]

    assert before_answer(history) == 5
    assert before_answer([U1, calls("a"), result("a")]) == 3
    assert before_answer([U1, ANSWER]) == 2


# A pending call stays with what belongs to it, whatever gets lost of the conversation.

WORDS = st.text("ab ", max_size=400)
TURNS = st.lists(
    st.tuples(WORDS, st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=2), WORDS), max_size=4
)


def transcript(turns: list[tuple[str, list[list[str]], str]], own: list[str]) -> list[Message]:
    """Whole turns, then one in which the agent has run its ``own`` tools and waits for its client's."""
    messages: list[Message] = []
    for asked, rounds, answer in turns:
        messages.append(UserMessage.of(asked))
        for number, texts in enumerate(rounds):
            ids = [f"{number}.{n}" for n in range(len(texts))]
            messages.append(calls(*ids))
            messages += [ToolMessage(one, "t", text) for one, text in zip(ids, texts, strict=True)]
        messages.append(AssistantMessage(answer))
    ids = [f"own{n}" for n in range(len(own))]
    messages += [UserMessage.of("now"), calls(*ids, "pending")]
    return messages + [ToolMessage(one, "t", text) for one, text in zip(ids, own, strict=True)]


@given(TURNS, st.lists(WORDS, max_size=3), st.integers(0, 600), st.booleans())
def test_neither_a_summary_nor_a_trim_takes_a_pending_call_away(
    turns: list[tuple[str, list[list[str]], str]], own: list[str], budget: int, answered: bool
) -> None:
    messages = transcript(turns, own) + ([result("pending")] if answered else [])
    pending = messages[-1 - len(own) - answered]

    kept = messages[choose_cut(messages, budget) :]
    assert pending in kept
    assert not isinstance(kept[0], ToolMessage)
    assert pending in fitted(messages, budget)
