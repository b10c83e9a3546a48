"""Checks of the configuration, and of how it fits the place where the gateway runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from ...agents.models import Candidate
from ...config import GatewayConfig
from ...errors import ConfigError
from ...providers.known import KNOWN
from ...runtime.providers import env_keys
from ..address import bind_address
from .finding import Finding, Level, Site, mode_finding

PLATFORMS = {
    "DYNO": "Heroku",
    "RENDER": "Render",
    "FLY_APP_NAME": "Fly",
    "RAILWAY_ENVIRONMENT_ID": "Railway",
    "K_SERVICE": "Cloud Run",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
}
_SHORT_SECRET = 16
_FEW_CHARACTERS = 6


def configuration(site: Site) -> Iterator[Finding]:
    """Whether the configuration can be used; every mistake in it."""
    for mistake in site.mistakes:
        yield Finding("problem", mistake, f"Change it in {site.config_path}.")
    if site.config is None:
        return
    for warning in site.config.warnings:
        yield Finding("warning", f"{warning}.")
    if site.config.path is None and not site.mistakes:
        yield Finding("ok", f"There is no {site.config_path}: defaults and the environment apply.")
    elif not site.mistakes:
        yield Finding("ok", f"{site.config_path} can be used.")


def configuration_file(site: Site) -> Iterator[Finding]:
    """Whether other users can read the secrets in the file."""
    yield from mode_finding(site.config_path, 0o600)


def access(site: Site) -> Iterator[Finding]:
    """Whether the secret is as strong as the place where the gateway listens asks for."""
    if site.config is None:
        return
    auth = site.config.gateway.auth
    level: Level = "problem" if _is_reachable(site.config.gateway, site.env) else "warning"
    if auth.mode == "none":
        yield Finding(level, "Nobody needs a secret to use this gateway.", "Set gateway.auth.token.")
    elif not auth.secret:
        yield Finding(
            "problem", f"No {auth.mode} is set.", "Set OPENCLAW_GATEWAY_TOKEN or run `openclaw init`."
        )
    elif len(auth.secret) < _SHORT_SECRET or len(set(auth.secret)) < _FEW_CHARACTERS:
        yield Finding(
            level,
            f"The gateway's {auth.mode} is easy to guess ({len(auth.secret)} characters).",
            "Use a long random one, such as `openssl rand -base64 32` gives.",
        )
    else:
        yield Finding("ok", f"Clients need the gateway's {auth.mode}.")


def agents(site: Site) -> Iterator[Finding]:
    """Which agents there are, and which of them cannot answer for want of a key."""
    for agent in site.agents or ():
        yield Finding("ok", f"Agent {agent.id} answers with {agent.model_ref}.")
        for candidate in agent.candidates:
            if _lacks_key(candidate, site):
                yield Finding(
                    "warning",
                    f"Agent {agent.id}: no key is set for {candidate.ref}.",
                    f"Set models.providers.{candidate.provider.id}.apiKey or the vendor's variable.",
                )


def workspaces(site: Site) -> Iterator[Finding]:
    """Whether agents can work in their workspaces, and read their skills."""
    for agent in site.agents or ():
        place = agent.workspace
        if place.exists() and not (place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)):
            yield Finding(
                "problem",
                f"Agent {agent.id} cannot work in {place}.",
                "Make it a folder that this user can write.",
            )
        for root in agent.skills.roots:
            if root.exists() and not os.access(root, os.R_OK | os.X_OK):
                yield Finding("warning", f"Skills in {root} cannot be read.", f"chmod u+rx {root}")


def endpoints(site: Site) -> Iterator[Finding]:
    """Whether clients of OpenAI's API are served."""
    if site.config and not site.config.gateway.http.endpoints.chat_completions.enabled:
        yield Finding(
            "warning",
            "POST /v1/chat/completions is off: clients of OpenAI's API get a 404.",
            "Set gateway.http.endpoints.chatCompletions.enabled to true.",
        )


def platform(site: Site) -> Iterator[Finding]:
    """Whether the gateway knows who calls when a platform's router stands before it."""
    name = next((name for variable, name in PLATFORMS.items() if site.env.get(variable)), None)
    if name and site.config and not site.config.gateway.trusted_proxies:
        yield Finding(
            "warning",
            f"This is {name}, whose router calls for everybody: one client's wrong tokens lock out all.",
            "Set gateway.trustedProxies to the router's addresses.",
        )


def workers(site: Site) -> Iterator[Finding]:
    """Whether as many workers can run as the environment wishes."""
    wished = site.env.get("WEB_CONCURRENCY", "")
    engines = site.config and site.config.state.database and site.config.state.redis
    if wished.isdigit() and int(wished) > 1 and not engines:
        yield Finding(
            "warning",
            f"WEB_CONCURRENCY={wished} is ignored: without Postgres and Redis one worker runs.",
            "Set DATABASE_URL and REDIS_URL, or leave WEB_CONCURRENCY at 1.",
        )


def _is_reachable(gateway: GatewayConfig, env: Mapping[str, str]) -> bool:
    try:
        host = bind_address(gateway, env).rpartition(":")[0].strip("[]")
        return not ip_address(host).is_loopback
    except ConfigError:
        return False
    except ValueError:
        return host != "localhost"


def _lacks_key(candidate: Candidate, site: Site) -> bool:
    """True for a vendor that would refuse; other servers may need no key."""
    vendor = next((vendor for vendor in KNOWN if vendor.id == candidate.provider.id), None)
    if vendor is None or site.config is None or env_keys(site.env, vendor):
        return False
    stated = site.config.models.providers.get(vendor.id)
    return stated is None or not (stated.api_key or stated.api_keys or stated.headers or stated.base_url)
