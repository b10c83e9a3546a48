"""An answer that grows event by event: output items and the events of the wire. Pure.

Whoever feeds it the same run gets the same items and the same events, with the same numbers: the
body of a response, its stream and a stream that somebody comes back to cannot differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from ....errors import GatewayError
from ....events import (
    ReasoningDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TerminalEvent,
    TextDelta,
)
from ....messages import ToolCall, Usage
from ..chunks import fragments
from .ids import output_item_id

Item: TypeAlias = dict[str, Any]
# The type of an event and its other fields, but for its number.
WireEvent: TypeAlias = tuple[str, dict[str, Any]]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ERROR_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


class Answer:
    """One response: its items so far, and the events that tell of them.

    One thread feeds it; any thread may ask for the body.
    """

    def __init__(
        self,
        response_id: str,
        created_at: int,
        echo: Mapping[str, Any],
        ended_at: Callable[[], int],
        *,
        reasoning: bool = False,
    ) -> None:
        """:param created_at: Unix seconds; so is what ``ended_at`` returns, called at the end.
        :param echo: the fields that repeat the request.
        :param reasoning: the model's reasoning is a part of the output.
        """
        self._status = "queued" if echo["background"] else "in_progress"
        self._id = response_id
        self._created_at = created_at
        self._echo = echo
        self._ended_at = ended_at
        self._reasoning = reasoning
        self._items: list[Item] = []
        self._open: _OpenItem | None = None
        self._ending: dict[str, Any] = {}

    @property
    def over(self) -> bool:
        """True once the run has ended."""
        return bool(self._ending)

    def opening(self) -> Iterator[WireEvent]:
        """The events before anything has happened."""
        yield self._about("response.created")
        yield self._about(f"response.{self._status}")

    def feed(self, event: RunEvent) -> Iterator[WireEvent]:
        """Take the run's next event; the events that tell of it. They have to be drawn to the last one."""
        match event:
            case TextDelta(text):
                yield from self._write(_Message, text)
            case ReasoningDelta(text) if self._reasoning:
                yield from self._write(_Reasoning, text)
            case RunStarted() if self._status == "queued":
                self._status = "in_progress"
                yield self._about("response.in_progress")
            case RunCompleted() | RunFailed() | RunCancelled():
                yield from self._finish(event)

    def body(self) -> dict[str, Any]:
        """The response as it now stands."""
        output = [*self._items, *([self._open.item("incomplete")] if self._open and self._ending else [])]
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "completed_at": None,
            "status": self._status,
            "error": None,
            "incomplete_details": None,
            **self._echo,
            "output": output,
            **self._ending,  # with the usage, which OpenAI's document does not let be null
        }

    def _about(self, kind: str) -> WireEvent:
        return kind, {"response": self.body()}

    def _write(self, kind: type[_OpenItem], text: str) -> Iterator[WireEvent]:
        if not isinstance(self._open, kind):
            yield from self._close("completed")
            self._open = kind(self._id, len(self._items))
            yield from self._open.begin()
        yield self._open.add(text)

    def _close(self, status: str) -> Iterator[WireEvent]:
        """End the item that is being written, if there is one."""
        if self._open is not None:
            yield from self._open.end(status)
            self._items.append(self._open.item(status))
            self._open = None

    def _finish(self, event: TerminalEvent) -> Iterator[WireEvent]:
        match event:
            case RunCompleted():
                yield from self._complete(event)
            case RunFailed(error):
                self._end("failed", error=error_object(error))
                yield self._about("response.failed")
            case RunCancelled():
                self._end("cancelled")
                yield self._about("response.failed")

    def _complete(self, event: RunCompleted) -> Iterator[WireEvent]:
        reason = _INCOMPLETE.get(event.finish_reason)
        status = "incomplete" if reason else "completed"
        if not (event.text or event.tool_calls):
            yield from self._write(_Message, "")
        yield from self._close(status)
        for call in event.tool_calls:
            yield from self._call(call)
        usage = usage_object(event.usage)
        if reason:
            self._end(status, usage=usage, incomplete_details={"reason": reason})
        else:
            self._end(status, usage=usage, completed_at=self._ended_at())
        yield self._about(f"response.{status}")

    def _end(self, status: str, **fields: Any) -> None:
        """All at once, as other threads may ask for the body."""
        self._ending = {"status": status, **fields}

    def _call(self, call: ToolCall) -> Iterator[WireEvent]:
        index = len(self._items)
        item: Item = {
            "id": output_item_id(self._id, "function_call", index),
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        self._items.append(item)
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, "status": "in_progress", "arguments": ""}
        yield "response.output_item.added", {"output_index": index, "item": begun}
        for piece in fragments(call.arguments):
            yield "response.function_call_arguments.delta", {**place, "delta": piece}
        whole = {"name": call.name, "arguments": call.arguments}
        yield "response.function_call_arguments.done", {**place, **whole}
        yield "response.output_item.done", {"output_index": index, "item": item}


class _OpenItem(ABC):
    """An item of one part of text that is being written."""

    kind: str

    def __init__(self, response_id: str, index: int) -> None:
        self._id = output_item_id(response_id, self.kind, index)
        self._index = index
        self._pieces: list[str] = []
        self._place = {"item_id": self._id, "output_index": index}

    def item(self, status: str) -> Item:
        """The item as it now stands."""
        return self._item(status, [self._part(self._text)])

    def begin(self) -> Iterator[WireEvent]:
        """The events before its first word."""
        yield (
            "response.output_item.added",
            {"output_index": self._index, "item": self._item("in_progress", [])},
        )
        yield self._part_event("added", "")

    def add(self, text: str) -> WireEvent:
        """Some more of the text."""
        self._pieces.append(text)
        return self._delta(text)

    def end(self, status: str) -> Iterator[WireEvent]:
        """The events after its last word."""
        text = self._text
        yield self._done(text)
        yield self._part_event("done", text)
        yield "response.output_item.done", {"output_index": self._index, "item": self.item(status)}

    @property
    def _text(self) -> str:
        return "".join(self._pieces)

    @abstractmethod
    def _item(self, status: str, parts: list[Item]) -> Item: ...

    @abstractmethod
    def _part(self, text: str) -> Item: ...

    @abstractmethod
    def _part_event(self, what: str, text: str) -> WireEvent: ...

    @abstractmethod
    def _delta(self, text: str) -> WireEvent: ...

    @abstractmethod
    def _done(self, text: str) -> WireEvent: ...


class _Message(_OpenItem):
    """What the agent says."""

    kind = "message"

    def _item(self, status: str, parts: list[Item]) -> Item:
        return {
            "id": self._id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": parts,
        }

    def _part(self, text: str) -> Item:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _part_event(self, what: str, text: str) -> WireEvent:
        return f"response.content_part.{what}", {**self._place, "content_index": 0, "part": self._part(text)}

    def _delta(self, text: str) -> WireEvent:
        fields = {**self._place, "content_index": 0, "delta": text, "logprobs": []}
        return "response.output_text.delta", fields

    def _done(self, text: str) -> WireEvent:
        fields = {**self._place, "content_index": 0, "text": text, "logprobs": []}
        return "response.output_text.done", fields


class _Reasoning(_OpenItem):
    """What the model thinks, as one summary."""

    kind = "reasoning"

    def _item(self, status: str, parts: list[Item]) -> Item:
        return {"id": self._id, "type": "reasoning", "summary": parts, "status": status}

    def _part(self, text: str) -> Item:
        return {"type": "summary_text", "text": text}

    def _part_event(self, what: str, text: str) -> WireEvent:
        fields = {**self._place, "summary_index": 0, "part": self._part(text)}
        return f"response.reasoning_summary_part.{what}", fields

    def _delta(self, text: str) -> WireEvent:
        return "response.reasoning_summary_text.delta", {**self._place, "summary_index": 0, "delta": text}

    def _done(self, text: str) -> WireEvent:
        return "response.reasoning_summary_text.done", {**self._place, "summary_index": 0, "text": text}


def usage_object(usage: Usage) -> dict[str, Any]:
    """The tokens of a run as the Responses API counts them."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def error_object(error: GatewayError) -> dict[str, Any]:
    """An error as a failed response holds it: of the vendor's codes the one that comes nearest."""
    return {"code": _ERROR_CODES.get(error.status, "server_error"), "message": error.message}
