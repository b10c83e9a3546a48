"""Results that a caller gives of the calls it was asked for: each is bound to its call, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..errors import InvalidRequest
from ..messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage


@dataclass(slots=True)
class _Open:
    """The calls that results may answer now.

    :ivar calls: of one message; None where nobody knows what was asked before.
    :ivar given: the ids of those that have a result.
    :ivar past: the ids of earlier ones in the same turn.
    :ivar waiting: False once something else was said: a result comes too late, unless it is there already.
    """

    calls: Sequence[ToolCall] | None = ()
    given: set[str] = field(default_factory=set)
    past: set[str] = field(default_factory=set)
    waiting: bool = True

    def take(self, result: ToolMessage) -> list[Message]:
        """The result, with the id and the name of its call; nothing if that has one already.

        :raises InvalidRequest: it answers no call.
        """
        if self.calls is None:
            return [result]
        call = self.call_of(result.call_id, result.name)
        if result.call_id in self.past if call is None else call.id in self.given:
            return []
        if call is None or not self.waiting:
            raise InvalidRequest(
                f"No call {result.call_id!r} waits for a result; results follow the message that calls.",
                param="messages",
                code="unknown_tool_call",
            )
        self.given.add(call.id)
        return [replace(result, call_id=call.id, name=call.name)]

    def call_of(self, call_id: str, name: str) -> ToolCall | None:
        """By id or, as the functions of old have none, the first of its name without a result."""
        calls = self.calls or ()
        named = [call for call in calls if call.id == call_id]
        if not named and call_id == name:
            named = [call for call in calls if call.name == name]
        return next((call for call in named if call.id not in self.given), named[0] if named else None)


def bound_results(history: Sequence[Message] | None, fresh: Sequence[Message]) -> tuple[Message, ...]:
    """``fresh`` with the name and the id of its call in every result; one that is there already is left out.

    :param history: what was said before; None where nobody knows.
    :raises InvalidRequest: a result answers no call.
    """
    if not any(isinstance(message, ToolMessage) for message in fresh):
        return tuple(fresh)
    now = _Open(None) if history is None else _open_after(history)
    bound: list[Message] = []
    for message in fresh:
        if isinstance(message, ToolMessage):
            bound += now.take(message)
            continue
        now = _Open(message.tool_calls if isinstance(message, AssistantMessage) else ())
        bound.append(message)
    return tuple(bound)


def asks(history: Sequence[Message], calls: Sequence[ToolCall]) -> bool:
    """True if the last turn in ``history`` has one of ``calls``, as a caller remembers them."""
    now = _open_after(history)
    return any(call.id in now.past or now.call_of(call.id, call.name) for call in calls)


def before_answer(history: Sequence[Message]) -> int:
    """How many messages of ``history`` come before the answer to its newest results."""
    results = (i for i in range(len(history) - 1, -1, -1) if isinstance(history[i], ToolMessage))
    return next(results, len(history) - 1) + 1


def _open_after(history: Sequence[Message]) -> _Open:
    """The newest calls of the last turn in ``history``, and what became of them."""
    now = _Open()
    said = False
    for message in reversed(history):
        if isinstance(message, UserMessage):
            if said:
                break
            now.waiting = False
            continue
        said = True
        if isinstance(message, ToolMessage):
            (now.past if now.calls else now.given).add(message.call_id)
        elif message.tool_calls and not now.calls:
            now.calls = message.tool_calls
        elif not now.calls:
            now.waiting = False
    return now
