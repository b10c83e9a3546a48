"""Which tools an agent may use. Asked when tools are listed and again when one is called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ..config import AgentToolsConfig, ToolPolicyConfig, ToolsConfig

GROUPS: Mapping[str, frozenset[str]] = {
    "group:fs": frozenset({"read", "write", "edit", "apply_patch", "ls", "grep", "find"}),
    "group:runtime": frozenset({"exec", "process"}),
    "group:sessions": frozenset(
        {"sessions_list", "sessions_history", "sessions_send", "sessions_spawn", "session_status"}
    ),
    "group:memory": frozenset({"memory_search", "memory_get"}),
    "group:web": frozenset({"web_search", "web_fetch"}),
    # Tools of OpenClaw that this gateway does not have: a file may name them.
    "group:automation": frozenset({"cron", "gateway"}),
    "group:messaging": frozenset({"message"}),
    "group:ui": frozenset({"browser", "canvas"}),
    "group:nodes": frozenset({"nodes"}),
    "group:media": frozenset({"image", "image_generate", "music_generate", "pdf", "tts", "video_generate"}),
    "group:agents": frozenset({"agents_list"}),
}
_OPENCLAW = "group:openclaw"  # all of them but those that touch files and programs
_FOREIGN = frozenset({"code_execution", "subagents", "sessions_yield", "update_plan", "x_search"})

BUILT_IN = frozenset(
    name
    for group in ("group:fs", "group:runtime", "group:sessions", "group:memory", "group:web")
    for name in GROUPS[group]
)

PROFILES: Mapping[str, frozenset[str]] = {
    "minimal": frozenset({"session_status"}),
    "messaging": frozenset({"session_status", "sessions_list", "sessions_history", "sessions_send"}),
    "coding": BUILT_IN,
    "full": frozenset({"*"}),
}

# Without a profile an agent looks but does not touch: a bearer token must not be a shell.
_DEFAULT = frozenset({"session_status", "read", "ls", "grep", "find"})

_REMEMBERED = 4_096
_REMEMBERED_SETS = 256
_ANY_CHANNEL = frozenset({""})

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
    """All rules that apply to one agent, outermost first.

    :ivar by_provider: further rules for calls that a certain provider, or model, asked for.
    :ivar by_channel: further rules for runs that came in on a certain channel.
    """

    rules: tuple[Rule, ...]
    by_provider: tuple[tuple[str, tuple[Rule, ...]], ...] = ()
    by_channel: tuple[tuple[str, tuple[Rule, ...]], ...] = ()
    # Asked for each model call, and always the same. A race costs one more look.
    _known: dict[tuple[str, str, str], bool] = field(default_factory=dict, compare=False, repr=False)
    _sets: dict[tuple[tuple[str, ...], str, frozenset[str]], frozenset[str]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def permits(self, name: str, *, model_ref: str = "", channel: str = "") -> bool:
        """True if every rule lets the tool through.

        :param model_ref: ``provider/model`` that asks; "" leaves out the rules by provider.
        :param channel: where the run came from; "" leaves out the rules by channel.
        """
        asked = (name, model_ref, channel)
        permitted = self._known.get(asked)
        if permitted is None:
            rules = self._rules(model_ref.lower(), channel.lower())
            permitted = all(rule.permits(name.lower()) for rule in rules)
            if len(self._known) >= _REMEMBERED:  # models make names up
                self._known.clear()
            self._known[asked] = permitted
        return permitted

    def permitted(
        self, names: tuple[str, ...], *, model_ref: str = "", channels: frozenset[str] = _ANY_CHANNEL
    ) -> frozenset[str]:
        """Those of ``names`` that every rule lets through, for each of the ``channels``."""
        asked = (names, model_ref, channels)
        permitted = self._sets.get(asked)
        if permitted is None:
            permitted = frozenset(
                name
                for name in names
                if all(self.permits(name, model_ref=model_ref, channel=channel) for channel in channels)
            )
            if len(self._sets) >= _REMEMBERED_SETS:  # clients make channels up
                self._sets.clear()
            self._sets[asked] = permitted
        return permitted

    def _rules(self, model_ref: str, channel: str) -> Iterator[Rule]:
        yield from self.rules
        names = {model_ref, model_ref.partition("/")[0]}
        for name, rules in self.by_provider:
            if name in names:
                yield from rules
        for name, rules in self.by_channel:
            if name == channel:
                yield from rules


def build_policy(everyone: ToolsConfig, agent: AgentToolsConfig, added: Iterable[str] = ()) -> ToolPolicy:
    """The policy of an agent from the global ``tools`` section and its own.

    :param added: names or patterns of tools that the operator brought along, in code or from
        MCP servers. Bringing them is opting in, but for the two profiles that say it all.
    """
    brought = frozenset(name.lower() for name in added)
    profile = agent.profile or everyone.profile
    base = _members_of(profile, brought)
    extra = _expand((*everyone.also_allow, *agent.also_allow))
    if profile is None:
        # Naming a tool is opting in: without a profile an allow list states the set itself.
        extra |= _expand((*(everyone.allow or ()), *(agent.allow or ())))
    return ToolPolicy(
        rules=(Rule(base | extra, frozenset()), _rule(everyone), _rule(agent)),
        by_provider=_named((*everyone.by_provider.items(), *agent.by_provider.items()), brought),
        by_channel=_named(everyone.by_channel.items(), brought),
    )


def unknown_names(config: ToolPolicyConfig, known: Collection[str]) -> Iterator[str]:
    """A sentence for each name in a policy that is no tool, group or pattern of known ones.

    :param known: all tools there are; a name that ends in ``*`` stands for whatever may come.
    """
    tools = {*known, *_FOREIGN, *(name for group in GROUPS.values() for name in group)}
    words = {*tools, *_ALIASES, *GROUPS, _OPENCLAW}
    for key, names in (
        ("allow", config.allow or ()),
        ("deny", config.deny),
        ("alsoAllow", config.also_allow),
    ):
        for name in names:
            lowered = name.strip().lower()
            if not (lowered in words or _may_mean(lowered, tools)):
                close = get_close_matches(lowered, [word for word in words if "*" not in word], 1)
                yield f'{key}: there is no tool "{name}"' + (f'; did you mean "{close[0]}"?' if close else "")


def _may_mean(pattern: str, tools: Collection[str]) -> bool:
    """True if ``pattern`` matches one of the tools, or one that a name ending in ``*`` stands for."""
    beginning, star, _ = pattern.partition("*")
    return any(
        fnmatchcase(pattern, tool) or (star and tool.startswith(beginning))
        if tool.endswith("*")
        else star and fnmatchcase(tool, pattern)
        for tool in tools
    )


def _members_of(profile: str | None, brought: frozenset[str]) -> frozenset[str]:
    """What a profile, or none, leaves; ``brought`` are the operator's own tools."""
    members = PROFILES[profile] if profile else _DEFAULT
    return members | brought if profile in {None, "coding"} else members


def _named(
    policies: Iterable[tuple[str, ToolPolicyConfig]], brought: frozenset[str]
) -> tuple[tuple[str, tuple[Rule, ...]], ...]:
    return tuple((name, _rules(policy, brought)) for name, policy in policies)


def _rules(config: ToolPolicyConfig, brought: frozenset[str]) -> tuple[Rule, ...]:
    """A policy that narrows another one: its profile is one more limit."""
    if config.profile is None:
        return (_rule(config),)
    members = _members_of(config.profile, brought)
    return (Rule(members | _expand(config.also_allow), frozenset()), _rule(config))


def _rule(config: ToolPolicyConfig) -> Rule:
    allow = _expand((*config.allow, *config.also_allow)) if config.allow else None
    return Rule(allow, _expand(config.deny))


def _expand(names: Iterable[str]) -> frozenset[str]:
    expanded: set[str] = set()
    for name in names:
        lowered = name.strip().lower()
        expanded |= _members(lowered)
    return frozenset(expanded)


def _members(name: str) -> frozenset[str]:
    if name == _OPENCLAW:
        return BUILT_IN - GROUPS["group:fs"] - GROUPS["group:runtime"]
    # Under its own name, too: a host application may have registered a tool called "bash".
    return GROUPS.get(name, frozenset({name, _ALIASES.get(name, name)}))


def _matches(name: str, patterns: frozenset[str] | set[str]) -> bool:
    return name in patterns or any(fnmatchcase(name, pattern) for pattern in patterns if "*" in pattern)
