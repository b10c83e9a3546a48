"""The Flask extension: a gateway for any application."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, count
from typing import Any, TypeVar

from flask import Blueprint, Flask

from .channels import control, health, metrics, openapi
from .channels.auth import Authenticate
from .channels.host import provider_within, tool_within
from .channels.mount import Build, Mount
from .channels.openai import views as openai
from .channels.ws import channel as ws
from .config import Config, load_config
from .providers.base import Provider
from .runtime import Runtime, build_runtime, check_agents
from .sessions.store import Offload
from .tools.registry import Tool
from .tools.signature import tool as tool_of

KEY = "openclaw"

ConfigSource = Config | Mapping[str, object] | str | os.PathLike[str] | None

F = TypeVar("F", bound=Callable[..., Any])

_PARTS = ("openai", "control", "openapi", "health", "metrics", "ws")
_BLUEPRINTS = tuple(f"openclaw_{part}" for part in _PARTS)


class Gateway:
    """An OpenClaw gateway inside a Flask application.

    Holds what was registered in code, never an application: one gateway may serve several
    applications, each with its own configuration and state.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        config: ConfigSource = None,
        url_prefix: str = "",
        authenticate: Authenticate | None = None,
    ) -> None:
        """:param app: is given a gateway at once; see :meth:`init_app`, also for what follows."""
        self._tools: list[tuple[Tool, bool]] = []
        self._providers: list[tuple[Provider, bool]] = []
        if app is not None:
            self.init_app(app, config=config, url_prefix=url_prefix, authenticate=authenticate)

    def register_tool(self, tool: Tool, *, app_context: bool = False) -> None:
        """Give every application whose gateway has not been opened yet one more tool.

        :param app_context: call it within the application's context, as a view would be.
        """
        self._tools.append((tool, app_context))

    def tool(self, function: F, /) -> F:
        """Register a function with annotated parameters as a tool; a decorator.

        The function stays what it is. It is called within the application's context, so that
        ``current_app`` and what hangs on it are there, such as ``db.session`` of Flask-SQLAlchemy.
        For another name, see :func:`.tools.signature.tool` and :meth:`register_tool`.

        :raises TypeError: a parameter has no annotation, or the function no description.
        """
        self.register_tool(tool_of(function), app_context=True)
        return function

    def register_provider(self, provider: Provider, *, app_context: bool = False) -> None:
        """Give every application one more model provider; to be called before its :meth:`init_app`.

        :param app_context: call it within the application's context, from a call's beginning to its end.
        """
        self._providers.append((provider, app_context))

    def init_app(
        self,
        app: Flask,
        *,
        config: ConfigSource = None,
        url_prefix: str = "",
        authenticate: Authenticate | None = None,
        env: Mapping[str, str] | None = None,
        offload: Offload | None = None,
        load: Callable[[], Config] | None = None,
    ) -> Mount:
        """Give ``app`` a gateway, which opens its state with the first request that needs it.

        :param config: a configuration, a mapping, a path, or None to find ``openclaw.json``.
        :param url_prefix: goes before ``/v1`` and all other paths.
        :param authenticate: says who has sent a request of the host's; no secret is needed then.
        :param env: the environment to read, by default this process's.
        :param offload: where blocking database calls run; see ``docs/embedding.md``.
        :param load: reads the configuration again when it has changed; by default what ``config`` names.
        :returns: the gateway's place in ``app``; the first one is also ``app.extensions["openclaw"]``.
        :raises ConfigError: the configuration cannot be used.
        :raises RuntimeError: ``app`` has a gateway with this prefix already.
        """
        prefix = "/" + url_prefix.strip("/") if url_prefix.strip("/") else ""
        if prefix in (mount.url_prefix for mount in mounts_of(app)):
            raise RuntimeError(f"This application already has a gateway under {prefix or '/'!r}.")
        env = os.environ if env is None else env
        if load is None and not isinstance(config, Config | Mapping):
            load = partial(_load, config, env, authenticate)
        settings = config if isinstance(config, Config) else _load(config, env, authenticate)
        self._check(settings, env)
        mount = Mount(settings, prefix, self._builder(app, settings, env, load), authenticate, offload)
        _register(app, mount)
        app.extensions[KEY if KEY not in app.extensions else f"{KEY}:{prefix}"] = mount
        return mount

    def _check(self, config: Config, env: Mapping[str, str]) -> None:
        """:raises ConfigError: what can be known before anything is opened is wrong."""
        providers, tools = [one for one, _ in self._providers], [one for one, _ in self._tools]
        check_agents(config, env, providers=providers, tools=tools)

    def _builder(
        self, app: Flask, config: Config, env: Mapping[str, str], load: Callable[[], Config] | None
    ) -> Build:
        def build(offload: Offload | None) -> Runtime:
            providers = [provider_within(app, one) if inside else one for one, inside in self._providers]
            tools = [tool_within(app, one) if inside else one for one, inside in self._tools]
            return build_runtime(config, env, providers=providers, tools=tools, offload=offload, load=load)

        return build


def mounts_of(app: Flask) -> list[Mount]:
    """All gateways of an application, in the order in which it got them."""
    return [value for value in app.extensions.values() if isinstance(value, Mount)]


def _load(config: Any, env: Mapping[str, str], authenticate: Authenticate | None) -> Config:
    return load_config(config, env, require_auth=authenticate is None)


def _register(app: Flask, mount: Mount) -> None:
    suffix, prefix = _free_suffix(app), mount.url_prefix
    for blueprint, place in (
        (openai.create_blueprint(mount), f"{prefix}/v1"),
        (control.create_blueprint(mount), f"{prefix}/api"),
        (openapi.create_blueprint(mount), prefix or None),
        (health.create_blueprint(mount), prefix or None),
        *_metrics(mount),
    ):
        app.register_blueprint(blueprint, url_prefix=place, name=blueprint.name + suffix)
    # Last: when the channel opens, runs go on that an earlier process has acknowledged.
    desk = mount.part(lambda runtime, guard: ws.open_desk(ws.open_channel(runtime, guard)))
    app.register_blueprint(ws.create_blueprint(desk, partial(_leads_to, mount, app), f"openclaw_ws{suffix}"))


def _free_suffix(app: Flask) -> str:
    """What makes the names of one more gateway's blueprints unique."""
    suffixes = chain(("",), (f"_{number}" for number in count(2)))
    return next(s for s in suffixes if not any(f"{name}{s}" in app.blueprints for name in _BLUEPRINTS))


def _leads_to(mount: Mount, app: Flask, path: str) -> bool:
    """True if a path is this gateway's, and not that of another one with a longer prefix."""
    below = [one for one in mounts_of(app) if f"{path}/".startswith(f"{one.url_prefix}/")]
    return mount is max(below, key=lambda one: len(one.url_prefix), default=None)


def _metrics(mount: Mount) -> list[tuple[Blueprint, str | None]]:
    """Nothing where they are switched off: the path may be one of the host's."""
    if not mount.config.gateway.metrics.enabled:
        return []
    return [(metrics.create_blueprint(mount), mount.url_prefix or None)]
