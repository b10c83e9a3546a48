"""Summaries of long conversations, and the conversation they are made for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.compaction import CompactionFailed, choose_cut, compact
from app.agents.context import repaired, tokens_of
from app.agents.conversation import Conversation
from app.errors import ProviderError, ProviderReason
from app.messages import AssistantMessage, Message, TextPart, ToolCall, ToolMessage, UserMessage

SUMMARY = "The user is called Ada and wants a report."


def turns(count: int, size: int = 400) -> list[Message]:
    """``count`` turns of two messages with ``size`` characters each."""
    messages: list[Message] = []
    for number in range(count):
        messages += [UserMessage.of(f"question {number} " + "x" * size), AssistantMessage(f"answer {number}")]
    return messages


def rounds(count: int, size: int = 400) -> list[Message]:
    """One question and ``count`` tool calls with their results."""
    messages: list[Message] = [UserMessage.of("do it all")]
    for number in range(count):
        call = ToolCall(f"c{number}", "read", "{}")
        messages += [AssistantMessage("", (call,)), ToolMessage(call.id, "read", "y" * size)]
    return messages


class Summariser:
    """Writes down what it is asked and recites its answers."""

    def __init__(self, *answers: str | ProviderError) -> None:
        self.prompts: list[str] = []
        self._answers = answers

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        answer = self._answers[min(len(self.prompts), len(self._answers)) - 1]
        if isinstance(answer, ProviderError):
            raise answer
        return answer


# Where the cut is


def test_a_short_conversation_has_nothing_to_summarise() -> None:
    assert choose_cut(turns(3), 10_000) == 0
    assert choose_cut([], 100) == 0


def test_the_cut_is_at_the_beginning_of_a_turn() -> None:
    messages = turns(20)

    cut = choose_cut(messages, 500)

    assert isinstance(messages[cut], UserMessage)
    assert 500 <= tokens_of(messages[cut:]) <= 1_000


def test_a_turn_that_is_too_long_is_cut_between_its_rounds() -> None:
    messages = rounds(20)

    cut = choose_cut(messages, 500)

    assert isinstance(messages[cut], AssistantMessage)
    assert repaired(messages[cut:]) == messages[cut:]
    assert tokens_of(messages[cut:]) <= 500


def test_a_question_that_is_too_long_by_itself_stays_and_all_before_it_goes() -> None:
    messages = [*turns(3), UserMessage.of("z" * 50_000)]

    assert choose_cut(messages, 500) == len(messages) - 1


@st.composite
def conversations(draw: Callable[..., int]) -> list[Message]:
    messages: list[Message] = []
    for _ in range(draw(st.integers(0, 8))):
        messages.append(UserMessage((TextPart("q" * draw(st.integers(0, 2_000))),)))
        for _ in range(draw(st.integers(0, 4))):
            calls = [ToolCall(f"c{i}", "read", "{}") for i in range(draw(st.integers(1, 3)))]
            messages.append(AssistantMessage("", tuple(calls)))
            messages += [ToolMessage(c.id, "read", "r" * draw(st.integers(0, 2_000))) for c in calls]
        messages.append(AssistantMessage("a" * draw(st.integers(0, 2_000))))
    return messages


@given(conversations(), st.integers(1, 3_000))
def test_no_cut_ever_parts_a_call_from_its_results(messages: list[Message], keep: int) -> None:
    cut = choose_cut(messages, keep)

    assert repaired(messages[cut:]) == messages[cut:]
    assert repaired(messages[:cut]) == messages[:cut]
    assert 0 <= cut < max(1, len(messages))


@given(conversations(), st.integers(1, 3_000))
def test_what_fits_is_not_cut_and_what_does_not_gets_shorter(messages: list[Message], keep: int) -> None:
    cut = choose_cut(messages, keep)

    if tokens_of(messages) <= keep:
        assert cut == 0
    elif cut:
        assert tokens_of(messages[cut:]) < tokens_of(messages)


# The summary


def test_the_older_part_is_quoted_and_the_summary_stands_for_it() -> None:
    summarise = Summariser(SUMMARY)
    messages = turns(10)

    result = compact(messages, None, keep=300, chunk=10_000, summarise=summarise)

    assert result is not None
    assert result.summary == SUMMARY
    [prompt] = summarise.prompts
    assert "question 0" in prompt
    assert f"answer {result.kept // 2 - 1}" in prompt
    assert f"answer {result.kept // 2}" not in prompt


def test_an_earlier_summary_goes_into_the_next() -> None:
    summarise = Summariser(SUMMARY)

    compact(turns(10), "Ada lives in Rome.", keep=300, chunk=10_000, summarise=summarise)

    assert "Ada lives in Rome." in summarise.prompts[0]


def test_what_is_too_long_for_one_prompt_is_summarised_piece_by_piece() -> None:
    summarise = Summariser("first summary, long enough", "second summary, long enough", SUMMARY)

    result = compact(turns(10), None, keep=100, chunk=500, summarise=summarise)

    assert len(summarise.prompts) > 2
    assert "first summary" in summarise.prompts[1]
    assert all(len(prompt) < 500 * 10 / 3 + 1_000 for prompt in summarise.prompts)
    assert result is not None
    assert result.summary == SUMMARY


def test_the_request_that_is_being_worked_on_survives_word_for_word() -> None:
    result = compact(rounds(20), None, keep=300, chunk=10_000, summarise=Summariser(SUMMARY))

    assert result is not None
    assert result.summary.startswith(SUMMARY)
    assert result.summary.endswith("do it all")


@pytest.mark.parametrize(
    "answer",
    ["", "   ", "No.", "question 0", ProviderError(ProviderReason.OVERLOADED, "overloaded")],
)
def test_without_a_usable_summary_nothing_changes(answer: str | ProviderError) -> None:
    messages = turns(10)
    conversation = Conversation(messages, list(range(1, 21)), "Ada lives in Rome.")

    with pytest.raises(CompactionFailed):
        conversation.compact(300, 10_000, Summariser(answer))

    assert conversation.messages == turns(10)
    assert conversation.numbers == list(range(1, 21))
    assert conversation.summary == "Ada lives in Rome."


def test_an_echo_of_the_conversation_is_no_summary() -> None:
    echo = "question 0 " + "x" * 100

    with pytest.raises(CompactionFailed):
        compact(turns(10), None, keep=300, chunk=10_000, summarise=Summariser(echo))


# The conversation


def test_a_compacted_conversation_begins_with_its_summary() -> None:
    conversation = Conversation(turns(10), list(range(1, 21)))
    before = conversation.message_tokens

    result = conversation.compact(300, 10_000, Summariser(SUMMARY))
    assert result is not None
    number = conversation.number(result.kept)
    conversation.replace(result)

    first, *rest = conversation.fitted(100_000, ())
    assert isinstance(first, UserMessage)
    assert SUMMARY in first.text
    assert rest == conversation.messages == turns(10)[result.kept :]
    assert conversation.numbers[0] == number
    assert conversation.message_tokens < before


def test_the_summary_and_a_nudge_stay_however_little_fits() -> None:
    conversation = Conversation(turns(10), [0] * 20, SUMMARY)
    nudge = UserMessage.of("go on")

    kept = conversation.fitted(250, (nudge,))

    assert SUMMARY in kept[0].text
    assert kept[-1] == nudge
    assert kept[1] == conversation.messages[-2]


@pytest.mark.parametrize(("counted", "expected"), [(0, 1.0), (1, 0.75), (10**9, 2.0)])
def test_an_estimate_follows_what_was_counted_within_reason(counted: int, expected: float) -> None:
    plain = Conversation(turns(4), [0] * 8)
    counting = Conversation(turns(4), [0] * 8, counted=counted)

    assert counting.tokens(10) == int(plain.tokens(10) * expected)


def test_a_provider_that_finds_the_prompt_too_long_is_believed() -> None:
    conversation = Conversation(turns(10), [0] * 20)
    size = conversation.tokens(0)
    whole = conversation.fitted(size, ())

    conversation.halve()

    assert conversation.tokens(0) == 2 * size
    assert tokens_of(conversation.fitted(conversation.room(size, 0), ())) <= tokens_of(whole) / 2 + 150


def test_a_question_that_fills_the_window_does_not_fill_the_summary() -> None:
    messages = [UserMessage.of("begin " + "x" * 50_000 + " end"), *rounds(6)[1:]]

    result = compact(messages, None, keep=200, chunk=1_000, summarise=Summariser(SUMMARY))

    assert result is not None
    assert len(result.summary) < 1_500
    assert "begin" in result.summary
    assert result.summary.endswith(" end")


def test_the_question_being_worked_on_survives_any_number_of_cuts() -> None:
    conversation = Conversation(rounds(6), [0] * 13)
    for number in range(3):
        result = conversation.compact(200, 1_000, Summariser(f"{SUMMARY} Step {number}."))
        assert result is not None
        conversation.replace(result)
        for message in rounds(6)[1:]:
            conversation.add(message, 0)

    assert conversation.summary is not None
    assert conversation.summary.endswith("word for word:\ndo it all")
    assert conversation.summary.count("do it all") == 1
