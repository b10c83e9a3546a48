"""What there is to choose from: agents, models, tools, skills and commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ....agents.models import Candidate
from ....agents.registry import Agent
from ....agents.skills import Skill
from ....messages import JsonValue
from ....runs.chat import COMMANDS
from ....runtime import Runtime
from ....tools.policy import GROUPS, PROFILES
from ....tools.registry import Tool
from ..context import Channel
from ..protocol import Call, Method, Methods
from ..views import Json, models, present
from .directory import Directory

_LABELS = {
    "group:fs": "Files",
    "group:runtime": "Commands",
    "group:sessions": "Sessions",
    "group:memory": "Memory",
    "group:web": "Web",
}
_DEFAULT_NAME = "Assistant"


def methods(context: Channel) -> Methods:
    """Lists for menus and pages."""
    runtime = context.runtime
    directory = Directory(runtime.agents, runtime.store)

    def of_agent(answer: Callable[[Agent, Runtime], Json]) -> Method:
        def handler(call: Call) -> Json:
            return answer(runtime.agents.get(directory.agent_or_owner(call)), runtime)

        return Method("operator.read", handler)

    return {
        "agents.list": Method("operator.read", lambda _: _agents(runtime)),
        "agent.identity.get": of_agent(_identity),
        "models.list": Method("operator.read", lambda _: {"models": _models(runtime)}),
        "models.authStatus": Method("operator.read", lambda _: {"ts": context.clock(), "providers": []}),
        "commands.list": Method("operator.read", lambda _: {"commands": _commands()}),
        "chat.metadata": Method("operator.read", lambda _: chat_metadata(runtime)),
        "tools.catalog": of_agent(_tools),
        "skills.status": of_agent(_skills),
    }


def chat_metadata(runtime: Runtime) -> Json:
    """The models and the commands that a chat offers."""
    return {"models": _models(runtime), "commands": _commands()}


def _agents(runtime: Runtime) -> Json:
    rows: list[JsonValue] = [_agent_row(agent) for agent in runtime.agents]
    return {
        "defaultId": runtime.agents.default_id,
        "mainKey": runtime.agents.main_key,
        "scope": "per-sender",
        "ownership": "sole",
        "selectionRequired": False,
        "agents": rows,
    }


def _agent_row(agent: Agent) -> Json:
    name = agent.name or None
    fallbacks: list[JsonValue] = [candidate.ref for candidate in agent.candidates[1:]]
    return present(
        {
            "id": agent.id,
            "name": name,
            "identity": {"name": name} if name else None,
            "model": {"primary": agent.model_ref, "fallbacks": fallbacks},
        }
    )


def _identity(agent: Agent, _: Runtime) -> Json:
    name = agent.name or _DEFAULT_NAME
    return {"agentId": agent.id, "name": name, "avatar": name[0].upper()}


def _models(runtime: Runtime) -> list[JsonValue]:
    default = runtime.agents.get(runtime.agents.default_id).model_ref
    return [_model_row(candidate, is_default=candidate.ref == default) for candidate in models(runtime)]


def _model_row(candidate: Candidate, *, is_default: bool) -> Json:
    info = candidate.info
    return {
        "id": candidate.model,
        "name": candidate.model,
        "provider": candidate.provider.id,
        "contextWindow": info.context_window,
        "reasoning": info.reasoning is True,
        "input": ["text", "image"] if info.images else ["text"],
        "available": True,
        "tags": ["default"] if is_default else [],
    }


def _commands() -> list[JsonValue]:
    return [
        {
            "name": name,
            "textAliases": [f"/{name}"],
            "description": what,
            "source": "native",
            "scope": "text",
            "acceptsArgs": bool(arguments),
        }
        for name, (arguments, what) in COMMANDS.items()
    ]


def _tools(agent: Agent, runtime: Runtime) -> Json:
    """The tools that an agent may use, by group."""
    permitted = [tool for tool in runtime.tools.registry.tools if agent.policy.permits(tool.name)]
    profiles: list[JsonValue] = [{"id": name, "label": name.capitalize()} for name in PROFILES]
    groups: list[JsonValue] = list(_tool_groups(permitted))
    return {"agentId": agent.id, "profiles": profiles, "groups": groups}


def _tool_groups(tools: list[Tool]) -> Iterator[JsonValue]:
    for group, label in _LABELS.items():
        rows: list[JsonValue] = [_tool_row(tool, "core") for tool in tools if tool.name in GROUPS[group]]
        if rows:
            yield {"id": group.removeprefix("group:"), "label": label, "source": "core", "tools": rows}
    built_in = frozenset[str]().union(*(GROUPS[group] for group in _LABELS))
    added: list[JsonValue] = [_tool_row(tool, "plugin") for tool in tools if tool.name not in built_in]
    if added:
        yield {"id": "added", "label": "Added", "source": "plugin", "tools": added}


def _tool_row(tool: Tool, source: str) -> Json:
    profiles: list[JsonValue] = [
        name for name, members in PROFILES.items() if "*" in members or tool.name in members
    ]
    return {
        "id": tool.name,
        "label": tool.name,
        "description": tool.description,
        "source": source,
        "defaultProfiles": profiles,
    }


def _skills(agent: Agent, _: Runtime) -> Json:
    """The skills that an agent is offered; those whose needs are not met are not told."""
    rows: list[JsonValue] = [_skill_row(skill) for skill in agent.skills.current()]
    return {"agentId": agent.id, "workspaceDir": "", "managedSkillsDir": "", "skills": rows}


def _skill_row(skill: Skill) -> Json:
    none: Json = {"bins": [], "anyBins": [], "env": [], "config": [], "os": []}
    return {
        "name": skill.name,
        "description": skill.description,
        "source": "openclaw-workspace",
        "skillKey": skill.name,
        "filePath": skill.path.name,
        "baseDir": skill.path.parent.name,
        "always": False,
        "disabled": False,
        "eligible": True,
        "blockedByAllowlist": False,
        "requirements": none,
        "missing": none,
        "configChecks": [],
        "install": [],
    }
