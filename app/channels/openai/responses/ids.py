"""Ids of responses and of their items. Pure.

An item's id tells which response it belongs to, so that nobody has to look it up.
"""

from __future__ import annotations

import re

_FIRST_INPUT = 0x8000  # items of the input are counted from here, those of the output from 0
_RESPONSE = re.compile(r"resp_([0-9a-f]{32})", re.ASCII)
_ITEM = re.compile(r"(?:msg|fc|fco|rs)_([0-9a-f]{32})[0-9a-f]{4}", re.ASCII)
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def response_id(number: str) -> str:
    """The id of a response out of 32 hexadecimal digits."""
    return f"resp_{number}"


def is_response_id(text: str) -> bool:
    """True for what :func:`response_id` makes."""
    return _RESPONSE.fullmatch(text) is not None


def output_item_id(response: str, kind: str, index: int) -> str:
    """The id of one item of a response's output."""
    return f"{_PREFIXES[kind]}_{response.removeprefix('resp_')}{index:04x}"


def input_item_id(response: str, kind: str, index: int) -> str:
    """The id of one item of what a response was asked."""
    return output_item_id(response, kind, _FIRST_INPUT + index)


def response_of_item(item_id: str) -> str | None:
    """The id of the response that an item belongs to; None if it is no item of this gateway."""
    match = _ITEM.fullmatch(item_id)
    return response_id(match[1]) if match else None
