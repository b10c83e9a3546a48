"""All checks, in the order in which they are told."""

from __future__ import annotations

from . import configured, engines, machine, network, state
from .finding import Check

CHECKS: dict[str, Check] = {
    "release": machine.release,
    "packages": machine.packages,
    "server": machine.server,
    "open files": machine.open_files,
    "clock": machine.clock,
    "configuration": configured.configuration,
    "configuration file": configured.configuration_file,
    "access": configured.access,
    "endpoints": configured.endpoints,
    "platform": configured.platform,
    "workers": configured.workers,
    "state directory": state.directory,
    "free space": state.space,
    "file system": state.file_system,
    "store": state.store,
    "store files": state.store_files,
    "leftovers": state.leftovers,
    "database": engines.database,
    "Redis": engines.redis,
    "agents": configured.agents,
    "workspaces": configured.workspaces,
    "models": network.models,
    "MCP servers": network.mcp,
    "port": network.port,
}
