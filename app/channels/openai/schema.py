"""OpenAI's chat completion request: JSON in, a frozen :class:`ChatRequest` out. Pure.

The rules are those of OpenAI's API reference. What the gateway does not serve is refused by
name; unknown fields are ignored, as OpenAI's own servers ignore them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import InvalidRequest
from ...messages import (
    AssistantMessage,
    ImagePart,
    JsonObject,
    JsonValue,
    Message,
    SamplingParams,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)

MAX_MESSAGES = 10_000
MAX_IMAGES = 8
MAX_IMAGE_BYTES = 10 * 2**20
_IMAGE_MAGIC = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_SAFE_INTEGER = 2**53 - 1
_LONGEST_MODEL = 256
_DEEPEST_SCHEMA = 100


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request.

    :ivar model: as the client wrote it, to be echoed; ``openclaw`` when absent.
    :ivar user: trimmed; None when absent or blank.
    :ivar system: all system and developer text, joined by blank lines.
    :ivar messages: the conversation without system text; empty if there was only that.
    """

    model: str
    messages: tuple[Message, ...]
    system: str
    params: SamplingParams
    stream: bool = False
    include_usage: bool = False
    user: str | None = None


def parse_chat_request(body: JsonValue) -> ChatRequest:
    """The request that ``body`` describes.

    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    _refuse_unserved(body)
    system, messages = _conversation(body)
    stream = _boolean(body, "stream")
    return ChatRequest(
        model=_model(body),
        messages=messages,
        system=system,
        params=_sampling(body),
        stream=stream,
        include_usage=_include_usage(body),
        user=(_string(body, "user") or "").strip() or None,
    )


def _model(body: JsonObject) -> str:
    model = _string(body, "model") or "openclaw"
    if len(model) > _LONGEST_MODEL:  # every chunk of the answer repeats it
        raise _invalid("model", f"is longer than {_LONGEST_MODEL} characters")
    return model


def _refuse_unserved(body: JsonObject) -> None:
    count = _integer(body, "n", 1, 128)
    if count not in (None, 1):
        raise _unserved("n", "Only n=1 is served.")
    if _boolean(body, "logprobs") or body.get("top_logprobs"):
        raise _unserved("logprobs", "Log probabilities are not served.")
    for name in ("tools", "functions"):
        value = body.get(name)
        if value is not None and not isinstance(value, list):
            raise _invalid(name, "must be an array")
        if value and body.get("tool_choice") != "none":
            raise _unserved(name, "Tools of the client are not served yet; the agent has its own.")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"] and modalities != []:
        raise _unserved("modalities", "Only text is served.")
    if body.get("audio") is not None:
        raise _unserved("audio", "Only text is served.")


def _include_usage(body: JsonObject) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise _invalid("stream_options", "must be an object")
    return _boolean(options, "include_usage", "stream_options.include_usage")


# --- sampling ---


def _sampling(body: JsonObject) -> SamplingParams:
    longest = _integer(body, "max_completion_tokens", 1, _SAFE_INTEGER)
    legacy = _integer(body, "max_tokens", 1, _SAFE_INTEGER)
    return SamplingParams(
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1),
        max_tokens=legacy if longest is None else longest,
        frequency_penalty=_number(body, "frequency_penalty", -2, 2),
        presence_penalty=_number(body, "presence_penalty", -2, 2),
        seed=_integer(body, "seed", -(2**63), 2**63 - 1),
        stop=_stop(body.get("stop")),
        response_format=_response_format(body.get("response_format")),
        reasoning_effort=_string(body, "reasoning_effort"),
    )


def _stop(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ()
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise _invalid("stop", "must be a string or an array of strings")
    if len(entries) > 4:
        raise _invalid("stop", "supports at most 4 sequences")
    if not all(isinstance(entry, str) and entry for entry in entries):
        raise _invalid("stop", "entries must be non-empty strings")
    return tuple(str(entry) for entry in entries)


def _response_format(value: JsonValue) -> JsonObject | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _invalid("response_format", "must be an object")
    kind = value.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise _invalid("response_format.type", "must be text, json_object or json_schema")
    if kind == "json_schema" and not isinstance(value.get("json_schema"), dict):
        raise _invalid("response_format.json_schema", "must be an object")
    if _is_deeper(value, _DEEPEST_SCHEMA):  # JSON that can be read but not be written again
        raise _invalid("response_format", "is nested too deeply")
    return None if kind == "text" else value


def _is_deeper(value: JsonValue, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)


# --- the conversation ---


def _conversation(body: JsonObject) -> tuple[str, tuple[Message, ...]]:
    raw = body.get("messages")
    if raw is None:
        raise _invalid("messages", "is required", code="missing_required_parameter")
    if not isinstance(raw, list):
        raise _invalid("messages", "must be an array")
    if len(raw) > MAX_MESSAGES:
        raise _invalid("messages", f"hold {len(raw)} messages; at most {MAX_MESSAGES} are served")
    system: list[str] = []
    messages: list[Message] = []
    for index, item in enumerate(raw):
        where = f"messages[{index}]"
        if not isinstance(item, dict):
            raise _invalid(where, "must be an object")
        if item.get("role") in ("system", "developer"):
            system.append(_text(item.get("content"), f"{where}.content"))
        else:
            messages += _message(item, where)
    _limit_images(messages)
    texts = "\n\n".join(text for text in system if text)
    if not messages and not texts:
        raise _invalid("messages", "must hold at least one message with content", code="empty_conversation")
    return texts, _with_a_question(messages)


def _with_a_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """An array of nothing but assistant turns is a question: its last text is what to answer."""
    if messages and all(isinstance(m, AssistantMessage) and not m.tool_calls for m in messages):
        *earlier, last = messages
        assert isinstance(last, AssistantMessage)
        return (*earlier, UserMessage.of(last.text))
    return tuple(messages)


def _message(item: JsonObject, where: str) -> list[Message]:
    match item.get("role"):
        case "user":
            parts = _user_parts(item.get("content"), f"{where}.content")
            return [UserMessage(parts)] if parts else []
        case "assistant":
            return _assistant(item, where)
        case "tool":
            call_id = item.get("tool_call_id")
            if not isinstance(call_id, str) or not call_id:
                raise _invalid(f"{where}.tool_call_id", "must be a non-empty string")
            name = item.get("name")
            text = _text(item.get("content"), f"{where}.content")
            return [ToolMessage(call_id, name if isinstance(name, str) else "", text)]
        case "function":
            name = item.get("name")
            if not isinstance(name, str) or not name:
                raise _invalid(f"{where}.name", "must be a non-empty string")
            return [ToolMessage(name, name, _text(item.get("content"), f"{where}.content"))]
    raise _invalid(f"{where}.role", "must be system, developer, user, assistant, tool or function")


def _assistant(item: JsonObject, where: str) -> list[Message]:
    text = _text(item.get("content"), f"{where}.content")
    calls = item.get("tool_calls")
    if calls is None:
        legacy = item.get("function_call")
        calls = [] if legacy is None else [{"id": _legacy_name(legacy, where), "function": legacy}]
    if not isinstance(calls, list):
        raise _invalid(f"{where}.tool_calls", "must be an array")
    tool_calls = tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls))
    return [AssistantMessage(text, tool_calls)] if text or tool_calls else []


def _legacy_name(call: JsonValue, where: str) -> JsonValue:
    if not isinstance(call, dict):
        raise _invalid(f"{where}.function_call", "must be an object")
    return call.get("name")


def _tool_call(call: JsonValue, where: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise _invalid(where, "must be an object with a function")
    call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    if not isinstance(call_id, str) or not call_id:
        raise _invalid(f"{where}.id", "must be a non-empty string")
    if not isinstance(name, str) or not name:
        raise _invalid(f"{where}.function.name", "must be a non-empty string")
    if not isinstance(arguments, str):
        raise _invalid(f"{where}.function.arguments", "must be a string of JSON")
    return ToolCall(call_id, name, arguments)


def _text(content: JsonValue, where: str) -> str:
    """The text of a content value: parts joined by newlines, empty ones dropped."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(filter(None, (_part_text(part, w) for part, w in _parts(content, where))))


def _user_parts(content: JsonValue, where: str) -> tuple[TextPart | ImagePart, ...]:
    if content is None or isinstance(content, str):
        return (TextPart(content),) if content and content.strip() else ()
    parts: list[TextPart | ImagePart] = []
    for part, part_where in _parts(content, where):
        if part.get("type") in ("image_url", "input_image"):
            parts.append(_image(part.get("image_url"), f"{part_where}.image_url"))
        elif text := _part_text(part, part_where):
            parts.append(TextPart(text))
    return tuple(parts)


def _parts(content: JsonValue, where: str) -> list[tuple[dict[str, JsonValue], str]]:
    if not isinstance(content, list):
        raise _invalid(where, "must be a string or an array of content parts")
    parts: list[tuple[dict[str, JsonValue], str]] = []
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise _invalid(f"{where}[{index}]", "must be an object")
        parts.append((part, f"{where}[{index}]"))
    return parts


def _part_text(part: JsonObject, where: str) -> str:
    kind = part.get("type")
    if kind not in _TEXT_PARTS:
        raise _unserved(f"{where}.type", f"Content of type {kind!r} is not served here.")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise _invalid(f"{where}.text", "must be a string")
    return text


# --- images ---


def _image(value: JsonValue, where: str) -> ImagePart:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise _invalid(f"{where}.url", "must be a string")
    header, comma, data = url.partition(",")
    if not header.lower().startswith("data:"):
        raise _unserved(f"{where}.url", "Only data: URIs are served for images; send the image inline.")
    mime, *options = header[5:].lower().split(";")
    if not comma or "base64" not in options:
        raise _invalid(f"{where}.url", "must be a base64 data URI")
    if mime not in _IMAGE_MAGIC:
        raise _invalid(f"{where}.url", f"must be one of {', '.join(_IMAGE_MAGIC)}")
    return ImagePart(mime, _checked_base64(data, mime, where))


def _checked_base64(data: str, mime: str, where: str) -> str:
    if len(data) // 4 * 3 - data.endswith("=") - data.endswith("==") > MAX_IMAGE_BYTES:
        raise _invalid(f"{where}.url", f"is larger than {MAX_IMAGE_BYTES // 2**20} MiB")
    try:
        image = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(f"{where}.url", "is not valid base64") from None
    if not image.startswith(_IMAGE_MAGIC[mime]) or (mime == "image/webp" and image[8:12] != b"WEBP"):
        raise _invalid(f"{where}.url", f"does not hold a {mime} image")
    return data


def _limit_images(messages: Sequence[Message]) -> None:
    count = sum(len(m.images) for m in messages if isinstance(m, UserMessage))
    if count > MAX_IMAGES:
        raise _invalid("messages", f"hold {count} images; at most {MAX_IMAGES} are served")


# --- fields ---


def _string(body: JsonObject, name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _invalid(name, "must be a string")
    return value


def _boolean(body: JsonObject, name: str, where: str | None = None) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _invalid(where or name, "must be a boolean")
    return bool(value)


def _number(body: JsonObject, name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(name, "must be a number")
    if not low <= value <= high:
        raise _invalid(name, f"must be between {low} and {high}")
    return value


def _integer(body: Mapping[str, JsonValue], name: str, low: int, high: int) -> int | None:
    """JSON knows no integers: 5.0 is one, true is not."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise _invalid(name, "must be an integer")
    if not low <= value <= high:
        raise _invalid(name, f"must be at least {low}" if value < low else f"must be at most {high}")
    return int(value)


def _invalid(param: str, problem: str, *, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"`{param}` {problem}.", param=param, code=code)


def _unserved(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="unsupported_value")
