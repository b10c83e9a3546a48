"""The configuration that the gateway runs with, without a single secret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, SecretStr

from ....config import Config
from ....config.schema import Document
from ....messages import JsonValue
from ..context import Channel
from ..protocol import Method, Methods
from ..views import Json

REDACTED = "__OPENCLAW_REDACTED__"

_NAME = "openclaw.json"
_SECTIONS = ("gateway", "agents", "models", "session", "tools", "skills", "mcp", "messages")
# Of MCP servers: both may carry a secret, and nothing tells where.
_HIDDEN = frozenset({"args", "url"})
# A shorter one occurs in many a harmless word.
_SHORTEST_SECRET = 8


def methods(context: Channel) -> Methods:
    """The configuration and its schema."""
    schema = _Schema(context)
    return {
        "config.get": Method("operator.read", lambda _: snapshot(context.runtime.config)),
        "config.schema": Method("operator.read", lambda _: schema.told),
    }


def snapshot(config: Config) -> Json:
    """The configuration in force, as far as somebody has set it.

    What stands for the file's text is written anew, for its comments may hold anything.
    """
    sections = {name: getattr(config, name) for name in _SECTIONS if hasattr(config, name)}
    secrets = {secret for section in sections.values() for secret in _secrets(section)}
    stated = {name: _plain(section, secrets) for name, section in sections.items()}
    parsed: Json = {name: section for name, section in stated.items() if section}
    raw = json.dumps(parsed, indent=2, ensure_ascii=False)
    warnings: list[JsonValue] = [{"path": "", "message": warning} for warning in config.warnings]
    return {
        "path": config.path.name if config.path else _NAME,
        "exists": config.path is not None,
        "raw": raw,
        "parsed": parsed,
        "valid": True,
        "config": parsed,
        "hash": sha256(raw.encode()).hexdigest(),
        "issues": [],
        "warnings": warnings,
        "legacyIssues": [],
    }


def _secrets(value: Any) -> Iterator[str]:
    """Every secret in a setting."""
    match value:
        case SecretStr():
            if len(secret := value.get_secret_value()) >= _SHORTEST_SECRET:
                yield secret
        case BaseModel():
            for name in type(value).model_fields:
                yield from _secrets(getattr(value, name))
        case Mapping():
            for item in value.values():
                yield from _secrets(item)
        case list() | tuple():
            for item in value:
                yield from _secrets(item)


def _plain(value: Any, secrets: set[str]) -> JsonValue:
    """JSON of a setting, its secrets replaced wherever they occur."""
    match value:
        case SecretStr():
            return REDACTED
        case BaseModel():
            return {name: _plain(item, secrets) for name, item in _stated(value)}
        case Mapping():
            return {str(name): _plain(item, secrets) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item, secrets) for item in value]
        case None | bool() | int() | float():
            return value
    text = str(value)
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


def _stated(section: BaseModel) -> Iterator[tuple[str, Any]]:
    """What was set in a section, by the names that the file uses."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if name in section.model_fields_set and value is not None:
            yield field.alias or name, _masked(value) if name in _HIDDEN else value


def _masked(value: Any) -> JsonValue:
    return REDACTED if isinstance(value, str) else [REDACTED] * len(value)


class _Schema:
    """The configuration's schema, made when somebody asks: it takes a while."""

    def __init__(self, context: Channel) -> None:
        self._context = context

    @cached_property
    def told(self) -> Json:
        made = datetime.fromtimestamp(self._context.started_at / 1000, UTC)
        return {
            "schema": Document.model_json_schema(by_alias=True),
            "uiHints": {},
            "version": self._context.version,
            "generatedAt": made.isoformat(timespec="milliseconds"),
        }
