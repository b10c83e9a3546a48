"""Tools for talking to other sessions and for starting sub-agents.

What a run may see is decided by the :class:`SessionDesk`: from the owner's own conversation
all sessions of its agent, from any other one only itself and those that it has spawned.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from pydantic import Field

from .registry import Tool, ToolContext
from .signature import tool

_Key = Annotated[
    str,
    Field(alias="sessionKey", description="The session's key, as sessions_list shows it.", max_length=512),
]
_Limit = Annotated[int, Field(ge=1, le=200)]
_Seconds = Annotated[float, Field(ge=0, le=600)]


class SessionDesk(Protocol):
    """What the gateway lets tools do with sessions. Called in run threads.

    :raises ToolError: from every method, for what the caller may not see or what does not exist.
    """

    def sessions(
        self, context: ToolContext, *, limit: int, active_minutes: int | None
    ) -> list[dict[str, Any]]:
        """The visible sessions, the last used first."""

    def history(
        self, context: ToolContext, key: str, *, limit: int, include_tools: bool
    ) -> list[dict[str, Any]]:
        """The newest messages of a visible session, oldest first."""

    def send(self, context: ToolContext, key: str, message: str, *, wait: float) -> dict[str, Any]:
        """Ask something in another visible session; wait so many seconds for the answer."""

    def spawn(
        self,
        context: ToolContext,
        task: str,
        *,
        label: str,
        agent_id: str | None,
        model: str | None,
        thinking: str | None,
        run_seconds: float | None,
        wait: float,
        keep: bool,
    ) -> dict[str, Any]:
        """Start a sub-agent on ``task``; wait so many seconds for its answer."""


def session_tools(desk: SessionDesk) -> tuple[Tool, ...]:
    """The four tools, on this desk."""

    @tool(parallel=True)
    def sessions_list(
        context: ToolContext,
        limit: _Limit = 50,
        active_minutes: Annotated[
            int | None,
            Field(alias="activeMinutes", ge=1, description="Only sessions used in so many minutes."),
        ] = None,
    ) -> list[dict[str, Any]]:
        """List the sessions that this conversation can see: itself and those it has spawned."""
        return desk.sessions(context, limit=limit, active_minutes=active_minutes)

    @tool(parallel=True)
    def sessions_history(
        context: ToolContext,
        key: _Key,
        limit: _Limit = 20,
        include_tools: Annotated[
            bool, Field(alias="includeTools", description="Show tool calls and results too.")
        ] = False,
    ) -> list[dict[str, Any]]:
        """Read the newest messages of a session."""
        return desk.history(context, key, limit=limit, include_tools=include_tools)

    @tool(parallel=True)
    def sessions_send(
        context: ToolContext,
        key: _Key,
        message: Annotated[str, Field(min_length=1)],
        timeout: Annotated[
            _Seconds,
            Field(alias="timeoutSeconds", description="How long to wait for the answer; 0 not at all."),
        ] = 60,
    ) -> dict[str, Any]:
        """Ask another session something, for example a sub-agent that has finished."""
        return desk.send(context, key, message, wait=timeout)

    @tool(parallel=True)
    def sessions_spawn(
        context: ToolContext,
        task: Annotated[str, Field(min_length=1, description="All the sub-agent needs to know.")],
        label: Annotated[str, Field(max_length=100, description="A short name for it.")] = "",
        agent_id: Annotated[
            str | None, Field(alias="agentId", description="The agent; only this one.")
        ] = None,
        model: Annotated[str | None, Field(description="provider/model to use instead.")] = None,
        thinking: str | None = None,
        run_seconds: Annotated[
            float, Field(alias="runTimeoutSeconds", ge=0, le=86_400, description="0 for the usual limit.")
        ] = 0,
        wait: Annotated[
            _Seconds,
            Field(alias="waitSeconds", description="How long to wait for its answer; 0 to go on at once."),
        ] = 0,
        cleanup: Annotated[str, Field(pattern="^(keep|delete)$")] = "keep",
    ) -> dict[str, Any]:
        """Start a sub-agent on a task of its own, with a conversation of its own.

        Several of them work side by side."""
        return desk.spawn(
            context,
            task,
            label=label,
            agent_id=agent_id,
            model=model,
            thinking=thinking,
            run_seconds=run_seconds or None,
            wait=wait,
            keep=cleanup == "keep",
        )

    return (sessions_list, sessions_history, sessions_send, sessions_spawn)
