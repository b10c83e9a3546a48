"""Agents as the configuration says."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from ..agents.models import Candidate, effort_of, merge_params, resolve_candidate
from ..agents.registry import Agent, AgentRegistry
from ..agents.skills import SkillEntry, Skills, SkillSettings
from ..config import AgentConfig, AgentDefaults, Config, ModelParams, ModelSelection, ToolPolicyConfig
from ..errors import ConfigError
from ..messages import SamplingParams
from ..providers.base import CallTimeouts, Embedder, Provider
from ..providers.known import KNOWN
from ..tools.policy import build_policy, unknown_names
from .providers import default_model, embedding_model


def build_agents(
    config: Config,
    env: Mapping[str, str],
    providers: Mapping[str, Provider],
    *,
    known_tools: Collection[str],
    added_tools: Sequence[str],
    command_env: Mapping[str, str],
) -> AgentRegistry:
    """All agents.

    :param known_tools: names and patterns of all tools there are.
    :param added_tools: those of them that the operator brought along.
    :param command_env: the variables that commands of agents see.
    :raises ConfigError: a model reference leads nowhere, or a policy names a tool that is none.
    """
    problems = list(_unknown_tools(config, known_tools))
    agents: dict[str, Agent] = {}
    for settings in config.agents.items:
        try:
            agents[settings.id] = _build_agent(config, settings, env, providers, added_tools, command_env)
        except ConfigError as error:
            problems.append(f"agents.{settings.id}.model: {error}")
    problems += _unknown_model(config, providers)
    problems += _unusable_embedders(config, providers)
    problems += _unknown_providers(config, providers)
    if problems:
        raise ConfigError("The configuration cannot be used:", tuple(problems))
    return AgentRegistry(agents, config.agents.default_id, config.session.main_key)


def call_timeouts(defaults: AgentDefaults) -> CallTimeouts:
    """How long a silent model is waited for."""
    return CallTimeouts(
        first_token=defaults.first_token_timeout_seconds, stall=defaults.stall_timeout_seconds
    )


def _build_agent(
    config: Config,
    settings: AgentConfig,
    env: Mapping[str, str],
    providers: Mapping[str, Provider],
    added_tools: Sequence[str],
    command_env: Mapping[str, str],
) -> Agent:
    defaults = config.agents.defaults
    workspace = _workspace(config, settings)
    candidates = _candidates(config, settings, env, providers)
    return Agent(
        id=settings.id,
        name=settings.name or "",
        workspace=workspace,
        candidates=candidates,
        params=_params(defaults, settings),
        policy=build_policy(config.tools, settings.tools, added_tools),
        skills=_skills(config, workspace, command_env),
        timeout=defaults.timeout_seconds,
        max_rounds=defaults.max_rounds,
        embedder=_embedder(config, settings, candidates[0], providers),
    )


def _workspace(config: Config, settings: AgentConfig) -> Path:
    """The agent's own workspace, else the default one for the default agent, else one by its id."""
    if settings.workspace:
        return _place(config, settings.workspace)
    if settings.id != config.agents.default_id:
        return config.state_dir / f"workspace-{settings.id}"
    shared = config.agents.defaults.workspace
    return _place(config, shared) if shared else config.state_dir / "workspace"


def _place(config: Config, path: str) -> Path:
    """A path of the configuration; a relative one begins where the file is, else in the state directory."""
    base = config.path.parent if config.path else config.state_dir
    return base.absolute() / Path(path).expanduser()


def _candidates(
    config: Config, settings: AgentConfig, env: Mapping[str, str], providers: Mapping[str, Provider]
) -> tuple[Candidate, ...]:
    """An agent's own model has only its own fallbacks; without one the defaults hold."""
    own = settings.model if settings.model and settings.model.primary else None
    chosen = own or config.agents.defaults.model or ModelSelection()
    primary = chosen.primary or default_model(config, env)
    refs = dict.fromkeys((primary, *(chosen.fallbacks or ())))
    timeouts = call_timeouts(config.agents.defaults)
    return tuple(resolve_candidate(ref, providers, timeouts) for ref in refs)


def _embedder(
    config: Config, settings: AgentConfig, primary: Candidate, providers: Mapping[str, Provider]
) -> Candidate | None:
    """The stated model, else the usual one of the provider that the agent has anyway."""
    stated = settings.embedding_model or config.agents.defaults.embedding_model
    ref = stated or embedding_model(config, primary.ref)
    if ref is None or _no_embedder(ref, providers):
        return None
    return resolve_candidate(ref, providers, call_timeouts(config.agents.defaults))


def _unusable_embedders(config: Config, providers: Mapping[str, Provider]) -> Iterator[str]:
    """A sentence for each model stated for vectors that can make none."""
    stated = [("defaults", config.agents.defaults.embedding_model)]
    stated += [(agent.id, agent.embedding_model) for agent in config.agents.items]
    for place, ref in stated:
        if ref and (problem := _no_embedder(ref, providers)):
            yield f"agents.{place}.embeddingModel: {problem}"


def _no_embedder(ref: str, providers: Mapping[str, Provider]) -> str | None:
    """Why this model can make no vectors, as far as that is known."""
    try:
        candidate = resolve_candidate(ref, providers, CallTimeouts())
    except ConfigError as error:
        return str(error)
    if isinstance(candidate.provider, Embedder):
        return None
    return f'The API of the provider "{candidate.provider.id}" has no embeddings.'


def _unknown_model(config: Config, providers: Mapping[str, Provider]) -> Iterator[str]:
    """A sentence if the model of all sub-agents leads nowhere: each of them would fail."""
    defaults = config.agents.defaults
    chosen = defaults.subagents.model
    if chosen and chosen.primary:
        try:
            resolve_candidate(chosen.primary, providers, call_timeouts(defaults))
        except ConfigError as error:
            yield f"agents.defaults.subagents.model: {error}"


def _unknown_providers(config: Config, providers: Mapping[str, Provider]) -> Iterator[str]:
    """A sentence for each `byProvider` that would limit nothing, because there is no such provider."""
    known = {*providers, *(vendor.id for vendor in KNOWN)}
    places = [("tools", config.tools), *((f"agents.{a.id}.tools", a.tools) for a in config.agents.items)]
    for place, policy in places:
        for name in policy.by_provider:
            provider = name.partition("/")[0]
            if provider not in known:
                close = get_close_matches(provider, known, 1)
                hint = f'; did you mean "{close[0]}"?' if close else ""
                yield f'{place}.byProvider.{name}: there is no provider "{provider}"{hint}'


def _skills(config: Config, workspace: Path, command_env: Mapping[str, str]) -> Skills:
    extra = (_place(config, folder) for folder in config.skills.load.extra_dirs)
    entries = {
        name: SkillEntry(entry.enabled, {key: value.get_secret_value() for key, value in entry.env.items()})
        for name, entry in config.skills.entries.items()
    }
    own = workspace / "skills"
    settings = SkillSettings(
        entries=entries, environment=command_env, platform=sys.platform, untrusted=frozenset({own})
    )
    return Skills((*extra, config.state_dir / "skills", own), settings)


def _params(defaults: AgentDefaults, settings: AgentConfig) -> SamplingParams:
    """The agent's own parameters, else the defaults', and how much to think if neither says."""
    level = settings.thinking_default or defaults.thinking_default
    thinking = SamplingParams(reasoning_effort=effort_of(level))
    stated = merge_params(_sampling(defaults.params), _sampling(settings.params))
    return merge_params(thinking, stated)


def _sampling(params: ModelParams) -> SamplingParams:
    stop = params.stop
    return SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        max_tokens=params.max_tokens,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        seed=params.seed,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        reasoning_effort=params.reasoning_effort,
    )


def _unknown_tools(config: Config, known: Collection[str]) -> Iterator[str]:
    """A sentence for each name in a policy that is no tool, with the place of it."""
    for place, policy in _policies(config):
        yield from (f"{place}.{problem}" for problem in unknown_names(policy, known))


def _policies(config: Config) -> Iterable[tuple[str, ToolPolicyConfig]]:
    yield "tools", config.tools
    for channel, policy in config.tools.by_channel.items():
        yield f"tools.byChannel.{channel}", policy
    for name, policy in config.tools.by_provider.items():
        yield f"tools.byProvider.{name}", policy
    for agent in config.agents.items:
        yield f"agents.{agent.id}.tools", agent.tools
        for name, policy in agent.tools.by_provider.items():
            yield f"agents.{agent.id}.tools.byProvider.{name}", policy
