"""Which tools an agent may use. Asked when tools are listed and again when one is called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..config import ToolPolicyConfig

GROUPS: dict[str, frozenset[str]] = {
    "group:fs": frozenset({"read", "write", "edit", "apply_patch"}),
    "group:runtime": frozenset({"exec", "process"}),
    "group:sessions": frozenset(
        {"sessions_list", "sessions_history", "sessions_send", "sessions_spawn", "session_status"}
    ),
    "group:memory": frozenset({"memory_search", "memory_get"}),
    "group:web": frozenset({"web_search", "web_fetch"}),
}

PROFILES: dict[str, frozenset[str]] = {
    "minimal": frozenset({"session_status"}),
    "messaging": frozenset({"session_status", "sessions_list", "sessions_history", "sessions_send"}),
    "coding": GROUPS["group:fs"]
    | GROUPS["group:runtime"]
    | GROUPS["group:sessions"]
    | GROUPS["group:memory"],
    "full": frozenset({"*"}),
}

# Without a profile an agent looks but does not touch: a bearer token must not be a shell.
_DEFAULT = frozenset({"session_status", "read"})

_ALIASES = {"bash": "exec", "apply-patch": "apply_patch"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One step of a policy; it only narrows what the steps before it left."""

    allow: frozenset[str] | None
    deny: frozenset[str]

    def permits(self, name: str) -> bool:
        """True if ``name`` passes; deny wins, no allow list allows everything."""
        if _matches(name, self.deny):
            return False
        return self.allow is None or _matches(name, self.allow)


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """All rules that apply to one agent, outermost first."""

    rules: tuple[Rule, ...]

    def permits(self, name: str) -> bool:
        """True if every rule lets the tool through."""
        lowered = name.lower()
        return all(rule.permits(lowered) for rule in self.rules)


def build_policy(everyone: ToolPolicyConfig, agent: ToolPolicyConfig) -> ToolPolicy:
    """The policy of an agent from the global ``tools`` section and its own."""
    profile = agent.profile or everyone.profile
    base = PROFILES[profile] if profile else _DEFAULT
    extra = _expand((*everyone.also_allow, *agent.also_allow))
    if profile is None:
        # Naming a tool is opting in: without a profile an allow list states the set itself.
        extra |= _expand((*(everyone.allow or ()), *(agent.allow or ())))
    return ToolPolicy((Rule(base | extra, frozenset()), _rule(everyone), _rule(agent)))


def _rule(config: ToolPolicyConfig) -> Rule:
    allow = _expand((*config.allow, *config.also_allow)) if config.allow else None
    return Rule(allow, _expand(config.deny))


def _expand(names: Iterable[str]) -> frozenset[str]:
    expanded: set[str] = set()
    for name in names:
        lowered = name.strip().lower()
        expanded |= GROUPS.get(lowered, frozenset({_ALIASES.get(lowered, lowered)}))
    return frozenset(expanded)


def _matches(name: str, patterns: frozenset[str]) -> bool:
    return name in patterns or any(fnmatchcase(name, pattern) for pattern in patterns if "*" in pattern)
