"""What runs have cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....messages import JsonValue
from ....runs.usage import usage_report
from ....sessions.records import UsageQuery
from ..context import Channel
from ..protocol import Call, Method, Methods, count
from ..views import Json

_DAY_MS = 86_400_000
_DAYS = 30
_MOST_DAYS = 3_660
_TOKENS = ("input", "output", "cacheRead", "cacheWrite")


def methods(context: Channel) -> Methods:
    """Tokens and dollars of each day, in UTC."""
    return {"usage.cost": Method("operator.read", lambda call: _cost(context, call))}


def _cost(context: Channel, call: Call) -> Json:
    now = context.clock()
    days = count(call.params, "days", call.method, default=_DAYS, most=_MOST_DAYS, least=1)
    since = (now // _DAY_MS - days + 1) * _DAY_MS
    report = usage_report(UsageQuery(since=since), context.runtime.store)
    daily: list[JsonValue] = [{"date": row["day"], **_sums(row)} for row in report["rows"]]
    return {"updatedAt": now, "days": days, "daily": daily, "totals": _sums(report["total"])}


def _sums(row: Mapping[str, Any]) -> Json:
    tokens: Json = {name: row[name] for name in _TOKENS}
    return {
        **tokens,
        "totalTokens": row["total"],
        "totalCost": row["cost"],
        "missingCostEntries": row["unpriced"],
    }
