"""Session keys as clients of the protocol write them, and as the gateway keeps them.

A client may say ``main``, ``tui-1`` or ``agent:main:tui-1``. What it gets back, in results and
lists, is always the form that the gateway keeps the session under.
"""

from __future__ import annotations

import unicodedata

from ...agents.registry import AgentRegistry
from ...sessions.keys import MAX_KEY_LENGTH, main_key
from ...sessions.store import Store
from .protocol import Refusal

_MAIN = "main"
_UNWANTED = ("Cc", "Cs")  # control characters; lone surrogates, which no database can hold


def canonical(key: str, agents: AgentRegistry) -> str:
    """The key in its full form, ``agent:<id>:<rest>`` in lower case.

    Nothing, ``main`` and ``agent:<id>`` are the main session of the default agent or of that one;
    any other key that names no agent is one of the default agent.

    :raises Refusal: the key is too long, holds control characters or names no agent there is.
    """
    text = _checked(key.strip()).lower()
    if text != "agent" and not text.startswith("agent:"):
        return _of_agent(agents.default_id, text, agents)
    _, agent_id, rest = (*text.split(":", 2), "", "")[:3]
    if agent_id not in agents:
        raise Refusal(f'invalid session key: unknown agent id "{agent_id}"')
    return _of_agent(agent_id, rest.strip(), agents)


def find(key: str, agents: AgentRegistry, store: Store) -> str:
    """The key of an existing session if ``key`` is one to the letter, else its full form.

    Other channels let callers choose keys of any form; lists show them as they are.

    :raises Refusal: as :func:`canonical`.
    :raises StoreError: the state could not be read.
    """
    if key.strip().lower() not in ("", _MAIN) and store.session(_checked(key)) is not None:
        return key
    return canonical(key, agents)


def agent_of(key: str, agents: AgentRegistry) -> str:
    """The agent that a key in its full form belongs to; the default one if it names none."""
    parts = key.split(":", 2)
    named = parts[1] if parts[0] == "agent" and len(parts) == 3 else ""
    return named if named in agents else agents.default_id


def _of_agent(agent_id: str, rest: str, agents: AgentRegistry) -> str:
    return main_key(agent_id, agents.main_key if rest in ("", _MAIN) else rest)


def _checked(key: str) -> str:
    if len(key) > MAX_KEY_LENGTH:
        raise Refusal(f"invalid session key: longer than {MAX_KEY_LENGTH} characters")
    if any(unicodedata.category(char) in _UNWANTED for char in key):
        raise Refusal("invalid session key: must not hold control characters")
    return key
