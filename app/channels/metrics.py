"""``GET /metrics``: what Prometheus asks for."""

from __future__ import annotations

import logging

from flask import Blueprint, Response, request

from .caller import caller_of
from .http import ALL_METHODS, render_errors, require_exact_path, require_method
from .mount import Mount
from .watching import watch_requests


def create_blueprint(mount: Mount) -> Blueprint:
    """The metrics of one gateway; without ``gateway.metrics.auth: "none"`` who asks needs the secret."""
    blueprint = Blueprint("openclaw_metrics", __name__)
    render_errors(blueprint)
    watch_requests(blueprint, mount, logging.DEBUG)
    open_to_all = mount.config.gateway.metrics.auth == "none"
    guard = mount.part(lambda _, guard: guard)

    def check() -> None:
        require_exact_path()
        require_method("GET", "HEAD")
        if not open_to_all:
            guard().admit(request)
            caller_of(request.environ).require("operator.admin")

    def metrics() -> Response:
        shown = mount.runtime.watch.metrics
        assert shown is not None, "there is no such path where there are no metrics"
        body, content_type = shown.exposition(request.headers.get("Accept", ""))
        return Response(body, content_type=content_type, headers={"Cache-Control": "no-store"})

    blueprint.before_request(check)
    blueprint.add_url_rule(
        "/metrics",
        "metrics",
        metrics,
        methods=ALL_METHODS,
        provide_automatic_options=False,
        strict_slashes=True,
    )
    return blueprint
