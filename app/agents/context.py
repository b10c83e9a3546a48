"""What of a conversation goes to the model: valid, and no more than fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..messages import AssistantMessage, ImagePart, Message, TextPart, ToolCall, ToolMessage, UserMessage
from .results import asks, bound_results

# Base64 of a picture that a vendor would shrink to about a thousand tokens is not longer than this.
_IMAGE_TOKENS = 1_500
_LOST = "The call was interrupted; whether it took effect is not known."
_UNFINISHED = "(No answer was given: the previous turn was interrupted.)"
_HIDDEN_IMAGE = TextPart("[An image was here, but this model cannot see images.]")
_OLD_IMAGE = TextPart("[An image was here, in an earlier turn.]")

# A long tool result of an earlier round keeps so many characters of its beginning and of its end.
_KEPT_HEAD, _KEPT_TAIL = 1_500, 1_500
_CUT_SHORT = (
    "\n[… {} characters of this earlier result were left out; call the tool again if you need them …]\n"
)
_SUMMARY = (
    "[The earlier part of this conversation, summarised:]\n\n{}\n\n[The conversation goes on from here.]"
)


def new_messages(history: Sequence[Message], incoming: Sequence[Message]) -> tuple[Message, ...]:
    """The part of a request's messages that a session does not have yet.

    Clients either send only their newest message or resend the whole conversation. What
    comes after the last assistant turn is new in both cases; with an empty history all of
    it is. A message that is already stored and was never answered is being retried: it is
    not stored twice. A turn whose tools the session has not called is new from its question on.

    :raises InvalidRequest: a tool result answers no call.
    """
    fresh = bound_results(history, incoming[_first_new(history, incoming) :])
    if not history:
        return fresh
    unanswered = _unanswered(history)
    if unanswered and fresh[: len(unanswered)] == unanswered:
        return fresh[len(unanswered) :]
    return fresh


def _first_new(history: Sequence[Message], incoming: Sequence[Message]) -> int:
    if not history:
        return 0
    # A trailing assistant message is the beginning of an answer, not an answer.
    for last in range(len(incoming) - 2, -1, -1):
        answer = incoming[last]
        if isinstance(answer, AssistantMessage):
            if not answer.tool_calls or asks(history, answer.tool_calls):
                return last + 1
            asked = (i for i in range(last, -1, -1) if isinstance(incoming[i], UserMessage))
            return next(asked, last)
    return 0


def mark_unfinished(history: Sequence[Message], fresh: Sequence[Message]) -> tuple[Message, ...]:
    """``fresh``, preceded by a note if the history ends in a question nobody answered."""
    if fresh and isinstance(fresh[0], UserMessage) and history and not _is_answer(history[-1]):
        return (AssistantMessage(_UNFINISHED), *fresh)
    return tuple(fresh)


def repaired(messages: Iterable[Message]) -> list[Message]:
    """The same conversation with every tool call followed by exactly its own results, in its order.

    A crash, an abort or a trimmed history leaves calls without results and results without
    calls; providers refuse both, for ever.
    """
    result: list[Message] = []
    calls: tuple[ToolCall, ...] = ()
    results: dict[str, ToolMessage] = {}
    for message in messages:
        if isinstance(message, ToolMessage):
            results.setdefault(message.call_id, message)
            continue
        if calls:
            result += _results_of(calls, results)
        if calls or results:
            results = {}
        result.append(message)
        calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
    return result + _results_of(calls, results)


def summary_message(summary: str) -> UserMessage:
    """What stands in a model's conversation for the part that was summarised."""
    return UserMessage.of(_SUMMARY.format(summary))


def fitted(messages: Sequence[Message], budget: int) -> tuple[Message, ...]:
    """As much of the conversation as takes no more than ``budget`` tokens.

    First the long tool results and the images of earlier rounds go, the oldest first; then
    whole turns, the oldest first. The last user turn always stays.
    """
    if tokens_of(messages) <= budget:
        return tuple(messages)
    return _newest_turns(_trimmed(messages, budget), budget)


def without_images(messages: Iterable[Message]) -> list[Message]:
    """The same conversation with a note in place of each image."""
    return [_replace_images(message, _HIDDEN_IMAGE) for message in messages]


def tokens_of(messages: Iterable[Message]) -> int:
    """A safe estimate of what the messages take of a model's window."""
    return sum(map(_tokens, messages))


def text_tokens(text: str) -> int:
    """A safe estimate: four bytes to a token, and a fifth more."""
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return size * 3 // 10


def _trimmed(messages: Sequence[Message], budget: int) -> list[Message]:
    """Results and images of earlier rounds cut short, the oldest first, until the rest fits."""
    result = list(messages)
    over = tokens_of(result) - budget
    for index in range(_last_round(result)):
        if over <= 0:
            break
        shorter = _shortened(result[index])
        over -= _tokens(result[index]) - _tokens(shorter)
        result[index] = shorter
    return result


def _last_round(messages: Sequence[Message]) -> int:
    """Index of the newest message that is not a tool result: it and its results stay whole."""
    return max((i for i, message in enumerate(messages) if not isinstance(message, ToolMessage)), default=0)


def _shortened(message: Message) -> Message:
    if isinstance(message, ToolMessage):
        left_out = len(message.text) - _KEPT_HEAD - _KEPT_TAIL
        if left_out > len(_CUT_SHORT) + 8:
            middle = _CUT_SHORT.format(left_out)
            return replace(message, text=message.text[:_KEPT_HEAD] + middle + message.text[-_KEPT_TAIL:])
        return message
    return _replace_images(message, _OLD_IMAGE)


def _newest_turns(messages: Sequence[Message], budget: int) -> tuple[Message, ...]:
    starts = [i for i, message in enumerate(messages) if i == 0 or isinstance(message, UserMessage)] or [0]
    keep, end, left = starts[-1], len(messages), budget
    for start in reversed(starts):
        left -= tokens_of(messages[start:end])
        if left < 0 and start != starts[-1]:
            return tuple(messages[keep:])
        keep = end = start
    return tuple(messages)


def _replace_images(message: Message, note: TextPart) -> Message:
    if not isinstance(message, UserMessage) or not message.images:
        return message
    return UserMessage(tuple(note if isinstance(part, ImagePart) else part for part in message.parts))


def _unanswered(history: Sequence[Message]) -> tuple[Message, ...]:
    start = len(history)
    while start and isinstance(history[start - 1], UserMessage):
        start -= 1
    return tuple(history[start:])


def _is_answer(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and not message.tool_calls


def _results_of(calls: Iterable[ToolCall], results: Mapping[str, ToolMessage]) -> list[Message]:
    """One result for each call, in the order of the calls."""
    return [results.get(call.id) or ToolMessage(call.id, call.name, _LOST, is_error=True) for call in calls]


def _tokens(message: Message) -> int:
    if isinstance(message, UserMessage):
        return 4 + text_tokens(message.text) + _IMAGE_TOKENS * len(message.images)
    if isinstance(message, AssistantMessage):
        said = 4 + text_tokens(message.text)
        # Most messages have neither, and every turn counts them all.
        return said + _hidden_tokens(message) if message.tool_calls or message.thoughts else said
    return 8 + text_tokens(message.text)


def _hidden_tokens(message: AssistantMessage) -> int:
    calls = sum(8 + text_tokens(call.arguments) for call in message.tool_calls)
    thoughts = message.thoughts.items if message.thoughts else ()
    return calls + sum(text_tokens(str(value)) for item in thoughts for value in item.values())
