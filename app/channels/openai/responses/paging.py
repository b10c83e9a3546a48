"""Pages of a list of items, as the vendor cuts them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....errors import InvalidRequest
from .answer import Item

_MOST = 100
_USUAL = 20


def page_of(items: Sequence[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of ``items``, which are in the order of their coming; the newest come first.

    :param query: ``limit``, ``order`` and ``after``, as texts.
    :raises InvalidRequest: one of them is wrong.
    """
    limit, after = _limit(query.get("limit")), query.get("after")
    ordered = list(items) if _is_ascending(query.get("order")) else list(reversed(items))
    if after:
        place = next((index for index, item in enumerate(ordered) if item["id"] == after), None)
        if place is None:
            raise InvalidRequest("`after` is not the id of an item of this list.", param="after")
        ordered = ordered[place + 1 :]
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(ordered) > limit,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return _USUAL
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= _MOST):
        raise InvalidRequest(f"`limit` must be a number from 1 to {_MOST}.", param="limit")
    return int(text)


def _is_ascending(text: str | None) -> bool:
    if text not in (None, "asc", "desc"):
        raise InvalidRequest("`order` must be asc or desc.", param="order")
    return text == "asc"
