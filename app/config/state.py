"""The section `state`: the engines that keep it, where the state directory is not enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from .section import Secret, Section


def _database(url: SecretStr) -> SecretStr:
    if not _is_address(url, ("postgres", "postgresql", "postgresql+psycopg")):
        raise ValueError('must be an address like "postgres://user:password@host:5432/name"')
    return url


def _redis(url: SecretStr) -> SecretStr:
    if not _is_address(url, ("redis", "rediss", "unix")):
        raise ValueError('must be an address like "redis://:password@host:6379/0"')
    return url


def _is_address(url: SecretStr, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url.get_secret_value())
        return parts.scheme in schemes and parts.port != 0 and bool(parts.netloc or parts.path or parts.query)
    except ValueError:
        return False


class StateConfig(Section):
    """A database in place of the file in the state directory, and what lets several processes share it."""

    database_url: Annotated[Secret, AfterValidator(_database)] | None = None
    redis_url: Annotated[Secret, AfterValidator(_redis)] | None = None
    redis_prefix: str = Field(default="openclaw:", min_length=1, max_length=64)

    @property
    def database(self) -> str:
        """The database's URL, "" for none. A secret."""
        return self.database_url.get_secret_value() if self.database_url else ""

    @property
    def redis(self) -> str:
        """The URL of Redis, "" for none. A secret."""
        return self.redis_url.get_secret_value() if self.redis_url else ""

    @property
    def secrets(self) -> list[str]:
        """What must not be seen of them."""
        passwords = (unquote(urlsplit(url).password or "") for url in (self.database, self.redis))
        return [self.database, self.redis, *passwords]


_KEYS = {"databaseUrl": "DATABASE_URL", "redisUrl": "REDIS_URL"}


def with_engines(
    document: dict[str, Any], env: Mapping[str, str], variables: dict[str, str], *, platform: bool
) -> dict[str, Any]:
    """``document`` with the engines that ``env`` names.

    ``OPENCLAW_DATABASE_URL`` and ``OPENCLAW_REDIS_URL`` win over the document. ``DATABASE_URL`` and
    ``REDIS_URL``, which platforms set for the application, count if it says nothing.

    :param variables: gets the variables that are used, by the path of the key.
    :param platform: the application is the gateway itself; to a host its own variables belong.
    """
    state = document.get("state", {})
    if not isinstance(state, dict):
        return document
    found: dict[str, str] = {}
    for key, name in _KEYS.items():
        own, theirs = f"OPENCLAW_{name}", platform and state.get(key) is None
        chosen = own if env.get(own, "").strip() else name if theirs and env.get(name, "").strip() else None
        if chosen:
            found[key] = env[chosen].strip()
            variables[f"state.{key}"] = chosen
    return {**document, "state": {**state, **found}} if found else document
