"""Session keys of the WebSocket protocol: any form in, the full form out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.registry import AgentRegistry
from app.channels.ws.keys import agent_of, canonical, find
from app.channels.ws.protocol import Refusal
from app.config import load_config
from app.runtime import check_agents
from app.sessions.sql import open_store
from app.sessions.store import Store


def registry(main: str = "main") -> AgentRegistry:
    document = {
        "gateway": {"auth": {"token": "a-token-of-tests"}},
        "agents": {"list": [{"id": "kilo"}, {"id": "beta", "default": True}]},
        "session": {"mainKey": main},
    }
    env = {"OPENCLAW_STATE_DIR": "/nowhere"}
    return check_agents(load_config(document, env), env)


AGENTS = registry()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("", "agent:beta:main"),
        ("  ", "agent:beta:main"),
        ("main", "agent:beta:main"),
        (" Main ", "agent:beta:main"),
        ("tui-1", "agent:beta:tui-1"),
        ("acp:12-AB", "agent:beta:acp:12-ab"),
        ("agent:kilo:Work", "agent:kilo:work"),
        ("Agent:KILO:a:b", "agent:kilo:a:b"),
        ("agent:kilo", "agent:kilo:main"),
        ("agent:kilo:", "agent:kilo:main"),
        ("agents", "agent:beta:agents"),
    ],
)
def test_a_key_of_any_form_has_one_full_form(written: str, full: str) -> None:
    assert canonical(written, AGENTS) == full


def test_main_is_whatever_the_configuration_calls_it() -> None:
    assert canonical("main", registry("home")) == "agent:beta:home"
    assert canonical("agent:kilo:main", registry("home")) == "agent:kilo:home"


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40))
def test_the_full_form_of_a_full_form_is_itself(written: str) -> None:
    try:
        full = canonical(written, AGENTS)
    except Refusal:
        return
    assert canonical(full, AGENTS) == full


@pytest.mark.parametrize(
    "key", ["agent:nobody:x", "agent:", "agent", "agent::x", "a\nb", "\ud800", "x" * 513]
)
def test_a_key_that_can_belong_to_nobody_is_refused(key: str) -> None:
    with pytest.raises(Refusal, match="invalid session key"):
        canonical(key, AGENTS)


def test_a_session_that_another_channel_has_named_is_found_by_that_name(store: Store) -> None:
    for key in ("Shop", "agent:kilo:Work", "archived:1:x"):
        store.create(key, f"id of {key}", "kilo", 1)

    assert [find(key, AGENTS, store) for key in ("Shop", "agent:kilo:Work", "archived:1:x")] == [
        "Shop",
        "agent:kilo:Work",
        "archived:1:x",
    ]
    assert find("shop", AGENTS, store) == "agent:beta:shop"


def test_main_is_never_the_name_of_another_channels_session(store: Store) -> None:
    store.create("main", "s", "kilo", 1)

    assert find("main", AGENTS, store) == "agent:beta:main"


@pytest.mark.parametrize(
    ("key", "agent"), [("agent:kilo:x", "kilo"), ("agent:gone:x", "beta"), ("shop", "beta")]
)
def test_a_key_tells_its_agent(key: str, agent: str) -> None:
    assert agent_of(key, AGENTS) == agent
