"""The per-app state, and the only place that knows the concrete classes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from ..agents.cooldown import Cooldowns
from ..agents.models import Candidate, resolve_candidate
from ..agents.prompt import PromptLimits
from ..agents.registry import Agent, AgentRegistry
from ..agents.turn import CompactionLimits, Harness
from ..config import Config
from ..events import RunCompleted, TerminalEvent
from ..log import get_logger
from ..providers.base import Provider
from ..providers.embedded import BUILT_IN
from ..providers.known import KNOWN
from ..runs.attempt import RunParts
from ..runs.chat import ChatSurface
from ..runs.desk import Desk
from ..runs.embedding import EmbeddingService
from ..runs.executor import Executor
from ..runs.freshness import ResetPolicy
from ..runs.journal import Journal, JournalLimits
from ..runs.news import NewsBoard
from ..runs.run import RunRequest
from ..runs.service import RunLimits, RunService
from ..sessions.keys import main_key
from ..sessions.sql import open_store
from ..sessions.store import Offload, Store
from ..tools.exec import command_environment
from ..tools.registry import Tool
from ..tools.web import web_tools
from .agents import build_agents, call_timeouts
from .providers import EMBEDDED, build_providers, provider_secrets
from .scratch import keep_swept
from .tools import ToolBox, added_names, build_tools, known_names, tool_secrets, web_settings

__all__ = ["Runtime", "build_runtime", "check_agents", "secrets_of"]

# How late a silent stream notices that its client has left, at most twice this many seconds.
_TICK = 0.4

_log = get_logger("runtime")


@dataclass(frozen=True, repr=False)
class Runtime:
    """Everything one app's gateway runs on. Immutable; the parts guard themselves.

    :ivar farewells: what channels do when the last run has ended, before anything is closed.
    """

    config: Config
    agents: AgentRegistry
    store: Store
    runs: RunService
    journal: Journal
    embeddings: EmbeddingService
    providers: Mapping[str, Provider]
    executor: Executor
    tools: ToolBox
    chat: ChatSurface
    news: NewsBoard
    farewells: list[Callable[[], None]] = field(default_factory=list)

    def close(self, drain_seconds: float = 0.0) -> None:
        """End all runs, give back processes, sockets and files. Safe to call twice."""
        with ExitStack() as steps:  # the last one first, and each of them even if another fails
            steps.callback(self.store.close)
            steps.callback(self.executor.close)
            for provider in self.providers.values():
                steps.callback(provider.close)
            for close in self.tools.closers:
                steps.callback(close)
            for farewell in self.farewells:
                steps.callback(farewell)
            until = time.monotonic() + drain_seconds
            self.runs.drain(drain_seconds)
            self.embeddings.drain(max(0.0, until - time.monotonic()))

    def describe(self) -> list[str]:
        """Which agents, model, configuration and state this gateway uses, a line each."""
        default = self.agents.get(self.agents.default_id)
        return [
            f"agent: {default.id} (of {', '.join(self.agents.ids)})",
            f"model: {default.model_ref}{self._origin(default)}",
            f"config: {self.config.path or 'defaults and environment'}",
            f"state: {self.config.state_dir}",
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
) -> Runtime:
    """Open the state and build everything that runs on it.

    :param providers: registered in code; they win over configured ones of the same id.
    :param tools: registered in code, beside the built-in ones.
    :param offload: where to run blocking database calls; see :class:`Offload`.
    :raises ConfigError: a model reference leads nowhere, or a policy names no tool.
    :raises StoreError: the state cannot be opened.
    """
    added = tuple(tools)
    executor = Executor()
    known = build_providers(config, env, executor)
    known.update({provider.id: provider for provider in providers})
    agents = _agents(config, env, known, added)
    news = NewsBoard()
    store = open_store(config.state_dir, offload=offload)
    with ExitStack() as on_failure:
        on_failure.callback(store.close)
        desk = _desk(config, store, executor, news)
        box = build_tools(config, env, executor, desk, added=added, offload=offload)
        resolve = _resolver(config, known)
        cooldowns = Cooldowns()
        runs = _run_service(config, resolve, agents, store, executor, news, box, cooldowns)
        on_failure.pop_all()
    desk.open(runs, box.commands.kill_session)
    box.mcp.start()
    keep_swept(config.state_dir / "scratch", executor)
    chat = ChatSurface(
        agents=agents,
        store=store,
        runs=runs,
        commands=box.commands,
        resolve_model=resolve,
        models=_models(config, agents),
        new_id=_new_id,
        clock=_now,
    )
    resume = config.gateway.http.resume
    journal = Journal(runs, executor.after, JournalLimits(resume.seconds, resume.grace_seconds))
    embeddings = EmbeddingService(
        agents=agents,
        resolve_model=resolve,
        store=store,
        executor=executor,
        cooldowns=cooldowns,
        concurrent=config.agents.defaults.max_concurrent,
        pending=config.agents.defaults.max_pending,
        draining=lambda: runs.draining,
        clock=_now,
    )
    return Runtime(config, agents, store, runs, journal, embeddings, known, executor, box, chat, news)


def check_agents(config: Config, env: Mapping[str, str]) -> AgentRegistry:
    """The agents as :func:`build_runtime` would build them; opens and starts nothing.

    :raises ConfigError: a model reference leads nowhere, a policy names no tool, or a setting of
        the web tools cannot be used.
    """
    web_tools(web_settings(config, env))
    return _agents(config, env, build_providers(config, env, Executor()), ())


def secrets_of(config: Config, env: Mapping[str, str]) -> list[str]:
    """Everything that must never be seen in a log line; "" for what is not set."""
    return [config.gateway.auth.secret, *provider_secrets(config, env), *tool_secrets(config, env)]


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


def _resolver(config: Config, providers: Mapping[str, Provider]) -> Callable[[str], Candidate]:
    timeouts = call_timeouts(config.agents.defaults)
    return lambda ref: resolve_candidate(ref, providers, timeouts)


def _models(config: Config, agents: AgentRegistry) -> list[str]:
    """The models that the configuration names, whether an agent uses them or not."""
    used = (candidate.ref for agent in agents for candidate in agent.candidates)
    stated = (f"{name}/{m.id}" for name, provider in config.models.providers.items() for m in provider.models)
    return [*used, *stated]


def _run_service(
    config: Config,
    resolve: Callable[[str], Candidate],
    agents: AgentRegistry,
    store: Store,
    executor: Executor,
    news: NewsBoard,
    box: ToolBox,
    cooldowns: Cooldowns,
) -> RunService:
    defaults = config.agents.defaults
    parts = RunParts(
        store=store,
        harness=_harness(config, executor, box, cooldowns),
        resolve_model=resolve,
        news=(news.take, box.commands.news),
        retell=news.post,
        reset=_reset_policy(config),
        main_key=_main_key(config),
        spawn_depth=defaults.subagents.max_spawn_depth,
        new_id=_new_id,
        clock=_now,
    )
    return RunService(
        agents=agents,
        parts=parts,
        executor=executor,
        limits=RunLimits(
            concurrent=defaults.max_concurrent,
            pending=defaults.max_pending,
            per_session=defaults.max_pending_per_session,
            sub_agents=defaults.subagents.max_concurrent,
        ),
        tick=min(_TICK, config.gateway.http.keep_alive_seconds),
        on_end=_kill_commands_of(box),
    )


def _harness(config: Config, executor: Executor, box: ToolBox, cooldowns: Cooldowns) -> Harness:
    defaults = config.agents.defaults
    zone = _zone(config)
    return Harness(
        tools=box.registry,
        cooldowns=cooldowns,
        prompt_limits=PromptLimits(defaults.bootstrap_max_chars, defaults.bootstrap_total_max_chars),
        compaction=CompactionLimits(
            enabled=defaults.compaction.enabled,
            keep=defaults.compaction.keep_recent_tokens,
            reserve=defaults.compaction.reserve_tokens,
        ),
        spawn=executor.spawn,
        scratch=config.state_dir / "scratch",
        facts=_Today(zone),
    )


def _desk(config: Config, store: Store, executor: Executor, news: NewsBoard) -> Desk:
    settings = config.agents.defaults.subagents
    return Desk(
        store=store,
        executor=executor,
        news=news,
        main_key=_main_key(config),
        children=settings.max_children_per_agent,
        default_model=settings.model.primary if settings.model else None,
        clock=_now,
    )


def _kill_commands_of(box: ToolBox) -> Callable[[RunRequest, TerminalEvent], None]:
    def on_end(request: RunRequest, ending: TerminalEvent) -> None:
        """Nothing goes on in the background for a run that nobody can follow up on."""
        if request.ephemeral or not isinstance(ending, RunCompleted):
            box.commands.kill_run(request.run_id)

    return on_end


def _reset_policy(config: Config) -> ResetPolicy:
    reset = config.session.reset
    return ResetPolicy(reset.mode, reset.at_hour, reset.idle_minutes, _zone(config))


def _zone(config: Config) -> tzinfo | None:
    """The configured time zone; None for this machine's."""
    name = config.agents.defaults.user_timezone
    return ZoneInfo(name) if name else None


class _Today:
    """Today's date: a day and not a minute, for whatever changes here costs the provider's cache."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._told: tuple[int, tuple[str]] = (0, ("",))  # replaced as a whole, so that no lock is needed

    def __call__(self) -> tuple[str]:
        minute = int(time.time() // 60)
        if self._told[0] != minute:
            now = datetime.now(self._zone).astimezone(self._zone)
            self._told = (minute, (f"Today is {now:%A, %Y-%m-%d} ({now:%Z}).",))
        return self._told[1]


def _main_key(config: Config) -> Callable[[str], str]:
    return lambda agent_id: main_key(agent_id, config.session.main_key)


def _new_id() -> str:
    return str(uuid.uuid4())


def _now() -> int:
    return int(time.time() * 1000)
