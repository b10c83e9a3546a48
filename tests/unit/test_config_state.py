"""Which engines keep the state: the file, the environment, a platform's variables, and a host's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.config import load_config
from app.errors import ConfigError
from app.factory import create_app
from app.runtime import secrets_of

OURS, FILES, PLATFORMS = (f"postgres://bob:sesame-{n}@db-{n}.example:5432/chats" for n in range(3))
REDIS = "rediss://:sesame-redis@cache.example:6379/0"


def loaded(document: dict[str, Any] | None = None, *, platform: bool = False, **env: str) -> Any:
    state = {} if document is None else {"state": document}
    auth = {"gateway": {"auth": {"token": "a-token-of-tests"}}}
    return load_config(auth | state, {"HOME": "/nowhere", **env}, platform_env=platform)


def test_without_any_the_store_is_in_the_state_directory() -> None:
    config = loaded(OPENCLAW_STATE_DIR="/somewhere", DATABASE_URL="", OPENCLAW_DATABASE_URL=" ")

    assert config.store_place == Path("/somewhere")
    assert (config.state.database, config.state.redis) == ("", "")


@pytest.mark.parametrize(
    ("ours", "file", "platform", "expected"),
    [
        (OURS, FILES, PLATFORMS, OURS),
        ("", FILES, PLATFORMS, FILES),
        ("", None, PLATFORMS, PLATFORMS),
        (OURS, None, "", OURS),
    ],
)
def test_our_own_variable_wins_over_the_file_and_that_over_the_platforms(
    ours: str, file: str | None, platform: str, expected: str
) -> None:
    env = {"OPENCLAW_DATABASE_URL": ours, "DATABASE_URL": platform}

    assert loaded({"databaseUrl": file} if file else {}, platform=True, **env).store_place == expected


def test_a_hosts_variables_are_not_ours() -> None:
    theirs = {"DATABASE_URL": PLATFORMS, "REDIS_URL": REDIS}

    assert isinstance(loaded(**theirs).store_place, Path)
    assert loaded(**theirs).state.redis == ""
    config = loaded(**theirs, OPENCLAW_DATABASE_URL=OURS, OPENCLAW_REDIS_URL="redis://other")
    assert (config.state.database, config.state.redis) == (OURS, "redis://other")


def test_a_key_of_the_file_may_come_from_a_variable_of_any_name() -> None:
    assert loaded({"databaseUrl": "${CHATS}"}, CHATS=OURS).store_place == OURS


@pytest.mark.parametrize("url", [OURS, OURS.replace("postgres:", "postgresql:"), "postgresql:///chats"])
def test_every_spelling_of_postgres_is_understood(url: str) -> None:
    assert loaded({"databaseUrl": url}).store_place == url


@pytest.mark.parametrize(
    ("name", "url", "key"),
    [
        ("OPENCLAW_DATABASE_URL", "mysql://bob:sesame-0@host/x", "state.databaseUrl"),
        ("OPENCLAW_DATABASE_URL", "sesame-0", "state.databaseUrl"),
        ("DATABASE_URL", "postgres://bob:sesame-0@host:port/x", "state.databaseUrl"),
        ("REDIS_URL", "http://:sesame-0@host", "state.redisUrl"),
        ("OPENCLAW_REDIS_URL", "undefined", "state.redisUrl"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_by_its_variable_and_never_shown(
    name: str, url: str, key: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(platform=True, **{name: url})

    assert f"{key} ({name}): " in str(refused.value)
    assert "sesame-0" not in str(refused.value)


def test_the_addresses_are_secrets() -> None:
    config = loaded({"databaseUrl": OURS, "redisUrl": REDIS})

    assert "sesame" not in repr(config)
    assert {OURS, REDIS, "sesame-0", "sesame-redis"} <= set(secrets_of(config, {}))


def test_the_stand_alone_application_listens_to_its_platform(tmp_path: Path) -> None:
    env = {"OPENCLAW_STATE_DIR": str(tmp_path), "DATABASE_URL": "mysql://nothing", "HOME": str(tmp_path)}

    with pytest.raises(ConfigError, match="DATABASE_URL"):
        create_app({"gateway": {"auth": {"token": "a-token-of-tests"}}}, env=env)
