"""Tools as the configuration says, and what has to be closed with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import Config, McpServerConfig
from ..runs.desk import Desk
from ..runs.executor import Executor
from ..sessions.store import Offload
from ..tools.approvals import Approvals, ExecGate
from ..tools.exec import CommandLimits, Commands
from ..tools.exec_policy import ApprovalsFile, ExecPolicy
from ..tools.files import FILE_TOOLS
from ..tools.mcp.servers import McpServer, McpServers
from ..tools.memory import Memory
from ..tools.policy import BUILT_IN
from ..tools.registry import Tool, ToolRegistry
from ..tools.sessions import session_tools
from ..tools.status import SESSION_STATUS
from ..tools.web import FetchSettings, SearchSettings, WebSettings, web_tools
from ..tools.web.guard import bounded, system_resolver

_LOOKUP = 5.0  # seconds for the address of a name
_SEARCH_KEYS = {"brave": "BRAVE_API_KEY", "tavily": "TAVILY_API_KEY"}


@dataclass(frozen=True)
class ToolBox:
    """All tools, and those parts of them that live."""

    registry: ToolRegistry
    commands: Commands
    approvals: Approvals
    mcp: McpServers
    memory: Memory

    @property
    def closers(self) -> tuple[Callable[[], None], ...]:
        """What gives back processes and files; in any order, each safe to call twice."""
        return (self.commands.close, self.mcp.close, self.memory.close)


def build_tools(
    config: Config,
    env: Mapping[str, str],
    executor: Executor,
    desk: Desk,
    *,
    added: Iterable[Tool],
    offload: Offload | None,
    now: Callable[[], Config],
) -> ToolBox:
    """Build all tools; starts nothing.

    :param added: registered in code, beside the built-in ones.
    :param now: the configuration that holds at the moment, for what may change.
    :raises ConfigError: a setting cannot be used.
    """
    approvals = Approvals()
    gate = ExecGate(
        lambda agent_id: exec_policy(now(), agent_id),
        approvals,
        ApprovalsFile(config.state_dir / "exec-approvals.json"),
    )
    commands = Commands(
        spawn=executor.spawn,
        environment=env,
        admit=gate.admit,
        limits=_command_limits(config),
        hidden=_secret_files(config),
        sealed=config.state_dir.absolute(),
    )
    mcp = mcp_servers(config, env, executor)
    memory = Memory(offload=offload)
    tools = (
        SESSION_STATUS,
        *FILE_TOOLS,
        *commands.tools(),
        *web_tools(web_settings(config, env), bounded(system_resolver, executor.spawn, _LOOKUP)),
        *memory.tools(),
        *session_tools(desk),
        *added,
    )
    return ToolBox(ToolRegistry(tools, sources=(mcp.tools,)), commands, approvals, mcp, memory)


def mcp_servers(config: Config, env: Mapping[str, str], executor: Executor) -> McpServers:
    """The MCP servers that are switched on; starts none."""
    return McpServers(
        {name: _mcp_server(server) for name, server in config.mcp.servers.items() if server.enabled},
        spawn=executor.spawn,
        environment=env,
    )


def added_names(config: Config, added: Iterable[Tool]) -> list[str]:
    """Names and patterns of the tools that the operator brought along."""
    servers = (f"{name}__*" for name, server in config.mcp.servers.items() if server.enabled)
    return [*(tool.name for tool in added), *(name.lower() for name in servers)]


def known_names(config: Config, added: Iterable[Tool]) -> set[str]:
    """Names and patterns of all tools there are."""
    return {*BUILT_IN, *(name.lower() for name in added_names(config, added))}


def exec_policy(config: Config, agent_id: str) -> ExecPolicy:
    """Which commands an agent may run: its own settings, else everybody's.

    The tool policy alone decides whether it has ``exec`` at all, so nothing else is forbidden
    by default; but whoever writes a list, or wants to be asked about what is not on it, means it.
    """
    own = next((agent.tools.exec for agent in config.agents.items if agent.id == agent_id), None)
    everyone = config.tools.exec
    ask = (own and own.ask) or everyone.ask or "off"
    listed = own.allowlist if own and own.allowlist is not None else everyone.allowlist
    return ExecPolicy(
        security=(own and own.security)
        or everyone.security
        or ("allowlist" if listed is not None or ask == "on-miss" else "full"),
        ask=ask,
        allowlist=listed or (),
        timeout_seconds=everyone.approval_timeout_seconds,
    )


def web_settings(config: Config, env: Mapping[str, str]) -> WebSettings:
    """How the web may be used."""
    fetch, search = config.tools.web.fetch, config.tools.web.search
    keys = {name: env[variable] for name, variable in _SEARCH_KEYS.items() if env.get(variable)}
    if search.api_key:
        keys[search.provider or "brave"] = search.api_key.get_secret_value()
    return WebSettings(
        fetch=FetchSettings(
            enabled=fetch.enabled,
            max_chars=fetch.max_chars,
            timeout=fetch.timeout_seconds,
            cache_minutes=fetch.cache_ttl_minutes,
            max_redirects=fetch.max_redirects,
            allow_private=fetch.allow_private,
        ),
        search=SearchSettings(
            enabled=search.enabled,
            provider=search.provider,
            keys=keys,
            base_url=search.base_url,
            count=search.max_results,
            timeout=search.timeout_seconds,
        ),
    )


def tool_secrets(config: Config, env: Mapping[str, str]) -> list[str]:
    """Secrets of tools that must never be seen in a log line."""
    search = config.tools.web.search
    return [
        *([search.api_key.get_secret_value()] if search.api_key else []),
        *(env.get(name, "") for name in _SEARCH_KEYS.values()),
        *(v.get_secret_value() for s in config.skills.entries.values() for v in s.env.values()),
        *(
            v.get_secret_value()
            for s in config.mcp.servers.values()
            for v in (*s.env.values(), *s.headers.values())
        ),
    ]


def _secret_files(config: Config) -> tuple[Path, ...]:
    """Files of the gateway that no command needs and none should read."""
    state = config.state_dir
    names = ("openclaw.json", ".env", "gateway.sqlite3", "gateway.sqlite3-wal", "exec-approvals.json")
    files = {*(state / name for name in names), *((config.path,) if config.path else ())}
    return tuple(sorted(path.absolute() for path in files))


def _command_limits(config: Config) -> CommandLimits:
    settings = config.tools.exec
    return CommandLimits(
        yield_seconds=settings.background_ms / 1000,
        timeout_seconds=settings.timeout_sec,
        keep_seconds=settings.cleanup_ms / 1000,
        max_concurrent=settings.max_concurrent,
    )


def _mcp_server(settings: McpServerConfig) -> McpServer:
    return McpServer(
        transport="streamable-http" if settings.url else "stdio",
        command=settings.command or "",
        args=settings.args,
        env={name: value.get_secret_value() for name, value in settings.env.items()},
        cwd=settings.cwd,
        url=settings.url or "",
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
        timeout_seconds=settings.timeout_seconds,
    )
