"""The ``agent`` command as data: a JSON request in, JSON events and OpenClaw's report out.

Used by whoever gives the command: a channel, or the command line in its own process.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from ..agents.registry import AgentRegistry
from ..errors import InvalidRequest, NotFound, RunAborted, StoreError
from ..events import RunCancelled, RunCompleted, RunEvent, RunFailed, TerminalEvent, TextDelta, ToolStarted
from ..messages import JsonObject, JsonValue, SamplingParams, UserMessage
from ..sessions.entries import encode
from ..sessions.keys import main_key, parse_explicit_key, session_id_key
from ..sessions.records import Run as RunRecord
from ..sessions.records import Session
from ..sessions.store import Store
from ..wire import loads
from .run import RunRequest

_NO_LIMIT = 31_536_000.0  # a year in seconds: a thread can wait for it
THINKING = ("off", "minimal", "low", "medium", "high", "xhigh")


def parse_agent_request(body: JsonValue, agents: AgentRegistry) -> RunRequest:
    """The run that an ``openclaw agent`` call asks for.

    :raises InvalidRequest: the first thing that is wrong.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    message = _text(body, "message")
    if not message or not message.strip():
        raise InvalidRequest("The message is empty.", param="message")
    agent_id, key = _address(body, agents)
    return RunRequest(
        run_id=f"run-{uuid.uuid4()}",
        agent_id=agent_id,
        session_key=key,
        ephemeral=False,
        channel="cli",
        messages=(UserMessage.of(message),),
        created_at=int(time.time() * 1000),
        params=SamplingParams(reasoning_effort=_thinking(body)),
        timeout=_seconds(body),
    )


def _address(body: JsonObject, agents: AgentRegistry) -> tuple[str, str]:
    """The agent and the session key; a session's key names its agent."""
    named = _text(body, "agent")
    agent_id = (named or agents.default_id).lower()
    if agent_id not in agents:
        raise InvalidRequest(
            f'Unknown agent id "{named}". The agents are: {", ".join(agents.ids)}.', param="agent"
        )
    if raw := _text(body, "sessionKey"):
        key = parse_explicit_key(raw, agents.ids)
        if key.agent_id and named and key.agent_id != agent_id:
            raise InvalidRequest(f"The session key belongs to agent {key.agent_id!r}.", param="sessionKey")
        return key.agent_id or agent_id, key.key
    if session_id := _text(body, "sessionId"):
        return agent_id, session_id_key(agent_id, session_id)
    return agent_id, main_key(agent_id, agents.main_key)


def _text(body: JsonObject, name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string.", param=name)
    return value


def _thinking(body: JsonObject) -> str | None:
    level = _text(body, "thinking")
    if level is not None and level not in THINKING:
        raise InvalidRequest(f"The thinking level must be one of {', '.join(THINKING)}.", param="thinking")
    return None if level == "off" else level


def _seconds(body: JsonObject) -> float | None:
    value = body.get("timeout")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _NO_LIMIT:
        raise InvalidRequest(
            "The timeout must be a positive number of seconds, or 0 for none.", param="timeout"
        )
    return float(value) or _NO_LIMIT


def progress(event: RunEvent, run_id: str, store: Store) -> dict[str, Any] | None:
    """A run event for whoever gave the command; None for what is not shown."""
    if isinstance(event, TextDelta):
        return {"type": "text", "text": event.text}
    if isinstance(event, ToolStarted):
        return {"type": "tool", "name": event.name}
    if isinstance(event, RunCompleted | RunFailed | RunCancelled):
        return {"type": "end", **outcome(event, run_id, store)}
    return None


def outcome(event: TerminalEvent, run_id: str, store: Store) -> dict[str, Any]:
    """How a run ended, in the shape of ``openclaw agent --json``."""
    try:
        record = store.get_run(run_id)
    except StoreError:  # who asked gets the answer even if its record cannot be read
        record = None
    text = event.text if isinstance(event, RunCompleted) else ""
    result = _report(record, text) if record else {"payloads": [], "meta": {}}
    if isinstance(event, RunCompleted):
        return {"runId": run_id, "status": "ok", "summary": "completed", "result": result}
    error = event.error if isinstance(event, RunFailed) else RunAborted(event.reason)
    timed_out = error.code == "run_timeout"
    return {
        "ok": False,
        "runId": run_id,
        "status": "timeout" if timed_out else "error",
        "summary": "aborted" if timed_out or isinstance(event, RunCancelled) else "failed",
        "error": {"type": error.type, "code": error.code, "message": error.message},
        "result": result,
    }


def _report(run: RunRecord, text: str) -> dict[str, Any]:
    """``{"payloads": [...], "meta": {...}}`` for a recorded run and its visible text."""
    provider, _, model = run.model.partition("/")
    usage = run.usage
    return {
        "payloads": [{"text": text, "mediaUrl": None}] if text else [],
        "meta": {
            "durationMs": max(0, (run.ended_at or run.created_at) - run.created_at),
            "agentMeta": {
                "sessionId": run.session_id,
                "sessionKey": run.session_key,
                "provider": provider,
                "model": model,
                "usage": {
                    "input": usage.input - usage.cached,
                    "output": usage.output,
                    "cacheRead": usage.cached,
                    "cacheWrite": 0,
                    "total": usage.total,
                },
            },
            "aborted": run.status == "cancelled",
            "stopReason": run.finish_reason,
        },
    }


def session_json(session: Session) -> dict[str, Any]:
    """A session as a row of a list."""
    return {
        "key": session.key,
        "sessionId": session.id,
        "agentId": session.agent_id,
        "model": session.model,
        "messages": session.message_count,
        "inputTokens": session.input_tokens,
        "outputTokens": session.output_tokens,
        "updatedAt": session.updated_at,
    }


def transcript_json(key: str, store: Store) -> dict[str, Any]:
    """A session with all its messages.

    :raises NotFound: no such session.
    """
    loaded = store.load(key)
    if loaded.session is None:
        raise NotFound(f"There is no session {key!r}.")
    messages = [
        {"message": loads(encode(entry.message).encode()), "stop": entry.stop, "at": entry.created_at}
        for entry in loaded.history
    ]
    return {"session": session_json(loaded.session), "transcript": messages}
