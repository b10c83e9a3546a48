"""What was said, as OpenTelemetry's conventions want it in attributes: JSON text."""

from __future__ import annotations

from collections.abc import Iterable

from ..events import RunCompleted
from ..messages import AssistantMessage, JsonValue, Message, ToolCall, ToolMessage
from ..wire import dumps

_IMAGE: JsonValue = {"type": "blob", "modality": "image"}


def input_messages(messages: Iterable[Message]) -> str:
    """What a run was asked. Images are mentioned, not shown."""
    return dumps([_message(message) for message in messages]).decode()


def output_messages(event: RunCompleted) -> str:
    """What a run has answered."""
    parts = [*_text(event.text), *map(_call, event.tool_calls)]
    return dumps([{"role": "assistant", "parts": parts, "finish_reason": event.finish_reason}]).decode()


def _message(message: Message) -> JsonValue:
    if isinstance(message, ToolMessage):
        result: JsonValue = {"type": "tool_call_response", "id": message.call_id, "response": message.text}
        return {"role": "tool", "parts": [result]}
    if isinstance(message, AssistantMessage):
        return {"role": "assistant", "parts": [*_text(message.text), *map(_call, message.tool_calls)]}
    return {"role": "user", "parts": [*_text(message.text), *(_IMAGE for _ in message.images)]}


def _text(text: str) -> list[JsonValue]:
    return [{"type": "text", "content": text}] if text else []


def _call(call: ToolCall) -> JsonValue:
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
