"""The whole configuration: the file as a section of sections, and the snapshot made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, SecretStr

from .agents import AgentsConfig
from .extras import McpConfig, MessagesConfig, SkillsConfig
from .gateway import GatewayConfig
from .models import ModelsConfig
from .observing import LoggingConfig
from .section import Count, Identifier, Section, Span
from .state import StateConfig
from .tools import ToolsConfig


class ResetConfig(Section):
    """When a conversation begins anew by itself."""

    mode: Literal["none", "daily", "idle"] = "none"
    at_hour: Annotated[int, Field(ge=0, le=23)] = 4
    idle_minutes: Count | None = None


class MaintenanceConfig(Section):
    """How long conversations and the records of runs are kept; for ever where nothing is said."""

    mode: Literal["warn", "enforce"] = "warn"
    prune_after: Span | None = None
    reset_archive_retention: Span | Literal[False] | None = None
    prune_runs_after: Span | None = None


class SessionConfig(Section):
    """How conversations are named, and how long they last."""

    main_key: Identifier = "main"
    reset: ResetConfig = ResetConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()


class Env(Section):
    """Values for `${NAME}` that the process environment lacks; also directly in `env`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SecretStr] = Field(init=False)

    vars: Mapping[str, SecretStr] = {}


class Document(Section):
    """What `openclaw.json` may hold."""

    env: Env = Env()
    gateway: GatewayConfig = GatewayConfig()
    agents: AgentsConfig = AgentsConfig()
    models: ModelsConfig = ModelsConfig()
    session: SessionConfig = SessionConfig()
    tools: ToolsConfig = ToolsConfig()
    messages: MessagesConfig = MessagesConfig()
    skills: SkillsConfig = SkillsConfig()
    mcp: McpConfig = McpConfig()
    logging: LoggingConfig = LoggingConfig()
    state: StateConfig = StateConfig()


@dataclass(frozen=True)
class Config:
    """One immutable snapshot of the configuration.

    A run uses the snapshot that it started with. ``path`` is the file that was read, or
    None. ``warnings`` are sentences for the operator, free of secrets. ``variables`` are the
    environment's variables that hold it or set a key of it. ``files`` are all files that were read, or
    the one that would have been.
    """

    gateway: GatewayConfig
    agents: AgentsConfig
    models: ModelsConfig
    session: SessionConfig
    tools: ToolsConfig
    messages: MessagesConfig
    skills: SkillsConfig
    mcp: McpConfig
    logging: LoggingConfig
    state_dir: Path
    path: Path | None
    warnings: tuple[str, ...]
    variables: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    state: StateConfig = StateConfig()

    @property
    def store_place(self) -> Path | str:
        """Where the store is: the URL of a database, which is a secret, or else the state directory."""
        return self.state.database or self.state_dir


def served_keys() -> tuple[str, ...]:
    """The path of every key that is served: `agents.list[].id`, `models.providers.*.api`."""
    return tuple(_keys_below("", Document))


def _keys_below(prefix: str, section: type[Section]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        path = prefix + (field.alias or name)
        yield path
        for suffix, inner in _sections_in(field.annotation):
            yield from _keys_below(f"{path}{suffix}.", inner)


def _sections_in(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section in a type, with the way to it: "" for itself, "[]" in a list, ".*" in a map."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield suffix, annotation
        return
    origin = getattr(annotation, "__origin__", None)
    step = "[]" if origin is tuple else ".*" if origin is Mapping else ""
    for inner in get_args(annotation):
        yield from _sections_in(inner, suffix + step)
