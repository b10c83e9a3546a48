"""Who may have an event, by a name that other processes understand, too."""

from __future__ import annotations

from collections.abc import Callable

from .protocol import Peer
from .scopes import allows

EVERYBODY = "everybody"
READERS = "readers"
DECIDERS = "deciders"
SESSIONS = "sessions"
_MESSAGES = "messages:"


def followers(session_key: str) -> str:
    """Those who follow the messages of a session."""
    return _MESSAGES + session_key


def accepts(audience: str) -> Callable[[Peer], bool]:
    """Whether a client belongs to an audience; nobody does to one that has no name here."""
    if audience == EVERYBODY:
        return lambda _: True
    if audience == READERS:
        return may_read
    if audience == DECIDERS:
        return _may_decide
    if audience == SESSIONS or audience.startswith(_MESSAGES):
        return lambda peer: audience in peer.subscriptions and may_read(peer)
    return lambda _: False


def may_read(peer: Peer) -> bool:
    """Whether a client may see what is said."""
    return allows(peer.scopes, "operator.read")


def _may_decide(peer: Peer) -> bool:
    return allows(peer.scopes, "operator.approvals")
