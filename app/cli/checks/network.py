"""Checks of what is reached from here: the gateway's own port, models, MCP servers."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing

from ...agents.models import Candidate
from ...cancel import CancelToken
from ...errors import ConfigError, ProviderError
from ...messages import SamplingParams, UserMessage
from ...providers.base import CallTimeouts, ModelRequest
from ...runs.executor import Executor
from ...runtime.providers import EMBEDDED
from ...runtime.tools import mcp_servers
from ...sessions.beacon import seen
from ..address import base_url, bind_address
from .finding import Finding, Site

_SECONDS = 5.0
_PATIENT = CallTimeouts(connect=10.0, first_token=60.0, stall=60.0)


def port(site: Site) -> Iterator[Finding]:
    """Whether a gateway answers at its port, or one could listen there."""
    if site.config is None:
        return
    beacon = seen(site.state)
    try:
        bound = bind_address(site.config.gateway, site.env)
        address = beacon.url if beacon else base_url(site.config.gateway, site.env)
    except ConfigError as mistake:
        yield Finding("problem", mistake.message, "Set it to a port, or leave it out.")
        return
    state = answering(address.partition("://")[2])
    if state == "ready":
        yield Finding("ok", f"A gateway answers at {beacon or address} and takes runs.")
    elif state == "draining":
        yield Finding(
            "warning", f"The gateway at {address} takes no new runs: it is going away or has no store."
        )
    elif state == "other":
        yield Finding(
            "problem",
            f"Something that is no gateway answers at {address}.",
            "Stop it, or set another gateway.port.",
        )
    elif error := bind_error(bound):
        told = f"The gateway cannot listen at {bound}: {error.strerror}."
        yield Finding("problem", told, "Set another port or address.")
    else:
        yield Finding("ok", f"No gateway is running; {bound} is free.")


def models(site: Site) -> Iterator[Finding]:
    """Whether each provider that an agent uses answers: one small call each."""
    for candidate in _candidates(site):
        started = time.monotonic()
        try:
            _call(candidate)
        except ProviderError as error:
            yield Finding("problem", f"{candidate.ref} does not answer: {error.message}", _fix(error))
        else:
            took = time.monotonic() - started
            yield Finding("ok", f"{candidate.ref} answers ({took:.1f} s).")
        finally:
            candidate.provider.close()


def mcp(site: Site) -> Iterator[Finding]:
    """Whether MCP servers can be started and list their tools."""
    if not (site.deep and site.config and site.config.mcp.servers):
        return
    executor = Executor()
    with closing(executor), closing(mcp_servers(site.config, site.env, executor)) as servers:
        deadline = time.monotonic() + 30
        servers.tools()
        while any(state == "starting" for state in servers.states().values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for name, state in servers.states().items():
            if state == "ready":
                yield Finding("ok", f"MCP server {name} lists its tools.")
            else:
                yield Finding("problem", f"MCP server {name} is {state}.", f"See mcp.servers.{name}.")


def _candidates(site: Site) -> list[Candidate]:
    """One of each provider; the built-in model only if asked for, since it takes a while to load."""
    found: dict[str, Candidate] = {}
    for agent in site.agents or ():
        for candidate in agent.candidates:
            if site.deep if candidate.provider.id == EMBEDDED else site.online:
                found.setdefault(candidate.provider.id, candidate)
    return list(found.values())


def _call(candidate: Candidate) -> None:
    request = ModelRequest(
        model=candidate.model,
        system="",
        messages=(UserMessage.of("Say OK."),),
        params=SamplingParams(max_tokens=16),
        timeouts=_PATIENT,
    )
    for _ in candidate.provider.stream(request, CancelToken()):
        pass


def _fix(error: ProviderError) -> str:
    return {
        "auth": "Set a key that the provider takes.",
        "billing": "Look at the account: the provider wants to be paid.",
        "connection": "See whether the address is right and can be reached from here.",
        "model_not_found": "Choose a model that the provider has.",
    }.get(error.reason.value, "")


def answering(place: str) -> str:
    """``ready`` or ``draining`` if a gateway answers there, ``other`` for anything else, "" for nothing.

    :param place: ``host:port``.
    """
    connection = http.client.HTTPConnection(place, timeout=_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = json.loads(connection.getresponse().read(1_000))
    except ConnectionRefusedError:
        return ""
    except (OSError, http.client.HTTPException, ValueError):
        return "other"
    finally:
        connection.close()
    if not isinstance(answer, dict) or "ready" not in answer:
        return "other"
    return "ready" if answer["ready"] is True else "draining"


def bind_error(bound: str) -> OSError | None:
    """Why nobody could listen at ``host:port`` now; None if somebody could."""
    host, _, number = bound.rpartition(":")
    host = host.strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(number)))
    except OSError as error:
        return error
    return None
