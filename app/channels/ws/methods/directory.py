"""Which session, and which agent, a request is about."""

from __future__ import annotations

from dataclasses import dataclass

from ....agents.registry import AgentRegistry
from ....sessions.records import Session
from ....sessions.store import Store
from ..keys import agent_of, find
from ..protocol import Call, Refusal, text


@dataclass(frozen=True, slots=True)
class Directory:
    """Finds sessions and agents by what clients call them. Any thread may call any method.

    :raises StoreError: from most methods; the state could not be read.
    """

    agents: AgentRegistry
    store: Store

    def named(self, call: Call) -> str:
        """The session key that the parameter ``key`` stands for; some clients call it ``sessionKey``.

        :raises Refusal: it is missing, or can be no key.
        """
        written = text(call.params, _parameter(call), call.method, required=True)
        assert written is not None, "required"
        return self.key(written)

    def named_maybe(self, call: Call) -> str | None:
        """As :meth:`named`, None if it is missing.

        :raises Refusal: it can be no key.
        """
        written = text(call.params, _parameter(call), call.method)
        return None if written is None else self.key(written)

    def key(self, written: str) -> str:
        """The key of an existing session, or the full form of ``written``.

        :raises Refusal: it can be no key.
        """
        return find(written, self.agents, self.store)

    def existing(self, key: str) -> Session:
        """The session of a key that had one a moment ago.

        :raises Refusal: somebody has deleted it.
        """
        session = self.store.session(key)
        if session is None:
            raise Refusal(f"session not found: {key}", code="UNAVAILABLE")
        return session

    def owner(self, key: str) -> str:
        """The agent that a session belongs to, or would if it were begun now."""
        session = self.store.session(key)
        if session is not None and session.agent_id in self.agents:
            return session.agent_id
        return agent_of(key, self.agents)

    def agent_id(self, call: Call) -> str | None:
        """The agent that the parameter ``agentId`` names, None without it.

        :raises Refusal: there is no such agent.
        """
        named = text(call.params, "agentId", call.method)
        if named is not None and named.lower() not in self.agents:
            raise Refusal(f'invalid {call.method} params: unknown agent id "{named}"')
        return named.lower() if named else None

    def agent_or_owner(self, call: Call) -> str:
        """The agent that ``agentId`` or ``sessionKey`` names; the default one if neither is there.

        :raises Refusal: there is no such agent, or the two contradict each other.
        """
        agent_id = self.agent_id(call)
        key = text(call.params, "sessionKey", call.method)
        if key is None:
            return agent_id or self.agents.default_id
        owner = self.owner(self.key(key))
        if agent_id not in (None, owner):
            raise Refusal(f'invalid {call.method} params: the session belongs to agent "{owner}"')
        return owner


def _parameter(call: Call) -> str:
    return "sessionKey" if "key" not in call.params and "sessionKey" in call.params else "key"
