"""The chat: say something, see what was said, stop the answer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ....cancel import CancelReason
from ....events import RunCompleted, TerminalEvent
from ....messages import AssistantMessage, JsonValue, Usage
from ....runs.outcomes import STARTED, UNDER_WAY, Outcome
from ....runs.run import RunRequest
from ....sessions.records import NewEntry
from .. import asked
from ..context import Channel
from ..events import stopped_by
from ..history import history
from ..protocol import ANSWERED, Answered, Call, Method, Methods, Refusal, count, text
from ..views import Json, session_row
from .agent import failure

_CHANNEL = "chat"
_STOP_PHRASES = frozenset({"/stop", "stop", "esc", "abort", "wait", "exit", "interrupt"})
_ROWS, _MOST_ROWS = 200, 1_000
_MODES = {
    "queue": "queue",
    "collect": "queue",
    "followup": "queue",
    "steer": "steer",
    "interrupt": "interrupt",
}


def methods(context: Channel) -> Methods:
    """What a chat window needs."""
    return {
        "chat.send": Method("operator.write", partial(_send, context)),
        "chat.abort": Method("operator.write", partial(_abort, context)),
        "chat.history": Method("operator.read", partial(_history, context)),
        "chat.startup": Method("operator.read", partial(_history, context)),
        "chat.inject": Method("operator.admin", partial(_inject, context)),
    }


def _send(context: Channel, call: Call) -> JsonValue | Answered:
    written = text(call.params, "sessionKey", call.method, required=True) or ""
    request = _request(context, call, written)
    if request.messages[0].text.strip().lower() in _STOP_PHRASES:
        stopped = context.runtime.chat.stop(request.session_key)
        return {"ok": True, "aborted": bool(stopped), "runIds": [*stopped]}

    context.feed.answers(request.run_id, call.peer, written)
    standing = context.outcomes.once(request.run_id, lambda: _begin(context, call, request))
    if standing is STARTED:
        return ANSWERED
    if standing is UNDER_WAY:
        return {"runId": request.run_id, "status": "in_flight"}
    return _repeated(standing)


def _request(context: Channel, call: Call, written: str) -> RunRequest:
    params, method = call.params, call.method
    run_id = asked.run_id(params, method)
    question = asked.question(params, method)
    key, agent_id = asked.place(written, context.runtime)
    return RunRequest(
        run_id=run_id,
        agent_id=agent_id,
        session_key=key,
        ephemeral=False,
        channel=_CHANNEL,
        messages=(question,),
        created_at=context.clock(),
        params=asked.thinking(params, method),
        timeout=asked.seconds(params, "timeoutMs", method, unit=0.001),
    )


def _begin(context: Channel, call: Call, request: RunRequest) -> TerminalEvent | None:
    """Obey a command, or start a run; how it ended if there is no run."""

    def acknowledge() -> None:
        call.peer.respond(call.id, started)

    started: Json = {"runId": request.run_id, "status": "started"}
    mode = _mode(context, call)
    reply = context.runtime.chat.command(request)
    if reply is not None and reply.request is None:
        acknowledge()
        context.feed.say(request.run_id, request.session_key, request.agent_id, reply.text)
        return RunCompleted(reply.text, "stop", Usage())
    if reply is not None and reply.request is not None:
        request = reply.request
        if reply.text:
            started["note"] = reply.text  # the run's answer is all that its events tell
    runs = context.runtime.runs
    earlier = _under_way(context, request.session_key) if mode == "interrupt" else ()
    steers = mode == "steer" and request.compact is None
    context.outcomes.start(replace(request, steer=steers), acknowledge)
    for run_id in earlier:  # only now: a message that is refused interrupts nothing
        runs.cancel(run_id, CancelReason.USER)
    return None


def _under_way(context: Channel, key: str) -> list[str]:
    """The runs of a session, wherever they are, and of the sub-agents it has started here."""
    runs = context.runtime.runs
    return [*dict.fromkeys([*(run.id for run in runs.family(key)), *runs.active([key])[key]])]


def _mode(context: Channel, call: Call) -> str:
    """What becomes of a message that arrives while an answer is being given."""
    wanted = text(call.params, "queueMode", call.method)
    if wanted is None:
        return _MODES[context.runtime.config.messages.queue.mode]
    if wanted not in _MODES:
        raise Refusal(f"invalid {call.method} params: at /queueMode: must be one of {', '.join(_MODES)}")
    return _MODES[wanted]


def _repeated(ended: Outcome) -> JsonValue:
    """The answer to whoever says again what was answered already.

    :raises Refusal: the run has failed.
    """
    if stopped := stopped_by(ended.ending):
        told: Json = {"runId": ended.run_id, "status": "timeout", "summary": "aborted"}
        return told | {"stopReason": stopped, "endedAt": ended.ended_at}
    if isinstance(ended.ending, RunCompleted):
        return {"runId": ended.run_id, "status": "ok"}
    raise failure(ended)


def _abort(context: Channel, call: Call) -> JsonValue:
    written = text(call.params, "sessionKey", call.method, required=True) or ""
    key, _ = asked.place(written, context.runtime)
    runs = context.runtime.runs
    run_id = text(call.params, "runId", call.method)
    if run_id is None:
        stopped = runs.cancel_session(key, CancelReason.USER)
    else:
        if runs.session_of(run_id) not in (None, key):
            raise Refusal("runId does not match sessionKey")
        stopped = [run_id] if runs.cancel(run_id, CancelReason.USER) else []
    return {"ok": True, "aborted": bool(stopped), "runIds": [*stopped]}


def _history(context: Channel, call: Call) -> JsonValue:
    runtime = context.runtime
    written = text(call.params, "sessionKey", call.method, required=True) or ""
    limit = count(call.params, "limit", call.method, default=_ROWS, most=_MOST_ROWS, least=1)
    skipped = count(call.params, "offset", call.method, default=0, most=1_000_000)
    key, _ = asked.place(written, runtime)
    # What is said while this is read comes as an event or stands in the transcript, perhaps both.
    under_way = context.feed.in_flight(key)
    loaded = runtime.store.newest(key, limit + skipped)
    session = loaded.session
    shown: Json = {"sessionKey": written}
    if under_way is not None:
        shown["inFlightRun"] = {"runId": under_way[0], "text": under_way[1]}
    if session is None:
        return shown | {"messages": [], "thinkingLevel": "off", "hasMore": False, "totalMessages": 0}
    rows = history(loaded.history[: len(loaded.history) - skipped])
    return shown | {
        "sessionId": session.id,
        "thinkingLevel": session.settings.thinking or "off",
        "messages": rows,
        "hasMore": session.message_count > skipped + len(rows),
        "totalMessages": session.message_count,
        "sessionInfo": session_row(session, runtime, context.clock()),
    }


def _inject(context: Channel, call: Call) -> JsonValue:
    runtime = context.runtime
    written = text(call.params, "sessionKey", call.method, required=True) or ""
    said = text(call.params, "message", call.method, required=True) or ""
    label = text(call.params, "label", call.method)
    key, agent_id = asked.place(written, runtime)
    if runtime.runs.active([key])[key]:  # it must not come between a tool call and its result
        raise Refusal("an answer is being given in this session", code="UNAVAILABLE", retry_after_ms=1_000)
    session = runtime.store.session(key)
    message_id = context.new_id()[:8]
    run_id = f"inject-{message_id}"
    shown = f"[{label}]\n\n{said}" if label else said
    entry = NewEntry(AssistantMessage(shown), "note")
    if not session or not runtime.store.append(session.id, run_id, [entry], context.clock()):
        raise Refusal("session not found")
    context.feed.answers(run_id, call.peer, written)
    context.feed.say(run_id, key, agent_id, shown)
    return {"ok": True, "messageId": message_id}
