"""Commands of agents that wait for an operator's word."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, get_args

from ....messages import JsonValue
from ....tools.approvals import Approval, Approvals, Decision, Outcome
from ....wire import dumps
from ..audiences import DECIDERS
from ..context import Channel
from ..hub import Hub
from ..protocol import Call, Method, Methods, Peer, Refusal, text
from ..views import Json

_DECISIONS = get_args(Decision)


def methods(context: Channel) -> Methods:
    """What waits, and the word it waits for."""
    approvals = context.runtime.tools.approvals
    return {
        "exec.approval.list": Method("operator.approvals", lambda _: _pending(approvals)),
        "exec.approval.resolve": Method("operator.approvals", lambda call: _resolve(approvals, call)),
    }


def approvals_feed(hub: Hub, approvals: Approvals) -> Callable[[], None]:
    """Tell whoever may decide of each command that waits, and of what became of it.

    Returns a function that ends this.
    """

    def tell(approval: Approval, outcome: Outcome | None) -> None:
        name = "exec.approval.requested" if outcome is None else "exec.approval.resolved"
        payload = _row(approval) if outcome is None else _resolved(approval, outcome)
        hub.announce(name, DECIDERS, dumps(payload))

    return approvals.subscribe(tell)


def _row(approval: Approval) -> Json:
    """A command that waits; times are Unix milliseconds."""
    return {
        "id": approval.id,
        "request": _request(approval),
        "createdAtMs": approval.created_at,
        "expiresAtMs": approval.expires_at,
    }


def _request(approval: Approval) -> Json:
    return {
        "command": approval.command,
        "cwd": approval.directory,
        "host": "gateway",
        "agentId": approval.agent_id,
        "sessionKey": approval.session_key,
        "runId": approval.run_id,
        "allowedDecisions": list(_DECISIONS),
    }


def _resolved(approval: Approval, outcome: Outcome) -> Json:
    return {"id": approval.id, "decision": outcome, "request": _request(approval)}


def _pending(approvals: Approvals) -> JsonValue:
    return [_row(approval) for approval in approvals.pending()]


def _resolve(approvals: Approvals, call: Call) -> Json:
    approval = _find(approvals, call)
    decision = text(call.params, "decision", call.method, required=True)
    if decision not in _DECISIONS:
        raise Refusal(f"invalid decision (use {'|'.join(_DECISIONS)})")
    if not approvals.resolve(approval.id, cast(Decision, decision)):
        raise _unknown(call.peer)
    return {"ok": True}


def _find(approvals: Approvals, call: Call) -> Approval:
    wanted = text(call.params, "id", call.method, required=True)
    found = next((approval for approval in approvals.pending() if approval.id == wanted), None)
    if found is None:
        raise _unknown(call.peer)
    return found


def _unknown(peer: Peer) -> Refusal:
    code = "INVALID_REQUEST" if peer.protocol == 3 else "APPROVAL_NOT_FOUND"
    return Refusal("unknown or expired approval id", code=code)
