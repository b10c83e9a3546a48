"""Tools that the caller of OpenAI's API brings along: wire tools in, :class:`ClientTools` out. Pure.

Chat completions wrap a function once more than the Responses API does; the two differ in
nothing else, and share everything here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...agents.client_tools import NO_CLIENT_TOOLS, ClientTools
from ...errors import InvalidRequest
from ...messages import JsonObject, JsonValue
from ...providers.base import ToolChoice, ToolSpec
from .fields import boolean, invalid, is_deeper, unserved

MAX_TOOLS = 128
_DEEPEST_SCHEMA = 100
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_LONGEST_DESCRIPTION = 64_000
_NO_PARAMETERS: JsonObject = {"type": "object", "properties": {}}

# The object in an entry that has the function's name, and its place.
_Function: TypeAlias = Callable[[JsonObject, str], tuple[JsonObject, str]]


@dataclass(frozen=True, slots=True)
class _Demand:
    """What a ``tool_choice`` says.

    :ivar offered: the names of the tools that may be called, None for all of them.
    """

    choice: ToolChoice = ToolChoice()
    offered: frozenset[str] | None = None


def parse_client_tools(body: JsonObject) -> ClientTools:
    """The tools of a chat completion request, or its ``functions`` of old.

    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    if is_legacy(body):
        return _parse_functions(body)
    return _parse(body, _wrapped, "allowed_tools")


def parse_flat_client_tools(body: JsonObject) -> ClientTools:
    """The tools of a request of the Responses API.

    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    return _parse(body, _flat, None)


def is_legacy(body: JsonObject) -> bool:
    """True if a chat completion request has ``functions``: then its answer has a ``function_call``.

    :raises InvalidRequest: it has ``tools`` too.
    """
    if not body.get("functions"):
        return False
    if body.get("tools"):
        raise invalid("functions", "cannot stand beside `tools`")
    return True


def _parse(body: JsonObject, function: _Function, allowed: str | None) -> ClientTools:
    """:param allowed: the field with what an ``allowed_tools`` choice says, None for the choice itself."""
    parallel = body.get("parallel_tool_calls") is None or boolean(body, "parallel_tool_calls")
    specs = _specs(_array(body, "tools"), "tools", lambda item, where: _typed(item, where, function))
    demand = _demand(body.get("tool_choice"), function, allowed)
    return _client_tools(specs, demand, "tool_choice", parallel=parallel)


def _parse_functions(body: JsonObject) -> ClientTools:
    specs = _specs(_array(body, "functions"), "functions", _flat)
    choice = body.get("function_call")
    if isinstance(choice, dict):
        demand = _named(choice, "function_call")
    elif choice in (None, "auto", "none"):
        demand = _word(choice, "function_call")
    else:
        raise invalid("function_call", "must be none, auto or an object with the name of a function")
    return _client_tools(specs, demand, "function_call", parallel=False)


def _client_tools(specs: tuple[ToolSpec, ...], demand: _Demand, where: str, *, parallel: bool) -> ClientTools:
    names = {spec.name for spec in specs}
    if demand.choice.required and not specs:
        raise invalid(where, "demands a tool, but the request brings none")
    wanted = (demand.offered or frozenset()) | ({demand.choice.name} if demand.choice.name else set())
    if unknown := sorted(wanted - names):
        raise invalid(where, f"names {unknown[0]!r}, which is not among the request's tools")
    if demand.offered is not None:
        specs = tuple(spec for spec in specs if spec.name in demand.offered)
    return ClientTools(specs, demand.choice, parallel) if specs else NO_CLIENT_TOOLS


# --- tools ---


def _specs(items: Sequence[JsonValue], place: str, function: _Function) -> tuple[ToolSpec, ...]:
    if len(items) > MAX_TOOLS:
        raise invalid(place, f"holds {len(items)} tools; at most {MAX_TOOLS} are served")
    specs: dict[str, ToolSpec] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise invalid(f"{place}[{index}]", "must be an object")
        stated, where = function(item, f"{place}[{index}]")
        spec = _spec(stated, where)
        if spec.name in specs:
            raise invalid(f"{where}.name", f"{spec.name!r} is there twice")
        specs[spec.name] = spec
    return tuple(specs.values())


def _spec(stated: JsonObject, where: str) -> ToolSpec:
    description = stated.get("description")
    if description is not None and not isinstance(description, str):
        raise invalid(f"{where}.description", "must be a string")
    if description and len(description) > _LONGEST_DESCRIPTION:
        raise invalid(f"{where}.description", f"is longer than {_LONGEST_DESCRIPTION} characters")
    strict = None if stated.get("strict") is None else boolean(stated, "strict", f"{where}.strict")
    return ToolSpec(_name(stated, where), description or "", _parameters(stated, where), strict)


def _name(stated: JsonObject, where: str) -> str:
    name = stated.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(f"{where}.name", "must be 1 to 64 of the characters a-z, A-Z, 0-9, _ and -")
    return name


def _parameters(stated: JsonObject, where: str) -> JsonObject:
    schema = stated.get("parameters")
    if schema is None or schema == {}:
        return _NO_PARAMETERS
    place = f"{where}.parameters"
    if not isinstance(schema, dict):
        raise invalid(place, "must be an object")
    if schema.get("type", "object") != "object":
        raise invalid(place, 'must be a JSON schema of type "object"')
    if is_deeper(schema, _DEEPEST_SCHEMA):
        raise invalid(place, "is nested too deeply")
    return schema if "type" in schema else {"type": "object", **schema}


# --- choice ---


def _demand(value: JsonValue, function: _Function, allowed: str | None) -> _Demand:
    if value is None or isinstance(value, str):
        return _word(value, "tool_choice")
    if not isinstance(value, dict):
        raise invalid("tool_choice", "must be a string or an object")
    kind = value.get("type")
    if kind == "function":
        return _named(*function(value, "tool_choice"))
    if kind != "allowed_tools":
        raise _unserved_type(kind, "tool_choice")
    where = f"tool_choice.{allowed}" if allowed else "tool_choice"
    stated = value.get(allowed) if allowed else value
    if not isinstance(stated, dict):
        raise invalid(where, "must be an object")
    return _allowed(stated, where, function)


def _word(value: str | None, where: str) -> _Demand:
    match value:
        case None | "auto":
            return _Demand()
        case "none":
            return _Demand(offered=frozenset())
        case "required":
            return _Demand(ToolChoice(required=True))
    raise invalid(where, "must be none, auto, required or an object")


def _named(stated: JsonObject, where: str) -> _Demand:
    return _Demand(ToolChoice(required=True, name=_name(stated, where)))


def _allowed(stated: JsonObject, where: str, function: _Function) -> _Demand:
    mode = stated.get("mode")
    if mode not in ("auto", "required"):
        raise invalid(f"{where}.mode", "must be auto or required")
    names: set[str] = set()
    for index, item in enumerate(_array(stated, "tools", f"{where}.tools")):
        if not isinstance(item, dict):
            raise invalid(f"{where}.tools[{index}]", "must be an object")
        names.add(_name(*_typed(item, f"{where}.tools[{index}]", function)))
    if not names:
        raise invalid(f"{where}.tools", "must name at least one tool")
    return _Demand(ToolChoice(required=mode == "required"), frozenset(names))


# --- wire ---


def _typed(item: JsonObject, where: str, function: _Function) -> tuple[JsonObject, str]:
    """The function of an entry that has to be one."""
    if item.get("type") != "function":
        raise _unserved_type(item.get("type"), where)
    return function(item, where)


def _wrapped(item: JsonObject, where: str) -> tuple[JsonObject, str]:
    """Chat completions: the function is an object in the entry."""
    function = item.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{where}.function", "must be an object")
    return function, f"{where}.function"


def _flat(item: JsonObject, where: str) -> tuple[JsonObject, str]:
    """The Responses API: the entry is the function."""
    return item, where


def _array(body: JsonObject, name: str, where: str | None = None) -> list[JsonValue]:
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise invalid(where or name, "must be an array")
    return value or []


def _unserved_type(kind: JsonValue, where: str) -> InvalidRequest:
    if not isinstance(kind, str):
        return invalid(f"{where}.type", "must be a string")
    text = f"Tools of type {kind!r} are not served: only functions, which the client runs itself."
    return unserved(f"{where}.type", text)
