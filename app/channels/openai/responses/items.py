"""What a response is asked: items of the wire in, messages out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ....errors import InvalidRequest
from ....messages import AssistantMessage, JsonObject, JsonValue, Message, ToolCall, ToolMessage, UserMessage
from ..attachments import Attachments
from ..content import content_parts, text_of, user_parts
from ..fields import invalid, unserved

MAX_ITEMS = 10_000

Item: TypeAlias = dict[str, Any]
# The stored item with this id, None if there is none.
FindItem: TypeAlias = Callable[[str], Item | None]

_MESSAGE_ROLES = ("user", "assistant", "system", "developer")


@dataclass(frozen=True, slots=True)
class Input:
    """What is asked.

    :ivar system: the text of system and developer items, joined by blank lines.
    :ivar messages: the conversation without it.
    :ivar items: the input as it is shown again, but for the items' ids; images are left out.
    """

    system: str
    messages: tuple[Message, ...]
    items: tuple[Item, ...]


def parse_input(value: JsonValue, find: FindItem, attachments: Attachments | None = None) -> Input:
    """The input that ``value`` describes: a text, or an array of items.

    :param attachments: reads its images and files, by default only inline ones.
    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    if value is None:
        raise invalid("input", "is required", code="missing_required_parameter")
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise invalid("input", "must be a string or an array of items")
    if len(value) > MAX_ITEMS:
        raise invalid("input", f"holds {len(value)} items; at most {MAX_ITEMS} are served")
    reader = _Reader(find, attachments or Attachments())
    for index, item in enumerate(value):
        reader.read(item, f"input[{index}]")
    return reader.result()


class _Reader:
    """Puts the items together, one after the other."""

    def __init__(self, find: FindItem, attachments: Attachments) -> None:
        self._find = find
        self._attachments = attachments
        self._system: list[str] = []
        self._messages: list[Message] = []
        self._items: list[Item] = []
        self._names: dict[str, str] = {}  # of the functions that were called, by call

    def read(self, value: JsonValue, where: str) -> None:
        if not isinstance(value, dict):
            raise invalid(where, "must be an object")
        match value.get("type"):
            case "message":
                self._message(value, where)
            case None if "role" in value:
                self._message(value, where)
            case "function_call":
                self._call(value, where)
            case "function_call_output":
                self._output(value, where)
            case "reasoning":
                pass  # only the model that thought it could read it
            case "item_reference":
                self._reference(value, where)
            case None if set(value) == {"id"}:
                self._reference(value, where)
            case str(kind):
                raise unserved(f"{where}.type", f"Items of type {kind!r} are not served.")
            case _:
                raise invalid(f"{where}.type", "must be the type of an item")

    def result(self) -> Input:
        system = "\n\n".join(text for text in self._system if text)
        return Input(system, _with_a_question(self._messages), tuple(self._items))

    def _message(self, item: JsonObject, where: str) -> None:
        role, content, place = item.get("role"), item.get("content"), f"{where}.content"
        if role not in _MESSAGE_ROLES:
            raise invalid(f"{where}.role", "must be user, assistant, system or developer")
        if not isinstance(content, str | list):
            raise invalid(place, "must be a string or an array of content parts")
        shown = {"type": "message", "status": "completed", "role": role}
        if role == "user":
            if parts := user_parts(content, place, self._attachments):
                self._messages.append(UserMessage(parts))
            self._items.append(shown | {"content": _shown_parts(content, "input_text")})
            return
        text = text_of(content, place)
        kind = "output_text" if role == "assistant" else "input_text"
        self._items.append(shown | {"content": _shown_parts(content, kind)})
        if role != "assistant":
            self._system.append(text)
        elif text:
            self._messages.append(AssistantMessage(text))

    def _call(self, item: JsonObject, where: str) -> None:
        call_id, name = _text(item, "call_id", where), _text(item, "name", where)
        arguments = item.get("arguments")
        if not isinstance(arguments, str):
            raise invalid(f"{where}.arguments", "must be a string of JSON")
        self._names[call_id] = name
        call = ToolCall(call_id, name, arguments)
        last = self._messages[-1] if self._messages else None
        if isinstance(last, AssistantMessage):  # one turn of the model: its text, then all its calls
            self._messages[-1] = AssistantMessage(last.text, (*last.tool_calls, call))
        else:
            self._messages.append(AssistantMessage("", (call,)))
        shown = {"call_id": call_id, "name": name, "arguments": arguments}
        self._items.append({"type": "function_call", "status": "completed", **shown})

    def _output(self, item: JsonObject, where: str) -> None:
        call_id, output = _text(item, "call_id", where), item.get("output")
        if not isinstance(output, str | list):
            raise invalid(f"{where}.output", "must be a string or an array of content parts")
        text = text_of(output, f"{where}.output")
        self._messages.append(ToolMessage(call_id, self._names.get(call_id, ""), text))
        shown = {"call_id": call_id, "output": text}
        self._items.append({"type": "function_call_output", "status": "completed", **shown})

    def _reference(self, item: JsonObject, where: str) -> None:
        item_id = _text(item, "id", where)
        found = self._find(item_id)
        if found is None:
            raise InvalidRequest(
                f"There is no item {item_id[:100]!r}.", param=f"{where}.id", code="item_not_found"
            )
        self.read(found, where)


def _text(item: JsonObject, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise invalid(f"{where}.{name}", "must be a non-empty string")
    return value


def _shown_parts(content: str | list[JsonValue], kind: str) -> list[Item]:
    """The content as it is shown again; what it is was checked before."""
    if isinstance(content, str):
        return [_shown_text(content, kind)]
    return [_shown_part(part, kind) for part, _ in content_parts(content, "")]


def _shown_part(part: JsonObject, kind: str) -> Item:
    match part.get("type"):
        case "input_image" | "image_url":
            return {"type": "input_image", "detail": "auto", "image_url": None, "file_id": None}
        case "input_file" | "file":
            return {"type": "input_file", "filename": str(part.get("filename") or "")}
        case "refusal":
            return {"type": "refusal", "refusal": part["refusal"]}
    return _shown_text(str(part["text"]), kind)


def _shown_text(text: str, kind: str) -> Item:
    if kind == "input_text":
        return {"type": kind, "text": text}
    return {"type": kind, "text": text, "annotations": [], "logprobs": []}


def _with_a_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Nothing but turns of the assistant is a question: their last text is what to answer."""
    if messages and all(isinstance(m, AssistantMessage) and not m.tool_calls for m in messages):
        return (*messages[:-1], UserMessage.of(getattr(messages[-1], "text", "")))
    return tuple(messages)
