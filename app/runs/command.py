"""The ``agent`` command as data: a JSON request in, JSON events and OpenClaw's report out.

Used by whoever gives the command: a channel, or the command line in its own process.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, cast, get_args

from ..agents.models import THINKING, effort_of
from ..agents.registry import AgentRegistry
from ..errors import InvalidRequest, NotFound, RunAborted, StoreError
from ..events import (
    ApprovalRequested,
    ApprovalResolved,
    ContextCompacted,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    TerminalEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from ..messages import JsonObject, JsonValue, SamplingParams, UserMessage
from ..sessions.entries import encode
from ..sessions.keys import main_key, parse_explicit_key, session_id_key
from ..sessions.records import ModelCall, Session
from ..sessions.records import Run as RunRecord
from ..sessions.store import Store
from ..tools.approvals import Approval, Decision
from ..wire import loads
from .run import RunRequest
from .usage import usage_json

_NO_LIMIT = 31_536_000.0  # a year in seconds: a thread can wait for it
_SHOWN = 300  # characters of a tool call's arguments, and of its result
_DECISIONS = get_args(Decision)


def parse_agent_request(body: JsonValue, agents: AgentRegistry, *, channel: str = "cli") -> RunRequest:
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
        channel=channel,
        messages=(UserMessage.of(message),),
        created_at=int(time.time() * 1000),
        params=SamplingParams(reasoning_effort=_effort(body)),
        timeout=_seconds(body),
        model=_text(body, "model"),
    )


def parse_decision(body: JsonValue) -> Decision:
    """What an operator says to a command that waits.

    :raises InvalidRequest: it is none of the decisions there are.
    """
    decision = body.get("decision") if isinstance(body, dict) else None
    if decision not in _DECISIONS:
        raise InvalidRequest(f"decision must be one of {', '.join(_DECISIONS)}.", param="decision")
    return cast(Decision, decision)


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


def _effort(body: JsonObject) -> str | None:
    level = _text(body, "thinking")
    if level is not None and level not in THINKING:
        raise InvalidRequest(f"The thinking level must be one of {', '.join(THINKING)}.", param="thinking")
    return effort_of(level)


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
    match event:
        case TextDelta(text):
            return text_event(text)
        case ToolStarted(call_id, name, arguments):
            return {"type": "tool", "id": call_id, "name": name, "arguments": arguments[:_SHOWN]}
        case ToolFinished(call_id, name, is_error, text):
            return {"type": "result", "id": call_id, "name": name, "ok": not is_error, "text": text[:_SHOWN]}
        case ApprovalRequested(approval_id, _, command, directory, expires_at):
            waiting = {"id": approval_id, "command": command, "directory": directory}
            return {"type": "approval", **waiting, "expiresAt": expires_at}
        case ApprovalResolved(approval_id, decision):
            return {"type": "decision", "id": approval_id, "decision": decision}
        case ContextCompacted(before, after):
            return {"type": "compaction", "tokensBefore": before, "tokensAfter": after}
        case RunCompleted() | RunFailed() | RunCancelled():
            return {"type": "end", **outcome(event, run_id, store)}
    return None


def text_event(text: str) -> dict[str, Any]:
    """Text for the person, as :func:`progress` shows it."""
    return {"type": "text", "text": text}


def answered(text: str) -> dict[str, Any]:
    """The end of a turn that took no run: the gateway itself has answered."""
    result = {"payloads": _payloads(text), "meta": {}}
    return {"type": "end", "runId": None, "status": "ok", "summary": "completed", "result": result}


def outcome(event: TerminalEvent, run_id: str, store: Store) -> dict[str, Any]:
    """How a run ended, in the shape of ``openclaw agent --json``."""
    try:
        record = store.get_run(run_id)
    except StoreError:  # who asked gets the answer even if its record cannot be read
        record = None
    text = event.text if isinstance(event, RunCompleted) else ""
    result = {"payloads": _payloads(text), "meta": _meta(record) if record else {}}
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


def _payloads(text: str) -> list[dict[str, Any]]:
    return [{"text": text, "mediaUrl": None}] if text else []


def _meta(run: RunRecord) -> dict[str, Any]:
    """What is recorded of a run."""
    provider, _, model = run.model.partition("/")
    return {
        "durationMs": max(0, (run.ended_at or run.created_at) - run.created_at),
        "agentMeta": {
            "sessionId": run.session_id,
            "sessionKey": run.session_key,
            "provider": provider,
            "model": model,
            "usage": usage_json(run.usage) | ({} if run.cost is None else {"cost": {"total": run.cost}}),
        },
        "aborted": run.status == "cancelled",
        "stopReason": run.finish_reason,
        **({"executionTrace": {"attempts": [_attempt(call) for call in run.calls]}} if run.calls else {}),
    }


def _attempt(call: ModelCall) -> dict[str, Any]:
    """What became of one call of a model."""
    provider, _, model = call.model.partition("/")
    failed = call.outcome != "ok"
    return {
        "provider": provider,
        "model": model,
        "credential": call.credential,
        "result": "error" if failed else "success",
        "reason": call.outcome if failed else None,
        "status": call.status,
        "durationMs": call.milliseconds,
    }


def approval_json(approval: Approval) -> dict[str, Any]:
    """A command that waits for an operator; times are Unix milliseconds."""
    return {
        "id": approval.id,
        "agentId": approval.agent_id,
        "sessionKey": approval.session_key,
        "runId": approval.run_id,
        "command": approval.command,
        "directory": approval.directory,
        "createdAt": approval.created_at,
        "expiresAt": approval.expires_at,
    }


def session_json(session: Session) -> dict[str, Any]:
    """A session as a row of a list."""
    return {
        "key": session.key,
        "sessionId": session.id,
        "agentId": session.agent_id,
        "parentKey": session.parent_key,
        "model": session.model,
        "messages": session.message_count,
        "inputTokens": session.input_tokens,
        "outputTokens": session.output_tokens,
        "contextTokens": session.context_tokens,
        "cost": session.cost,
        "compactions": session.compactions,
        "updatedAt": session.updated_at,
        "archivedAt": session.archived_at,
    }


def transcript_json(key: str, store: Store) -> dict[str, Any]:
    """A session with all its messages; those before ``keptFrom`` reach the model as the summary.

    :raises NotFound: no such session.
    """
    loaded = store.transcript(key)
    if loaded.session is None:
        raise NotFound(f"There is no session {key!r}.")
    summary = {"summary": loaded.session.summary, "keptFrom": loaded.session.kept_from}
    messages = [
        {
            "seq": entry.seq,
            "message": loads(encode(entry.message).encode()),
            "stop": entry.stop,
            "at": entry.created_at,
        }
        for entry in loaded.history
    ]
    return {"session": session_json(loaded.session) | summary, "transcript": messages}
