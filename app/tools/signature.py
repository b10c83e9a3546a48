"""Tools out of typed Python functions.

::

    @tool
    def weather(city: str, days: Annotated[int, Field(ge=1, le=7, description="How far ahead.")] = 1) -> str:
        "Forecast for a city."

The signature becomes the JSON schema, the docstring's first paragraph the description. What
the model sends is checked against the types before the function is called; what is wrong
comes back to the model as a sentence it can act on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from ..messages import JsonValue
from ..wire import dumps
from .registry import Tool, ToolContext, ToolError

_CONTEXT = "context"


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *, name: str | None = None, description: str | None = None, parallel: bool = False
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    parallel: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a :class:`Tool` of a function whose parameters are annotated.

    A parameter annotated with :class:`ToolContext` gets the run's context and is not shown to
    the model. The function returns text, or anything that JSON can say, and raises
    :class:`ToolError` for what the model may put right.

    :param name: by default the function's.
    :param description: by default the first paragraph of its docstring.
    :param parallel: see :class:`Tool`.
    :raises TypeError: a parameter has no annotation, or the function no description.
    """

    def make(function: Callable[..., Any]) -> Tool:
        text = description or _first_paragraph(function)
        if not text:
            raise TypeError(f"The tool {function.__name__!r} needs a docstring or a description.")
        context, model = _arguments_model(function)
        return Tool(
            name=name or function.__name__,
            description=text,
            parameters=model.model_json_schema(schema_generator=_PlainSchema),
            function=_checked(function, context, model),
            parallel=parallel,
        )

    return make if function is None else make(function)


class _Arguments(BaseModel):
    """What a model sends for one call. Unknown arguments are refused: a typo must be seen."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, validate_by_name=True)


class _PlainSchema(GenerateJsonSchema):
    """JSON schemas without what only costs tokens: titles, and null for what may be left out.

    They never refer to themselves: arguments of tools are no trees.
    """

    def generate(self, *args: Any, **kwargs: Any) -> JsonSchemaValue:
        schema = super().generate(*args, **kwargs)
        plain: JsonSchemaValue = _plain(schema, schema.pop("$defs", {}))
        return {"type": "object", "properties": {}, **plain}


def _plain(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """``schema`` with every reference resolved: not every model API follows them."""
    if isinstance(schema, list):
        return [_plain(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    plain = {key: _plain(value, definitions) for key, value in schema.items() if not _is_noise(key, value)}
    choices = [choice for choice in plain.get("anyOf", ()) if choice != {"type": "null"}]
    if "default" in plain and plain["default"] is None and len(choices) == 1:
        del plain["anyOf"], plain["default"]
        plain = {**choices[0], **plain}
    return plain


def _is_noise(key: str, value: Any) -> bool:
    return (key == "title" and isinstance(value, str)) or (key == "additionalProperties" and value is False)


def _arguments_model(function: Callable[..., Any]) -> tuple[str | None, type[_Arguments]]:
    """The name of the context parameter, if there is one, and a model of the others."""
    hints = get_type_hints(function, include_extras=True)
    context: str | None = None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in hints:
            raise TypeError(f"The parameter {parameter.name!r} of tool {function.__name__!r} needs a type.")
        if hints[parameter.name] is ToolContext:
            context = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    return context, create_model(function.__name__, __base__=_Arguments, **fields)


def _checked(
    function: Callable[..., Any], context_name: str | None, model: type[_Arguments]
) -> Callable[[ToolContext, Mapping[str, JsonValue]], str]:
    def call(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
        try:
            parsed = model.model_validate(dict(arguments))
        except ValidationError as error:
            raise ToolError(_explain(error)) from None
        values: dict[str, Any] = {name: getattr(parsed, name) for name in type(parsed).model_fields}
        if context_name is not None:
            values[context_name] = context
        result = function(**values)
        return result if isinstance(result, str) else dumps(result).decode()

    return call


def _explain(error: ValidationError) -> str:
    problems = (
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}"
        for problem in error.errors(include_input=False, include_url=False)
    )
    return f"The arguments are not right: {'; '.join(problems)}."


def _first_paragraph(function: Callable[..., Any]) -> str:
    paragraph, _, _ = (inspect.getdoc(function) or "").partition("\n\n")
    return " ".join(paragraph.split())
