"""Which agent and which session a request means. Pure but for the id it is given."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ...agents.registry import Agent, AgentRegistry
from ...errors import AgentNotFound, InvalidRequest
from ...sessions.keys import fresh_key, parse_explicit_key, user_key
from ..caller import OWNER, Caller

AGENT_HEADERS = ("x-openclaw-agent-id", "x-openclaw-agent")
SESSION_HEADER = "x-openclaw-session-key"
MODEL_HEADER = "x-openclaw-model"
CHANNEL_HEADER = "x-openclaw-message-channel"

_AGENT_MODEL = re.compile(r"(?:openclaw[:/]|agent:)(.*)", re.IGNORECASE | re.ASCII | re.DOTALL)
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_LONGEST_REF = 256
_DEFAULT_MODELS = ("", "openclaw", "openclaw/default")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes.

    :ivar ephemeral: nobody named the session, so none is kept.
    :ivar model: ``provider/model`` that is to answer instead of the agent's own.
    :ivar message_channel: where the client says that the message comes from, in lower case.
    """

    agent_id: str
    session_key: str
    ephemeral: bool
    model: str | None = None
    message_channel: str = ""


def choose_route(
    headers: Mapping[str, str],
    model: str,
    user: str | None,
    agents: AgentRegistry,
    *,
    strict_model: bool,
    fresh_id: str,
    family: str = "openai",
    models: Collection[str] = (),
    default: str | None = None,
    caller: Caller = OWNER,
) -> Route:
    """The agent by header, then by model, then the default; the session by header, user or fresh.

    :param headers: names in lower case.
    :param fresh_id: names the session of a request that names none.
    :param models: those that a client may choose beside the agent's own; if there are none, any.
    :param family: which API's sessions these are.
    :param default: the agent that is meant if none is named, unless it is the caller's or the gateway's
        default.
    :param caller: in whose namespace the session is; who sets models free for all has not set them
        free for a caller who is confined.
    :raises AgentNotFound: an agent is named that is not configured.
    :raises Forbidden: the caller may not use it.
    :raises InvalidRequest: the session key is reserved, malformed or another agent's; the model
        is not one that may be chosen; the channel has no proper name.
    """
    named = named_agent(headers, model, agents, strict_model=strict_model)
    agent_id = named or default or next(iter(caller.agents), agents.default_id)
    route = _place(headers, named, agent_id, user, agents, fresh_id=fresh_id, family=family)
    if caller.confined:
        route = _confined(route, caller)
    if MODEL_HEADER in headers or CHANNEL_HEADER in headers:
        chosen = chosen_model(headers, agents.get(route.agent_id), models, free=not caller.confined)
        return replace(route, model=chosen, message_channel=message_channel(headers))
    return route


def _confined(route: Route, caller: Caller) -> Route:
    caller.require_agent(route.agent_id)
    key = route.session_key
    own = key if key.startswith("agent:") else f"agent:{route.agent_id}:{key}"
    return replace(route, session_key=caller.key(own))


def _place(
    headers: Mapping[str, str],
    named: str | None,
    agent_id: str,
    user: str | None,
    agents: AgentRegistry,
    *,
    fresh_id: str,
    family: str,
) -> Route:
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
        return Route(agent_id, user_key(agent_id, user, family), ephemeral=False)
    return Route(agent_id, fresh_key(agent_id, fresh_id, family), ephemeral=True)


def named_agent(
    headers: Mapping[str, str], model: str, agents: AgentRegistry, *, strict_model: bool
) -> str | None:
    """The agent the request names, or None if it leaves the choice to the gateway.

    :raises AgentNotFound: it names one that is not configured.
    """
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


def chosen_model(
    headers: Mapping[str, str], agent: Agent, models: Collection[str], *, free: bool = True
) -> str | None:
    """The ``provider/model`` that the client wants to answer, if it names one.

    :param models: those that a client may choose beside the agent's own.
    :param free: if there are none, any may be chosen.
    :raises InvalidRequest: it is no such name, or not one that may be chosen.
    """
    ref = _header(headers, MODEL_HEADER)
    if not ref:
        return None
    provider, slash, name = ref.partition("/")
    if not (provider and slash and name) or len(ref) > _LONGEST_REF or not ref.isprintable():
        raise InvalidRequest(
            f"Invalid `{MODEL_HEADER}`: it must look like provider/model.",
            param=MODEL_HEADER,
            code="invalid_value",
        )
    ref = f"{provider.lower()}/{name}"
    if (
        (models or not free)
        and ref not in models
        and all(ref != candidate.ref for candidate in agent.candidates)
    ):
        raise InvalidRequest(
            f"The model {ref!r} is not among those that may be chosen (agents.defaults.models).",
            param=MODEL_HEADER,
            code="model_not_allowed",
        )
    return ref


def choosable(models: Collection[str]) -> frozenset[str]:
    """Configured model references as :func:`chosen_model` compares them."""
    split = (ref.partition("/") for ref in models)
    return frozenset(f"{provider.lower()}/{name}" for provider, _, name in split)


def message_channel(headers: Mapping[str, str]) -> str:
    """Where the client says that the message comes from, in lower case; "" if it does not say.

    :raises InvalidRequest: that is no name of a channel.
    """
    name = _header(headers, CHANNEL_HEADER).lower()
    if name and not _CHANNEL.fullmatch(name):
        raise InvalidRequest(
            f"Invalid `{CHANNEL_HEADER}`: it must be at most 64 letters, digits, hyphens and underscores.",
            param=CHANNEL_HEADER,
            code="invalid_value",
        )
    return name


def _header(headers: Mapping[str, str], name: str) -> str:
    """A header's value as the UTF-8 text the client meant; WSGI reads it as latin-1."""
    raw = headers.get(name, "").strip()
    try:
        return raw.encode("latin-1").decode()
    except UnicodeError:
        raise InvalidRequest(f"{name} is not UTF-8.", param=name) from None
