"""Calls of a model that knows nothing of tools: it is made to write one, by grammar. Pure but for ids.

It is told in words what there is to call, and can write nothing but JSON that is a call. Its
earlier calls and their results are told in words, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..events import TextDelta
from ..messages import AssistantMessage, JsonObject, JsonValue, Message, ToolCall, ToolMessage, UserMessage
from ..wire import InvalidJson, dumps, loads
from .base import ModelDone, ModelEvent, ModelRequest, ToolSpec

_ARGUMENTS = "Answer with the arguments of a call of the function {}, as one JSON object of this schema: {}"
_CALL = 'Answer with a call of one function, as one JSON object: {"name": …, "arguments": …}. There are:\n'
_CALLED = "I call {} with {}."
_RESULT = "The result of {}:\n{}"


def in_words(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with calls and results as texts."""
    return tuple(map(_told, messages))


def made_to_call(request: ModelRequest) -> ModelRequest:
    """The request without its tools, for an answer that is a call of one of them."""
    tools = request.tools
    system = "\n\n".join(filter(None, (request.system, _instruction(tools))))
    schema = dict(tools[0].parameters) if len(tools) == 1 else _any_of(tools)
    form: JsonObject = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
    return replace(request, system=system, tools=(), params=replace(request.params, response_format=form))


def as_call(events: Iterator[ModelEvent], tools: Sequence[ToolSpec]) -> Iterator[ModelEvent]:
    """The answer to :func:`made_to_call`, as a call; as it is if it was cut off."""
    pieces: list[str] = []
    for event in events:
        if isinstance(event, TextDelta):
            pieces.append(event.text)
        elif isinstance(event, ModelDone) and event.finish_reason == "stop":
            call = _call("".join(pieces), tools)
            yield replace(event, finish_reason="tool_calls", tool_calls=(call,)) if call else event
        else:
            yield event


def _told(message: Message) -> Message:
    if isinstance(message, ToolMessage):
        return UserMessage.of(_RESULT.format(message.name, message.text))
    if isinstance(message, AssistantMessage) and message.tool_calls:
        calls = (_CALLED.format(call.name, call.arguments) for call in message.tool_calls)
        return AssistantMessage("\n".join(filter(None, (message.text, *calls))))
    return message


def _instruction(tools: Sequence[ToolSpec]) -> str:
    if len(tools) == 1:
        return _ARGUMENTS.format(_described(tools[0]), dumps(tools[0].parameters).decode())
    return _CALL + "\n".join(f"- {_described(tool)} {dumps(tool.parameters).decode()}" for tool in tools)


def _described(tool: ToolSpec) -> str:
    return f"{tool.name} ({tool.description})" if tool.description else tool.name


def _any_of(tools: Sequence[ToolSpec]) -> dict[str, JsonValue]:
    return {"anyOf": [_named(tool) for tool in tools]}


def _named(tool: ToolSpec) -> JsonValue:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": _inner(tool.parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _inner(schema: JsonObject) -> JsonValue:
    """``schema`` inside of another one, where what it refers to would have another place."""
    return {"type": "object"} if b'"$ref"' in dumps(schema) else dict(schema)


def _call(text: str, tools: Sequence[ToolSpec]) -> ToolCall | None:
    try:
        value = loads(text.encode())
    except InvalidJson:
        return None
    name: JsonValue = tools[0].name
    if len(tools) > 1 and isinstance(value, dict):
        name, value = value.get("name"), value.get("arguments")
    if not isinstance(name, str) or not isinstance(value, dict):
        return None
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, dumps(value).decode())
