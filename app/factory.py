"""The stand-alone host: an application that is nothing but a gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from .channels.http import error_from_http, error_response, finish
from .config import Config, load_config
from .extension import ConfigSource, Gateway
from .log import configure_logging, get_logger
from .runtime import secrets_of
from .runtime.disk import disk_warning
from .sessions.store import Offload

_log = get_logger("gateway")


def create_app(
    config: ConfigSource = None,
    *,
    env: Mapping[str, str] | None = None,
    offload: Offload | None = None,
) -> Flask:
    """A Flask application with a gateway at its root, and logging to stderr.

    :param config: a configuration, a mapping, a path, or None to find ``openclaw.json``.
    :param env: the environment to read, by default this process's.
    :param offload: where blocking database calls run.
    :raises ConfigError: the configuration cannot be used.
    :raises StoreError: the state cannot be opened.
    """
    env = os.environ if env is None else env
    if isinstance(config, Config):
        load, settings = None, config
    else:
        load = partial(load_config, config, env, platform_env=True)
        settings = load()
    log = settings.logging
    configure_logging(secrets_of(settings, env), log.level, as_json=log.console_style == "json")
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # a redirect is HTML; what is not here is a 404 in JSON
    app.register_error_handler(HTTPException, _render)
    mount = Gateway().init_app(app, config=settings, env=env, offload=offload, load=load)
    _serve_without_v1(app)
    runtime = mount.open()
    for warning in settings.warnings:
        _log.warning(warning)
    if not settings.state.database and (lost := disk_warning(settings.state_dir, env)):
        _log.warning(lost)
    for line in runtime.describe():
        _log.info(line)
    return app


def _serve_without_v1(app: Flask) -> None:
    """Serve OpenAI's API at the root, too, for clients whose base URL lacks the ``/v1``.

    Only here: in an application that has other pages, ``/models`` may be one of them.
    """
    for rule in list(app.url_map.iter_rules()):
        path = rule.rule.removeprefix("/v1")
        if rule.endpoint.startswith("openclaw_openai.") and path not in ("/", "/<path:rest>"):
            app.add_url_rule(
                path,
                rule.endpoint,
                methods=rule.methods,
                provide_automatic_options=False,
                strict_slashes=True,
                merge_slashes=False,
            )


def _render(error: HTTPException) -> Response:
    return finish(error_response(error_from_http(error)))
