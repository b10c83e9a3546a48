"""OpenClaw Gateway for Python: people reach their own AI agents on one port.

Embed it with :class:`Gateway`, or serve :func:`create_app` with any WSGI server.
"""

from .channels.caller import Caller
from .errors import ConfigError, GatewayError, ProviderError
from .extension import Gateway
from .factory import create_app
from .providers.base import Provider
from .tools.registry import Tool, ToolContext, ToolError
from .tools.signature import tool

__all__ = [
    "Caller",
    "ConfigError",
    "Gateway",
    "GatewayError",
    "Provider",
    "ProviderError",
    "Tool",
    "ToolContext",
    "ToolError",
    "create_app",
    "tool",
]
