"""`${NAME}` in the values of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .problems import key_path

_REFERENCE = re.compile(r"(\$?)\$\{([A-Z_][A-Z0-9_]*)\}")
_SECRET_KEYS = {"token", "password", "apiKey"}
_SECRET_SECTIONS = frozenset({"apiKeys", "env", "headers"})
_Steps = tuple[str | int, ...]


def known_values(document: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """What `${NAME}` can stand for: ``env``, and where it has nothing, the section `env`."""
    section = document.get("env")
    written = section if isinstance(section, dict) else {}
    inner = written.get("vars")
    fallback = {**written, **(inner if isinstance(inner, dict) else {})}
    texts = {name: value for name, value in fallback.items() if isinstance(value, str)}
    return {**texts, **{name: value for name, value in env.items() if value}}


@dataclass(frozen=True)
class Substitution:
    """Replaces references, once: what a value contains is not looked at again.

    A name without a value is a problem in a secret; elsewhere it stays as it is, with a
    warning.
    """

    values: Mapping[str, str]
    problems: list[str]
    warnings: list[str]

    def apply(self, value: Any, steps: _Steps = ()) -> Any:
        """``value`` with every reference replaced; the section `env` is taken literally."""
        if isinstance(value, str):
            return _REFERENCE.sub(lambda found: self._resolve(found, steps), value)
        if isinstance(value, list):
            return [self.apply(item, (*steps, index)) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if _is_secret(steps) and value.get("source") == "env" and isinstance(value.get("id"), str):
            return self.apply(f"${{{value['id']}}}", steps)
        return {
            key: item if (*steps, key) == ("env",) else self.apply(item, (*steps, key))
            for key, item in value.items()
        }

    def _resolve(self, found: re.Match[str], steps: _Steps) -> str:
        escape, name = found.groups()
        if escape:
            return found[0][1:]
        if value := self.values.get(name):
            return value
        report = self.problems if _is_secret(steps) else self.warnings
        report.append(f"{key_path(steps)}: the environment variable {name} is not set or is empty")
        return found[0]


def _is_secret(steps: _Steps) -> bool:
    return bool(steps) and (steps[-1] in _SECRET_KEYS or not _SECRET_SECTIONS.isdisjoint(steps[:-1]))
