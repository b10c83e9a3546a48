"""Keys of the configuration as environment variables: ``OPENCLAW__GATEWAY__AUTH__TOKEN``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from ..wire import clean
from .json5 import InvalidJson5, parse
from .problems import key_path
from .schema import Document
from .section import Section

_PREFIX = "OPENCLAW__"
_NUMBERS = {bool, int, float}
_Steps: TypeAlias = tuple[str | int, ...]


def with_variables(
    document: dict[str, Any], env: Mapping[str, str], problems: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """``document`` with every ``OPENCLAW__…`` of ``env`` in its place; an empty one counts as unset.

    What has no place is added to ``problems``, without its value.

    :returns: also the variables, by the path of the key that each of them sets.
    """
    names: dict[str, str] = {}
    for name in sorted(_set_in(env), key=_wider_first):
        try:
            words = name.removeprefix(_PREFIX).split("__")
            steps, document = _laid(document, words, clean(env[name]), [Document])
            names[key_path(steps)] = name
        except _NoPlaceError as error:
            problems.append(f"{name}: {error}")
    return document, names


def blame(problem: str, names: Mapping[str, str]) -> str:
    """``problem`` with the variable that it comes from, if it comes from one of ``names``."""
    place, colon, text = problem.partition(": ")
    path = place
    while colon and path:
        if name := names.get(path):
            return f"{place} ({name}): {text}"
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return problem


class _NoPlaceError(Exception):
    """A variable names a key that there cannot be; the message says why."""


def _set_in(env: Mapping[str, str]) -> Iterator[str]:
    return (name for name, text in env.items() if name.startswith(_PREFIX) and text)


def _wider_first(name: str) -> tuple[int, list[tuple[int, str]]]:
    """A section comes before its keys, and the items of a list in their order."""
    words = name.split("__")
    return len(words), [(int(word) if _is_index(word) else 0, word) for word in words]


def _is_index(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 7


def _laid(holder: Any, words: list[str], text: str, types: list[Any]) -> tuple[_Steps, Any]:
    """``holder``, which may be one of ``types``, with ``text`` where ``words`` lead, and the way there."""
    if not words:
        return (), _value(text, types)
    step, inner = _step(words[0], types, holder)
    steps, value = _laid(_at(holder, step), words[1:], text, inner)
    return (step, *steps), _replaced(holder, step, value)


def _step(word: str, types: list[Any], holder: Any) -> tuple[str | int, list[Any]]:
    """What ``word`` means in a value of one of ``types``, and of which types that may be."""
    known: dict[str, Any] = {}
    for kind in types:
        if _is_section(kind):
            known |= {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            if kind.model_config.get("extra") == "allow" and not _key(word, known):
                return word, [str]
        elif _is_list(kind) and _is_index(word):
            return int(word), _types(get_args(kind)[0])
        elif _is_map(kind):
            inner = _types(get_args(kind)[1])
            return _name(word, holder, inner), inner
    if key := _key(word, known):
        return key, _types(known[key])
    close = get_close_matches(word.upper(), [name.upper() for name in known], n=1)
    raise _NoPlaceError(f"there is no key {word}" + (f"; did you mean {close[0]}?" if close else ""))


def _key(word: str, known: Iterable[str]) -> str | None:
    """The key that ``word`` is when letters are small or capital and `_` is there or not."""
    folded = word.replace("_", "").lower()
    return next((key for key in known if key.lower() == folded), None)


def _name(word: str, holder: Any, types: list[Any]) -> str:
    """A name that people choose, spelt as it is already; a new section's has small letters."""
    folded = word.lower()
    known = holder if isinstance(holder, dict) else {}
    same = next((name for name in known if name.lower().replace("-", "_") == folded), None)
    return same or (folded if any(map(_is_section, types)) else word)


def _at(holder: Any, step: str | int) -> Any:
    if isinstance(step, str):
        return holder.get(step) if isinstance(holder, dict) else None
    return holder[step] if isinstance(holder, list) and step < len(holder) else None


def _replaced(holder: Any, step: str | int, value: Any) -> Any:
    if isinstance(step, str) and (holder is None or isinstance(holder, dict)):
        return {**(holder or {}), step: value}
    if isinstance(step, int) and (holder is None or isinstance(holder, list)):
        items = holder or []
        if step > len(items):
            raise _NoPlaceError(f"the list has only {len(items)} items before it")
        return [*items[:step], value, *items[step + 1 :]]
    raise _NoPlaceError("a value of another kind is in its way")


def _value(text: str, types: list[Any]) -> Any:
    """``text`` as one of ``types``; where it is none of them, the schema says what is wrong with it."""
    if any(_is_section(kind) or _is_list(kind) or _is_map(kind) for kind in types):
        return _parsed(text) if text.lstrip()[:1] in ("{", "[") else text
    if not any(kind in _NUMBERS for kind in types):
        return text
    try:
        value = parse(text.strip().lower())
    except InvalidJson5:
        return text
    return value if isinstance(value, bool | int | float) else text


def _parsed(text: str) -> Any:
    try:
        return parse(text)
    except InvalidJson5 as error:
        raise _NoPlaceError(str(error)) from None


def _types(annotation: Any) -> list[Any]:
    """The types that a value may have, without what is said about them."""
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for inner in get_args(annotation) for kind in _types(inner)]
    if get_origin(annotation) is Literal:
        return [type(value) for value in get_args(annotation)]
    return [annotation]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_map(kind: Any) -> bool:
    return get_origin(kind) is Mapping
