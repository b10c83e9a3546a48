"""Which agent and which session a request means."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.models import Candidate
from app.agents.registry import Agent, AgentRegistry, is_agent_id
from app.agents.skills import Skills, SkillSettings
from app.channels.openai.routing import CHANNEL_HEADER, MODEL_HEADER, Route, choosable, choose_route
from app.config import AgentToolsConfig, ToolsConfig
from app.errors import AgentNotFound, InvalidRequest
from app.messages import SamplingParams
from app.providers.base import CallTimeouts, ModelInfo, Provider
from app.tools.policy import build_policy

POLICY = build_policy(ToolsConfig(), AgentToolsConfig())


def agent(agent_id: str) -> Agent:
    skills = Skills((), SkillSettings())
    return Agent(agent_id, agent_id, Path("unused"), (), SamplingParams(), POLICY, skills, 600, 5)


AGENTS = AgentRegistry({name: agent(name) for name in ("ops", "beta", "main")}, "ops", "main")
ID, OLD, KEY = "x-openclaw-agent-id", "x-openclaw-agent", "x-openclaw-session-key"


def route(
    headers: dict[str, str] | None = None,
    model: str = "openclaw",
    user: str | None = None,
    *,
    strict: bool = False,
) -> Route:
    return choose_route(headers or {}, model, user, AGENTS, strict_model=strict, fresh_id="f-1")


@pytest.mark.parametrize(
    ("headers", "model", "expected"),
    [
        ({}, "openclaw", "ops"),
        ({}, "", "ops"),
        ({}, " OpenClaw ", "ops"),
        ({}, "openclaw/default", "ops"),
        ({}, "gpt-4o", "ops"),
        ({}, "anthropic/claude", "ops"),
        ({}, "agent/beta", "ops"),
        ({}, "xopenclaw:beta", "ops"),
        ({}, "openclaw:beta", "beta"),
        ({}, "openclaw/beta", "beta"),
        ({}, "agent:beta", "beta"),
        ({}, "OpenClaw/Beta", "beta"),
        ({}, "AGENT:BETA", "beta"),
        ({}, "openclaw:main", "main"),
        ({ID: "beta"}, "openclaw", "beta"),
        ({ID: " Beta "}, "openclaw", "beta"),
        ({ID: "beta"}, "openclaw:main", "beta"),
        ({ID: "beta"}, "gpt-4o", "beta"),
        ({ID: "beta"}, "openclaw:nope", "beta"),
        ({OLD: "beta"}, "openclaw:main", "beta"),
        ({ID: "main", OLD: "beta"}, "openclaw", "main"),
        ({ID: "  ", OLD: "beta"}, "openclaw", "beta"),
        ({ID: ""}, "openclaw:beta", "beta"),
    ],
)
def test_the_header_goes_before_the_model_and_the_model_before_the_default(
    headers: dict[str, str], model: str, expected: str
) -> None:
    assert route(headers, model).agent_id == expected


@pytest.mark.parametrize(
    ("headers", "model", "param"),
    [
        ({}, "openclaw:nope", "model"),
        ({}, "openclaw:", "model"),
        ({}, "openclaw/bad id!", "model"),
        ({}, "agent:be\u212aa", "model"),
        ({}, "openclaw:beta\nx", "model"),
        ({ID: "nope"}, "openclaw:beta", ID),
        ({ID: "Be ta!"}, "openclaw", ID),
        ({ID: "../beta"}, "openclaw", ID),
        ({OLD: "nope"}, "openclaw", OLD),
    ],
)
def test_an_agent_that_is_not_configured_is_not_found(
    headers: dict[str, str], model: str, param: str
) -> None:
    with pytest.raises(AgentNotFound) as caught:
        route(headers, model)

    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", param)


@pytest.mark.parametrize("model", ["gpt-4o", "agent/beta", "anthropic/claude"])
def test_a_strict_gateway_knows_only_agents(model: str) -> None:
    with pytest.raises(AgentNotFound):
        route({}, model, strict=True)

    assert route({}, "openclaw:beta", strict=True).agent_id == "beta"
    assert route({}, "openclaw", strict=True).agent_id == "ops"
    assert route({ID: "beta"}, model, strict=True).agent_id == "beta"


@pytest.mark.parametrize(
    ("headers", "model", "user", "expected"),
    [
        ({}, "openclaw", None, Route("ops", "agent:ops:openai:f-1", ephemeral=True)),
        ({}, "openclaw:beta", None, Route("beta", "agent:beta:openai:f-1", ephemeral=True)),
        ({}, "openclaw", "Alice Smith", Route("ops", "agent:ops:openai-user:alice smith", ephemeral=False)),
        ({ID: "beta"}, "openclaw", "a:b", Route("beta", "agent:beta:openai-user:a:b", ephemeral=False)),
        ({KEY: "MyKey"}, "openclaw", None, Route("ops", "MyKey", ephemeral=False)),
        ({KEY: " MyKey "}, "openclaw:beta", "alice", Route("beta", "MyKey", ephemeral=False)),
        ({KEY: "  "}, "openclaw", "alice", Route("ops", "agent:ops:openai-user:alice", ephemeral=False)),
        ({KEY: "agent:beta:Zz"}, "openclaw", None, Route("beta", "agent:beta:Zz", ephemeral=False)),
        ({KEY: "AGENT:Beta:Zz"}, "gpt-4o", None, Route("beta", "agent:beta:Zz", ephemeral=False)),
        ({KEY: "agent:beta:z"}, "openclaw:beta", None, Route("beta", "agent:beta:z", ephemeral=False)),
        ({KEY: "agent:ops:main"}, "openclaw", None, Route("ops", "agent:ops:main", ephemeral=False)),
        ({KEY: "Grüße".encode().decode("latin-1")}, "openclaw", None, Route("ops", "Grüße", ephemeral=False)),
    ],
)
def test_the_session_is_named_by_header_then_by_user_and_else_is_fresh(
    headers: dict[str, str], model: str, user: str | None, expected: Route
) -> None:
    assert route(headers, model, user) == expected


@pytest.mark.parametrize(
    ("headers", "model"),
    [
        ({KEY: "agent:beta:z"}, "openclaw:main"),
        ({KEY: "agent:beta:z", ID: "main"}, "openclaw"),
        ({KEY: "agent:nope:z"}, "openclaw"),
        ({KEY: "agent:beta"}, "openclaw"),
        ({KEY: "subagent:z"}, "openclaw"),
        ({KEY: "agent:beta:CRON:z"}, "openclaw"),
        ({KEY: "a\x07b"}, "openclaw"),
        ({KEY: "x" * 513}, "openclaw"),
        ({KEY: "\xff"}, "openclaw"),
    ],
)
def test_a_session_key_that_cannot_be_used_is_refused(headers: dict[str, str], model: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        route(headers, model)

    assert caught.value.param == KEY


def test_an_unusable_user_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        route(user="a\nb")

    assert caught.value.param == "user"


@pytest.mark.parametrize("text", ["a", "0", "a-b_c", "A" * 64])
def test_agent_ids(text: str) -> None:
    assert is_agent_id(text)


@pytest.mark.parametrize("text", ["", "-a", "_a", "a b", "a\n", "a" * 65, "\u212a", "é", "a.b", "a/b", "İ"])
def test_what_is_no_agent_id(text: str) -> None:
    assert not is_agent_id(text)


HEADER_TEXT = st.text(st.characters(max_codepoint=255), max_size=20)


@given(
    st.dictionaries(
        st.sampled_from([ID, OLD, KEY, MODEL_HEADER, CHANNEL_HEADER]),
        HEADER_TEXT | st.just("agent:beta:x"),
        max_size=3,
    ),
    st.text(max_size=20) | st.sampled_from(["openclaw:", "agent:beta", "openclaw/main"]),
    st.none() | st.text(min_size=1, max_size=20),
    st.booleans(),
)
def test_any_request_goes_to_a_configured_agent_or_is_refused(
    headers: dict[str, str], model: str, user: str | None, strict: bool
) -> None:
    with suppress(AgentNotFound, InvalidRequest):
        chosen = route(headers, model, user, strict=strict)
        assert chosen.agent_id in AGENTS
        assert chosen.session_key.strip()


# the model and the channel that a client names


class NoModels(Provider):
    id = "own"

    def info(self, model: str) -> ModelInfo:
        return ModelInfo()


def with_model(*, models: tuple[str, ...] = (), **headers: str) -> Route:
    own = replace(agent("ops"), candidates=(Candidate(NoModels(), "m", CallTimeouts()),))
    agents = AgentRegistry({"ops": own}, "ops", "main")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return choose_route(
        named, "openclaw", None, agents, strict_model=False, fresh_id="f", models=choosable(models)
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("openai/gpt-5", "openai/gpt-5"),
        (" OpenAI/GPT-5 ", "openai/GPT-5"),
        ("openrouter/anthropic/claude", "openrouter/anthropic/claude"),
        ("", None),
        ("  ", None),
    ],
)
def test_a_header_names_the_model_that_answers(value: str, expected: str | None) -> None:
    assert with_model(x_openclaw_model=value).model == expected
    assert with_model().model is None


@pytest.mark.parametrize("value", ["gpt-5", "/gpt-5", "openai/", "/", "a/b\x01", "a/" + "b" * 255])
def test_what_names_no_model_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_model(x_openclaw_model=value)

    assert (caught.value.param, caught.value.code) == ("x-openclaw-model", "invalid_value")


def test_only_models_on_the_list_and_the_agents_own_may_be_chosen() -> None:
    listed = ("OpenAI/gpt-5", "other/x")

    assert with_model(models=listed, x_openclaw_model="openai/gpt-5").model == "openai/gpt-5"
    assert with_model(models=listed, x_openclaw_model="own/m").model == "own/m"
    with pytest.raises(InvalidRequest) as caught:
        with_model(models=listed, x_openclaw_model="openai/gpt-6")
    assert (caught.value.param, caught.value.code) == ("x-openclaw-model", "model_not_allowed")


@pytest.mark.parametrize(
    ("value", "expected"), [("Telegram", "telegram"), (" my-app_2 ", "my-app_2"), ("", "")]
)
def test_a_header_names_the_channel_that_a_message_came_over(value: str, expected: str) -> None:
    assert with_model(x_openclaw_message_channel=value).message_channel == expected


@pytest.mark.parametrize("value", ["a b", "a/b", "-a", "ä", "x" * 65, "a\nb", "ſ"])
def test_a_channel_with_an_improper_name_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_model(x_openclaw_message_channel=value)

    assert caught.value.param == "x-openclaw-message-channel"
