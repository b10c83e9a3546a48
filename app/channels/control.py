"""The operator's own channel over plain HTTP: what scripts ask a running gateway.

Same guard and same runs as every other channel. An agent turn is answered as server-sent
events, one JSON object each: ``start``, ``text``, ``tool``, ``result``, ``approval``, ``decision``,
``compaction`` and, last, ``end``; in a chat also ``note``, which is for the person and kept nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from ..errors import NotFound
from ..events import RunCompleted, RunEvent
from ..messages import JsonValue
from ..runs.chat import ChatReply
from ..runs.command import (
    answered,
    approval_json,
    parse_agent_request,
    parse_decision,
    progress,
    session_json,
    text_event,
    transcript_json,
)
from ..runs.run import Run, RunRequest
from ..runs.usage import parse_usage_query, usage_report
from ..runtime import Runtime
from ..wire import dumps
from .auth import Guard
from .client import ClientWatch
from .drain import stream_events
from .http import event_stream, json_response, read_json, render_errors

_CHAT = "chat"
_UNCACHED = {"Cache-Control": "no-cache"}


def create_blueprint(runtime: Runtime, guard: Guard) -> Blueprint:
    """The control channel of one gateway, to be registered under ``/api``."""
    blueprint = Blueprint("openclaw_control", __name__)
    render_errors(blueprint)
    blueprint.before_request(lambda: guard.check(request.environ))
    _serve_turns(blueprint, runtime)
    _serve_sessions(blueprint, runtime)
    _serve_approvals(blueprint, runtime)

    @blueprint.get("/usage")
    def usage() -> Response:
        query = parse_usage_query(request.args, time.time_ns() // 1_000_000)
        return json_response(dumps(usage_report(query, runtime.store)))

    return blueprint


def _serve_turns(blueprint: Blueprint, runtime: Runtime) -> None:
    def stream(asked: RunRequest, told: str = "") -> Response:
        run = runtime.runs.start(asked)
        first = _event({"type": "start", "runId": run.id})
        if told:
            first += _event(text_event(f"{told}\n\n"))
        encode = partial(_encode, run=run, runtime=runtime)
        client, keep_alive = ClientWatch(request.environ), runtime.config.gateway.http.keep_alive_seconds
        return event_stream(stream_events(run, first, encode, client, keep_alive), _UNCACHED)

    @blueprint.post("/agent")
    def agent() -> Response:
        return stream(parse_agent_request(_body(runtime), runtime.agents))

    @blueprint.post("/chat")
    def chat() -> Response:
        asked = parse_agent_request(_body(runtime), runtime.agents, channel=_CHAT)
        reply = runtime.chat.command(asked) or ChatReply(request=asked)
        if reply.request is None:
            return event_stream(_answer(reply.text), _UNCACHED)
        return stream(reply.request, reply.text)


def _serve_sessions(blueprint: Blueprint, runtime: Runtime) -> None:
    @blueprint.get("/sessions")
    def sessions() -> Response:
        archived = request.args.get("archived") == "true"
        listed = runtime.store.list_sessions(request.args.get("agent"), 1_000, archived=archived)
        return json_response(dumps({"sessions": [session_json(session) for session in listed]}))

    @blueprint.get("/sessions/<path:key>")
    def session(key: str) -> Response:
        return json_response(dumps(transcript_json(key, runtime.store)))

    @blueprint.delete("/sessions/<path:key>")
    def delete(key: str) -> Response:
        runtime.chat.stop(key)
        return json_response(dumps({"deleted": runtime.store.delete_session(key)}))

    @blueprint.post("/sessions/<path:key>/stop")
    def stop(key: str) -> Response:
        stopped = runtime.chat.stop(key)
        return json_response(dumps({"aborted": bool(stopped), "runIds": stopped}))


def _serve_approvals(blueprint: Blueprint, runtime: Runtime) -> None:
    desk = runtime.tools.approvals

    @blueprint.get("/approvals")
    def approvals() -> Response:
        return json_response(dumps({"approvals": [approval_json(approval) for approval in desk.pending()]}))

    @blueprint.post("/approvals/<approval_id>")
    def decide(approval_id: str) -> Response:
        decision = parse_decision(_body(runtime))
        if approval_id not in {approval.id for approval in desk.pending()}:
            raise NotFound("No command waits under this id; perhaps its time is over.")
        return json_response(dumps({"resolved": desk.resolve(approval_id, decision)}))


def _body(runtime: Runtime) -> JsonValue:
    http = runtime.config.gateway.http
    return read_json(http.max_body_bytes, http.body_timeout_seconds)


def _encode(events: Sequence[RunEvent], run: Run, runtime: Runtime) -> bytes:
    return b"".join(_event(shown) for event in events for shown in _shown(event, run, runtime))


def _shown(event: RunEvent, run: Run, runtime: Runtime) -> Iterator[dict[str, Any]]:
    in_chat = run.request.channel == _CHAT
    if in_chat and isinstance(event, RunCompleted) and (line := runtime.chat.usage_line(run.id)):
        yield {"type": "note", "text": line}
    if shown := progress(event, run.id, runtime.store):
        yield shown


def _answer(text: str) -> Generator[bytes]:
    yield _event(text_event(text)) + _event(answered(text))


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"
