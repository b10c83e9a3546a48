"""The blueprint of OpenAI's API: chat completions and the list of models."""

from __future__ import annotations

import time
import uuid
from urllib.parse import unquote

from flask import Blueprint, Response, request

from ...agents.registry import AgentRegistry, is_agent_id
from ...errors import AgentNotFound, EndpointDisabled, NotFound
from ...events import RunCompleted
from ...runs.run import Run, RunRequest
from ...runtime import Runtime
from ...wire import dumps
from ..auth import Guard
from ..client import ClientWatch
from ..drain import await_run
from ..http import (
    ALL_METHODS,
    error_response,
    event_stream,
    json_response,
    read_json,
    render_errors,
    require_exact_path,
    require_method,
)
from .chunks import Completion
from .routing import choose_route
from .schema import ChatRequest, parse_chat_request
from .sse import error_of, stream_run

_CONFIG_KEY = "gateway.http.endpoints.chatCompletions.enabled"
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def create_blueprint(runtime: Runtime, guard: Guard) -> Blueprint:
    """OpenAI's API for one gateway, to be registered under ``/v1``."""
    blueprint = Blueprint("openclaw_openai", __name__)
    render_errors(blueprint)
    api = _Api(runtime, guard)
    blueprint.before_request(api.guard)
    for rule, endpoint, view in (
        ("/chat/completions", "chat_completions", api.chat_completions),
        ("/models", "models", api.models),
        ("/models/<path:name>", "model", api.model),
        ("/", "root", _nothing_here),
        ("/<path:rest>", "rest", _nothing_here),
    ):
        # No redirects: another spelling of a path is another path, and a redirect is HTML.
        blueprint.add_url_rule(
            rule,
            endpoint,
            view,
            methods=ALL_METHODS,
            provide_automatic_options=False,
            strict_slashes=rule != "/",
            merge_slashes=False,
        )
    return blueprint


class _Api:
    """The views, bound to one runtime."""

    def __init__(self, runtime: Runtime, guard: Guard) -> None:
        self._runtime = runtime
        self._guard = guard
        self._http = runtime.config.gateway.http

    def guard(self) -> None:
        """Path, then switch, then method, then bearer; the body is not touched before that."""
        endpoint = str(request.endpoint).rpartition(".")[2]
        methods = _METHODS.get(endpoint)
        if methods is None:
            _nothing_here()
        if endpoint != "model":
            require_exact_path()
        if not self._http.endpoints.chat_completions.enabled:
            raise EndpointDisabled(_CONFIG_KEY)
        require_method(*(methods or ()))
        self._guard.check(request.environ)

    def chat_completions(self) -> Response:
        """``POST /v1/chat/completions``."""
        body = read_json(self._http.max_body_bytes, self._http.body_timeout_seconds)
        asked = parse_chat_request(body)
        run = self._start(asked, f"chatcmpl-{uuid.uuid4()}")
        completion = Completion(
            run.id, run.request.created_at // 1000, asked.model, include_usage=asked.include_usage
        )
        client = ClientWatch(request.environ)
        headers = {"x-request-id": run.id}
        if asked.stream:
            events = stream_run(run, completion, client, self._http.keep_alive_seconds)
            return event_stream(events, headers | _STREAM_HEADERS)
        event = await_run(run, client)
        if isinstance(event, RunCompleted):
            return json_response(
                completion.body(event.text, event.finish_reason, event.usage), headers=headers
            )
        response = error_response(error_of(event))
        response.headers.update(headers)
        return response

    def models(self) -> Response:
        """``GET /v1/models``: the agents, as model ids that chat completions take."""
        entries = [_model_object(name) for name in _model_names(self._runtime.agents)]
        return json_response(dumps({"object": "list", "data": entries}))

    def model(self, name: str) -> Response:
        """``GET /v1/models/{id}``; the id may be percent-encoded once more than the path."""
        known = unquote(name)
        if known not in _model_names(self._runtime.agents) and not self._is_alias(known):
            raise AgentNotFound(known)
        return json_response(dumps(_model_object(known)))

    def _is_alias(self, name: str) -> bool:
        prefix, colon, agent_id = name.partition(":")
        named = bool(colon) and prefix in ("openclaw", "agent") and is_agent_id(agent_id)
        return named and agent_id.lower() in self._runtime.agents

    def _start(self, asked: ChatRequest, run_id: str) -> Run:
        settings = self._http.endpoints.chat_completions
        route = choose_route(
            {name.lower(): value for name, value in request.headers.items()},
            asked.model,
            asked.user,
            self._runtime.agents,
            strict_model=settings.strict_model,
            fresh_id=run_id.removeprefix("chatcmpl-"),
        )
        return self._runtime.runs.start(
            RunRequest(
                run_id=run_id,
                agent_id=route.agent_id,
                session_key=route.session_key,
                ephemeral=route.ephemeral and not settings.keep_transcripts,
                channel="openai",
                messages=asked.messages,
                created_at=int(time.time() * 1000),
                system=asked.system,
                params=asked.params,
            )
        )


_METHODS: dict[str, tuple[str, ...]] = {
    "chat_completions": ("POST",),
    "models": ("GET", "HEAD"),
    "model": ("GET", "HEAD"),
}


def _nothing_here(rest: str = "") -> Response:
    raise NotFound(f"Nothing is served at this path{': /v1/' + rest[:200] if rest else ''}.")


def _model_names(agents: AgentRegistry) -> list[str]:
    return ["openclaw", "openclaw/default", *(f"openclaw/{agent_id}" for agent_id in agents.ids)]


def _model_object(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "openclaw", "permission": []}
