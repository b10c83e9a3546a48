"""Session keys: which conversation a request belongs to.

A key that starts with ``agent:<id>:`` belongs to that agent; any other key belongs to none. One that goes on
with ``caller:<namespace>:`` belongs to somebody whom the host application knows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..errors import InvalidRequest

MAX_KEY_LENGTH = 512
ARCHIVED = "archived:"  # begins the key of a session whose own key was given to a newer one

_HEADER = "x-openclaw-session-key"
_RESERVED = ("subagent:", "cron:", "acp:", "hook:", ARCHIVED)
_SESSION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PLACE = rf"(?:{ARCHIVED}[^:]+:)?agent:[^:]+:"
_NAMESPACE = re.compile(rf"{_PLACE}caller:([^:]+):")
_RESPONSE = re.compile(rf"{_PLACE}(?:caller:[^:]+:)?openresponses:")
_CONVERSATION = re.compile(rf"{_PLACE}(?:caller:[^:]+:)?conversation:")
_SAFE = re.compile(r"[a-z0-9._@-]")
_ANY = "surrogatepass"
_UNWANTED = ("Cc", "Cs")  # control characters; lone surrogates, which no database can hold


@dataclass(frozen=True, slots=True)
class ExplicitKey:
    """A key the caller chose; ``agent_id`` is None if the key names no agent."""

    key: str
    agent_id: str | None


def main_key(agent_id: str, main: str = "main") -> str:
    """The key of an agent's main chat."""
    return f"agent:{agent_id}:{main}"


def user_key(agent_id: str, user: str, family: str = "openai") -> str:
    """The key of one end user of an agent; spelling differs only by case and outer space.

    :param family: what tells the users of one API from those of another.
    :raises InvalidRequest: ``user`` is blank, too long or holds control characters.
    """
    return f"agent:{agent_id}:{family}-user:{_checked(user, 'user')}".lower()


def fresh_key(agent_id: str, uuid: str, family: str = "openai") -> str:
    """The key of a conversation that nobody has named."""
    return f"agent:{agent_id}:{family}:{uuid}"


def is_response_key(key: str) -> bool:
    """True for a session that was begun for stored responses and for nothing else."""
    return _RESPONSE.match(key) is not None


def conversation_key(agent_id: str, conversation_id: str) -> str:
    """The key of a conversation that the caller names by id.

    :raises InvalidRequest: the id is not 1 to 128 of ``A-Z a-z 0-9 . _ -``.
    """
    if not _SESSION_ID.fullmatch(conversation_id):
        raise InvalidRequest(
            "A conversation id has 1 to 128 letters, digits, dots, underscores or hyphens.",
            param="conversation",
        )
    return f"agent:{agent_id}:conversation:{conversation_id}"


def is_conversation_key(key: str) -> bool:
    """True for what :func:`conversation_key` gives, also once it is archived."""
    return _CONVERSATION.match(key) is not None


def namespaced(key: str, namespace: str) -> str:
    """The session of this name that belongs to a namespace; ``key`` itself if it does already.

    :param key: of an agent: ``agent:<id>:rest``. :param namespace: without colons.
    """
    if namespace_of(key) == namespace and not key.startswith(ARCHIVED):
        return key
    _, agent_id, rest = key.split(":", 2)
    return f"agent:{agent_id}:caller:{namespace}:{rest}"


def namespace_of(key: str) -> str:
    """The namespace that a session belongs to, also once it is archived; "" for none."""
    match = _NAMESPACE.match(key)
    return match[1] if match else ""


def namespace_for(name: str) -> str:
    """A namespace as keys hold it: different names stay different, whoever lowers a key or splits it."""
    return "".join(
        char if _SAFE.fullmatch(char) else "".join(f"%{byte:02x}" for byte in char.encode(errors=_ANY))
        for char in name
    )


def name_of(namespace: str) -> str:
    """The name that :func:`namespace_for` was given."""
    return unquote_to_bytes(namespace).decode(errors=_ANY)


def sub_agent_key(agent_id: str, uuid: str) -> str:
    """The key of a conversation that an agent has with one of its sub-agents."""
    return f"agent:{agent_id}:subagent:{uuid}"


def session_id_key(agent_id: str, session_id: str) -> str:
    """The key of a session that the caller names by id.

    :raises InvalidRequest: the id is not 1 to 128 of ``A-Z a-z 0-9 . _ -``.
    """
    if not _SESSION_ID.fullmatch(session_id):
        raise InvalidRequest(
            "A session id has 1 to 128 letters, digits, dots, underscores or hyphens.", param="session_id"
        )
    return f"agent:{agent_id}:explicit:{session_id.lower()}"


def parse_explicit_key(raw: str, known_agents: Collection[str]) -> ExplicitKey:
    """Check the key of the ``x-openclaw-session-key`` header.

    In ``agent:<id>:rest`` the id may have any case and comes out in lower case, as in
    ``known_agents``; everything else keeps its case.

    :raises InvalidRequest: blank, too long, control characters, a reserved namespace, an
        unknown agent, or nothing after the agent.
    """
    key = _checked(raw, _HEADER)
    if not key.lower().startswith("agent:"):
        _refuse_reserved(key)
        return ExplicitKey(key, None)
    _, agent_id, rest = (*key.split(":", 2), "")[:3]
    _refuse_reserved(rest)
    if agent_id.lower() not in known_agents:
        raise InvalidRequest(f"{_HEADER} names an agent that does not exist.", param=_HEADER)
    if not rest.strip():
        raise InvalidRequest(f"{_HEADER} must continue after the agent id.", param=_HEADER)
    return ExplicitKey(f"agent:{agent_id.lower()}:{rest}", agent_id.lower())


def _checked(raw: str, param: str) -> str:
    key = raw.strip()
    if not key:
        raise InvalidRequest(f"{param} must not be blank.", param=param)
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidRequest(f"{param} is longer than {MAX_KEY_LENGTH} characters.", param=param)
    if any(unicodedata.category(char) in _UNWANTED for char in key):
        raise InvalidRequest(f"{param} must not hold control characters.", param=param)
    return key


def _refuse_reserved(name: str) -> None:
    if name.strip().lower().startswith(_RESERVED):
        raise InvalidRequest(f"{_HEADER} cannot use reserved internal session namespaces.", param=_HEADER)
