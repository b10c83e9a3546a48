"""Which tools an agent may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.config import AgentToolsConfig, ToolPolicyConfig, ToolsConfig
from app.tools.policy import BUILT_IN, GROUPS, PROFILES, ToolPolicy, build_policy, unknown_names

TOOLS = sorted({*(name for group in GROUPS.values() for name in group), "weather"})
NOTHING: dict[str, object] = {}


def policy_of(everyone: Mapping[str, object] = NOTHING, agent: Mapping[str, object] = NOTHING) -> ToolPolicy:
    return build_policy(ToolsConfig.model_validate(everyone), AgentToolsConfig.model_validate(agent))


def permitted(
    everyone: Mapping[str, object] = NOTHING, agent: Mapping[str, object] = NOTHING, **call: str
) -> set[str]:
    policy = policy_of(everyone, agent)
    return {name for name in TOOLS if policy.permits(name, **call)}


SESSIONS = {"sessions_list", "sessions_history", "sessions_send", "sessions_spawn", "session_status"}
FILES = {"read", "write", "edit", "apply_patch", "ls", "grep", "find"}
LOOKING = {"session_status", "read", "ls", "grep", "find"}


@pytest.mark.parametrize(
    ("everyone", "agent", "expected"),
    [
        ({}, {}, LOOKING),
        ({"profile": "minimal"}, {}, {"session_status"}),
        ({"profile": "full"}, {}, set(TOOLS)),
        ({"profile": "full"}, {"profile": "minimal"}, {"session_status"}),
        ({"profile": "minimal"}, {"profile": "full"}, set(TOOLS)),
        ({"profile": "full"}, {"deny": ["group:fs"]}, set(TOOLS) - FILES),
        ({"profile": "full", "deny": ["exec"]}, {}, set(TOOLS) - {"exec"}),
        ({"profile": "full", "deny": ["exec"]}, {"allow": ["exec", "read"]}, {"read"}),
        ({"profile": "full"}, {"allow": ["sess*"]}, SESSIONS),
        ({"profile": "full"}, {"allow": ["*"], "deny": ["*"]}, set()),
        ({"profile": "full"}, {"deny": ["*_*"]}, {name for name in TOOLS if "_" not in name}),
        ({"profile": "minimal"}, {"allow": ["exec"]}, set()),
        ({"profile": "minimal"}, {"alsoAllow": ["exec"]}, {"session_status", "exec"}),
        ({"profile": "coding", "allow": ["group:fs"]}, {"allow": ["read", "exec"]}, {"read"}),
        ({}, {"allow": ["weather"]}, {"weather"}),
        ({}, {"alsoAllow": ["weather"]}, LOOKING | {"weather"}),
        ({}, {"deny": ["read"]}, LOOKING - {"read"}),
        ({}, {"allow": ["BASH", " Apply-Patch "]}, {"exec", "apply_patch"}),
        ({}, {"allow": ["group:fs"], "deny": ["write", "edit"]}, FILES - {"write", "edit"}),
        ({"profile": "full"}, {"allow": ["group:unknown"]}, set()),
    ],
)
def test_profile_allow_deny_groups_and_wildcards(
    everyone: dict[str, object], agent: dict[str, object], expected: set[str]
) -> None:
    assert permitted(everyone, agent) == expected


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_allows_its_tools_and_no_others(profile: str) -> None:
    expected = set(TOOLS) if profile == "full" else set(PROFILES[profile])

    assert permitted({"profile": profile}) == expected & set(TOOLS)


def test_without_a_profile_an_agent_looks_but_does_not_touch() -> None:
    assert permitted().isdisjoint({"exec", "process", "write", "edit", "apply_patch"})


def test_the_case_of_a_name_changes_nothing() -> None:
    policy = policy_of({"profile": "full", "deny": ["EXEC"]})

    assert not policy.permits("exec")
    assert not policy.permits("Exec")
    assert policy.permits("READ")


def test_a_pattern_without_a_star_is_a_name() -> None:
    policy = policy_of({"profile": "full", "deny": ["rea?", "[e]xec"]})

    assert policy.permits("read")
    assert policy.permits("exec")


NAMES = st.sampled_from([*TOOLS, *GROUPS, "*", "sess*", "*_search", "BASH", "unknown"])
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "profile": st.sampled_from(sorted(PROFILES)),
        "allow": st.lists(NAMES, max_size=3),
        "deny": st.lists(NAMES, max_size=3),
        "alsoAllow": st.lists(NAMES, max_size=2),
    },
)


@given(SECTIONS, SECTIONS)
def test_what_anybody_denies_stays_denied(everyone: dict[str, Any], agent: dict[str, Any]) -> None:
    denied = {name.lower() for name in (*everyone.get("deny", ()), *agent.get("deny", ()))} & set(TOOLS)

    assert permitted(everyone, agent).isdisjoint(denied)


@given(SECTIONS, SECTIONS, NAMES)
def test_denying_more_never_permits_more(everyone: dict[str, Any], agent: dict[str, Any], name: str) -> None:
    stricter = {**agent, "deny": [*agent.get("deny", ()), name]}

    assert permitted(everyone, stricter) <= permitted(everyone, agent)


@given(SECTIONS, SECTIONS, SECTIONS)
def test_rules_for_a_provider_or_a_channel_only_narrow(
    everyone: dict[str, Any], agent: dict[str, Any], narrower: dict[str, Any]
) -> None:
    plain = permitted(everyone, agent)
    sections = {**everyone, "byProvider": {"acme": narrower}, "byChannel": {"openai": narrower}}

    assert permitted(sections, agent) == plain
    assert permitted(sections, agent, model_ref="acme/m-1") <= plain
    assert permitted(sections, agent, channel="openai") <= plain


def test_a_provider_or_one_of_its_models_can_have_rules_of_its_own() -> None:
    everyone = {
        "profile": "coding",
        "byProvider": {"Acme": {"deny": ["exec"]}, "other/Small": {"profile": "minimal"}},
    }

    assert "exec" not in permitted(everyone, model_ref="acme/m")
    assert "exec" in permitted(everyone, model_ref="other/large")
    assert permitted(everyone, model_ref="other/small") == {"session_status"}


@given(
    denied=st.sets(st.sampled_from(TOOLS)),
    channels=st.frozensets(st.sampled_from(["openai", "cli", "telegram"]), min_size=1),
    names=st.lists(st.sampled_from(TOOLS), unique=True).map(tuple),
)
def test_tools_permitted_together_are_those_permitted_one_by_one_on_every_channel(
    denied: set[str], channels: frozenset[str], names: tuple[str, ...]
) -> None:
    by_channel = {"openai": {"deny": ["exec"]}, "telegram": {"deny": ["group:fs"]}}
    policy = policy_of({"profile": "full", "deny": sorted(denied), "byChannel": by_channel})
    expected = {name for name in names if all(policy.permits(name, channel=one) for one in channels)}

    assert policy.permitted(names, channels=channels) == expected
    assert policy.permitted(names, channels=channels) == expected  # from memory


def test_channels_that_clients_make_up_change_nothing_for_others() -> None:
    policy = policy_of({"profile": "full", "byChannel": {"telegram": {"deny": ["exec"]}}})
    for number in range(600):
        assert policy.permitted(("exec",), channels=frozenset({f"made-up-{number}"})) == {"exec"}
    assert policy.permitted(("exec", "read"), channels=frozenset({"openai", "telegram"})) == {"read"}


def test_a_channel_can_have_rules_of_its_own() -> None:
    everyone = {"profile": "coding", "byChannel": {"openai": {"deny": ["group:runtime"]}}}

    assert "exec" not in permitted(everyone, channel="openai")
    assert "exec" in permitted(everyone, channel="cli")


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ({}, True),
        ({"profile": "coding"}, True),
        ({"profile": "full"}, True),
        ({"profile": "minimal"}, False),
        ({"profile": "messaging"}, False),
        ({"deny": ["clock__*"]}, False),
        ({"allow": ["read"]}, False),
    ],
)
def test_tools_that_the_operator_brought_along_are_there_unless_the_policy_says_no(
    agent: dict[str, Any], expected: bool
) -> None:
    policy = build_policy(ToolsConfig(), AgentToolsConfig.model_validate(agent), ["clock__*"])

    assert policy.permits("clock__now") is expected


def test_a_tool_of_the_operators_own_opens_no_other_tool_whatever_its_name_is() -> None:
    policy = build_policy(ToolsConfig(), AgentToolsConfig(), ["Bash", "group:runtime"])

    assert policy.permits("bash")
    assert not policy.permits("exec")
    assert not policy.permits("process")


def test_a_tool_that_is_really_called_like_an_alias_can_be_denied() -> None:
    policy = build_policy(ToolsConfig(profile="full"), AgentToolsConfig(deny=("bash",)), ["bash"])

    assert not policy.permits("bash")
    assert not policy.permits("exec")


def test_a_profile_for_one_provider_means_the_same_tools_as_the_profile_of_an_agent() -> None:
    everyone = ToolsConfig.model_validate(
        {"profile": "full", "byProvider": {"acme": {"profile": "coding"}, "small": {"profile": "minimal"}}}
    )
    policy = build_policy(everyone, AgentToolsConfig(), ["clock__*"])

    assert policy.permits("clock__now", model_ref="acme/m")
    assert not policy.permits("clock__now", model_ref="small/m")


def test_a_channel_with_an_improper_name_is_refused() -> None:
    with pytest.raises(ValidationError):
        ToolsConfig.model_validate({"byChannel": {"a channel": {"deny": ["exec"]}}})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("read", None),
        ("READ ", None),
        ("group:fs", None),
        ("group:openclaw", None),
        ("bash", None),
        ("browser", None),
        ("*", None),
        ("sess*", None),
        ("clock__now", None),
        ("clock__*", None),
        ("clo*", None),
        ("*__now", None),
        ("wether", 'deny: there is no tool "wether"; did you mean "weather"?'),
        ("group:runtimes", 'deny: there is no tool "group:runtimes"; did you mean "group:runtime"?'),
        ("zzz*", 'deny: there is no tool "zzz*"'),
        ("rea?", 'deny: there is no tool "rea?"; did you mean "read"?'),
        ("bash*", 'deny: there is no tool "bash*"; did you mean "bash"?'),
        ("group:*", 'deny: there is no tool "group:*"; did you mean "group:ui"?'),
    ],
)
def test_a_name_that_is_no_tool_is_reported(name: str, problem: str | None) -> None:
    found = list(unknown_names(ToolPolicyConfig(deny=(name,)), {*BUILT_IN, "weather", "clock__*"}))

    assert found == ([problem] if problem else [])
