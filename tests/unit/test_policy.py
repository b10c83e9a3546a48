"""Which tools an agent may use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import ToolPolicyConfig
from app.tools.policy import GROUPS, PROFILES, build_policy

TOOLS = sorted({*(name for group in GROUPS.values() for name in group), "weather"})
NOTHING = ToolPolicyConfig()


def permitted(everyone: ToolPolicyConfig = NOTHING, agent: ToolPolicyConfig = NOTHING) -> set[str]:
    policy = build_policy(everyone, agent)
    return {name for name in TOOLS if policy.permits(name)}


def config(**fields: object) -> ToolPolicyConfig:
    return ToolPolicyConfig.model_validate(fields)


SESSIONS = {"sessions_list", "sessions_history", "sessions_send", "sessions_spawn", "session_status"}
FILES = {"read", "write", "edit", "apply_patch"}


@pytest.mark.parametrize(
    ("everyone", "agent", "expected"),
    [
        ({}, {}, {"session_status", "read"}),
        ({"profile": "minimal"}, {}, {"session_status"}),
        ({"profile": "full"}, {}, set(TOOLS)),
        ({"profile": "full"}, {"profile": "minimal"}, {"session_status"}),
        ({"profile": "minimal"}, {"profile": "full"}, set(TOOLS)),
        ({"profile": "full"}, {"deny": ["group:fs"]}, set(TOOLS) - FILES),
        ({"profile": "full", "deny": ["exec"]}, {}, set(TOOLS) - {"exec"}),
        ({"profile": "full", "deny": ["exec"]}, {"allow": ["exec", "read"]}, {"read"}),
        ({"profile": "full"}, {"allow": ["sess*"]}, SESSIONS),
        ({"profile": "full"}, {"allow": ["*"], "deny": ["*"]}, set()),
        ({"profile": "full"}, {"deny": ["*_*"]}, {"read", "write", "edit", "exec", "process", "weather"}),
        ({"profile": "minimal"}, {"allow": ["exec"]}, set()),
        ({"profile": "minimal"}, {"alsoAllow": ["exec"]}, {"session_status", "exec"}),
        ({"profile": "coding", "allow": ["group:fs"]}, {"allow": ["read", "exec"]}, {"read"}),
        ({}, {"allow": ["weather"]}, {"weather"}),
        ({}, {"alsoAllow": ["weather"]}, {"session_status", "read", "weather"}),
        ({}, {"deny": ["read"]}, {"session_status"}),
        ({}, {"allow": ["BASH", " Apply-Patch "]}, {"exec", "apply_patch"}),
        ({}, {"allow": ["group:fs"], "deny": ["write", "edit"]}, {"read", "apply_patch"}),
        ({"profile": "full"}, {"allow": ["group:unknown"]}, set()),
    ],
)
def test_profile_allow_deny_groups_and_wildcards(
    everyone: dict[str, object], agent: dict[str, object], expected: set[str]
) -> None:
    assert permitted(config(**everyone), config(**agent)) == expected


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_allows_its_tools_and_no_others(profile: str) -> None:
    expected = set(TOOLS) if profile == "full" else set(PROFILES[profile])

    assert permitted(config(profile=profile)) == expected & set(TOOLS)


def test_without_a_profile_an_agent_looks_but_does_not_touch() -> None:
    assert permitted().isdisjoint({"exec", "process", "write", "edit", "apply_patch"})


def test_the_case_of_a_name_changes_nothing() -> None:
    policy = build_policy(config(profile="full", deny=["EXEC"]), NOTHING)

    assert not policy.permits("exec")
    assert not policy.permits("Exec")
    assert policy.permits("READ")


def test_a_pattern_without_a_star_is_a_name() -> None:
    policy = build_policy(config(profile="full", deny=["rea?", "[e]xec"]), NOTHING)

    assert policy.permits("read")
    assert policy.permits("exec")


NAMES = st.sampled_from([*TOOLS, *GROUPS, "*", "sess*", "*_search", "BASH", "unknown"])
SECTIONS = st.builds(
    ToolPolicyConfig,
    profile=st.none() | st.sampled_from(sorted(PROFILES)),
    allow=st.none() | st.lists(NAMES, max_size=3).map(tuple),
    deny=st.lists(NAMES, max_size=3).map(tuple),
    also_allow=st.lists(NAMES, max_size=2).map(tuple),
)


@given(SECTIONS, SECTIONS)
def test_what_anybody_denies_stays_denied(everyone: ToolPolicyConfig, agent: ToolPolicyConfig) -> None:
    denied = {name.lower() for name in (*everyone.deny, *agent.deny)} & set(TOOLS)

    assert permitted(everyone, agent).isdisjoint(denied)


@given(SECTIONS, SECTIONS, NAMES)
def test_denying_more_never_permits_more(
    everyone: ToolPolicyConfig, agent: ToolPolicyConfig, name: str
) -> None:
    stricter = agent.model_copy(update={"deny": (*agent.deny, name)})

    assert permitted(everyone, stricter) <= permitted(everyone, agent)
