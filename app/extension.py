"""The Flask extension: a gateway for any application."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping

from flask import Flask

from .channels import control, health, openapi
from .channels.auth import Guard
from .channels.openai import views as openai
from .channels.ws import channel as ws
from .config import Config, load_config
from .providers.base import Provider
from .runtime import Runtime, build_runtime
from .sessions.store import Offload
from .tools.registry import Tool

KEY = "openclaw"

ConfigSource = Config | Mapping[str, object] | str | os.PathLike[str] | None


class Gateway:
    """An OpenClaw gateway inside a Flask application.

    Holds what was registered in code, never an application: one gateway may serve several
    applications, each with its own configuration and state.
    """

    def __init__(
        self, app: Flask | None = None, *, config: ConfigSource = None, url_prefix: str = ""
    ) -> None:
        """:param config: passed on to :meth:`init_app` together with ``app``."""
        self._tools: list[Tool] = []
        self._providers: list[Provider] = []
        if app is not None:
            self.init_app(app, config=config, url_prefix=url_prefix)

    def register_tool(self, tool: Tool) -> None:
        """Give every application that is initialised from now on one more tool."""
        self._tools.append(tool)

    def register_provider(self, provider: Provider) -> None:
        """Give every application that is initialised from now on one more model provider."""
        self._providers.append(provider)

    def init_app(
        self,
        app: Flask,
        *,
        config: ConfigSource = None,
        url_prefix: str = "",
        env: Mapping[str, str] | None = None,
        offload: Offload | None = None,
    ) -> Runtime:
        """Serve the gateway from ``app``.

        :param config: a configuration, a mapping, a path, or None to find ``openclaw.json``.
        :param url_prefix: goes before ``/v1`` and all other paths.
        :param env: the environment to read, by default this process's.
        :param offload: where blocking database calls run; see ``docs/embedding.md``.
        :raises ConfigError: the configuration cannot be used.
        :raises StoreError: the state cannot be opened.
        :raises RuntimeError: ``app`` has a gateway already.
        """
        if KEY in app.extensions:
            raise RuntimeError("This application already has a gateway; use app.extensions['openclaw'].")
        env = os.environ if env is None else env
        settings = config if isinstance(config, Config) else load_config(config, env)
        runtime = build_runtime(settings, env, providers=self._providers, tools=self._tools, offload=offload)
        guard = Guard(settings.gateway.auth, settings.gateway.trusted_proxies)
        app.register_blueprint(openai.create_blueprint(runtime, guard), url_prefix=f"{url_prefix}/v1")
        app.register_blueprint(control.create_blueprint(runtime, guard), url_prefix=f"{url_prefix}/api")
        app.register_blueprint(openapi.create_blueprint(runtime, guard), url_prefix=url_prefix or None)
        app.register_blueprint(health.create_blueprint(runtime), url_prefix=url_prefix or None)
        app.register_blueprint(ws.create_blueprint(ws.open_channel(runtime, guard), url_prefix))
        app.extensions[KEY] = runtime
        atexit.register(runtime.close)
        return runtime
