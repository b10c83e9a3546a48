"""The conversation in a chat completion request: wire messages in, messages out.

Pure, but for images on the web and files that take a child process to be read.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...agents.results import bound_results
from ...messages import (
    AssistantMessage,
    ImagePart,
    JsonObject,
    JsonValue,
    Message,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from .attachments import Attachments
from .fields import invalid, unserved

MAX_MESSAGES = 10_000
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_IMAGE_PARTS = ("image_url", "input_image")
_FILE_PARTS = ("file", "input_file")


def parse_conversation(
    body: JsonObject, attachments: Attachments | None = None
) -> tuple[str, tuple[Message, ...]]:
    """All system text, joined by blank lines, and the messages without it.

    :param attachments: reads the request's images and files, by default only inline ones.
    :raises InvalidRequest: there is neither, or a message cannot be understood.
    """
    raw = body.get("messages")
    if raw is None:
        raise invalid("messages", "is required", code="missing_required_parameter")
    if not isinstance(raw, list):
        raise invalid("messages", "must be an array")
    if len(raw) > MAX_MESSAGES:
        raise invalid("messages", f"hold {len(raw)} messages; at most {MAX_MESSAGES} are served")
    attachments = attachments or Attachments()
    system: list[str] = []
    messages: list[Message] = []
    for index, item in enumerate(raw):
        where = f"messages[{index}]"
        if not isinstance(item, dict):
            raise invalid(where, "must be an object")
        if item.get("role") in ("system", "developer"):
            system.append(text_of(item.get("content"), f"{where}.content"))
        else:
            messages += _message(item, where, attachments)
    messages = list(bound_results(None, messages))
    texts = "\n\n".join(text for text in system if text)
    if not messages and not texts:
        raise invalid("messages", "must hold at least one message with content", code="empty_conversation")
    return texts, _with_a_question(messages)


def _with_a_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """An array of nothing but assistant turns is a question: its last text is what to answer."""
    if messages and all(isinstance(m, AssistantMessage) and not m.tool_calls for m in messages):
        *earlier, last = messages
        assert isinstance(last, AssistantMessage)
        return (*earlier, UserMessage.of(last.text))
    return tuple(messages)


def _message(item: JsonObject, where: str, attachments: Attachments) -> list[Message]:
    match item.get("role"):
        case "user":
            parts = user_parts(item.get("content"), f"{where}.content", attachments)
            return [UserMessage(parts)] if parts else []
        case "assistant":
            return _assistant(item, where)
        case "tool":
            call_id = item.get("tool_call_id")
            if not isinstance(call_id, str) or not call_id:
                raise invalid(f"{where}.tool_call_id", "must be a non-empty string")
            name = item.get("name")
            text = text_of(item.get("content"), f"{where}.content")
            return [ToolMessage(call_id, name if isinstance(name, str) else "", text)]
        case "function":
            name = item.get("name")
            if not isinstance(name, str) or not name:
                raise invalid(f"{where}.name", "must be a non-empty string")
            return [ToolMessage(name, name, text_of(item.get("content"), f"{where}.content"))]
    raise invalid(f"{where}.role", "must be system, developer, user, assistant, tool or function")


def _assistant(item: JsonObject, where: str) -> list[Message]:
    if item.get("audio") is not None:
        raise unserved(f"{where}.audio", "Only text is served: no answer was ever spoken here.")
    text = text_of(item.get("content"), f"{where}.content")
    calls = item.get("tool_calls")
    if calls is None:
        legacy = item.get("function_call")
        calls = [] if legacy is None else [{"id": _legacy_name(legacy, where), "function": legacy}]
    if not isinstance(calls, list):
        raise invalid(f"{where}.tool_calls", "must be an array")
    tool_calls = tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls))
    return [AssistantMessage(text, tool_calls)] if text or tool_calls else []


def _legacy_name(call: JsonValue, where: str) -> JsonValue:
    if not isinstance(call, dict):
        raise invalid(f"{where}.function_call", "must be an object")
    return call.get("name")


def _tool_call(call: JsonValue, where: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise invalid(where, "must be an object with a function")
    call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    if not isinstance(call_id, str) or not call_id:
        raise invalid(f"{where}.id", "must be a non-empty string")
    if not isinstance(name, str) or not name:
        raise invalid(f"{where}.function.name", "must be a non-empty string")
    if not isinstance(arguments, str):
        raise invalid(f"{where}.function.arguments", "must be a string of JSON")
    return ToolCall(call_id, name, arguments)


def text_of(content: JsonValue, where: str) -> str:
    """The text of a content value: parts joined by newlines, empty ones dropped."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(filter(None, (_part_text(part, w) for part, w in content_parts(content, where))))


def user_parts(content: JsonValue, where: str, attachments: Attachments) -> tuple[TextPart | ImagePart, ...]:
    """The parts of what a user says; empty text is dropped.

    :param attachments: reads the images and files of the whole request.
    """
    if content is None or isinstance(content, str):
        return (TextPart(content),) if content and content.strip() else ()
    parts: list[TextPart | ImagePart] = []
    for part, part_where in content_parts(content, where):
        kind = part.get("type")
        if kind in _IMAGE_PARTS:
            place = f"{part_where}.image_url"
            parts.append(attachments.image(part.get("image_url"), place, part.get("detail")))
        elif kind == "file":
            parts.append(attachments.file(part.get("file"), f"{part_where}.file"))
        elif kind == "input_file":  # what the Responses API calls it
            parts.append(attachments.file(part, part_where))
        elif text := _part_text(part, part_where):
            parts.append(TextPart(text))
    return tuple(parts)


def content_parts(content: JsonValue, where: str) -> list[tuple[dict[str, JsonValue], str]]:
    """The parts of a content array, each with its place."""
    if not isinstance(content, list):
        raise invalid(where, "must be a string or an array of content parts")
    parts: list[tuple[dict[str, JsonValue], str]] = []
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise invalid(f"{where}[{index}]", "must be an object")
        parts.append((part, f"{where}[{index}]"))
    return parts


def _part_text(part: JsonObject, where: str) -> str:
    kind = part.get("type")
    if kind in _IMAGE_PARTS or kind in _FILE_PARTS:
        raise unserved(f"{where}.type", f"Content of type {kind!r} is served in messages of a user only.")
    if kind not in _TEXT_PARTS:
        raise unserved(f"{where}.type", f"Content of type {kind!r} is not served here.")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise invalid(f"{where}.text", "must be a string")
    return text
