"""The per-app state, and the only place that knows the concrete classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from ..agents.cooldown import Cooldowns
from ..agents.registry import Agent, AgentRegistry
from ..config import Config
from ..errors import ConfigError
from ..log import get_logger, mask
from ..providers.base import Provider
from ..providers.embedded import BUILT_IN
from ..providers.known import KNOWN
from ..runs.chat import ChatSurface
from ..runs.embedding import EmbeddingService
from ..runs.executor import Executor
from ..runs.journal import Journal, JournalLimits
from ..runs.news import NewsBoard
from ..runs.retention import Retention
from ..runs.service import RunService
from ..sessions.beacon import Beacon, light
from ..sessions.store import Offload, Store
from ..tools.exec import command_environment
from ..tools.registry import Tool
from ..tools.web import web_tools
from ..version import version
from .agents import build_agents
from .live import Live
from .providers import EMBEDDED, build_providers, provider_secrets
from .reload import Built, Changing, Reloader
from .runs import (
    build_desk,
    chat_surface,
    embedding_service,
    now_ms,
    retention_rules,
    run_parts,
    run_service,
)
from .scratch import keep_swept
from .state import State, open_state, place_of
from .tools import ToolBox, added_names, build_tools, known_names, tool_secrets, web_settings
from .watching import Watch, open_watch

__all__ = ["Runtime", "build_runtime", "check_agents", "retention_rules", "secrets_of"]

_log = get_logger("runtime")


@dataclass(frozen=True, repr=False)
class Runtime:
    """Everything one app's gateway runs on. Immutable; the parts guard themselves.

    :ivar farewells: what channels do when the last run has ended, before anything is closed.
    """

    live: Live
    agents: AgentRegistry
    store: Store
    runs: RunService
    journal: Journal
    embeddings: EmbeddingService
    executor: Executor
    tools: ToolBox
    chat: ChatSurface
    news: NewsBoard
    watch: Watch
    state: State
    retention: Retention
    reloader: Reloader
    farewells: list[Callable[[], None]] = field(default_factory=list)

    @property
    def config(self) -> Config:
        """The configuration that holds now; see :meth:`reload`."""
        return self.live.config

    @property
    def providers(self) -> Mapping[str, Provider]:
        """The model providers that there are now, by id."""
        return self.live.providers

    def close(self, drain_seconds: float = 0.0, notice_seconds: float = 0.0) -> None:
        """End all runs, give back processes, sockets and files. Safe to call twice.

        :param drain_seconds: how long runs may go on.
        :param notice_seconds: how long, before that, new ones are still admitted, for those who
            send them to see that ``/readyz`` says no.
        """
        with ExitStack() as steps:  # the last one first, and each of them even if another fails
            steps.callback(self.state.close)
            steps.callback(self.executor.close)
            steps.callback(self.watch.close)
            steps.callback(self.retention.stop)
            for provider in self.providers.values():
                steps.callback(provider.close)
            steps.callback(self.reloader.close)
            for close in self.tools.closers:
                steps.callback(close)
            for farewell in self.farewells:
                steps.callback(farewell)
            until = time.monotonic() + notice_seconds + drain_seconds
            self.runs.drain(drain_seconds, notice_seconds)
            self.embeddings.drain(max(0.0, until - time.monotonic()))

    def announce(self, url: str, pid: int) -> None:
        """Let the ``openclaw`` command find this gateway, wherever it listens.

        :param pid: the process to signal.
        """
        try:
            self.farewells.append(light(self.config.state_dir, Beacon(pid, url, version())))
        except OSError as error:
            _log.warning("where this gateway listens could not be noted: %s", error.strerror)

    def describe(self) -> list[str]:
        """Which agents, model, configuration and state this gateway uses, a line each."""
        default = self.agents.get(self.agents.default_id)
        return [
            f"agent: {default.id} (of {', '.join(self.agents.ids)})",
            f"model: {default.model_ref}{self._origin(default)}",
            f"config: {self.config.path or 'defaults and environment'}",
            f"state: {self.state.described(self.config.state_dir)}",
            *self._switched_off(),
            *self.tools.mcp.describe(),
        ]

    def _switched_off(self) -> list[str]:
        if self.config.gateway.http.endpoints.chat_completions.enabled:
            return []
        return ["chat completions: off (gateway.http.endpoints.chatCompletions.enabled)"]

    def _origin(self, agent: Agent) -> str:
        """Why this model, where the configuration alone does not say."""
        provider = agent.candidates[0].provider
        settings = self.config.models.providers.get(provider.id)
        if agent.model_ref == f"{EMBEDDED}/{BUILT_IN}":
            if settings and settings.model_path:
                return f" (the file {settings.model_path})"
            return (
                " (built in and small, calls no tools; for more, set a provider's key such as OPENAI_API_KEY)"
            )
        vendor = next((vendor for vendor in KNOWN if vendor.id == provider.id), None)
        if vendor is None or settings is not None:
            return ""
        return f" (by the key in {' or '.join(vendor.env_keys)})"


def build_runtime(
    config: Config,
    env: Mapping[str, str],
    *,
    providers: Iterable[Provider] = (),
    tools: Iterable[Tool] = (),
    offload: Offload | None = None,
    load: Callable[[], Config] | None = None,
) -> Runtime:
    """Open the state and build everything that runs on it.

    :param providers: registered in code; they win over configured ones of the same id.
    :param tools: registered in code, beside the built-in ones.
    :param offload: where to run blocking database calls; see :class:`Offload`.
    :param load: reads the configuration again; None if it was given in code and never changes.
    :raises ConfigError: a model reference leads nowhere, or a policy names no tool.
    :raises StoreError: the state cannot be opened.
    """
    added = tuple(tools)
    executor = Executor()
    known = build_providers(config, env, executor)
    known.update({provider.id: provider for provider in providers})
    agents = _agents(config, env, known, added)
    watch = open_watch(config, env, executor)
    per_session = config.agents.defaults.max_pending_per_session
    state = open_state(
        place_of(config, env), executor, per_session=per_session, offload=offload, watched=watch.store
    )
    store, news = state.store, NewsBoard(state.bus)
    with ExitStack() as on_failure:
        on_failure.callback(state.close)
        desk = build_desk(config, store, executor, news)
        live = Live(config, known)
        box = build_tools(config, env, executor, desk, added=added, offload=offload, now=lambda: live.config)
        cooldowns = Cooldowns()
        watching = watch.of_runs(_named_models(config, agents), box.registry.__contains__)
        make_parts = partial(run_parts, state, executor, news, box, cooldowns, watching)
        runs = run_service(config, make_parts(config, known), agents, state, executor, box)
        on_failure.pop_all()
    for observer in watching.observers:
        runs.observe(observer)
    desk.open(runs, box.commands.kill_session)
    box.mcp.start()
    keep_swept(config.state_dir / "scratch", executor)
    retention = Retention(store, state.bus, executor, lambda: retention_rules(live.config), now_ms)
    retention.start()
    models = _models(config, agents)
    resume = config.gateway.http.resume

    def rebuild(new: Config) -> Built:
        others = build_providers(new, env, executor)
        others[EMBEDDED] = known[EMBEDDED]  # a process with a model in its memory
        others.update({provider.id: provider for provider in providers})
        new_agents = _agents(new, env, others, added)
        watching.name(_named_models(new, new_agents))
        mask(secrets_of(new, env))
        return Built(others, new_agents, make_parts(new, others), _models(new, new_agents))

    reloader = Reloader(Changing(live, agents, runs, models, cooldowns), executor, load, rebuild)
    if config.gateway.reload.mode != "off":
        reloader.watch()
    watch.begin(runs, cooldowns, state.bus, executor)
    state.begin(runs, box.commands.kill_session, box.approvals)
    return Runtime(
        live=live,
        agents=agents,
        store=store,
        runs=runs,
        journal=state.journal(runs, executor, JournalLimits(resume.seconds, resume.grace_seconds)),
        embeddings=embedding_service(live, agents, state, runs, executor, cooldowns, watching),
        executor=executor,
        tools=box,
        chat=chat_surface(live, agents, state, runs, box, models),
        news=news,
        watch=watch,
        state=state,
        retention=retention,
        reloader=reloader,
    )


def check_agents(
    config: Config,
    env: Mapping[str, str],
    *,
    providers: Iterable[Provider] = (),
    tools: Iterable[Tool] = (),
) -> AgentRegistry:
    """The agents as :func:`build_runtime` would build them; opens and starts nothing.

    :raises ConfigError: a model reference leads nowhere, a policy names no tool, or a setting of
        the web tools cannot be used.
    """
    web_tools(web_settings(config, env))
    problems: list[str] = []
    known = build_providers(config, env, Executor(), problems)
    known.update({provider.id: provider for provider in providers})
    try:
        agents = _agents(config, env, known, tuple(tools))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError("The configuration cannot be used:", tuple(problems))
    return agents


def secrets_of(config: Config, env: Mapping[str, str]) -> list[str]:
    """Everything that must never be seen in a log line; "" for what is not set."""
    of_parts = (*provider_secrets(config, env), *tool_secrets(config, env))
    return [config.gateway.auth.secret, *config.state.secrets, *of_parts]


def _agents(
    config: Config, env: Mapping[str, str], providers: Mapping[str, Provider], added: tuple[Tool, ...]
) -> AgentRegistry:
    return build_agents(
        config,
        env,
        providers,
        known_tools=known_names(config, added),
        added_tools=added_names(config, added),
        command_env=command_environment(env),
    )


def _models(config: Config, agents: AgentRegistry) -> list[str]:
    """The models that the configuration names, whether an agent uses them or not."""
    used = (candidate.ref for agent in agents for candidate in agent.candidates)
    stated = (f"{name}/{m.id}" for name, provider in config.models.providers.items() for m in provider.models)
    return [*used, *stated]


def _named_models(config: Config, agents: AgentRegistry) -> list[str]:
    """All models of the configuration, those for clients to choose and those for vectors included."""
    embedders = (agent.embedder.ref for agent in agents if agent.embedder is not None)
    return [*_models(config, agents), *config.agents.defaults.models, *embedders]
