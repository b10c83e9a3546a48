"""JSON5 as the configuration is written: parsed strictly, refused with line and column."""

from __future__ import annotations

import re

import pyjson5

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n\r\u2028\u2029]*|/\*[\s\S]*?\*/)
      | (?P<text>"(?:\\[\s\S]|[^"\\])*"|'(?:\\[\s\S]|[^'\\])*')
      | (?P<mark>[{}\[\]:,])
      | (?P<word>[^\s{}\[\]:,"'/]+)""",
    re.VERBOSE,
)
_OFFSET = re.compile(r"near (\d+)")


class InvalidJson5(ValueError):
    """The text is not JSON5; the message says where and quotes nothing but one character."""


def parse(text: str) -> object:
    """The value of a JSON5 text in which no object has the same key twice.

    :raises InvalidJson5: with line and column.
    """
    fault = None
    try:
        value: object = pyjson5.decode(text)
    except pyjson5.Json5Exception as error:
        # The exception holds the document parsed so far, secrets included: it must not
        # become the context of what is raised.
        fault = _describe(text, error)
    if fault:
        raise InvalidJson5(fault)
    _refuse_duplicates(text)
    return value


def _describe(text: str, error: pyjson5.Json5Exception) -> str:
    message = str(error.args[0]) if error.args else ""
    found = _OFFSET.search(message)
    offset = max(0, int(found[1]) - 1) if found else 0
    if "NumericLiteral" in message:
        return f"not a number, or too large a one, at {_position(text, offset)}"
    if isinstance(error, pyjson5.Json5EOF):
        if not text.strip():
            return "the file is empty; an empty configuration is {}"
        return f"the text ends too early; see what opens at {_position(text, offset)}"
    if isinstance(error, pyjson5.Json5NestingTooDeep):
        return f"nested too deeply at {_position(text, offset)}"
    if isinstance(error, pyjson5.Json5ExtraData):
        return f"more text after the value that ends at {_position(text, offset)}"
    hint = "; is a comma missing before it?" if "comma" in message else ""
    return f"unexpected {text[offset : offset + 1]!r} at {_position(text, offset)}{hint}"


def _refuse_duplicates(text: str) -> None:
    """Look for repeated keys in a text that is known to be JSON5."""
    seen: list[set[str]] = []
    last = ""
    for token in _TOKEN.finditer(text):
        mark = token["mark"]
        if mark == "{" or mark == "[":
            seen.append(set())
        elif mark == "}" or mark == "]":
            seen.pop()
        elif mark == ":":
            if last in seen[-1]:
                raise InvalidJson5(f"the key {last!r} is given twice; see {_position(text, token.start())}")
            seen[-1].add(last)
        elif token["text"]:
            last = str(pyjson5.decode(token["text"]))
        elif token["word"]:
            last = token["word"]


def _position(text: str, offset: int) -> str:
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
