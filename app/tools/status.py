"""A tool that tells the agent about its own session."""

from __future__ import annotations

from collections.abc import Mapping

from ..messages import JsonValue
from .registry import Tool, ToolContext


def _session_status(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:  # noqa: ARG001 - every tool takes arguments
    return (
        f"agent: {context.agent_id}\n"
        f"session: {context.session_key}\n"
        f"run: {context.run_id}\n"
        f"model: {context.model_ref}\n"
        f"messages in context: {context.turns}"
    )


SESSION_STATUS = Tool(
    name="session_status",
    description="Tell which agent, session and model this conversation uses.",
    parameters={"type": "object", "properties": {}},
    function=_session_status,
)
