"""How the gateway is, and who is connected."""

from __future__ import annotations

from dataclasses import dataclass

from ....agents.registry import Agent
from ....messages import JsonValue
from ....runtime import Runtime
from ....sessions.keys import main_key
from ....sessions.records import Session
from ..context import Channel
from ..protocol import Call, Method, Methods, Refusal, text
from ..views import STORE_NAME, Json, model_names, session_model

# Whoever watches asks again and again, and the answer takes a look into the store.
_FRESH_MS = 5_000
_RECENT = 5
_RECENT_IN_STATUS = 10


def methods(context: Channel) -> Methods:
    """Health, status and presence."""
    cache = _Cache(context)
    return {
        "health": Method(None, lambda call: cache.health(fresh=call.params.get("probe") is True)),
        "status": Method(
            "operator.read", lambda _: status(context.runtime, context.version, context.clock())
        ),
        "system-presence": Method("operator.read", lambda _: context.hub.presence()),
        "system-event": Method("operator.admin", lambda call: _post(context, call)),
        "wake": Method("operator.write", lambda call: _wake(context, call)),
        "last-heartbeat": Method("operator.read", lambda _: None),
    }


def health(runtime: Runtime, now: int) -> Json:
    """That the gateway works, its agents, and what was talked about last.

    :param now: Unix milliseconds.
    """
    agents: list[JsonValue] = [_agent_health(agent, runtime, now) for agent in runtime.agents]
    return {
        "ok": not runtime.runs.draining,
        "ts": now,
        "durationMs": 0,
        "channels": {},
        "channelOrder": [],
        "channelLabels": {},
        "heartbeatSeconds": 0,
        "defaultAgentId": runtime.agents.default_id,
        "agents": agents,
        "sessions": _sessions(runtime, None, now),
        "plugins": {"loaded": [], "errors": []},
    }


def status(runtime: Runtime, version: str, now: int) -> Json:
    """Sessions with their use of tokens.

    :param now: Unix milliseconds.
    """
    default = runtime.agents.get(runtime.agents.default_id).candidates[0]
    recent: list[JsonValue] = [
        _usage_row(session, runtime, now) for session in runtime.store.list_sessions(None, _RECENT_IN_STATUS)
    ]
    heartbeats: list[JsonValue] = [
        {"agentId": agent.id, "enabled": False, "every": "disabled", "everyMs": None}
        for agent in runtime.agents
    ]
    by_agent: list[JsonValue] = [
        {"agentId": agent.id, **_sessions(runtime, agent.id, now)} for agent in runtime.agents
    ]
    return {
        "runtimeVersion": version,
        "heartbeat": {"defaultAgentId": runtime.agents.default_id, "agents": heartbeats},
        "channelSummary": [],
        "queuedSystemEvents": [],
        "sessions": {
            "paths": [STORE_NAME],
            "count": runtime.store.count_sessions(),
            "defaults": {"model": default.model, "contextTokens": default.info.context_window},
            "recent": recent,
            "byAgent": by_agent,
        },
    }


@dataclass
class _Cache:
    """The last look at the gateway's health, for a few seconds. A race costs one more look."""

    context: Channel
    last: tuple[int, Json] | None = None

    def health(self, *, fresh: bool) -> Json:
        now = self.context.clock()
        last = self.last
        if fresh or last is None or not 0 <= now - last[0] < _FRESH_MS:
            last = self.last = (now, health(self.context.runtime, now))
        return last[1]


def _agent_health(agent: Agent, runtime: Runtime, now: int) -> Json:
    return {
        "agentId": agent.id,
        "name": agent.name or agent.id,
        "isDefault": agent.id == runtime.agents.default_id,
        "heartbeat": {
            "enabled": False,
            "every": "disabled",
            "everyMs": None,
            "prompt": "",
            "target": "none",
            "ackMaxChars": 0,
        },
        "sessions": _sessions(runtime, agent.id, now),
    }


def _sessions(runtime: Runtime, agent_id: str | None, now: int) -> Json:
    recent: list[JsonValue] = [
        {"key": session.key, "updatedAt": session.updated_at, "age": max(0, now - session.updated_at)}
        for session in runtime.store.list_sessions(agent_id, _RECENT)
    ]
    return {"path": STORE_NAME, "count": runtime.store.count_sessions(agent_id), "recent": recent}


def _usage_row(session: Session, runtime: Runtime, now: int) -> Json:
    candidate = session_model(session, runtime)
    window, used = candidate.info.context_window, session.context_tokens
    return {
        "agentId": session.agent_id,
        "key": session.key,
        "kind": "direct",
        "sessionId": session.id,
        "updatedAt": session.updated_at,
        "age": max(0, now - session.updated_at),
        "inputTokens": session.input_tokens,
        "outputTokens": session.output_tokens,
        "totalTokens": used,
        "remainingTokens": max(0, window - used),
        "percentUsed": min(100, round(100 * used / window)),
        **model_names(candidate),
        "contextTokens": window,
        "flags": [f"id:{session.id}"],
    }


def _post(context: Channel, call: Call) -> Json:
    """Leave a line that the default agent reads in the next turn of its main session."""
    line = text(call.params, "text", call.method, required=True)
    assert line is not None, "required"
    agents = context.runtime.agents
    context.runtime.news.post(main_key(agents.default_id, agents.main_key), line.strip())
    return {"ok": True}


def _wake(context: Channel, call: Call) -> Json:
    """As a system event: there is no heartbeat, so the next turn comes when somebody asks."""
    if call.params.get("mode") == "now":
        raise Refusal("This gateway has no heartbeat to wake at once; use mode next-heartbeat.")
    return _post(context, call)
