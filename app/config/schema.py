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
from .section import Count, Identifier, Section
from .tools import ToolsConfig


class ResetConfig(Section):
    """When a conversation begins anew by itself."""

    mode: Literal["none", "daily", "idle"] = "none"
    at_hour: Annotated[int, Field(ge=0, le=23)] = 4
    idle_minutes: Count | None = None


class SessionConfig(Section):
    """How conversations are named, and how long they last."""

    main_key: Identifier = "main"
    reset: ResetConfig = ResetConfig()


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


@dataclass(frozen=True)
class Config:
    """One immutable snapshot of the configuration.

    A run uses the snapshot that it started with. ``path`` is the file that was read, or
    None. ``warnings`` are sentences for the operator, free of secrets.
    """

    gateway: GatewayConfig
    agents: AgentsConfig
    models: ModelsConfig
    session: SessionConfig
    tools: ToolsConfig
    messages: MessagesConfig
    skills: SkillsConfig
    mcp: McpConfig
    state_dir: Path
    path: Path | None
    warnings: tuple[str, ...]


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
