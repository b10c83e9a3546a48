"""What clients are told of the configuration: everything that was set, but no secret."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.channels.ws.methods.settings import REDACTED, snapshot
from app.config import Config, load_config

ENV = {"OPENCLAW_STATE_DIR": "/nowhere"}
SECRETS = {
    name: f"secret-of-the-{name}"
    for name in ("token", "key", "spare", "header", "search", "skill", "server", "path", "argument")
}
DOCUMENT = {
    "gateway": {"auth": {"token": SECRETS["token"]}, "port": 20_000},
    "agents": {"list": [{"id": "main", "name": f"Knows {SECRETS['key']}"}]},
    "models": {
        "providers": {
            "p": {
                "baseUrl": f"https://api.example.com/{SECRETS['key']}",
                "apiKey": SECRETS["key"],
                "apiKeys": [SECRETS["spare"]],
                "headers": {"x-key": SECRETS["header"]},
                "models": [{"id": "m"}],
            }
        }
    },
    "tools": {"web": {"search": {"provider": "brave", "apiKey": SECRETS["search"]}}},
    "skills": {"entries": {"weather": {"env": {"KEY": SECRETS["skill"]}}}},
    "mcp": {
        "servers": {
            "far": {"url": f"https://mcp.example.com/{SECRETS['path']}", "headers": {"a": SECRETS["server"]}},
            "near": {"command": "server", "args": ["--key", SECRETS["argument"]]},
        }
    },
}


def config(document: dict[str, Any]) -> Config:
    return load_config(document, ENV)


def test_no_secret_is_told_wherever_it_stands() -> None:
    told = json.dumps(snapshot(config(DOCUMENT)))

    assert {name: secret for name, secret in SECRETS.items() if secret in told} == {}


def test_what_was_set_is_told_by_the_names_of_the_file() -> None:
    told: Any = snapshot(config(DOCUMENT))["config"]

    assert told["gateway"]["port"] == 20_000
    assert told["gateway"]["auth"]["token"] == REDACTED
    assert told["models"]["providers"]["p"]["apiKeys"] == [REDACTED]
    assert told["models"]["providers"]["p"]["baseUrl"] == f"https://api.example.com/{REDACTED}"
    assert told["agents"]["list"] == [{"id": "main", "name": f"Knows {REDACTED}"}]
    assert told["mcp"]["servers"]["near"] == {"command": "server", "args": [REDACTED, REDACTED]}


def test_the_text_says_the_same_as_the_values() -> None:
    told: Any = snapshot(config(DOCUMENT))

    assert json.loads(told["raw"]) == told["config"] == told["parsed"]
    assert (told["valid"], told["exists"], told["issues"]) == (True, False, [])


@given(st.integers(1, 65_535), st.integers(1, 65_535))
def test_the_hash_tells_one_configuration_from_another(one: int, other: int) -> None:
    def hash_of(port: int) -> object:
        auth = {"auth": {"token": "a-token-of-tests"}, "port": port}
        return snapshot(config({"gateway": auth}))["hash"]

    assert (hash_of(one) == hash_of(other)) == (one == other)
