"""What this gateway has none of: clients ask for it, and an empty answer is the true one."""

from __future__ import annotations

from collections.abc import Callable

from ....messages import JsonValue
from ..context import Channel
from ..protocol import Method, Methods, Scope
from ..views import Json


def methods(context: Channel) -> Methods:
    """Messaging channels, nodes, paired devices, timed jobs, questions, plugins: there are none."""
    answers: dict[str, tuple[Scope, Callable[[], JsonValue]]] = {
        "channels.status": ("operator.read", lambda: _channels(context.clock())),
        "node.list": ("operator.read", lambda: {"ts": context.clock(), "nodes": []}),
        "node.pair.list": ("operator.pairing", lambda: {"pending": [], "paired": []}),
        "device.pair.list": ("operator.pairing", lambda: {"pending": [], "paired": []}),
        "cron.list": ("operator.read", _jobs),
        "cron.status": (
            "operator.read",
            lambda: {"enabled": False, "storePath": "", "jobs": 0, "nextWakeAtMs": None},
        ),
        "question.list": ("operator.questions", lambda: {"questions": []}),
        "plugin.approval.list": ("operator.approvals", list),
        "openclaw.approval.list": ("operator.approvals", list),
        "update.status": ("operator.admin", lambda: {"sentinel": None}),
        "usage.status": ("operator.read", lambda: {"updatedAt": context.clock(), "providers": []}),
    }
    return {name: _method(scope, answer) for name, (scope, answer) in answers.items()}


def _method(scope: Scope, answer: Callable[[], JsonValue]) -> Method:
    return Method(scope, lambda _: answer())


def _channels(now: int) -> Json:
    return {
        "ts": now,
        "channelOrder": [],
        "channelLabels": {},
        "channelDetailLabels": {},
        "channelSystemImages": {},
        "channelMeta": [],
        "channels": {},
        "channelAccounts": {},
        "channelDefaultAccountId": {},
    }


def _jobs() -> Json:
    page: Json = {"total": 0, "offset": 0, "limit": 50, "hasMore": False, "nextOffset": None}
    return {"jobs": [], **page, "snapshotRevision": "0"}
