"""The operator's own channel: what the ``openclaw`` command asks a running gateway.

Same guard and same runs as every other channel. An agent turn is answered as server-sent
events, one JSON object each: ``start``, ``text``, ``tool`` and, last, ``end``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from ..events import RunEvent
from ..runs.command import parse_agent_request, progress, session_json, transcript_json
from ..runtime import Runtime
from ..sessions.store import Store
from ..wire import dumps
from .auth import Guard
from .client import ClientWatch
from .drain import stream_events
from .http import event_stream, json_response, read_json, render_errors


def create_blueprint(runtime: Runtime, guard: Guard) -> Blueprint:
    """The control channel of one gateway, to be registered under ``/api``."""
    blueprint = Blueprint("openclaw_control", __name__)
    render_errors(blueprint)
    blueprint.before_request(lambda: guard.check(request.environ))
    http = runtime.config.gateway.http

    @blueprint.post("/agent")
    def agent() -> Response:
        body = read_json(http.max_body_bytes, http.body_timeout_seconds)
        run = runtime.runs.start(parse_agent_request(body, runtime.agents))
        first = _event({"type": "start", "runId": run.id})
        encode = partial(_encode, run_id=run.id, store=runtime.store)
        client = ClientWatch(request.environ)
        events = stream_events(run, first, encode, client, http.keep_alive_seconds)
        return event_stream(events, {"Cache-Control": "no-cache"})

    @blueprint.get("/sessions")
    def sessions() -> Response:
        listed = runtime.store.list_sessions(request.args.get("agent"), 1_000, 0)
        return json_response(dumps({"sessions": [session_json(session) for session in listed]}))

    @blueprint.get("/sessions/<path:key>")
    def session(key: str) -> Response:
        return json_response(dumps(transcript_json(key, runtime.store)))

    @blueprint.delete("/sessions/<path:key>")
    def delete(key: str) -> Response:
        return json_response(dumps({"deleted": runtime.store.delete_session(key)}))

    return blueprint


def _encode(events: Sequence[RunEvent], run_id: str, store: Store) -> bytes:
    shown = (progress(event, run_id, store) for event in events)
    return b"".join(_event(event) for event in shown if event)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"
