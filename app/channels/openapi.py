"""``/openapi.json``: what this gateway serves, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import yaml
from flask import Blueprint, Response, request

from ..config import Config
from ..version import version
from ..wire import dumps
from .http import ALL_METHODS, json_response, render_errors, require_exact_path, require_method
from .mount import Mount
from .watching import watch_requests


def create_blueprint(mount: Mount) -> Blueprint:
    """The document for one gateway, to be registered under its prefix. Only who has the secret gets it."""
    blueprint = Blueprint("openclaw_openapi", __name__)
    render_errors(blueprint)
    watch_requests(blueprint, mount)
    document = _Document(mount.config)
    guard = mount.part(lambda _, guard: guard)

    def check() -> None:
        require_exact_path()
        require_method("GET", "HEAD")
        guard().admit(request)

    def view() -> Response:
        return json_response(
            document.for_server(request.root_path + request.path.removesuffix("/openapi.json"))
        )

    blueprint.before_request(check)
    blueprint.add_url_rule(
        "/openapi.json",
        "document",
        view,
        methods=ALL_METHODS,
        provide_automatic_options=False,
        strict_slashes=True,
    )
    return blueprint


_ERROR = {"$ref": "#/components/responses/Error"}


class _Document:
    """The document, read when somebody first asks for it. Any thread may ask."""

    def __init__(self, config: Config) -> None:
        endpoints = config.gateway.http.endpoints
        switches = endpoints.model_dump(by_alias=True)
        self._switched_on = {name for name, settings in switches.items() if settings["enabled"]}
        if config.gateway.metrics.enabled:
            self._switched_on.add("metrics")
        self._metrics_for_all = config.gateway.metrics.auth == "none"
        self._lock = threading.Lock()
        self._content: Mapping[str, Any] | None = None

    def for_server(self, url: str) -> bytes:
        """The document as JSON.

        :param url: the server's, below which the paths are; "" for the root.
        """
        with self._lock:
            self._content = self._content or self._read()
        return dumps({**self._content, "servers": [{"url": url or "/"}]})

    def _read(self) -> dict[str, Any]:
        text = files(__package__).joinpath("openapi.yaml").read_text("utf-8")
        content: dict[str, Any] = yaml.safe_load(text)
        content["info"]["version"] = version()
        if self._metrics_for_all:
            content["paths"]["/metrics"]["get"]["security"] = []
        content["paths"] = {path: item for path, item in content["paths"].items() if self._is_served(item)}
        for operation in _operations(content):
            errors = operation.pop("x-errors", ())
            operation["responses"] |= {str(status): _ERROR for status in errors}
        return content

    def _is_served(self, item: dict[str, Any]) -> bool:
        switches = item.pop("x-switch", None)
        return switches is None or not self._switched_on.isdisjoint(switches)


def _operations(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item in content["paths"].values():
        yield from (one for name, one in item.items() if name != "parameters")
