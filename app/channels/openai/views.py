"""The blueprint of OpenAI's API: chat completions, embeddings and the list of models."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from flask import Blueprint, Response, request

from ...agents.registry import is_agent_id
from ...config import HttpConfig
from ...errors import AgentNotFound, EndpointDisabled, NotFound
from ...runtime import Runtime
from ...wire import dumps
from ..auth import Guard
from ..caller import caller_of
from ..cors import Cors
from ..http import ALL_METHODS, json_response, render_errors, require_exact_path, require_method
from ..mount import Mount
from ..watching import watch_requests
from .chat import Chat
from .embeddings import EmbeddingsView
from .responses import views as responses
from .stored import StoredChat

_CHAT_KEY = "gateway.http.endpoints.chatCompletions.enabled"
_RESPONSES_KEY = "gateway.http.endpoints.responses.enabled"


def create_blueprint(mount: Mount) -> Blueprint:
    """OpenAI's API for one gateway, to be registered under ``/v1``."""
    blueprint = Blueprint("openclaw_openai", __name__)
    render_errors(blueprint)
    watch_requests(blueprint, mount)
    api = mount.part(_Api)
    gate = _Gate(mount.config.gateway.http, api)
    blueprint.before_request(gate.check)
    blueprint.after_request(gate.cors.finish)

    def view(endpoint: str) -> Callable[..., Response]:
        return lambda **values: api().views[endpoint](**values)

    views = {endpoint: view(endpoint) for _, endpoint in _RULES}
    slashed = [(f"{rule}/", endpoint) for rule, endpoint in _RULES if rule in _SLASHED]
    for rule, endpoint in (*_RULES, *slashed):
        # No redirects: another spelling of a path is another path, and a redirect is HTML.
        blueprint.add_url_rule(
            rule,
            endpoint,
            views[endpoint],
            methods=ALL_METHODS,
            provide_automatic_options=False,
            strict_slashes=rule != "/",
            merge_slashes=False,
        )
    return blueprint


class _Gate:
    """What is checked before a view is called."""

    def __init__(self, http: HttpConfig, api: Callable[[], _Api]) -> None:
        self._http = http
        self._api = api
        self.cors = Cors(http.cors)

    def check(self) -> Response | None:
        """Path, then switch, then method, then who it is; the body is not touched before that.

        A browser that asks what it may send is answered in between, without a bearer.
        """
        endpoint = str(request.endpoint).rpartition(".")[2]
        methods = _METHODS.get(endpoint)
        if methods is None:
            raise _nothing_here()
        if endpoint != "model":
            require_exact_path()
        self._require_switch(endpoint)
        if (answer := self.cors.preflight(methods)) is not None:
            return answer
        require_method(*methods)
        self._api().guard.admit(request, self.cors.origins)
        return None

    def _require_switch(self, endpoint: str) -> None:
        """:raises EndpointDisabled: what serves ``endpoint`` is switched off."""
        chat, others = self._http.endpoints.chat_completions, self._http.endpoints.responses
        if endpoint in responses.METHODS and not others.enabled:
            raise EndpointDisabled(_RESPONSES_KEY)
        shared = endpoint in responses.METHODS or endpoint in _MODELS
        if not chat.enabled and not (shared and others.enabled):
            raise EndpointDisabled(_CHAT_KEY)


class _Api:
    """The views, bound to one runtime."""

    def __init__(self, runtime: Runtime, guard: Guard) -> None:
        self._agents = runtime.agents
        self.guard = guard
        stored = StoredChat(runtime)
        self.views: dict[str, Callable[..., Response]] = {
            "chat_completions": Chat(runtime).create,
            "chat_completion": stored.completion,
            "chat_stream": stored.stream,
            "chat_cancel": stored.cancel,
            **responses.views(responses.Responses(runtime)),
            "embeddings": EmbeddingsView(runtime).create,
            "models": self.models,
            "model": self.model,
        }

    def models(self) -> Response:
        """``GET /v1/models``: the agents, as model ids that chat completions take."""
        entries = [_model_object(name) for name in self._names()]
        return json_response(dumps({"object": "list", "data": entries}))

    def model(self, name: str) -> Response:
        """``GET /v1/models/{id}``; the id may be percent-encoded once more than the path."""
        known = unquote(name)
        if known not in self._names() and not self._is_alias(known):
            raise AgentNotFound(known)
        return json_response(dumps(_model_object(known)))

    def _names(self) -> list[str]:
        ids = caller_of(request.environ).agent_ids(self._agents)
        return ["openclaw", "openclaw/default", *(f"openclaw/{agent_id}" for agent_id in ids)]

    def _is_alias(self, name: str) -> bool:
        prefix, colon, agent_id = name.partition(":")
        named = bool(colon) and prefix in ("openclaw", "agent") and is_agent_id(agent_id)
        return named and agent_id.lower() in caller_of(request.environ).agent_ids(self._agents)


_RULES = (
    ("/chat/completions", "chat_completions"),
    ("/chat/completions/<run_id>", "chat_completion"),
    ("/chat/completions/<run_id>/stream", "chat_stream"),
    ("/chat/completions/<run_id>/cancel", "chat_cancel"),
    *responses.RULES,
    ("/embeddings", "embeddings"),
    ("/models", "models"),
    ("/models/<path:name>", "model"),
    ("/", "root"),
    ("/<path:rest>", "rest"),
)
_MODELS = ("models", "model")
# Clients that join addresses carelessly ask for these with a slash at the end.
_SLASHED = ("/chat/completions", "/responses", "/embeddings", "/models")

_METHODS: dict[str, tuple[str, ...]] = {
    **responses.METHODS,
    "chat_completions": ("POST",),
    "chat_completion": ("GET", "HEAD", "POST", "DELETE"),
    "chat_stream": ("GET",),
    "chat_cancel": ("POST",),
    "embeddings": ("POST",),
    "models": ("GET", "HEAD"),
    "model": ("GET", "HEAD"),
}


def _nothing_here() -> NotFound:
    rest = (request.view_args or {}).get("rest", "")
    return NotFound(f"Nothing is served at this path{': /v1/' + rest[:200] if rest else ''}.")


def _model_object(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "openclaw", "permission": []}
