"""A transcript as ``chat.history`` and ``session.message`` show it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...messages import AssistantMessage, ImagePart, JsonValue, TextPart, ToolCall, ToolMessage, UserMessage
from ...sessions.records import Entry
from ...wire import InvalidJson, dumps, loads
from .views import Json

# Some clients take no message of more than 1 MiB.
_BYTES = 512 * 1024
_TEXT, _RESULT = 100_000, 8_000  # characters of a message, and of a tool's result

_STOP_REASONS = {"tool_calls": "toolUse", "note": "stop"}


def history(entries: Sequence[Entry]) -> list[JsonValue]:
    """The entries as rows, oldest first; the oldest are left out if all of them are too much."""
    rows: list[JsonValue] = []
    room = _BYTES
    for entry in reversed(entries):
        row = shown(entry)
        room -= len(dumps(row)) + 1
        if room < 0 and rows:
            break
        rows.append(row)
    return rows[::-1]


def shown(entry: Entry) -> Json:
    """One entry as a row."""
    return _said(entry) | {
        "timestamp": entry.created_at,
        "__openclaw": {"id": f"{entry.run_id}:{entry.seq}", "seq": entry.seq},
    }


def _said(entry: Entry) -> Json:
    match entry.message:
        case UserMessage(parts):
            return {"role": "user", "content": [_part(part) for part in parts]}
        case AssistantMessage(text, calls):
            content = [*_texts(text), *map(called, calls)]
            return {"role": "assistant", "content": content, "stopReason": stop_reason(entry.stop or "stop")}
        case ToolMessage(call_id, name, text, is_error):
            return {
                "role": "toolResult",
                "toolCallId": call_id,
                "toolName": name,
                "content": [_text(text, _RESULT)],
                "isError": is_error,
            }


def _part(part: TextPart | ImagePart) -> Json:
    """An image is only mentioned: a few of them would fill the whole answer."""
    if isinstance(part, TextPart):
        return _text(part.text)
    return {"type": "image", "mimeType": part.mime, "omitted": True, "bytes": len(part.data) * 3 // 4}


def _texts(text: str) -> Iterable[JsonValue]:
    return [_text(text)] if text else []


def _text(text: str, most: int = _TEXT) -> Json:
    return {"type": "text", "text": text if len(text) <= most else f"{text[:most]}…"}


def stop_reason(stop: str) -> str:
    """Why a message ended, in the protocol's words."""
    return _STOP_REASONS.get(stop, stop)


def called(call: ToolCall) -> Json:
    """A tool call as a part of the message that makes it."""
    return {"type": "toolCall", "id": call.id, "name": call.name, "arguments": arguments(call.arguments)}


def arguments(text: str) -> JsonValue:
    """What a model gives to a tool; nothing if it is no object, or more than anybody would read."""
    if len(text) > _RESULT:
        return {"omitted": f"{len(text)} characters"}
    try:
        value = loads(text.encode())
    except (InvalidJson, UnicodeEncodeError):
        return {}
    return value if isinstance(value, dict) else {}
