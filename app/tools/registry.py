"""Tools: what an agent can do besides writing text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..cancel import CancelToken
from ..messages import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know about the run that calls it. Facts, no handles on the gateway."""

    agent_id: str
    session_key: str
    run_id: str
    model_ref: str
    workspace: Path
    turns: int
    cancel: CancelToken


class ToolError(Exception):
    """A tool cannot do what was asked; the text goes to the model, which may try again."""


ToolFunction: TypeAlias = Callable[[ToolContext, Mapping[str, JsonValue]], str]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the agent may call.

    :ivar parameters: JSON schema of the arguments, an object.
    :ivar function: gets the context and the arguments, returns text for the model, raises
        :class:`ToolError` with a sentence the model can act on. Runs in the run's thread.
    """

    name: str
    description: str
    parameters: JsonObject
    function: ToolFunction


class ToolRegistry:
    """All tools of one gateway, by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self.add(tool)

    def add(self, tool: Tool) -> None:
        """Register a tool.

        :raises RuntimeError: the name is taken.
        """
        if tool.name in self._tools:
            raise RuntimeError(f"A tool named {tool.name!r} is registered already; choose another name.")
        self._tools[tool.name] = tool

    @property
    def tools(self) -> tuple[Tool, ...]:
        """All tools in order of registration."""
        return tuple(self._tools.values())

    def get(self, name: str) -> Tool | None:
        """The tool with this exact name."""
        return self._tools.get(name)
