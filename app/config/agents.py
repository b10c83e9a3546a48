"""The `agents` section: the agents, their models and parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from .section import Count, Identifier, LowerKeys, Seconds, Section, Text, TextList
from .tools import AgentToolsConfig

Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Admitted: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
Thinking: TypeAlias = Literal["off", "minimal", "low", "medium", "high", "xhigh", "adaptive", "max", "ultra"]


def _model_ref(ref: str) -> str:
    if not all(ref.partition("/")):
        raise ValueError('must look like "provider/model"')
    return ref


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError('must be a time zone like "Europe/Rome"') from None
    return name


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ModelRef: TypeAlias = Annotated[str, AfterValidator(_model_ref)]


class ModelSelection(Section):
    """A model and those to try after it; None means that the file does not say."""

    primary: ModelRef | None = None
    fallbacks: Annotated[tuple[ModelRef, ...], Strict(False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"primary": data} if isinstance(data, str) else data


class ModelParams(Section):
    """How the model should write; None leaves the wider default."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Count | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[TextList, BeforeValidator(_one_or_many)] | None = None
    reasoning_effort: Effort | None = None


class SubagentsConfig(Section):
    """How far agents may split their work."""

    max_concurrent: Count = 8
    max_spawn_depth: Annotated[int, Field(ge=0, le=10)] = 1
    max_children_per_agent: Count = 5
    model: ModelSelection | None = None


class CompactionConfig(Section):
    """When and how a long conversation is summarised."""

    enabled: bool = True
    keep_recent_tokens: Count = 20_000
    reserve_tokens: Count = 20_000


class AgentDefaults(Section):
    """What holds for every agent that does not say otherwise, and the limits of all runs."""

    workspace: Text | None = None
    model: ModelSelection | None = None
    embedding_model: ModelRef | None = None
    models: Mapping[ModelRef, Mapping[str, Any]] = {}
    params: ModelParams = ModelParams()
    timeout_seconds: Seconds = 600.0
    first_token_timeout_seconds: Seconds = 120.0
    stall_timeout_seconds: Seconds = 120.0
    max_concurrent: Count = 64
    max_pending: Admitted = 2000
    max_pending_per_session: Admitted = 100
    max_rounds: Count = 50
    bootstrap_max_chars: Count = 20_000
    bootstrap_total_max_chars: Count = 60_000
    thinking_default: Thinking | None = None
    user_timezone: Annotated[str, AfterValidator(_timezone)] | None = None
    compaction: CompactionConfig = CompactionConfig()
    subagents: SubagentsConfig = SubagentsConfig()


class AgentEntry(Section):
    """An agent under `agents.entries`, where its id is the key."""

    default: bool = False
    name: Text | None = None
    workspace: Text | None = None
    model: ModelSelection | None = None
    embedding_model: ModelRef | None = None
    params: ModelParams = ModelParams()
    thinking_default: Thinking | None = None
    tools: AgentToolsConfig = AgentToolsConfig()


class AgentConfig(AgentEntry):
    """One agent."""

    id: Identifier


class AgentsConfig(Section):
    """All agents; :attr:`items` is the list to use, however the file wrote them."""

    defaults: AgentDefaults = AgentDefaults()
    listed: Annotated[tuple[AgentConfig, ...], Strict(False)] | None = Field(default=None, alias="list")
    entries: Annotated[Mapping[Identifier, AgentEntry], LowerKeys] | None = None

    @cached_property
    def items(self) -> tuple[AgentConfig, ...]:
        """The agents in the order of the file; never empty."""
        named = tuple(AgentConfig(id=key, **dict(entry)) for key, entry in (self.entries or {}).items())
        return self.listed or named or (AgentConfig(id="main"),)

    @property
    def default_id(self) -> str:
        """The agent of a request that names none: the first `default: true`, else the first."""
        return next((agent.id for agent in self.items if agent.default), self.items[0].id)

    @model_validator(mode="after")
    def _agree_on_one_form(self) -> Self:
        if self.listed and self.entries:
            raise ValueError("give the agents in list or in entries, not in both")
        return self

    @model_validator(mode="after")
    def _refuse_duplicates(self) -> Self:
        counts = Counter(agent.id for agent in self.listed or ())
        if repeated := [f'"{name}"' for name, count in counts.items() if count > 1]:
            raise ValueError(f"list has the same id more than once: {', '.join(repeated)}")
        return self
