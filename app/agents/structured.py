"""Answers in JSON: whether a text is what a ``response_format`` asks for."""

from __future__ import annotations

from ..messages import JsonObject
from ..wire import InvalidJson, loads


class OutputViolation(Exception):
    """The text is not what was asked for; says why, to the model."""


def checked_output(response_format: JsonObject | None, text: str) -> str:
    """The JSON in ``text``, bare, if it is what ``response_format`` asks for.

    :raises OutputViolation: it is not.
    """
    try:
        loads(text.encode())
    except InvalidJson as error:
        raise OutputViolation(f"It is not JSON: {error}.") from None
    return text
