"""Which agent and which session a request means. Pure but for the id it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...agents.registry import AgentRegistry
from ...errors import AgentNotFound, InvalidRequest
from ...sessions.keys import fresh_key, parse_explicit_key, user_key

AGENT_HEADERS = ("x-openclaw-agent-id", "x-openclaw-agent")
SESSION_HEADER = "x-openclaw-session-key"

_AGENT_MODEL = re.compile(r"(?:openclaw[:/]|agent:)(.*)", re.IGNORECASE | re.ASCII | re.DOTALL)
_DEFAULT_MODELS = ("", "openclaw", "openclaw/default")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. ``ephemeral``: nobody named the session, so none is kept."""

    agent_id: str
    session_key: str
    ephemeral: bool


def choose_route(
    headers: Mapping[str, str],
    model: str,
    user: str | None,
    agents: AgentRegistry,
    *,
    strict_model: bool,
    fresh_id: str,
) -> Route:
    """The agent by header, then by model, then the default; the session by header, user or fresh.

    :param headers: names in lower case.
    :param fresh_id: names the session of a request that names none.
    :raises AgentNotFound: an agent is named that is not configured.
    :raises InvalidRequest: the session key is reserved, malformed or another agent's.
    """
    named = _named_agent(headers, model, agents, strict_model=strict_model)
    agent_id = named or agents.default_id
    explicit = _header(headers, SESSION_HEADER)
    if explicit:
        key = parse_explicit_key(explicit, agents.ids)
        if key.agent_id and named and key.agent_id != named:
            raise InvalidRequest(
                f"The session key belongs to agent {key.agent_id!r}, but the request names {named!r}.",
                param=SESSION_HEADER,
            )
        return Route(key.agent_id or agent_id, key.key, ephemeral=False)
    if user:
        return Route(agent_id, user_key(agent_id, user), ephemeral=False)
    return Route(agent_id, fresh_key(agent_id, fresh_id), ephemeral=True)


def _named_agent(
    headers: Mapping[str, str], model: str, agents: AgentRegistry, *, strict_model: bool
) -> str | None:
    """The agent the request names, or None if it leaves the choice to the gateway."""
    for name in AGENT_HEADERS:
        if value := _header(headers, name):
            return agents.get(value, param=name).id
    model = model.strip()
    if model.lower() in _DEFAULT_MODELS:
        return None
    if match := _AGENT_MODEL.fullmatch(model):
        return agents.get(match[1]).id
    if strict_model:
        raise AgentNotFound(model)
    return None


def _header(headers: Mapping[str, str], name: str) -> str:
    """A header's value as the UTF-8 text the client meant; WSGI reads it as latin-1."""
    raw = headers.get(name, "").strip()
    try:
        return raw.encode("latin-1").decode()
    except UnicodeError:
        raise InvalidRequest(f"{name} is not UTF-8.", param=name) from None
