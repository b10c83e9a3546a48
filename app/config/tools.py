"""The `tools` section: which tools may be used, and how those behave that reach out of the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from .section import Count, Identifier, LowerKeys, Seconds, Secret, Section, Text, TextList, web_address

Milliseconds: TypeAlias = Annotated[int, Field(ge=0, le=2**31)]


class ToolPolicyConfig(Section):
    """Which tools may be used; None means that the file does not say. ``deny`` wins."""

    profile: Literal["minimal", "messaging", "coding", "full"] | None = None
    allow: TextList | None = None
    deny: TextList = ()
    also_allow: TextList = ()


class ExecPolicyConfig(Section):
    """Which commands may run, and whom to ask; None means that the file does not say."""

    security: Literal["deny", "allowlist", "full"] | None = None
    ask: Literal["off", "on-miss", "always"] | None = None
    allowlist: TextList | None = None


class AgentToolsConfig(ToolPolicyConfig):
    """One agent's own tool policy. ``by_provider`` is keyed by provider or by `provider/model`."""

    by_provider: Annotated[Mapping[Text, ToolPolicyConfig], LowerKeys] = {}
    exec: ExecPolicyConfig = ExecPolicyConfig()


class ExecConfig(ExecPolicyConfig):
    """How commands run, for every agent."""

    approval_timeout_seconds: Seconds = 120.0
    timeout_sec: Seconds = 1800.0
    background_ms: Milliseconds = 10_000
    cleanup_ms: Milliseconds = 1_800_000
    max_concurrent: Count = 16


class FetchConfig(Section):
    """Reading pages of the web."""

    enabled: bool = True
    max_chars: Count = 50_000
    timeout_seconds: Seconds = 30.0
    cache_ttl_minutes: Annotated[float, Field(ge=0, le=525_600)] = 15.0
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 5
    allow_private: TextList = ()


class SearchConfig(Section):
    """Searching the web."""

    enabled: bool = True
    provider: Literal["brave", "tavily", "searxng", "duckduckgo"] | None = None
    api_key: Secret | None = None
    base_url: Annotated[str, AfterValidator(web_address)] | None = None
    max_results: Annotated[int, Field(ge=1, le=20)] = 5
    timeout_seconds: Seconds = 30.0


class WebConfig(Section):
    """Tools that reach the web."""

    fetch: FetchConfig = FetchConfig()
    search: SearchConfig = SearchConfig()


class ToolsConfig(AgentToolsConfig):
    """What holds for all agents.

    ``by_channel`` is keyed by the ``channel`` of a run, and by its ``message_channel``.
    """

    by_channel: Annotated[Mapping[Identifier, ToolPolicyConfig], LowerKeys] = {}
    exec: ExecConfig = ExecConfig()
    web: WebConfig = WebConfig()
