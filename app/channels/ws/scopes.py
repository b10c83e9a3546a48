"""Scopes: what a connection may ask for.

Who holds the secret gets what it asks for: the secret gives no less over HTTP. A scope
restrains a client that wants to be restrained.
"""

from __future__ import annotations

from collections.abc import Collection

from ...messages import JsonObject
from .protocol import Method, Methods, Refusal, Scope, Version

_NODE_METHODS = frozenset({"node.event", "node.invoke.result", "skills.bins"})


def granted(asked: Collection[str], protocol: Version) -> frozenset[str]:
    """The scopes of a connection: those asked for, or what its version expects without asking."""
    if asked:
        return frozenset(asked)
    return frozenset({"operator.admin" if protocol == 3 else "operator.read"})


def allows(scopes: frozenset[str], needed: Scope | None) -> bool:
    """True if ``scopes`` satisfy ``needed``: admin is everything, write includes read."""
    if needed is None or needed in scopes or "operator.admin" in scopes:
        return True
    return needed == "operator.read" and "operator.write" in scopes


def method_for(name: str, methods: Methods, scopes: frozenset[str], protocol: Version) -> Method:
    """The method that a connection with ``scopes`` may call by this name.

    :raises Refusal: it is not served, needs another scope, or belongs to another role.
        Only an administrator learns that a method does not exist.
    """
    if name == "connect":
        raise Refusal("connect is only valid as the first request")
    if name in _NODE_METHODS:
        raise Refusal("unauthorized role: operator")
    method = methods.get(name)
    needed = method.scope if method else "operator.admin"
    if not allows(scopes, needed):
        raise missing(needed or "operator.admin", protocol)
    if method is None:
        raise Refusal(f"unknown method: {name}")
    return method


def missing(needed: Scope, protocol: Version) -> Refusal:
    """What a connection without the scope ``needed`` is told."""
    message = f"missing scope: {needed}"
    if protocol == 3:
        return Refusal(message)
    details: JsonObject = {"code": "MISSING_SCOPE", "missingScope": needed, "requiredScopes": [needed]}
    return Refusal(message, code="FORBIDDEN", details=details)
