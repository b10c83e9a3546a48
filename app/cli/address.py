"""Where the gateway listens, the same answer for who serves and for who calls."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import GatewayConfig
from ..errors import ConfigError

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not listened on


def bind_address(gateway: GatewayConfig, env: Mapping[str, str]) -> str:
    """``host:port`` to listen on; the environment wins over the configuration.

    :raises ConfigError: the environment's port is no port.
    """
    return _joined(_host(gateway, env), _port(gateway, env))


def base_url(gateway: GatewayConfig, env: Mapping[str, str]) -> str:
    """The gateway's address for a client on this machine.

    :raises ConfigError: the environment's port is no port.
    """
    host = _host(gateway, env)
    return f"http://{_joined(_ANYWHERE.get(host, host), _port(gateway, env))}"


def _host(gateway: GatewayConfig, env: Mapping[str, str]) -> str:
    return env.get("OPENCLAW_GATEWAY_HOST") or gateway.host


def _port(gateway: GatewayConfig, env: Mapping[str, str]) -> int:
    name = next((name for name in ("OPENCLAW_GATEWAY_PORT", "PORT") if env.get(name)), None)
    if name is None:
        return gateway.port
    text = env[name]
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise ConfigError(f"{name} must be a port, a number from 1 to 65535.")
    return int(text)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
