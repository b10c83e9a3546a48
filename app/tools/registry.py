"""Tools: what an agent can do besides writing text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..cancel import CancelToken
from ..events import ProgressEvent
from ..messages import JsonObject, JsonValue


def _ignore(event: ProgressEvent) -> None:
    """For a tool that is called outside of a run: nobody looks on."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know about the run that calls it. Facts, no handles on the gateway.

    :ivar caller: the namespace of the caller whom the host has named for this conversation, by default
        their id; "" for all others. What a tool may show to whom, it decides by this, never by what
        the model says.
    :ivar turns: messages of the conversation so far.
    :ivar ephemeral: nobody can come back to this session; nothing may outlive the run.
    :ivar readable: directories besides the workspace that may be read, not written.
    :ivar scratch: a readable directory for output that is too long for the conversation. It
        may not exist yet; whoever writes there creates it, mode 0700.
    :ivar env: variables for commands, from the agent's skills.
    :ivar emit: shows a progress event to whoever follows the run.
    :ivar off_the_clock: ``with context.off_the_clock():`` time in the block, spent waiting for
        a person, does not count against the run's budget.
    """

    agent_id: str
    session_key: str
    run_id: str
    model_ref: str
    workspace: Path
    turns: int
    cancel: CancelToken
    call_id: str = ""
    channel: str = ""
    ephemeral: bool = False
    readable: tuple[Path, ...] = ()
    scratch: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    emit: Callable[[ProgressEvent], None] = _ignore
    off_the_clock: Callable[[], AbstractContextManager[None]] = nullcontext
    caller: str = ""


class ToolError(Exception):
    """A tool cannot do what was asked; the text goes to the model, which may try again."""


ToolFunction: TypeAlias = Callable[[ToolContext, Mapping[str, JsonValue]], str]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the agent may call. Usually made by the decorator :func:`.signature.tool`.

    :ivar parameters: JSON schema of the arguments, an object.
    :ivar function: gets the context and the arguments, returns text for the model, raises
        :class:`ToolError` with a sentence the model can act on.
    :ivar parallel: safe beside other calls of the same message; then it may run in a thread
        of its own, else it runs in the run's thread and alone.
    """

    name: str
    description: str
    parameters: JsonObject
    function: ToolFunction
    parallel: bool = False


class ToolRegistry:
    """All tools of one gateway, by name.

    :param sources: each gives the tools that some other program offers at the moment. Of two
        tools of one name the registered one counts.
    """

    def __init__(self, tools: Iterable[Tool], sources: Iterable[Callable[[], Iterable[Tool]]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._sources = tuple(sources)
        for tool in tools:
            self.add(tool)

    def add(self, tool: Tool) -> None:
        """Register a tool.

        :raises RuntimeError: the name is taken.
        """
        if tool.name in self._tools:
            raise RuntimeError(f"A tool named {tool.name!r} is registered already; choose another name.")
        self._tools[tool.name] = tool

    def __contains__(self, name: str) -> bool:
        return name in self._tools or any(tool.name == name for source in self._sources for tool in source())

    @property
    def tools(self) -> tuple[Tool, ...]:
        """All tools in order of registration, then those of the sources."""
        if not self._sources:
            return tuple(self._tools.values())
        offered = {tool.name: tool for source in self._sources for tool in source()}
        return tuple(
            (self._tools | {name: t for name, t in offered.items() if name not in self._tools}).values()
        )
