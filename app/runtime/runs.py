"""Runs as the configuration says: how many, for how long, from when on a conversation begins anew."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from ..agents.cooldown import Cooldowns
from ..agents.models import Candidate, resolve_candidate
from ..agents.prompt import PromptLimits
from ..agents.registry import AgentRegistry
from ..agents.turn import CompactionLimits, Harness
from ..config import Config, seconds_of
from ..events import RunCompleted, TerminalEvent
from ..providers.base import Provider
from ..runs.attempt import RunParts
from ..runs.chat import ChatSurface
from ..runs.desk import Desk
from ..runs.embedding import EmbeddingService
from ..runs.executor import Executor
from ..runs.freshness import ResetPolicy
from ..runs.news import NewsBoard
from ..runs.retention import Rules
from ..runs.run import RunRequest
from ..runs.service import RunLimits, RunService
from ..sessions.keys import main_key
from ..sessions.store import Store
from .agents import call_timeouts
from .live import Live
from .state import State
from .tools import ToolBox
from .watching import RunWatch

# How late a silent stream notices that its client has left, at most twice this many seconds.
_TICK = 0.4


def retention_rules(config: Config) -> Rules:
    """How long things are kept."""
    stated = config.session.maintenance
    idle, runs = map(_seconds, (stated.prune_after, stated.prune_runs_after))
    reset = stated.reset_archive_retention
    archived = None if reset is False else idle if reset is None else _seconds(reset)
    return Rules(idle, archived, runs, enforced=stated.mode == "enforce")


def _seconds(span: str | None) -> float | None:
    return None if span is None else seconds_of(span)


def _resolver(config: Config, providers: Mapping[str, Provider]) -> Callable[[str], Candidate]:
    timeouts = call_timeouts(config.agents.defaults)
    return lambda ref: resolve_candidate(ref, providers, timeouts)


def run_parts(
    state: State,
    executor: Executor,
    news: NewsBoard,
    box: ToolBox,
    cooldowns: Cooldowns,
    watching: RunWatch,
    config: Config,
    providers: Mapping[str, Provider],
) -> RunParts:
    """What all runs share under one configuration."""
    return RunParts(
        store=state.store,
        harness=_harness(config, executor, box, cooldowns, watching),
        resolve_model=_resolver(config, providers),
        news=(news.take, box.commands.news),
        retell=news.post,
        reset=_reset_policy(config),
        main_key=_main_key(config),
        spawn_depth=config.agents.defaults.subagents.max_spawn_depth,
        new_id=new_id,
        clock=now_ms,
        worker=state.worker_id,
    )


def run_service(
    config: Config,
    parts: RunParts,
    agents: AgentRegistry,
    state: State,
    executor: Executor,
    box: ToolBox,
) -> RunService:
    """The service that starts and stops runs."""
    defaults = config.agents.defaults
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
        lanes=state.lanes,
        others=state.others,
        gate=state.gate if state.worker is not None else None,
    )


def chat_surface(
    live: Live, agents: AgentRegistry, state: State, runs: RunService, box: ToolBox, models: list[str]
) -> ChatSurface:
    """What people may say to a gateway itself; ``models`` are those they may choose."""
    return ChatSurface(
        agents=agents,
        store=state.store,
        runs=runs,
        commands=box.commands,
        resolve_model=live.resolve,
        models=models,
        new_id=new_id,
        clock=now_ms,
    )


def embedding_service(
    live: Live,
    agents: AgentRegistry,
    state: State,
    runs: RunService,
    executor: Executor,
    cooldowns: Cooldowns,
    watching: RunWatch,
) -> EmbeddingService:
    """The service of runs that make vectors."""
    defaults = live.config.agents.defaults
    return EmbeddingService(
        agents=agents,
        resolve_model=live.resolve,
        store=state.store,
        executor=executor,
        cooldowns=cooldowns,
        concurrent=defaults.max_concurrent,
        pending=defaults.max_pending,
        draining=lambda: runs.draining,
        clock=now_ms,
        observers=watching.observers,
        called=watching.called,
        worker=state.worker_id,
    )


def _harness(
    config: Config, executor: Executor, box: ToolBox, cooldowns: Cooldowns, watching: RunWatch
) -> Harness:
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
        called=watching.called,
    )


def build_desk(config: Config, store: Store, executor: Executor, news: NewsBoard) -> Desk:
    """Where agents reach other sessions; :meth:`Desk.open` is yet to be called."""
    settings = config.agents.defaults.subagents
    return Desk(
        store=store,
        executor=executor,
        news=news,
        main_key=_main_key(config),
        children=settings.max_children_per_agent,
        default_model=settings.model.primary if settings.model else None,
        clock=now_ms,
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


def new_id() -> str:
    """Of a session."""
    return str(uuid.uuid4())


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)
