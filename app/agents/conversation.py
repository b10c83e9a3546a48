"""The conversation of one turn: what is in it, how large it is, and how it gets smaller."""

from __future__ import annotations

from collections.abc import Sequence

from ..messages import Message
from ..providers.base import ToolSpec
from ..wire import dumps
from .compaction import Compacted, Summarise, compact
from .context import fitted, summary_message, text_tokens, tokens_of

# Estimates are scaled by what a provider counted, but never trusted to be much too high.
_LEAST_SCALE, _MOST_SCALE = 0.75, 2.0


class Conversation:
    """Messages, with their numbers in the session's transcript where they have some.

    :ivar messages: the newest part, word for word. Only :meth:`add` and :meth:`replace` change it.
    :ivar numbers: the number of each message; 0 for one that is not stored.
    :ivar summary: stands for everything before them; None if there is nothing before.
    :ivar message_tokens: estimated size of messages and summary.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        numbers: Sequence[int],
        summary: str | None = None,
        counted: int = 0,
    ) -> None:
        """:param counted: tokens that a provider counted for the last prompt, 0 if none did."""
        self.messages = list(messages)
        self.numbers = list(numbers)
        self.summary = summary
        self.message_tokens = self._measure()
        self._counted = counted
        self._scale = 0.0

    def add(self, message: Message, number: int) -> None:
        """Append a message that the store has given this number."""
        self.messages.append(message)
        self.numbers.append(number)
        self.message_tokens += tokens_of((message,))

    def number(self, index: int) -> int:
        """The transcript number of ``messages[index]``."""
        return self.numbers[index]

    def tokens(self, fixed: int) -> int:
        """Estimated size of a whole prompt, in the measure of the provider that counted last.

        :param fixed: estimated tokens of all that is not conversation.
        """
        return int((fixed + self.message_tokens) * self._measured(fixed))

    def room(self, budget: int, fixed: int) -> int:
        """What is left for messages and summary of a prompt of ``budget`` real tokens, in estimated ones."""
        return int(budget / self._measured(fixed)) - fixed

    def fitted(self, room: int, nudge: Sequence[Message]) -> tuple[Message, ...]:
        """Summary, messages and ``nudge``, cut down to ``room`` where they are larger."""
        room -= tokens_of(nudge)
        if self.message_tokens <= room:
            return (*self._head(), *self.messages, *nudge)
        head = self._head()
        return (*head, *fitted(self.messages, room - tokens_of(head)), *nudge)

    def halve(self) -> int:
        """Believe the provider that the prompt is too long: everything counts double from now on.

        Returns half the present size in tokens, in the old measure.
        """
        half = self.message_tokens // 2
        self._scale = (self._scale or 1.0) * 2
        return half

    def _measured(self, fixed: int) -> float:
        """Real tokens for an estimated one, from what a provider counted for the last prompt."""
        if not self._scale:
            ratio = self._counted / (fixed + self.message_tokens) if self._counted else 1.0
            self._scale = min(max(ratio, _LEAST_SCALE), _MOST_SCALE)
        return self._scale

    def compact(self, keep: int, chunk: int, summarise: Summarise) -> Compacted | None:
        """See :func:`.compaction.compact`; nothing here changes before :meth:`replace`."""
        return compact(self.messages, self.summary, keep=keep, chunk=chunk, summarise=summarise)

    def replace(self, result: Compacted) -> None:
        """Let the summary stand for the messages that it summarises."""
        self.summary = result.summary
        del self.messages[: result.kept], self.numbers[: result.kept]
        self.message_tokens = self._measure()

    def _head(self) -> tuple[Message, ...]:
        return (summary_message(self.summary),) if self.summary else ()

    def _measure(self) -> int:
        return tokens_of((*self._head(), *self.messages))


def fixed_tokens(system: str, tools: Sequence[ToolSpec]) -> int:
    """Estimated tokens of what is in a prompt besides the conversation."""
    return text_tokens(system) + sum(_spec_tokens(tool) for tool in tools)


def _spec_tokens(tool: ToolSpec) -> int:
    return text_tokens(tool.description) + len(dumps(tool.parameters)) * 3 // 10 + 8
