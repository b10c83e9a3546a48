import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.sessions.keys import (
    MAX_KEY_LENGTH,
    ExplicitKey,
    fresh_key,
    main_key,
    parse_explicit_key,
    session_id_key,
    user_key,
)

AGENTS = {"main", "beta"}


def test_the_main_key_ends_in_main_unless_told_otherwise():
    assert main_key("beta") == "agent:beta:main"
    assert main_key("beta", "home") == "agent:beta:home"


def test_users_that_differ_by_case_and_outer_space_share_a_session():
    assert user_key("main", "  Alice Smith ") == "agent:main:openai-user:alice smith"
    assert user_key("main", "alice smith") == user_key("main", "ALICE SMITH\n")


@pytest.mark.parametrize("user", ["", "   ", "a\x00b", "a\nb", "x" * (MAX_KEY_LENGTH + 1), "\ud800"])
def test_an_unusable_user_is_refused_by_name(user):
    with pytest.raises(InvalidRequest) as refused:
        user_key("main", user)

    assert refused.value.param == "user"


def test_a_fresh_key_holds_the_uuid():
    assert fresh_key("main", "c6fa190d") == "agent:main:openai:c6fa190d"


def test_a_session_id_is_lower_cased_into_its_key():
    assert session_id_key("main", "My-Chat_1.a") == "agent:main:explicit:my-chat_1.a"


@pytest.mark.parametrize("session_id", ["", "../etc", "a/b", "a b", "ä", "a\n", "x" * 129])
def test_a_session_id_that_could_be_a_path_is_refused(session_id):
    with pytest.raises(InvalidRequest):
        session_id_key("main", session_id)


def test_a_session_id_of_128_characters_is_fine():
    assert session_id_key("main", "x" * 128).endswith("x" * 128)


@pytest.mark.parametrize(
    ("raw", "key", "agent_id"),
    [
        (" MyKey ", "MyKey", None),
        ("main", "main", None),
        ("agent", "agent", None),
        ("a:b:c", "a:b:c", None),
        ("acpx:1", "acpx:1", None),
        ("agent:beta:foo", "agent:beta:foo", "beta"),
        ("agent:beta:a:b", "agent:beta:a:b", "beta"),
        ("AGENT:Beta:Foo", "agent:beta:Foo", "beta"),
        ("agent:main:openai-user:alice smith", "agent:main:openai-user:alice smith", "main"),
        ("x" * MAX_KEY_LENGTH, "x" * MAX_KEY_LENGTH, None),
    ],
)
def test_an_explicit_key_is_taken_as_it_is(raw, key, agent_id):
    assert parse_explicit_key(raw, AGENTS) == ExplicitKey(key, agent_id)


@pytest.mark.parametrize("prefix", ["", "agent:main:", "Agent:BETA:", "agent:nope:", "agent:main: "])
@pytest.mark.parametrize(
    "namespace", ["subagent:", "cron:", "acp:", "hook:", "archived:", "SubAgent:", "CRON:"]
)
def test_a_reserved_namespace_is_refused(prefix, namespace):
    with pytest.raises(InvalidRequest, match="reserved internal session namespaces"):
        parse_explicit_key(f"{prefix}{namespace}1", AGENTS)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "  ",
        "agent:",
        "agent:main",
        "agent:main:",
        "agent:main: ",
        "agent:nope:x",
        "agent::x",
        "a\tb",
        "a\x7f",
    ],
)
def test_a_malformed_explicit_key_is_refused_by_name(raw):
    with pytest.raises(InvalidRequest) as refused:
        parse_explicit_key(raw, AGENTS)

    assert refused.value.param == "x-openclaw-session-key"


def test_an_explicit_key_over_the_limit_is_refused():
    with pytest.raises(InvalidRequest, match="512"):
        parse_explicit_key("x" * (MAX_KEY_LENGTH + 1), AGENTS)


@given(st.one_of(st.text(), st.text().map("agent:main:{}".format)))
def test_a_key_that_passes_once_passes_unchanged_again(raw):
    try:
        first = parse_explicit_key(raw, AGENTS)
    except InvalidRequest:
        return

    assert parse_explicit_key(first.key, AGENTS) == first
