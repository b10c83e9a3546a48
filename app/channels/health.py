"""Probes for whoever watches the process. They need no secret and tell none."""

from __future__ import annotations

import logging

from flask import Blueprint, Response

from ..errors import StoreError
from ..wire import dumps
from .http import ALL_METHODS, json_response, render_errors, require_exact_path, require_method
from .mount import Mount
from .watching import watch_requests


def _has_its_store(mount: Mount) -> bool:
    try:
        mount.runtime.state.check()
    except StoreError:
        return False
    return True


def create_blueprint(mount: Mount) -> Blueprint:
    """``/healthz``: the process answers. ``/readyz``: send it new runs."""
    blueprint = Blueprint("openclaw_health", __name__)
    render_errors(blueprint)
    watch_requests(blueprint, mount, logging.DEBUG)

    def health() -> Response:
        return json_response(dumps({"ok": True, "status": "live"}))

    def ready() -> Response:
        is_ready = not mount.runtime.runs.leaving and _has_its_store(mount)
        shown = {"ready": is_ready} | ({} if mount.runtime.state.whole else {"degraded": "redis"})
        return json_response(dumps(shown), 200 if is_ready else 503)

    def guard() -> None:
        require_exact_path()
        require_method("GET", "HEAD")

    blueprint.before_request(guard)
    for rule, view in (("/healthz", health), ("/health", health), ("/readyz", ready), ("/ready", ready)):
        blueprint.add_url_rule(
            rule, rule[1:], view, methods=ALL_METHODS, provide_automatic_options=False, strict_slashes=True
        )
    return blueprint
