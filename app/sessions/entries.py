"""A message as the JSON text of one transcript row, and back. Pure."""

from __future__ import annotations

from ..messages import (
    AssistantMessage,
    ImagePart,
    JsonObject,
    JsonValue,
    Message,
    TextPart,
    Thoughts,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from ..wire import InvalidJson, dumps, loads


class UnreadableEntry(ValueError):
    """The text is not a stored message."""


def encode(message: Message) -> str:
    """``message`` as compact JSON; lone surrogates become U+FFFD."""
    return dumps(_plain(message)).decode()


def decode(text: object) -> Message:
    """The message that :func:`encode` wrote.

    :raises UnreadableEntry: anything else.
    """
    if not isinstance(text, str):  # a damaged row may hold anything
        raise UnreadableEntry("not a text")
    try:
        return _message(loads(text.encode()))
    except (InvalidJson, UnicodeEncodeError) as error:
        raise UnreadableEntry(str(error)) from None


def _plain(message: Message) -> JsonObject:
    match message:
        case UserMessage(parts):
            return {"role": "user", "content": [_plain_part(part) for part in parts]}
        case AssistantMessage(text, tool_calls, thoughts):
            calls: list[JsonValue] = [_plain_call(call) for call in tool_calls]
            plain: dict[str, JsonValue] = {"role": "assistant", "content": text, "tool_calls": calls}
            return plain if thoughts is None else plain | {"thoughts": _plain_thoughts(thoughts)}
        case ToolMessage(call_id, name, text, is_error):
            return {"role": "tool", "call_id": call_id, "name": name, "content": text, "is_error": is_error}


def _plain_part(part: TextPart | ImagePart) -> dict[str, JsonValue]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    detail: dict[str, JsonValue] = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image", "mime": part.mime, "data": part.data, **detail}


def _plain_call(call: ToolCall) -> dict[str, JsonValue]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def _plain_thoughts(thoughts: Thoughts) -> dict[str, JsonValue]:
    return {"ref": thoughts.ref, "items": [dict(item) for item in thoughts.items]}


def _message(value: JsonValue) -> Message:
    if not isinstance(value, dict):
        raise UnreadableEntry("not an object")
    # Compared by hand: a turn reads its whole conversation, and mapping patterns cost twice as much.
    role, content, calls = value.get("role"), value.get("content"), value.get("tool_calls")
    if role == "user" and isinstance(content, list):
        return UserMessage(tuple(map(_part, content)))
    if role == "assistant" and isinstance(content, str) and isinstance(calls, list):
        thoughts = _thoughts(value["thoughts"]) if "thoughts" in value else None
        return AssistantMessage(content, tuple(map(_call, calls)), thoughts)
    match value:
        case {
            "role": "tool",
            "call_id": str(call_id),
            "name": str(name),
            "content": str(text),
            "is_error": bool(is_error),
        }:
            return ToolMessage(call_id, name, text, is_error)
    raise UnreadableEntry("not a user, assistant or tool message")


def _part(value: JsonValue) -> TextPart | ImagePart:
    if not isinstance(value, dict):
        raise UnreadableEntry("not a part")
    text = value.get("text")
    if value.get("type") == "text" and isinstance(text, str):
        return TextPart(text)
    match value:
        case {"type": "image", "mime": str(mime), "data": str(data), "detail": str(detail)}:
            return ImagePart(mime, data, detail)
        case {"type": "image", "mime": str(mime), "data": str(data)}:
            return ImagePart(mime, data)
    raise UnreadableEntry("not a text or an image")


def _call(value: JsonValue) -> ToolCall:
    match value:
        case {"id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            return ToolCall(call_id, name, arguments)
    raise UnreadableEntry("not a tool call")


def _thoughts(value: JsonValue) -> Thoughts:
    match value:
        case {"ref": str(ref), "items": [*items]}:
            return Thoughts(ref, tuple(_item(item) for item in items))
    raise UnreadableEntry("not thoughts")


def _item(value: JsonValue) -> JsonObject:
    if not isinstance(value, dict):
        raise UnreadableEntry("not a thought")
    return value
