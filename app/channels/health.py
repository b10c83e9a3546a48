"""Probes for whoever watches the process. They need no secret and tell none."""

from __future__ import annotations

from flask import Blueprint, Response

from ..runtime import Runtime
from ..wire import dumps
from .http import ALL_METHODS, json_response, render_errors, require_exact_path, require_method


def create_blueprint(runtime: Runtime) -> Blueprint:
    """``/healthz``: the process answers. ``/readyz``: it takes new runs."""
    blueprint = Blueprint("openclaw_health", __name__)
    render_errors(blueprint)

    def health() -> Response:
        return json_response(dumps({"ok": True, "status": "live"}))

    def ready() -> Response:
        is_ready = not runtime.runs.draining
        return json_response(dumps({"ready": is_ready}), 200 if is_ready else 503)

    def guard() -> None:
        require_exact_path()
        require_method("GET", "HEAD")

    blueprint.before_request(guard)
    for rule, view in (("/healthz", health), ("/health", health), ("/readyz", ready), ("/ready", ready)):
        blueprint.add_url_rule(
            rule, rule[1:], view, methods=ALL_METHODS, provide_automatic_options=False, strict_slashes=True
        )
    return blueprint
