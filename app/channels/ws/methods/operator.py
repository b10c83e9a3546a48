"""What the ``openclaw`` command of this project asks beyond the protocol, under names of its own."""

from __future__ import annotations

from collections.abc import Callable

from ....messages import JsonValue
from ....runs.command import outcome, session_json, transcript_json
from ....runs.retention import delete_old
from ....runs.usage import parse_usage_query, usage_report
from ....runtime import Runtime, retention_rules
from ..context import Channel
from ..keys import find
from ..protocol import Call, Method, Methods, text
from ..views import Json, present

_LISTED = 1_000
_USAGE = ("since", "until", "by", "agent", "session")


def methods(context: Channel) -> Methods:
    """How the gateway does, what became of a run, sessions as they are stored, sums of usage."""
    answers: dict[str, Callable[[Channel, Call], JsonValue]] = {
        "openclaw.status": _status,
        "openclaw.outcome": _outcome,
        "openclaw.sessions": _sessions,
        "openclaw.transcript": _transcript,
        "openclaw.usage": _usage,
    }
    reading = {name: _method(context, answer) for name, answer in answers.items()}
    return reading | {
        "openclaw.prune": Method("operator.write", lambda call: _prune(context, call), waits=True),
        "openclaw.reload": Method("operator.write", lambda _: _reload(context), waits=True),
    }


def _method(context: Channel, answer: Callable[[Channel, Call], JsonValue]) -> Method:
    return Method("operator.read", lambda call: answer(context, call))


def _status(context: Channel, _: Call) -> Json:
    runtime = context.runtime
    default = runtime.agents.get(runtime.agents.default_id)
    return {
        "version": context.version,
        "uptimeMs": context.clock() - context.started_at,
        "draining": runtime.runs.draining,
        "agent": default.id,
        "model": default.model_ref,
        "runs": runtime.runs.live,
        "sessions": runtime.store.count_sessions(),
        "approvals": len(runtime.tools.approvals.pending()),
        "connections": len(context.hub.peers()),
    }


def _outcome(context: Channel, call: Call) -> Json:
    """How a run ended, in the shape of ``openclaw agent --json``; what a person wants to know of its cost."""
    runtime = context.runtime
    run_id = text(call.params, "runId", call.method, required=True) or ""
    if runtime.runs.is_live(run_id):
        return {"state": "running"}
    ended = context.outcomes.last(run_id)
    if ended is None:
        return {"state": "unknown"}
    report = outcome(ended.ending, run_id, runtime.store)
    return present({"state": "ended", "report": report, "note": runtime.chat.usage_line(run_id)})


def _sessions(context: Channel, call: Call) -> Json:
    agent_id = text(call.params, "agentId", call.method)
    archived = call.params.get("archived") is True
    listed = context.runtime.store.list_sessions(agent_id, _LISTED, archived=archived)
    return {"sessions": [session_json(session) for session in listed]}


def _transcript(context: Channel, call: Call) -> Json:
    return transcript_json(_key(context.runtime, call), context.runtime.store)


def _key(runtime: Runtime, call: Call) -> str:
    written = text(call.params, "key", call.method, required=True) or ""
    return find(written, runtime.agents, runtime.store)


def _usage(context: Channel, call: Call) -> Json:
    asked = {name: value for name in _USAGE if isinstance(value := call.params.get(name), str)}
    return usage_report(parse_usage_query(asked, context.clock()), context.runtime.store)


def _prune(context: Channel, call: Call) -> Json:
    """Delete what is old by the configuration, whatever it says of doing so by itself; or count it."""
    ages = retention_rules(context.runtime.config).ages(context.clock())
    if ages is None:
        return {"kept": True, "sessions": 0, "runs": 0}
    store = context.runtime.store
    dry = call.params.get("dryRun") is True
    pruned = store.count_old(ages) if dry else delete_old(store, ages)
    return {"kept": False, "sessions": pruned.sessions, "runs": pruned.runs}


def _reload(context: Channel) -> Json:
    """Read the configuration again; nothing has changed if it cannot be used."""
    done = context.runtime.reloader.reload()
    return {"applied": list(done.applied), "waiting": list(done.waiting)}
