"""What of a conversation goes to the model: valid, and no more than fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..messages import AssistantMessage, ImagePart, Message, TextPart, ToolMessage, UserMessage
from ..providers.base import ModelInfo

_IMAGE_TOKENS = 1_000
_LOST = "The call was interrupted; whether it took effect is not known."
_UNFINISHED = "(No answer was given: the previous turn was interrupted.)"
_HIDDEN_IMAGE = TextPart("[An image was here, but this model cannot see images.]")


def new_messages(history: Sequence[Message], incoming: Sequence[Message]) -> tuple[Message, ...]:
    """The part of a request's messages that a session does not have yet.

    Clients either send only their newest message or resend the whole conversation. What
    comes after the last assistant turn is new in both cases; with an empty history all of
    it is. A message that is already stored and was never answered is being retried: it is
    not stored twice.
    """
    if not history:
        return tuple(incoming)
    # A trailing assistant message is the beginning of an answer, not an answer.
    answers = (i for i, message in enumerate(incoming[:-1]) if isinstance(message, AssistantMessage))
    last_answer = max(answers, default=-1)
    fresh = tuple(incoming[last_answer + 1 :])
    unanswered = _unanswered(history)
    if unanswered and fresh[: len(unanswered)] == unanswered:
        return fresh[len(unanswered) :]
    return fresh


def mark_unfinished(history: Sequence[Message], fresh: Sequence[Message]) -> tuple[Message, ...]:
    """``fresh``, preceded by a note if the history ends in a question nobody answered."""
    if fresh and isinstance(fresh[0], UserMessage) and history and not _is_answer(history[-1]):
        return (AssistantMessage(_UNFINISHED), *fresh)
    return tuple(fresh)


def repaired(messages: Iterable[Message]) -> list[Message]:
    """The same conversation with every tool call followed by exactly its own results.

    A crash, an abort or a trimmed history leaves calls without results and results without
    calls; providers refuse both, for ever.
    """
    result: list[Message] = []
    open_calls: dict[str, str] = {}
    for message in messages:
        if isinstance(message, ToolMessage):
            if open_calls.pop(message.call_id, None) is not None:
                result.append(message)
            continue
        result += _synthetic_results(open_calls)
        open_calls = {}
        result.append(message)
        if isinstance(message, AssistantMessage):
            open_calls = {call.id: call.name for call in message.tool_calls}
    return result + _synthetic_results(open_calls)


def fitted(messages: Sequence[Message], system: str, info: ModelInfo) -> tuple[Message, ...]:
    """The newest turns that fit the model's window beside the system prompt and an answer.

    The last user turn always stays, and a turn is kept or dropped as a whole.
    """
    reserve = min(20_000, info.context_window // 4)
    left = info.context_window - reserve - _text_tokens(system)
    starts = [i for i, message in enumerate(messages) if i == 0 or isinstance(message, UserMessage)] or [0]
    keep, end = starts[-1], len(messages)
    for start in reversed(starts):
        left -= sum(_tokens(message) for message in messages[start:end])
        if left < 0 and start != starts[-1]:
            return tuple(messages[keep:])
        keep = end = start
    return tuple(messages)


def without_images(messages: Iterable[Message]) -> list[Message]:
    """The same conversation with a note in place of each image."""
    return [
        UserMessage(tuple(_HIDDEN_IMAGE if isinstance(part, ImagePart) else part for part in message.parts))
        if isinstance(message, UserMessage) and message.images
        else message
        for message in messages
    ]


def _unanswered(history: Sequence[Message]) -> tuple[Message, ...]:
    start = len(history)
    while start and isinstance(history[start - 1], UserMessage):
        start -= 1
    return tuple(history[start:])


def _is_answer(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and not message.tool_calls


def _synthetic_results(open_calls: dict[str, str]) -> list[Message]:
    return [ToolMessage(call_id, name, _LOST, is_error=True) for call_id, name in open_calls.items()]


def _tokens(message: Message) -> int:
    if isinstance(message, UserMessage):
        return 4 + _text_tokens(message.text) + _IMAGE_TOKENS * len(message.images)
    if isinstance(message, AssistantMessage):
        return 4 + _text_tokens(message.text) + sum(8 + _text_tokens(c.arguments) for c in message.tool_calls)
    return 8 + _text_tokens(message.text)


def _text_tokens(text: str) -> int:
    """A safe estimate: four bytes to a token, and a fifth more."""
    return len(text.encode()) * 3 // 10
