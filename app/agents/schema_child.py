"""JSON Schema, Draft 2020-12: what is wrong with a schema, or with a value beside it.

A module and a program. Run by its path it imports nothing of the package, reads one job as JSON
from standard input (``schema``, and ``value`` if that is what is to be judged) and writes the
``fault``, or null.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY

# Where a schema holds others: as the values of an object, in an array, or as they are.
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else",
           "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
_LOCAL = re.compile(r"#(/.*)?", re.DOTALL)
_NAMES_ITSELF = ("$id", "$schema", "$anchor", "$dynamicAnchor")

_MOST_FAULTS = 3
_LONGEST = 200  # characters of a fault, and of the place where it is


def _unique_items(_: Any, wanted: bool, value: Any, __: Any) -> Iterator[ValidationError]:
    """In time that grows with the number of items; the library's own grows with its square."""
    if wanted and isinstance(value, list) and len(set(map(_key, value))) < len(value):
        yield ValidationError("two of its items are equal")


def _key(value: Any) -> Any:
    """The same for values that are equal in JSON, where 1 is 1.0 and not true."""
    if isinstance(value, dict):
        return dict, frozenset((name, _key(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return list, tuple(map(_key, value))
    return (bool, value) if isinstance(value, bool) else value


_Validator: Any = extend(Draft202012Validator, {"uniqueItems": _unique_items})


class Intricate(Exception):
    """It may take long to say what is wrong with a schema."""


def schema_fault(schema: dict[str, Any], *, intricate: bool = True) -> str | None:
    """What is wrong with a schema, as a sentence, or None.

    :param intricate: take the time for one that refers to places where no schemas are.
    :raises Intricate: it is such a schema.
    """
    try:
        return next(_schema_faults(_anonymous(schema), intricate), None)
    except RecursionError:
        return "It is nested too deeply."


def value_fault(schema: dict[str, Any], value: Any) -> str | None:
    """What of ``value`` is not as ``schema`` wants it: the first places and faults, or None.

    :param schema: one that :func:`schema_fault` finds nothing wrong with.
    """
    validator = _Validator(_anonymous(schema), registry=REGISTRY)
    try:
        faults = [_fault(error) for error in islice(validator.iter_errors(value), _MOST_FAULTS)]
    except RecursionError:
        return "It is nested too deeply."
    except ArithmeticError:
        return "A number in it is too large."
    return f"{'; '.join(faults)}." if faults else None


def target(schema: Any, ref: str) -> Any:
    """What a ``$ref`` within ``schema`` points at.

    :raises LookupError: there is nothing.
    """
    node = schema
    for step in unquote(ref).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal():
            node = node[int(name)]
        elif isinstance(node, dict):
            node = node[name]
        else:
            raise LookupError(ref)
    return node


def _anonymous(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without names for itself: what is local to it is all that there is."""
    return {key: value for key, value in schema.items() if key not in _NAMES_ITSELF}


def _schema_faults(root: dict[str, Any], intricate: bool) -> Iterator[str]:
    seen: set[int] = set()
    reached: list[Any] = [root]  # schemas at places where the meta-schema may not have seen one
    while reached:
        schema = reached.pop()
        if id(schema) in seen:
            continue
        if seen and not intricate:
            raise Intricate
        meta = Draft202012Validator(Draft202012Validator.META_SCHEMA, registry=REGISTRY)
        if error := best_match(islice(meta.iter_errors(schema), _MOST_FAULTS)):
            yield f"{_fault(error)}."
            return
        for part in _parts(schema, seen):
            yield from _unusable(part, root)
            if "$ref" in part:
                reached.append(target(root, part["$ref"]))


def _parts(schema: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
    """The schema and all that it is made of, but for what has been ``seen``."""
    if not isinstance(schema, dict) or id(schema) in seen:
        return
    seen.add(id(schema))
    yield schema
    for inner in _within(schema):
        yield from _parts(inner, seen)


def _within(schema: dict[str, Any]) -> Iterator[Any]:
    for name in _BY_NAME:
        yield from schema.get(name, {}).values()
    for name in _LISTED:
        yield from schema.get(name, ())
    yield from (schema[name] for name in _SINGLE if name in schema)


def _unusable(part: dict[str, Any], root: dict[str, Any]) -> Iterator[str]:
    """What the meta-schema allows, and nobody here can use."""
    for name in ("$id", "$dynamicRef"):
        if name in part:
            yield f"`{name}` is not served."
    if (ref := part.get("$ref")) is not None:
        yield from _unusable_ref(ref, root)
    for pattern in _patterns(part):
        try:
            re.compile(pattern)
        except (re.error, OverflowError) as error:
            yield f"The pattern {_brief(repr(pattern))} cannot be read: {error}."


def _unusable_ref(ref: str, root: dict[str, Any]) -> Iterator[str]:
    if not _LOCAL.fullmatch(ref):
        yield f"`$ref` {_brief(repr(ref))} does not begin with `#/`: nothing is fetched from elsewhere."
        return
    try:
        found = target(root, ref)
    except LookupError:
        found = None
    if not isinstance(found, dict | bool):
        yield f"`$ref` {_brief(repr(ref))} does not point at a schema."


def _patterns(part: dict[str, Any]) -> Iterable[str]:
    return [*([part["pattern"]] if "pattern" in part else []), *part.get("patternProperties", ())]


def _fault(error: ValidationError) -> str:
    deepest = best_match([error])
    return f"{_brief(deepest.json_path)}: {_brief(deepest.message)}"


def _brief(text: str) -> str:
    """The text without its middle, if it is long: what is wrong is said at the end."""
    text = " ".join(text[: 2 * _LONGEST].split()) if len(text) <= 2 * _LONGEST else text
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} … {text[-half:]}"


def main() -> None:
    """One job, one answer."""
    job = json.load(sys.stdin)
    fault = value_fault(job["schema"], job["value"]) if "value" in job else schema_fault(job["schema"])
    json.dump({"fault": fault}, sys.stdout)


if __name__ == "__main__":
    main()
