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
from .caller import caller_of
from .client import ClientWatch
from .drain import stream_events
from .http import event_stream, json_response, read_json, render_errors
from .mount import Mount
from .watching import watch_requests

_CHAT = "chat"
# Views for whom a host names; all others are the owner's alone.
_FOR_ALL = ("sessions", "session", "delete", "stop")
_UNCACHED = {"Cache-Control": "no-cache"}


def create_blueprint(mount: Mount) -> Blueprint:
    """The control channel of one gateway, to be registered under ``/api``."""
    blueprint = Blueprint("openclaw_control", __name__)
    render_errors(blueprint)
    watch_requests(blueprint, mount)
    guard = mount.part(lambda _, guard: guard)

    def check() -> None:
        guard().admit(request)
        if str(request.endpoint).rpartition(".")[2] not in _FOR_ALL:
            caller_of(request.environ).require("operator.admin")

    blueprint.before_request(check)
    _serve_turns(blueprint, mount)
    _serve_sessions(blueprint, mount)
    _serve_approvals(blueprint, mount)

    @blueprint.get("/usage")
    def usage() -> Response:
        query = parse_usage_query(request.args, time.time_ns() // 1_000_000)
        return json_response(dumps(usage_report(query, mount.runtime.store)))

    return blueprint


def _serve_turns(blueprint: Blueprint, mount: Mount) -> None:
    def stream(asked: RunRequest, told: str = "") -> Response:
        runtime = mount.runtime
        run = runtime.runs.start(asked)
        first = _event({"type": "start", "runId": run.id})
        if told:
            first += _event(text_event(f"{told}\n\n"))
        encode = partial(_encode, run=run, runtime=runtime)
        client, keep_alive = ClientWatch(request.environ), runtime.config.gateway.http.keep_alive_seconds
        return event_stream(stream_events(run, first, encode, client, keep_alive), _UNCACHED)

    @blueprint.post("/agent")
    def agent() -> Response:
        return stream(parse_agent_request(_body(mount), mount.runtime.agents))

    @blueprint.post("/chat")
    def chat() -> Response:
        asked = parse_agent_request(_body(mount), mount.runtime.agents, channel=_CHAT)
        reply = mount.runtime.chat.command(asked) or ChatReply(request=asked)
        if reply.request is None:
            return event_stream(_answer(reply.text), _UNCACHED)
        return stream(reply.request, reply.text)


def _serve_sessions(blueprint: Blueprint, mount: Mount) -> None:
    @blueprint.get("/sessions")
    def sessions() -> Response:
        agent_id, archived = request.args.get("agent"), request.args.get("archived") == "true"
        own = caller_of(request.environ).own or None
        listed = mount.runtime.store.list_sessions(agent_id, 1_000, archived=archived, namespace=own)
        return json_response(dumps({"sessions": [session_json(session) for session in listed]}))

    @blueprint.get("/sessions/<path:key>")
    def session(key: str) -> Response:
        _require_own(key)
        return json_response(dumps(transcript_json(key, mount.runtime.store)))

    @blueprint.delete("/sessions/<path:key>")
    def delete(key: str) -> Response:
        _require_own(key)
        mount.runtime.chat.stop(key)
        return json_response(dumps({"deleted": mount.runtime.store.delete_session(key)}))

    @blueprint.post("/sessions/<path:key>/stop")
    def stop(key: str) -> Response:
        _require_own(key)
        stopped = mount.runtime.chat.stop(key)
        return json_response(dumps({"aborted": bool(stopped), "runIds": stopped}))


def _require_own(key: str) -> None:
    """:raises NotFound: to whoever asks, it might as well not be there."""
    if not caller_of(request.environ).owns(key):
        raise NotFound(f"There is no session {key!r}.")


def _serve_approvals(blueprint: Blueprint, mount: Mount) -> None:
    @blueprint.get("/approvals")
    def approvals() -> Response:
        pending = mount.runtime.tools.approvals.pending()
        return json_response(dumps({"approvals": [approval_json(approval) for approval in pending]}))

    @blueprint.post("/approvals/<approval_id>")
    def decide(approval_id: str) -> Response:
        desk, decision = mount.runtime.tools.approvals, parse_decision(_body(mount))
        if approval_id not in {approval.id for approval in desk.pending()}:
            raise NotFound("No command waits under this id; perhaps its time is over.")
        return json_response(dumps({"resolved": desk.resolve(approval_id, decision)}))


def _body(mount: Mount) -> JsonValue:
    http = mount.config.gateway.http
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
