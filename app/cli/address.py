"""Where the gateway listens, the same answer for who serves and for who calls."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from ..config import GatewayConfig
from ..errors import ConfigError

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
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


def gateway_url(gateway: GatewayConfig, env: Mapping[str, str], named: str | None) -> str:
    """The gateway's WebSocket: ``named``, ``ws://`` or ``http://``, or that of this machine.

    :raises ConfigError: ``named`` is no such address; it is not repeated, a secret may be in it.
    """
    if not named:
        return base_url(gateway, env).replace("http", "ws", 1)
    try:
        parts = urlsplit(named.strip())
        usable = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("The gateway's address must be like ws://host:18789 or https://host/prefix.")
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}"


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
