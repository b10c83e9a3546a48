"""Usage reports as data: words that say what to count in, sums out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast, get_args

from ..errors import InvalidRequest
from ..messages import Usage
from ..sessions.records import UsageGroup, UsageQuery, UsageRow
from ..sessions.store import Store

_SPAN = re.compile(r"([0-9]{1,6})([hdw])")
_MILLISECONDS = {"h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_LAST_MONTH = "30d"


def parse_usage_query(asked: Mapping[str, str], now: int) -> UsageQuery:
    """What to count; ``asked`` may have ``since``, ``until``, ``by``, ``agent`` and ``session``.

    Times are ISO dates or date-times, in UTC unless they say otherwise, or spans that end now, such
    as ``12h``, ``7d`` or ``2w``. Without ``since`` the last 30 days are counted, without ``by`` each
    day is told apart, with an empty one nothing is.

    :param now: Unix milliseconds.
    :raises InvalidRequest: the first thing that is wrong.
    """
    return UsageQuery(
        since=_moment(asked.get("since", _LAST_MONTH), "since", now),
        until=_moment(asked["until"], "until", now) if "until" in asked else None,
        agent_id=asked.get("agent"),
        session_key=asked.get("session"),
        by=_groups(asked.get("by", "day")),
    )


def usage_report(query: UsageQuery, store: Store) -> dict[str, Any]:
    """The sums of every group and of all; times are Unix milliseconds, costs US dollars."""
    rows = store.usage(query)
    return {
        "since": query.since,
        "until": query.until,
        "by": list(query.by),
        "rows": [dict(zip(query.by, row.group, strict=True)) | _sums(row) for row in rows],
        "total": _sums(_total(rows)),
    }


def usage_json(usage: Usage) -> dict[str, int]:
    """Tokens in OpenClaw's terms: ``input`` is what was neither read from a cache nor written to one."""
    return {
        "input": usage.input - usage.cached - usage.cache_write,
        "output": usage.output,
        "cacheRead": usage.cached,
        "cacheWrite": usage.cache_write,
        "total": usage.total,
    }


def _moment(text: str, param: str, now: int) -> int:
    if span := _SPAN.fullmatch(text):
        return now - int(span[1]) * _MILLISECONDS[span[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{param} must be like 12h, 7d, 2w or 2026-11-01.", param=param) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _groups(text: str) -> tuple[UsageGroup, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = get_args(UsageGroup)
    if unknown := [name for name in names if name not in known]:
        raise InvalidRequest(f"by has {unknown[0]!r}; it can have {', '.join(known)}.", param="by")
    return cast(tuple[UsageGroup, ...], names)


def _total(rows: Iterable[UsageRow]) -> UsageRow:
    total = UsageRow((), 0, Usage(), 0.0, 0)
    for row in rows:
        total = UsageRow(
            (),
            total.runs + row.runs,
            total.usage + row.usage,
            total.cost + row.cost,
            total.unpriced + row.unpriced,
        )
    return total


def _sums(row: UsageRow) -> dict[str, Any]:
    tokens = usage_json(row.usage) | {"reasoning": row.usage.reasoning}
    return {"runs": row.runs, **tokens, "cost": row.cost, "unpriced": row.unpriced}
