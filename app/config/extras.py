"""The sections `messages`, `skills` and `mcp`: how a chat goes on, and what agents are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from .section import Seconds, Secret, Section, Text, TextList, web_address

ServerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]


class QueueConfig(Section):
    """What becomes of a chat message that arrives while an answer is being given."""

    mode: Literal["queue", "steer", "interrupt", "collect", "followup"] = "queue"


class MessagesConfig(Section):
    """How a chat goes on."""

    queue: QueueConfig = QueueConfig()


class SkillsLoad(Section):
    """Where skills are looked for besides the state directory and the workspaces."""

    extra_dirs: TextList = ()


class SkillEntry(Section):
    """What one skill gets, and whether it is used."""

    enabled: bool = True
    env: Mapping[Text, SecretStr] = {}


class SkillsConfig(Section):
    """Skills by name."""

    load: SkillsLoad = SkillsLoad()
    entries: Mapping[Text, SkillEntry] = {}


class McpServerConfig(Section):
    """One MCP server: a program that speaks on its standard input and output, or an address."""

    enabled: bool = True
    command: Text | None = None
    args: TextList = ()
    env: Mapping[Text, SecretStr] = {}
    cwd: Text | None = None
    url: Annotated[str, AfterValidator(web_address)] | None = None
    headers: Mapping[Text, Secret] = {}
    transport: Literal["stdio", "streamable-http"] | None = None
    timeout_seconds: Seconds = 60.0

    @model_validator(mode="after")
    def _choose_one(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either command or url")
        if self.transport and (self.transport == "stdio") != (self.command is not None):
            raise ValueError("transport stdio goes with command, streamable-http with url")
        return self


class McpConfig(Section):
    """MCP servers by name."""

    servers: Mapping[ServerName, McpServerConfig] = {}
