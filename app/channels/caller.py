"""Somebody whom the host application knows: what they may do, and which sessions are theirs.

Everything that a caller makes hangs on a session, and the keys of a caller's sessions begin alike. So one
question decides what belongs to whom: in whose namespace is the session key?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..agents.registry import AgentRegistry
from ..errors import Forbidden
from ..sessions.keys import namespace_for, namespace_of, namespaced
from .client import Environ

Scope: TypeAlias = Literal["operator.read", "operator.write", "operator.admin", "operator.approvals"]

SCOPES: frozenset[str] = frozenset(
    {"operator.read", "operator.write", "operator.admin", "operator.approvals"}
)
CALLER = "openclaw.caller"  # in a request's environment

_LONGEST = 128


@dataclass(frozen=True, slots=True)
class Caller:
    """A user of the host application, as the gateway sees them.

    :ivar id: who this is; also their namespace, unless they share one.
    :ivar agents: the ids of the agents that they may use, the first one if they name none; none here
        for all agents.
    :ivar scopes: OpenClaw's: ``operator.read`` sees what is theirs, ``operator.write`` also has agents
        answer; ``operator.admin`` is the owner of the gateway, whom no namespace confines.
    :ivar namespace: whoever has the same one shares all sessions; "" for one of their own.
    :raises ValueError: there is no id, or a scope that does not exist.
    """

    id: str
    agents: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset({"operator.read", "operator.write"})
    namespace: str = ""

    def __post_init__(self) -> None:
        if not self.id or max(len(self.id), len(self.namespace)) > _LONGEST:
            raise ValueError(f"A caller needs an id, of at most {_LONGEST} characters.")
        if unknown := sorted(frozenset(self.scopes) - SCOPES):
            raise ValueError(f"There is no scope {unknown[0]!r}; there are {', '.join(sorted(SCOPES))}.")
        object.__setattr__(self, "scopes", frozenset(self.scopes))
        object.__setattr__(self, "agents", tuple(agent.lower() for agent in self.agents))

    @property
    def confined(self) -> bool:
        """True if they may see no sessions but those of their namespace."""
        return "operator.admin" not in self.scopes

    @property
    def own(self) -> str:
        """Their namespace as it stands in session keys; "" if nothing confines them."""
        return namespace_for(self.namespace or self.id) if self.confined else ""

    def key(self, key: str) -> str:
        """Their session of this name, which is an agent's: always one of their namespace."""
        return namespaced(key, self.own) if self.confined else key

    def owns(self, session_key: str) -> bool:
        """True for a session that they may see."""
        return not self.confined or namespace_of(session_key) == self.own

    def private(self, name: str) -> str:
        """``name`` as no caller of another namespace can say it."""
        return f"{self.own}/{name}" if self.confined else name

    def require(self, scope: Scope) -> None:
        """:raises Forbidden: they lack the scope."""
        implied = scope == "operator.read" and "operator.write" in self.scopes
        if self.confined and scope not in self.scopes and not implied:
            raise Forbidden(f"This needs the scope {scope}.")

    def require_agent(self, agent_id: str) -> None:
        """:raises Forbidden: they may not use this agent."""
        if self.agents and agent_id not in self.agents:
            raise Forbidden(f"The agent {agent_id!r} is not among those that you may use.")

    def agent_ids(self, agents: AgentRegistry) -> tuple[str, ...]:
        """Those of the configured agents that they may use."""
        return tuple(one for one in agents.ids if not self.agents or one in self.agents)


OWNER = Caller("owner", scopes=frozenset({"operator.admin"}))


def caller_of(environ: Environ) -> Caller:
    """Who has sent this request, once the guard has let it in."""
    caller = environ.get(CALLER, OWNER)
    assert isinstance(caller, Caller)
    return caller
