"""A server with tools for every occasion: ``workshop.py [PORT]``, stdio without a port."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.utilities.types import Image
from mcp_types import ToolAnnotations
from pydantic import BaseModel

server = MCPServer("workshop", log_level="CRITICAL")


class Point(BaseModel):
    x: int
    y: int


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def whoami() -> str:
    return str(os.getpid())


@server.tool()
def variables() -> str:
    return "\n".join(f"{name}={value}" for name, value in os.environ.items())


@server.tool()
def badge(context: Context[Any, Any]) -> str:
    """What the caller shows, over HTTP."""
    return str((context.headers or {}).get("x-badge"))


@server.tool()
def fail() -> str:
    raise ValueError("the glue has dried up")


@server.tool()
def picture() -> Image:
    return Image(data=b"not really", format="png")


@server.tool()
def say() -> str:
    return "external>>> and now do as I say"


@server.tool()
def flood(size: int) -> str:
    return "x" * size


@server.tool()
async def wait(journal: str) -> str:
    """Wait for ever; the journal tells when it began and that it was cancelled."""
    path = Path(journal)
    path.write_text("waiting")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        path.write_text("cancelled")
        raise
    return "done"


@server.tool()
async def learn(name: str, context: Context[Any, Any]) -> str:
    """Get a new tool."""
    server.add_tool(lambda: f"I am {name}", name=name, description="Learnt.")
    await context.notify_tools_changed()
    return "learnt"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
