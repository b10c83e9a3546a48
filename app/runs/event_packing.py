"""A run's events in few bytes, for those who follow it in other processes, and back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast, get_type_hints

from ..agents.turn import SEPARATOR
from ..cancel import CancelReason
from ..errors import GatewayError
from ..events import (
    ApprovalRequested,
    ApprovalResolved,
    ContextCompacted,
    ReasoningDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
    ToolUpdated,
)
from ..messages import FinishReason, JsonValue, ToolCall, Usage

# What a plain event is called, and its fields in the order in which they follow the name.
_PLAIN: dict[str, type[Any]] = {
    "t": TextDelta,
    "r": ReasoningDelta,
    "s": RunStarted,
    "c": ToolStarted,
    "u": ToolUpdated,
    "f": ToolFinished,
    "a": ApprovalRequested,
    "d": ApprovalResolved,
    "k": ContextCompacted,
}
_NAMES = {kind: name for name, kind in _PLAIN.items()}
_FIELDS = {name: tuple(get_type_hints(kind).values()) for name, kind in _PLAIN.items()}


class UnreadableEvent(ValueError):
    """It is no event that this version of the gateway knows."""


def pack_events(events: Iterable[RunEvent]) -> list[JsonValue]:
    """The events as JSON values, one each."""
    return [_pack(event) for event in events]


def unpack_events(values: Iterable[JsonValue]) -> list[RunEvent]:
    """What :func:`pack_events` was given; an error comes back as a plain one that says the same.

    :raises UnreadableEvent: anything else.
    """
    try:
        return [_unpack(value) for value in values]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnreadableEvent(type(error).__name__) from None


def merged(events: Sequence[RunEvent]) -> list[RunEvent]:
    """The same with fewer events: texts that follow each other are one.

    What lies between two messages of an answer stays an event of its own: it tells them apart.
    """
    return [one for one in _merged(events) if one is not None]


def _merged(events: Sequence[RunEvent]) -> Iterator[RunEvent | None]:
    texts: list[str] = []
    for event in events:
        if isinstance(event, TextDelta) and event.text != SEPARATOR:
            texts.append(event.text)
            continue
        yield _joined(texts)
        texts = []
        yield event
    yield _joined(texts)


def _joined(texts: Sequence[str]) -> TextDelta | None:
    return TextDelta("".join(texts)) if texts else None


def _pack(event: RunEvent) -> JsonValue:
    match event:
        case RunCompleted():
            usage = event.usage
            return [
                "ok",
                event.text,
                event.finish_reason,
                [usage.input, usage.output, usage.cached, usage.reasoning, usage.cache_write],
                [[call.id, call.name, call.arguments] for call in event.tool_calls],
                event.model,
                event.reasoning,
            ]
        case RunFailed(error):
            return [
                *("error", error.message, error.status, error.type, error.code, error.param),
                error.retry_after,
            ]
        case RunCancelled(reason):
            return ["stop", reason.value]
    kind = type(event)
    return [_NAMES[kind], *(getattr(event, name) for name in kind.__slots__)]


def _unpack(value: Any) -> RunEvent:
    match value:
        case ["ok", str(text), str(reason), [*usage], [*calls], str(model), str(reasoning)]:
            used = Usage(*_of((int,) * len(usage), usage))
            called = tuple(ToolCall(*_of((str, str, str), call)) for call in calls)
            return RunCompleted(text, cast(FinishReason, reason), used, called, model, reasoning)
        case [
            "error",
            str(message),
            int(status),
            str(kind),
            None | str() as code,
            None | str() as param,
            None | int() | float() as retry_after,
        ]:
            return RunFailed(_error(message, status, kind, code, param, retry_after))
        case ["stop", reason]:
            return RunCancelled(CancelReason(reason))
    name, *fields = value
    event: RunEvent = _PLAIN[name](*_of(_FIELDS[name], fields))
    return event


def _of(kinds: Sequence[type], values: Sequence[Any]) -> Sequence[Any]:
    if not all(map(isinstance, values, kinds)):
        raise TypeError
    return values


def _error(
    message: str, status: int, kind: str, code: str | None, param: str | None, retry_after: float | None
) -> GatewayError:
    error = GatewayError(message)
    error.status, error.type, error.code, error.param = status, kind, code, param
    error.retry_after = retry_after
    return error
