"""The per-app state, and the only place that knows the concrete classes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypedDict

from .agents.models import Candidate, merge_params, resolve_candidate
from .agents.prompt import PromptLimits
from .agents.registry import Agent, AgentRegistry
from .config import AgentConfig, AgentDefaults, Compat, Config, ModelParams, ModelSelection, ProviderConfig
from .errors import ConfigError
from .log import get_logger
from .messages import SamplingParams
from .providers.anthropic import AnthropicMessages
from .providers.base import CallTimeouts, ModelInfo, Provider
from .providers.embedded import BUILT_IN, EmbeddedProvider
from .providers.known import KNOWN, KnownProvider
from .providers.openai_completions import OpenAICompletions, WireSwitches
from .providers.transport import HttpClient
from .runs.executor import Executor
from .runs.service import RunLimits, RunService
from .sessions.sql import open_store
from .sessions.store import Offload, Store
from .tools.files import READ
from .tools.policy import build_policy
from .tools.registry import Tool, ToolRegistry
from .tools.status import SESSION_STATUS

_log = get_logger("runtime")

_OPENAI: Literal["openai-completions"] = "openai-completions"
_ANTHROPIC: Literal["anthropic-messages"] = "anthropic-messages"
# How late a silent stream notices that its client has left, at most twice this many seconds.
_TICK = 0.4
_EMBEDDED: Literal["embedded"] = "embedded"
# Levels of thinking that no model API knows by this name; None leaves it to the model.
_EFFORTS: Mapping[str, str | None] = MappingProxyType({"off": None, "adaptive": None, "ultra": "max"})


@dataclass(frozen=True, repr=False)
class Runtime:
    """Everything one app's gateway runs on. Immutable; the parts guard themselves."""

    config: Config
    agents: AgentRegistry
    store: Store
    runs: RunService
    providers: Mapping[str, Provider]
    executor: Executor

    def close(self, drain_seconds: float = 0.0) -> None:
        """End all runs, give back processes, sockets and files. Safe to call twice."""
        with ExitStack() as steps:  # the last one first, and each of them even if another fails
            steps.callback(self.store.close)
            steps.callback(self.executor.close)
            for provider in self.providers.values():
                steps.callback(provider.close)
            self.runs.drain(drain_seconds)

    def describe(self) -> list[str]:
        """Which agents, model, configuration and state this gateway uses, a line each."""
        default = self.agents.get(self.agents.default_id)
        return [
            f"agent: {default.id} (of {', '.join(self.agents.ids)})",
            f"model: {default.model_ref}{self._origin(default)}",
            f"config: {self.config.path or 'defaults and environment'}",
            f"state: {self.config.state_dir}",
        ]

    def _origin(self, agent: Agent) -> str:
        """Why this model, where the configuration alone does not say."""
        provider = agent.candidates[0].provider
        if agent.model_ref == f"{_EMBEDDED}/{BUILT_IN}":
            return (
                " (built in and small, calls no tools; for more, set a provider's key such as OPENAI_API_KEY)"
            )
        vendor = next((vendor for vendor in KNOWN if vendor.id == provider.id), None)
        if vendor is None or provider.id in self.config.models.providers:
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
    :raises ConfigError: a model reference leads nowhere.
    :raises StoreError: the state cannot be opened.
    """
    executor = Executor()
    known = _build_providers(config, env, executor)
    known.update({provider.id: provider for provider in providers})
    agents = _build_agents(config, env, known)
    store = open_store(config.state_dir, offload=offload)
    defaults = config.agents.defaults
    runs = RunService(
        agents=agents,
        tools=ToolRegistry((SESSION_STATUS, READ, *tools)),
        store=store,
        executor=executor,
        limits=RunLimits(defaults.max_concurrent, defaults.max_pending, defaults.max_pending_per_session),
        prompt_limits=PromptLimits(defaults.bootstrap_max_chars, defaults.bootstrap_total_max_chars),
        tick=min(_TICK, config.gateway.http.keep_alive_seconds),
        new_id=lambda: str(uuid.uuid4()),
        clock=lambda: int(time.time() * 1000),
    )
    return Runtime(config, agents, store, runs, known, executor)


def check_agents(config: Config, env: Mapping[str, str]) -> AgentRegistry:
    """The agents as :func:`build_runtime` would build them; opens and starts nothing.

    :raises ConfigError: a model reference leads nowhere.
    """
    return _build_agents(config, env, _build_providers(config, env, Executor()))


def secrets_of(config: Config, env: Mapping[str, str]) -> list[str]:
    """Everything that must never be seen in a log line; "" for what is not set."""
    providers = config.models.providers.values()
    return [
        config.gateway.auth.secret,
        *(p.api_key.get_secret_value() for p in providers if p.api_key),
        *(value.get_secret_value() for p in providers for value in p.headers.values()),
        *(env.get(name, "") for vendor in KNOWN for name in vendor.env_keys),
    ]


def _build_providers(config: Config, env: Mapping[str, str], executor: Executor) -> dict[str, Provider]:
    http = HttpClient()
    vendors = {vendor.id: vendor for vendor in KNOWN}
    built: dict[str, Provider] = {}
    for vendor in KNOWN:
        if _key_from(env, vendor):
            built[vendor.id] = _configured(vendor.id, ProviderConfig(), vendor, env, http)
    for provider_id, settings in config.models.providers.items():
        if settings.api != _EMBEDDED:
            built[provider_id] = _configured(provider_id, settings, vendors.get(provider_id), env, http)
    settings = config.models.providers.get(_EMBEDDED, ProviderConfig(api=_EMBEDDED))
    built[_EMBEDDED] = EmbeddedProvider(
        model_path=settings.model_path,
        runtime_dir=config.state_dir / "run",
        context_size=settings.context_size,
        threads=settings.threads,
        slots=settings.slots,
        spawn=executor.spawn,
    )
    return built


def _configured(
    provider_id: str,
    settings: ProviderConfig,
    vendor: KnownProvider | None,
    env: Mapping[str, str],
    http: HttpClient,
) -> Provider:
    """A provider as ``settings`` say; what they leave open is as the known ``vendor`` has it.

    Its address and switches are those of the vendor's own API and of no other.

    :raises ConfigError: nothing says where the provider is.
    """
    api = settings.api or (vendor.api if vendor else _OPENAI)
    known = vendor if vendor and vendor.api == api else None
    base_url = settings.base_url or (known.base_url if known else None)
    if base_url is None:
        raise ConfigError(f"models.providers.{provider_id}.baseUrl is required.")
    default = _model_info(settings.compat, api, images=known is not None)
    options: _Options = {
        "base_url": base_url,
        "api_key": _key(settings, vendor, env) if settings.auth_header else None,
        "http": http,
        "headers": {name: value.get_secret_value() for name, value in settings.headers.items()},
        "models": {
            model.id: replace(
                default,
                context_window=model.context_window,
                max_output=model.max_tokens,
                images="image" in model.input,
            )
            for model in settings.models
        },
        "default": default,
    }
    if api == _ANTHROPIC:
        return AnthropicMessages(provider_id, **options)
    switches = _switches(settings.compat, known.switches if known else WireSwitches())
    return OpenAICompletions(provider_id, **options, switches=switches)


class _Options(TypedDict):
    """What all providers are made of that are reached over HTTP."""

    base_url: str
    api_key: str | None
    http: HttpClient
    headers: Mapping[str, str]
    models: Mapping[str, ModelInfo]
    default: ModelInfo


def _model_info(compat: Compat, api: str, *, images: bool) -> ModelInfo:
    return ModelInfo(
        images=images,
        tools=_either(compat.supports_tools, True),
        prefill=_either(compat.supports_prefill, api == _ANTHROPIC),
    )


def _switches(compat: Compat, default: WireSwitches) -> WireSwitches:
    return WireSwitches(
        max_tokens_field=compat.max_tokens_field or default.max_tokens_field,
        stream_usage=_either(compat.supports_usage_in_streaming, default.stream_usage),
        developer_role=_either(compat.supports_developer_role, default.developer_role),
        store=_either(compat.supports_store, default.store),
    )


def _either(stated: bool | None, default: bool) -> bool:
    return default if stated is None else stated


def _key(settings: ProviderConfig, vendor: KnownProvider | None, env: Mapping[str, str]) -> str | None:
    if settings.api_key:
        return settings.api_key.get_secret_value()
    return _key_from(env, vendor) if vendor else None


def _key_from(env: Mapping[str, str], vendor: KnownProvider) -> str | None:
    return next((env[name] for name in vendor.env_keys if env.get(name)), None)


def _build_agents(config: Config, env: Mapping[str, str], providers: Mapping[str, Provider]) -> AgentRegistry:
    problems: list[str] = []
    agents: dict[str, Agent] = {}
    for settings in config.agents.items:
        try:
            agents[settings.id] = _build_agent(config, settings, env, providers)
        except ConfigError as error:
            problems.append(f"agents.{settings.id}.model: {error}")
    if problems:
        raise ConfigError("The configuration cannot be used:", tuple(problems))
    return AgentRegistry(agents, config.agents.default_id, config.session.main_key)


def _build_agent(
    config: Config, settings: AgentConfig, env: Mapping[str, str], providers: Mapping[str, Provider]
) -> Agent:
    defaults = config.agents.defaults
    timeouts = CallTimeouts(
        first_token=defaults.first_token_timeout_seconds, stall=defaults.stall_timeout_seconds
    )
    return Agent(
        id=settings.id,
        name=settings.name or "",
        workspace=_workspace(config, settings),
        candidates=_candidates(config, settings, env, providers, timeouts),
        params=_params(defaults, settings),
        policy=build_policy(config.tools, settings.tools),
        timeout=defaults.timeout_seconds,
        max_rounds=defaults.max_rounds,
    )


def _workspace(config: Config, settings: AgentConfig) -> Path:
    """The agent's own workspace, else the default one for the default agent, else one by its id."""
    if settings.workspace:
        return Path(settings.workspace).expanduser()
    if settings.id != config.agents.default_id:
        return config.state_dir / f"workspace-{settings.id}"
    shared = config.agents.defaults.workspace
    return Path(shared).expanduser() if shared else config.state_dir / "workspace"


def _candidates(
    config: Config,
    settings: AgentConfig,
    env: Mapping[str, str],
    providers: Mapping[str, Provider],
    timeouts: CallTimeouts,
) -> tuple[Candidate, ...]:
    """An agent's own model has only its own fallbacks; without one the defaults hold."""
    own = settings.model if settings.model and settings.model.primary else None
    chosen = own or config.agents.defaults.model or ModelSelection()
    primary = chosen.primary or default_model(config, env)
    refs = dict.fromkeys((primary, *(chosen.fallbacks or ())))
    return tuple(resolve_candidate(ref, providers, timeouts) for ref in refs)


def default_model(config: Config, env: Mapping[str, str]) -> str:
    """The model of agents that name none: a configured one, one with a key, else the built-in."""
    for provider_id, settings in config.models.providers.items():
        if settings.models:
            return f"{provider_id}/{settings.models[0].id}"
    for vendor in KNOWN:
        if _key_from(env, vendor):
            return f"{vendor.id}/{vendor.default_model}"
    return f"{_EMBEDDED}/{BUILT_IN}"


def _params(defaults: AgentDefaults, settings: AgentConfig) -> SamplingParams:
    """The agent's own parameters, else the defaults', and how much to think if neither says."""
    level = defaults.thinking_default
    thinking = SamplingParams(reasoning_effort=_EFFORTS.get(level, level) if level else None)
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
