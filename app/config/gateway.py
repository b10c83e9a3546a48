"""The `gateway` section: where it listens, who may call, what is served."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo, model_validator

from .observing import MetricsConfig
from .section import Count, Seconds, Secret, Section, TextList

_LOOPBACK = "127.0.0.1"
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - what `bind: "lan"` means

_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@]+/?")

_MISSING_SECRET = {
    "token": "no token is set: set gateway.auth.token or OPENCLAW_GATEWAY_TOKEN, or run `openclaw init`",
    "password": "no password is set: set gateway.auth.password or OPENCLAW_GATEWAY_PASSWORD, "
    "or run `openclaw init`",
}


def _network(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError('must be text like "10.0.0.1" or "10.0.0.0/8"')  # noqa: TRY004 - pydantic's contract
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError("must be an IP address or a network without host bits") from None


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("must be an IP address") from None


def _origin(value: str) -> str:
    if value != "*" and not _ORIGIN.fullmatch(value):
        raise ValueError('must be like "https://host" or "https://host:port", or "*"')
    return value


def _host_or_network(value: str) -> str:
    if "/" in value:
        try:
            ip_network(value, strict=False)
        except ValueError:
            raise ValueError('must be a host like "*.example.com" or a network like "10.0.0.0/8"') from None
    return value


HostOrNetwork: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_host_or_network)]


def _exact_origin(value: str) -> str:
    if "*" in value or not _ORIGIN.fullmatch(value):
        raise ValueError('must be like "https://host" or "https://host:port"')
    return value.rstrip("/").lower()


Address: TypeAlias = Annotated[str, AfterValidator(_address)]
Origin: TypeAlias = Annotated[str, AfterValidator(_origin)]
ExactOrigin: TypeAlias = Annotated[str, AfterValidator(_exact_origin)]
Network: TypeAlias = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


class RateLimitConfig(Section):
    """When an address that sends wrong secrets is locked out, and for how long."""

    max_attempts: Count = 10
    window_ms: Count = 60_000
    lockout_ms: Count = 300_000
    exempt_loopback: bool = True


class AuthConfig(Section):
    """The shared secret of the gateway.

    ``mode`` is always one of the three after validation: an unset mode becomes
    ``password`` if a password exists and ``token`` otherwise.
    """

    mode: Literal["token", "password", "none"] = "token"
    token: Secret | None = None
    password: Secret | None = None
    allow_open_network: bool = False
    rate_limit: RateLimitConfig = RateLimitConfig()

    @property
    def secret(self) -> str:
        """The secret that a caller must send, in the clear; "" if none is needed or set."""
        chosen = {"token": self.token, "password": self.password, "none": None}[self.mode]
        return chosen.get_secret_value() if chosen else ""

    @model_validator(mode="before")
    @classmethod
    def _choose_mode(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("mode") is None:
            return {**data, "mode": "password" if data.get("password") else "token"}
        return data

    @model_validator(mode="after")
    def _require_secret(self, info: ValidationInfo) -> Self:
        required = bool(info.context and info.context.get("require_auth"))
        if required and self.mode != "none" and not self.secret:
            raise ValueError(_MISSING_SECRET[self.mode])
        return self


class ImagesConfig(Section):
    """Which images requests may hold, and which of the web they may name."""

    allow_url: bool = False
    url_allowlist: Annotated[tuple[HostOrNetwork, ...], Strict(False)] = ()
    allowed_mimes: TextList = ("image/jpeg", "image/png", "image/gif", "image/webp")
    max_bytes: Annotated[int, Field(ge=1, le=20 * 2**20)] = 10 * 2**20
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 10_000


class ChatCompletionsConfig(Section):
    """The OpenAI-compatible endpoint."""

    images: ImagesConfig = ImagesConfig()
    reasoning: Literal["off", "request", "on"] = "request"
    enabled: bool = False
    strict_model: bool = False
    keep_transcripts: bool = False


class ResponsesConfig(Section):
    """The endpoint of OpenAI's Responses API."""

    enabled: bool = False


class Endpoints(Section):
    """HTTP endpoints that can be switched on."""

    chat_completions: ChatCompletionsConfig = ChatCompletionsConfig()
    responses: ResponsesConfig = ResponsesConfig()


class ResumeConfig(Section):
    """For how long a run over HTTP can be come back to: after its end, and while nobody reads it."""

    seconds: Seconds = 300.0
    grace_seconds: Seconds = 60.0


class CorsConfig(Section):
    """Pages in a browser that may call the HTTP endpoints."""

    allowed_origins: Annotated[tuple[ExactOrigin, ...], Strict(False)] = ()
    max_age_seconds: Annotated[int, Field(ge=0, le=86_400)] = 600


class HttpConfig(Section):
    """Limits of the HTTP server."""

    max_body_bytes: Count = 20 * 2**20
    body_timeout_seconds: Seconds = 30.0
    keep_alive_seconds: Seconds = 15.0
    resume: ResumeConfig = ResumeConfig()
    cors: CorsConfig = CorsConfig()
    endpoints: Endpoints = Endpoints()


class ControlUiConfig(Section):
    """Pages in a browser that connect to the gateway."""

    allowed_origins: Annotated[tuple[Origin, ...], Strict(False)] = ()


class ReloadConfig(Section):
    """What becomes of a change of the file while the gateway runs."""

    mode: Literal["hybrid", "hot", "restart", "off"] = "hybrid"


class GatewayConfig(Section):
    """The gateway as a network service."""

    port: Annotated[int, Field(ge=1, le=65_535)] = 18_789
    bind: Literal["loopback", "lan", "auto", "custom"] = "loopback"
    custom_bind_host: Address | None = None
    auth: AuthConfig = AuthConfig()
    trusted_proxies: Annotated[tuple[Network, ...], Strict(False)] = ()
    control_ui: ControlUiConfig = ControlUiConfig()
    http: HttpConfig = HttpConfig()
    reload: ReloadConfig = ReloadConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def host(self) -> str:
        """The address to listen on."""
        if self.bind == "custom":
            return self.custom_bind_host or _LOOPBACK
        return _EVERYWHERE if self.bind == "lan" else _LOOPBACK

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect."""
        return ip_address(self.host).is_loopback

    @model_validator(mode="after")
    def _require_host(self) -> Self:
        if self.bind == "custom" and self.custom_bind_host is None:
            raise ValueError('bind "custom" needs customBindHost')
        return self

    @model_validator(mode="after")
    def _refuse_open_network(self) -> Self:
        if self.auth.mode == "none" and not self.is_loopback and not self.auth.allow_open_network:
            raise ValueError(
                f'auth.mode "none" would let everyone in who reaches {self.host}: set a token or a '
                'password, use bind "loopback", or set auth.allowOpenNetwork to true'
            )
        return self
