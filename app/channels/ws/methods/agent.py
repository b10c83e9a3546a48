"""Agent turns by ``agent``, which is answered twice, and ``agent.wait``."""

from __future__ import annotations

import time
from functools import partial

from ....events import RunCompleted, RunFailed, TerminalEvent
from ....messages import JsonValue
from ....runs.command import outcome as report
from ....runs.outcomes import STARTED, UNDER_WAY, Outcome
from ....runs.run import RunRequest
from ....sessions.keys import main_key, session_id_key
from ....sessions.store import Store
from .. import asked
from ..context import Channel
from ..events import stopped_by
from ..protocol import ANSWERED, Answered, Call, Method, Methods, Peer, Refusal, count, text
from ..views import Json, present

_DAY = 86_400_000
_LOOK = 10.0  # seconds after which a method that waits looks whether its client is still there


def methods(context: Channel) -> Methods:
    """Start a turn and get its answer; wait for one that was started."""
    return {
        "agent": Method("operator.write", partial(_agent, context)),
        "agent.wait": Method("operator.write", partial(_wait, context), waits=True),
    }


def _agent(context: Channel, call: Call) -> JsonValue | Answered:
    request = _request(context, call)
    accepted: Json = {
        "runId": request.run_id,
        "status": "accepted",
        "acceptedAt": request.created_at,
        "sessionKey": request.session_key,
        "agentId": request.agent_id,
    }

    def acknowledge() -> None:
        call.peer.respond(call.id, accepted)
        context.outcomes.follow(request.run_id, lambda ended: _tell(context.runtime.store, call, ended))

    def begin() -> None:
        context.outcomes.start(request, acknowledge)

    context.feed.answers(request.run_id, call.peer, text(call.params, "sessionKey", "agent"))
    standing = context.outcomes.once(request.run_id, begin)
    if standing is STARTED:
        return ANSWERED
    if standing is UNDER_WAY:
        accepted["status"] = "accepted" if call.peer.protocol == 3 else "in_flight"
        acknowledge()
        return ANSWERED
    return _final(context.runtime.store, standing)


def _request(context: Channel, call: Call) -> RunRequest:
    params = call.params
    run_id = asked.run_id(params, "agent")
    key, agent_id = _address(context, params)
    return RunRequest(
        run_id=run_id,
        agent_id=agent_id,
        session_key=key,
        ephemeral=False,
        channel="cli",
        messages=(asked.question(params, "agent"),),
        created_at=context.clock(),
        system=text(params, "extraSystemPrompt", "agent") or "",
        params=asked.thinking(params, "agent"),
        timeout=asked.seconds(params, "timeout", "agent"),
        model=_model(context, params, agent_id),
    )


def _address(context: Channel, params: asked.Params) -> tuple[str, str]:
    """The session and its agent; a session's key names its agent."""
    agents = context.runtime.agents
    named = text(params, "agentId", "agent")
    agent_id = (named or agents.default_id).strip().lower()
    if agent_id not in agents:
        raise Refusal(f'invalid agent params: unknown agent id "{named}"')
    if raw := text(params, "sessionKey", "agent"):
        key, owner = asked.place(raw, context.runtime)
        if named and owner != agent_id:
            raise Refusal(f'invalid agent params: agent "{named}" does not match session key agent "{owner}"')
        return key, owner
    if session_id := text(params, "sessionId", "agent"):
        return session_id_key(agent_id, session_id), agent_id
    return main_key(agent_id, agents.main_key), agent_id


def _model(context: Channel, params: asked.Params, agent_id: str) -> str | None:
    """``provider/model``; a model alone is one of the agent's provider."""
    model = text(params, "model", "agent")
    if model is None or "/" in model:
        return model
    provider = text(params, "provider", "agent")
    return f"{provider or context.runtime.agents.get(agent_id).candidates[0].provider.id}/{model}"


def _tell(store: Store, call: Call, ended: Outcome) -> None:
    try:
        call.peer.respond(call.id, _final(store, ended))
    except Refusal as refusal:
        call.peer.refuse(call.id, refusal)


def _final(store: Store, ended: Outcome) -> JsonValue:
    """The second answer, as everybody gets it who asks for the same run.

    :raises Refusal: the run has failed.
    """
    stopped = stopped_by(ended.ending)
    if stopped:
        return {"runId": ended.run_id, "status": "timeout", "summary": "aborted", "stopReason": stopped}
    if isinstance(ended.ending, RunCompleted):
        return report(ended.ending, ended.run_id, store)
    raise failure(ended)


def failure(ended: Outcome) -> Refusal:
    """What whoever asked for a run is told that has failed."""
    error = error_text(ended.ending)
    payload: Json = {"runId": ended.run_id, "status": "error", "summary": error}
    return Refusal(error, code="UNAVAILABLE", payload=payload)


def error_text(ending: TerminalEvent) -> str:
    """Why a run has no answer; empty if it has one."""
    return (ending.error.message or "The run failed.") if isinstance(ending, RunFailed) else ""


def _wait(context: Channel, call: Call) -> JsonValue:
    run_id = text(call.params, "runId", "agent.wait", required=True) or ""
    patience = count(call.params, "timeoutMs", "agent.wait", default=30_000, most=_DAY)
    ended = _outcome(context, call.peer, run_id, patience / 1000)
    if ended is None:
        return {"runId": run_id, "status": "timeout"}
    stopped = stopped_by(ended.ending)
    failed = isinstance(ended.ending, RunFailed)
    return {
        "runId": run_id,
        "status": "timeout" if stopped else "error" if failed else "ok",
        "startedAt": ended.started_at,
        "endedAt": ended.ended_at,
        **present({"stopReason": stopped, "error": error_text(ended.ending) or None}),
    }


def _outcome(context: Channel, peer: Peer, run_id: str, seconds: float) -> Outcome | None:
    """The outcome of a run; None if there is none in time, or nobody waits any more."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if ended := context.outcomes.wait(run_id, min(left, _LOOK)):
            return ended
        if peer not in context.hub.peers():
            return None
    return context.outcomes.last(run_id)
