from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.config import Config, config_path, load_config, state_dir
from app.config.includes import merge
from app.config.json5 import InvalidJson5, parse
from app.config.schema import served_keys
from app.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
TOKEN = "t0p-s3cret-token"
AUTH = {"auth": {"token": TOKEN}}


def load(source: Any = None, **env: str) -> Config:
    return load_config(source if source is not None else {}, env, require_auth=False)


def problems_of(source: Any, **env: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(source, **env)
    return caught.value.problems


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# Where the configuration comes from


def test_the_state_directory_is_below_home_unless_the_environment_names_another() -> None:
    assert state_dir({"HOME": "/home/ann"}) == Path("/home/ann/.openclaw")
    assert state_dir({"HOME": "/home/ann", "OPENCLAW_STATE_DIR": "~/claw"}) == Path("/home/ann/claw")
    assert config_path({"HOME": "/home/ann"}) == Path("/home/ann/.openclaw/openclaw.json")
    assert config_path({"OPENCLAW_CONFIG_PATH": "/etc/claw.json"}) == Path("/etc/claw.json")


def test_a_file_is_found_through_the_state_directory(tmp_path: Path) -> None:
    path = write(tmp_path, "openclaw.json", "{ gateway: { port: 4000 } } // comment")

    config = load_config(None, {"OPENCLAW_STATE_DIR": str(tmp_path)}, require_auth=False)

    assert (config.gateway.port, config.path, config.state_dir) == (4000, path, tmp_path)


def test_the_config_path_wins_over_the_state_directory(tmp_path: Path) -> None:
    write(tmp_path, "openclaw.json", "{ gateway: { port: 4000 } }")
    other = write(tmp_path, "other.json", "{ gateway: { port: 5000 } }")

    env = {"OPENCLAW_STATE_DIR": str(tmp_path), "OPENCLAW_CONFIG_PATH": str(other)}

    assert load_config(None, env, require_auth=False).gateway.port == 5000


def test_a_missing_file_means_defaults(tmp_path: Path) -> None:
    config = load_config(None, {"OPENCLAW_STATE_DIR": str(tmp_path)}, require_auth=False)

    assert (config.path, config.gateway.port, config.agents.default_id) == (None, 18789, "main")
    assert config.warnings == ()


def test_a_named_file_that_is_missing_is_a_warning_from_the_environment_and_an_error_from_the_host(
    tmp_path: Path,
) -> None:
    path = tmp_path / "none.json"

    config = load_config(None, {"OPENCLAW_CONFIG_PATH": str(path)}, require_auth=False)

    assert [w for w in config.warnings if "does not exist" in w]
    assert "no such file" in problems_of(path)[0]


def test_a_host_may_pass_a_mapping_and_keeps_it_unchanged() -> None:
    source = {"agents": {"list": ({"id": "Ops"},)}, "tools": {"deny": ["exec"]}}
    before = repr(source)

    config = load(source)

    assert config.agents.items[0].id == "ops"
    assert config.tools.deny == ("exec",)
    assert repr(source) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("{ a: 1 b: 2 }", "line 1, column 8; is a comma missing"),
        ("{\n\n  gateway: ]}", "unexpected ']' at line 3, column 12"),
        ("{ gateway: { port: 1e999 } }", "not a number, or too large a one, at line 1, column 20"),
        ("{ gateway: {", "ends too early; see what opens at line 1, column 12"),
        ("{} {}", "more text after the value that ends at line 1, column 2"),
        ("[" * 200, "nested too deeply"),
        ("[1]", "must be an object"),
        ("{ tools: {},\n // tools: {}\n 'tools': {} }", "'tools' is given twice; see line 3, column 9"),
        (r"{ a: [{ b: 1 }, { b: '}' }], a: 1 }", "'a' is given twice"),
    ],
)
def test_a_damaged_file_is_refused_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "openclaw.json", text)

    assert message in problems_of(path)[0]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",))), st.text(st.characters(exclude_categories=("Cs",)))
    )
)
def test_what_json_says_is_what_json5_reads(value: dict[str, str]) -> None:
    assert parse(json.dumps(value)) == value


@settings(deadline=None)
@given(st.text("{}[]:,'\"\\/*\n\r abu0123.$\ud800é", max_size=30))
def test_any_text_is_json5_or_is_refused_with_its_place(text: str) -> None:
    try:
        parse(text)
    except InvalidJson5 as error:
        refusal = str(error)
    else:
        refusal = "line 1, column 1"
    assert "line " in refusal or refusal.startswith("the file is empty")


@pytest.mark.parametrize("name", ["/loop", "/nul\0byte"])
def test_an_include_that_cannot_be_a_file_is_a_problem(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    assert "cannot be read" in problems_of({"tools": {"$include": f"{tmp_path}{name}"}})[0]


def test_an_error_in_a_file_quotes_none_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, "c.json", f'{{ gateway: {{ auth: {{ token: "{TOKEN}" "x" }} }} }}')

    with pytest.raises(ConfigError) as caught:
        load(path)

    assert TOKEN not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(b"\xff\xfe{}")

    assert "not UTF-8" in problems_of(path)[0]


# Defaults and types


def test_the_defaults() -> None:
    config = load({})

    assert (config.gateway.host, config.gateway.is_loopback) == ("127.0.0.1", True)
    assert config.gateway.auth.rate_limit.lockout_ms == 300_000
    assert config.gateway.http.max_body_bytes == 20 * 2**20
    assert not config.gateway.http.endpoints.chat_completions.enabled
    assert config.agents.defaults.max_concurrent == 64
    assert config.agents.items[0].model is None
    assert config.session.main_key == "main"


def test_a_snapshot_cannot_be_changed() -> None:
    config = load({})

    with pytest.raises(FrozenInstanceError):
        config.path = Path("x")  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.gateway.port = 1


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ({"gateway": {"port": "18789"}}, "gateway.port: must be a whole number"),
        ({"gateway": {"port": True}}, "gateway.port: must be a whole number"),
        ({"gateway": {"port": 70000}}, "gateway.port: must be less than or equal to 65535"),
        ({"gateway": []}, "gateway: must be an object"),
        ({"agents": {"list": [{}]}}, "agents.list[0].id: is required"),
        ({"agents": {"list": [{"id": "-x"}]}}, "agents.list[0].id: must be 1 to 64"),
        ({"agents": {"list": [{"id": "a\n"}]}}, "agents.list[0].id: must be 1 to 64"),
        ({"agents": {"list": [{"id": "ä"}]}}, "agents.list[0].id: must be 1 to 64"),
        ({"agents": {"entries": {"a b": {}}}}, "agents.entries['a b']: must be 1 to 64"),
        (
            {"agents": {"list": [{"id": "A"}, {"id": "a"}]}},
            'agents: list has the same id more than once: "a"',
        ),
        ({"agents": {"entries": {"A": {}, "a": {}}}}, "agents.entries: names that differ only in"),
        ({"agents": {"list": [{"id": "a"}], "entries": {"b": {}}}}, "agents: give the agents in list or"),
        ({"agents": {"defaults": {"model": "gpt"}}}, 'agents.defaults.model.primary: must look like "prov'),
        ({"agents": {"defaults": {"timeoutSeconds": float("inf")}}}, "agents.defaults.timeoutSeconds: must"),
        ({"agents": {"defaults": {"thinkingDefault": "on"}}}, "agents.defaults.thinkingDefault: must be"),
        ({"agents": {"defaults": {"maxPending": 0}}}, "agents.defaults.maxPending: must be greater"),
        ({"agents": {"defaults": {"maxPendingPerSession": 0}}}, "agents.defaults.maxPendingPerSession: must"),
        ({"agents": {"defaults": {"params": {"topP": 2}}}}, "agents.defaults.params.topP: must be less"),
        ({"tools": {"allow": "exec"}}, "tools.allow: must be a list"),
        ({"models": {"providers": {"x": {"baseUrl": "ftp://x"}}}}, "models.providers.x.baseUrl: must be an"),
        (
            {"models": {"providers": {"x": {"baseUrl": "http://a:b@x"}}}},
            "models.providers.x.baseUrl: must not",
        ),
        (
            {"models": {"providers": {"x": {"slots": 3}}}},
            'models.providers.x: slots: only with api "embedded"',
        ),
        ({"gateway": {"trustedProxies": ["10.0.0.1/8"]}}, "gateway.trustedProxies[0]: must be an IP address"),
        (
            {"gateway": {"controlUi": {"allowedOrigins": ["ui.example"]}}},
            "gateway.controlUi.allowedOrigins[0]: must be like",
        ),
        ({"gateway": {"trustedProxies": [7]}}, "gateway.trustedProxies[0]: must be text like"),
        ({"gateway": {"bind": "custom"}}, 'gateway: bind "custom" needs customBindHost'),
        ({"gateway": {"bind": "custom", "customBindHost": "::x"}}, "gateway.customBindHost: must be an IP"),
        ({"gateway": {"auth": {"token": {"source": "exec", "id": "x"}}}}, "gateway.auth.token: must be text"),
        (
            {"gateway": {"http": {"max_body_bytes": 5}}},
            "gateway.http.max_body_bytes: unknown key; did you mean",
        ),
        ({"env": {"A": 1}}, "env.A: must be text"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(source: dict[str, Any], line: str) -> None:
    problems = problems_of(source)

    assert len(problems) == 1
    assert problems[0].startswith(line)


def test_of_very_many_mistakes_some_are_told_and_the_others_counted() -> None:
    told = problems_of({f"k{number}": 1 for number in range(5_000)})
    assert told[0] == "k0: unknown key"
    assert told[100:] == ("4900 more mistakes",)


def test_ten_mistakes_are_ten_problems_in_one_error(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "openclaw.json",
        """{
          gateway: { port: "1", bind: "lann", chatCompletions: {}, auth: { token: "${NO_TOKEN}" } },
          agents: {
            defaults: { timeoutSecs: 1, model: "x" },
            list: [{ id: "main", modle: "x/y" }, { id: "b!" }],
          },
          models: { providers: { openai: { apiKey: "null" } } },
          chanels: {},
        }""",
    )

    with pytest.raises(ConfigError) as caught:
        load_config(path, {})

    assert sorted(caught.value.problems) == [
        'agents.defaults.model.primary: must look like "provider/model"',
        'agents.defaults.timeoutSecs: unknown key; did you mean "timeoutSeconds"?',
        'agents.list[0].modle: unknown key; did you mean "model"?',
        'agents.list[1].id: must be 1 to 64 of a-z, 0-9, "_" and "-", and start with a letter or digit',
        'chanels: unknown key; did you mean "channels"?',
        "gateway.auth.token: the environment variable NO_TOKEN is not set or is empty",
        "gateway.bind: must be 'loopback', 'lan', 'auto' or 'custom'",
        "gateway.chatCompletions: unknown key; did you mean gateway.http.endpoints.chatCompletions?",
        "gateway.port: must be a whole number",
        'models.providers.openai.apiKey: must be a real secret, not blank, "undefined" or "null"',
    ]
    assert str(caught.value).count("\n") == 10
    assert str(path) in str(caught.value)


# The gateway


@pytest.mark.parametrize(
    ("gateway", "host", "loopback"),
    [
        ({"bind": "loopback"}, "127.0.0.1", True),
        ({"bind": "auto"}, "127.0.0.1", True),
        ({"bind": "lan"}, "0.0.0.0", False),
        ({"bind": "custom", "customBindHost": "::1"}, "::1", True),
        ({"bind": "custom", "customBindHost": "192.168.1.4"}, "192.168.1.4", False),
    ],
)
def test_bind_chooses_the_address(gateway: dict[str, str], host: str, loopback: bool) -> None:
    config = load({"gateway": gateway})

    assert (config.gateway.host, config.gateway.is_loopback) == (host, loopback)


@pytest.mark.parametrize(
    ("auth", "env", "mode", "secret"),
    [
        ({}, {"OPENCLAW_GATEWAY_TOKEN": "from-env"}, "token", "from-env"),
        ({"token": "from-file"}, {"OPENCLAW_GATEWAY_TOKEN": "from-env"}, "token", "from-file"),
        ({"token": None}, {"OPENCLAW_GATEWAY_TOKEN": " from-env\n"}, "token", "from-env"),
        ({}, {"OPENCLAW_GATEWAY_PASSWORD": "pw"}, "password", "pw"),
        ({"token": "t"}, {"OPENCLAW_GATEWAY_PASSWORD": "pw"}, "password", "pw"),
        ({"mode": "token", "token": "t", "password": "pw"}, {}, "token", "t"),
        ({"mode": "none", "token": "t"}, {}, "none", ""),
        ({"token": {"source": "env", "provider": "default", "id": "T"}}, {"T": "by-ref"}, "token", "by-ref"),
    ],
)
def test_the_secret_comes_from_the_file_and_else_from_the_environment(
    auth: dict[str, Any], env: dict[str, str], mode: str, secret: str
) -> None:
    config = load_config({"gateway": {"auth": auth}}, env)

    assert (config.gateway.auth.mode, config.gateway.auth.secret) == (mode, secret)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ({}, "set gateway.auth.token or OPENCLAW_GATEWAY_TOKEN, or run `openclaw init`"),
        ({"gateway": {"auth": {"mode": "password", "token": "t"}}}, "OPENCLAW_GATEWAY_PASSWORD"),
    ],
)
def test_a_mode_without_its_secret_is_refused_with_advice(source: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(advice)):
        load_config(source, {"OPENCLAW_GATEWAY_TOKEN": " "})

    assert load_config(source, {}, require_auth=False).gateway.auth.mode != "none"


@pytest.mark.parametrize("secret", ["", "  ", "undefined", "NULL", "two\nlines"])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    source = {
        "gateway": {"auth": {"token": secret}},
        "models": {"providers": {"x": {"headers": {"k": secret}}}},
    }

    problems = problems_of(source)

    assert [p.partition(":")[0] for p in problems] == ["gateway.auth.token", "models.providers.x.headers.k"]


def test_an_open_gateway_stays_on_this_machine_unless_the_operator_insists() -> None:
    open_lan = {"bind": "lan", "auth": {"mode": "none"}}

    assert 'auth.mode "none" would let everyone in' in problems_of({"gateway": open_lan})[0]
    assert load_config({"gateway": {"auth": {"mode": "none"}}}, {}).gateway.auth.secret == ""
    insisting = {**open_lan, "auth": {"mode": "none", "allowOpenNetwork": True}}
    assert load_config({"gateway": insisting}, {}).gateway.host == "0.0.0.0"


def test_trusted_proxies_are_addresses_and_networks() -> None:
    config = load({"gateway": {"trustedProxies": ["10.0.0.1", "192.168.0.0/16", "fd00::/8"]}})

    expected = tuple(ip_network(text) for text in ("10.0.0.1/32", "192.168.0.0/16", "fd00::/8"))
    assert config.gateway.trusted_proxies == expected


# Agents and models


def test_list_and_entries_give_the_same_agents() -> None:
    listed = load({"agents": {"list": [{"id": "Main"}, {"id": "ops", "default": True, "model": "p/m/x"}]}})
    keyed = load({"agents": {"entries": {"Main": {}, "ops": {"default": True, "model": "p/m/x"}}}})

    assert listed.agents.items == keyed.agents.items
    assert keyed.agents.default_id == "ops"
    model = keyed.agents.items[1].model
    assert model is not None
    assert (model.primary, model.fallbacks) == ("p/m/x", None)


def test_a_model_may_name_its_fallbacks() -> None:
    config = load({"agents": {"defaults": {"model": {"fallbacks": []}, "params": {"stop": "END"}}}})

    model = config.agents.defaults.model
    assert model is not None
    assert (model.primary, model.fallbacks) == (None, ())
    assert config.agents.defaults.params.stop == ("END",)


def test_a_provider_is_read_with_its_models() -> None:
    config = load(
        {
            "models": {
                "providers": {
                    "Local": {
                        "baseUrl": "http://127.0.0.1:1/v1/",
                        "headers": {"x-key": "${K}"},
                        "models": [{"id": "M", "input": ["text", "image"], "maxTokens": 9}],
                        "compat": {"maxTokensField": "max_tokens"},
                    },
                    "built-in": {"api": "embedded", "slots": 4},
                }
            }
        },
        K="header-secret",
    )

    local = config.models.providers["local"]
    assert local.base_url == "http://127.0.0.1:1/v1"
    assert local.headers["x-key"].get_secret_value() == "header-secret"
    [model] = local.models
    assert (model.id, model.context_window, model.max_tokens) == ("M", None, 9)
    assert local.compat.max_tokens_field == "max_tokens"
    assert config.models.providers["built-in"].slots == 4


def test_a_provider_of_another_kind_is_ignored_with_a_warning_and_needs_no_key() -> None:
    config = load({"models": {"providers": {"local": {"api": "google-vertex", "apiKey": "${UNSET}"}}}})

    assert dict(config.models.providers) == {}
    assert config.warnings == (
        'models.providers.local: api "google-vertex" is not served yet; the provider is ignored',
    )
    assert problems_of({"models": {"providers": {"x": {"api": "openai-completion"}}}})


# Files of OpenClaw


def test_a_file_of_openclaw_loads_and_one_warning_names_what_is_not_served() -> None:
    config = load(
        {
            "$schema": "x",
            "meta": {"lastTouchedVersion": "2026.1.30"},
            "channels": {"telegram": {"botToken": "${TELEGRAM_TOKEN}"}},
            "plugins": {},
            "gateway": {
                "mode": "local",
                "controlUi": {"enabled": True, "allowedOrigins": ["https://ui.example:8443"]},
                "tailscale": {"mode": "off"},
                "auth": {"token": TOKEN, "allowTailscale": False},
                "http": {"endpoints": {"chatCompletions": {"enabled": True, "images": {}}}},
            },
            "agents": {
                "defaults": {
                    "compaction": {"mode": "safeguard"},
                    "models": {},
                    "skipBootstrap": True,
                    "userTimezone": "Europe/Berlin",
                    "workspace": "~/w",
                },
                "list": [{"id": "a", "identity": {"name": "A"}, "sandbox": {}}, {"id": "b", "identity": {}}],
            },
            "models": {
                "mode": "merge",
                "providers": {
                    "x": {
                        "models": [
                            {
                                "id": "m",
                                "name": "m",
                                "api": "x",
                                "reasoning": True,
                                "cost": {"input": 1, "tieredPricing": []},
                                "compat": {"supportsStore": False, "thinkingFormat": "x"},
                            }
                        ]
                    }
                },
            },
            "tools": {"exec": {"security": "full", "host": "gateway"}, "deny": ["exec"]},
            "session": {"dmScope": "main", "reset": {"mode": "daily"}},
        }
    )

    prefix, _, names = " ".join(config.warnings).partition(": ")
    assert prefix == "not served by this gateway and ignored"
    assert names.split(", ") == [
        "$schema",
        "agents.defaults.compaction.mode",
        "agents.defaults.skipBootstrap",
        "agents.list[].identity",
        "agents.list[].sandbox",
        "channels",
        "gateway.auth.allowTailscale",
        "gateway.controlUi.enabled",
        "gateway.mode",
        "gateway.tailscale",
        "meta",
        "models.mode",
        "models.providers.*.models[].api",
        "models.providers.*.models[].compat",
        "models.providers.*.models[].cost.tieredPricing",
        "models.providers.*.models[].name",
        "plugins",
        "session.dmScope",
        "tools.exec.host",
    ]
    assert config.gateway.http.endpoints.chat_completions.enabled
    assert config.gateway.control_ui.allowed_origins == ("https://ui.example:8443",)
    assert config.tools.deny == ("exec",)


# ${NAME}


def test_env_in_the_file_is_a_fallback_and_leaves_the_process_alone() -> None:
    source = {
        "env": {"A": "a-file", "B": "b-file", "LIT": "${A}", "vars": {"B": "b-vars"}},
        "agents": {"list": [{"id": "x", "name": "${A} ${B} ${LIT} $${A}"}]},
    }

    assert load(source).agents.items[0].name == "a-file b-vars ${A} ${A}"
    assert load(source, A="a-env", B="").agents.items[0].name == "a-env b-vars ${A} ${A}"


def test_an_unset_name_is_a_warning_outside_of_secrets() -> None:
    config = load({"agents": {"list": [{"id": "x", "workspace": "${NOPE}/w"}]}})

    assert config.agents.items[0].workspace == "${NOPE}/w"
    assert config.warnings == (
        "agents.list[0].workspace: the environment variable NOPE is not set or is empty",
    )


@pytest.mark.parametrize("key", ["apiKey", "headers"])
def test_an_unset_name_is_a_problem_in_a_secret(key: str) -> None:
    value = {"apiKey": "${NOPE}", "headers": {"X-Key": "Bearer ${NOPE}"}}[key]

    (problem,) = problems_of({"models": {"providers": {"p": {key: value}}}}, NOPE="")

    assert problem.startswith(f"models.providers.p.{key}")
    assert problem.endswith("the environment variable NOPE is not set or is empty")


NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
WORDS = st.text(st.characters(exclude_characters="$", exclude_categories=("Cs",)))


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, NAMES, st.booleans())), WORDS, st.dictionaries(NAMES, st.text(min_size=1)))
def test_references_are_replaced_once_and_everything_else_is_kept(
    pieces: list[tuple[str, str, bool]], tail: str, values: dict[str, str]
) -> None:
    written = "".join(f"{word}{'$' * escaped}${{{name}}}" for word, name, escaped in pieces) + tail
    expected = [
        word + (f"${{{name}}}" if escaped or name not in values else values[name])
        for word, name, escaped in pieces
    ]
    env = {name: value for name, value in values.items() if not name.startswith("OPENCLAW_")}

    config = load_config({"tools": {"deny": ["x" + written]}}, {"HOME": "/h", **env}, require_auth=False)

    assert config.tools.deny == ("x" + "".join(expected) + tail,)


# $include


def test_includes_are_relative_to_their_file_and_siblings_win(tmp_path: Path) -> None:
    write(tmp_path, "parts/gateway.json5", "{ port: 1, bind: 'lan', $include: './auth.json5' }")
    write(tmp_path, "parts/auth.json5", "{ auth: { token: 'abc' }, port: 2 }")
    main = write(tmp_path, "c.json", "{ gateway: { $include: 'parts/gateway.json5', bind: 'auto' } }")

    gateway = load(main).gateway

    assert (gateway.port, gateway.bind, gateway.auth.secret) == (1, "auto", "abc")


def test_several_includes_are_merged_in_order(tmp_path: Path) -> None:
    write(tmp_path, "a.json", "{ gateway: { port: 1, bind: 'lan' }, tools: { deny: ['a'] } }")
    write(tmp_path, "b.json", "{ gateway: { port: 2 }, tools: { deny: ['b'] } }")
    main = write(tmp_path, "c.json", "{ $include: ['a.json', 'b.json'], tools: { deny: ['c'] } }")

    config = load(main)

    assert (config.gateway.port, config.gateway.bind) == (2, "lan")
    assert config.tools.deny == ("a", "b", "c")


def test_a_list_can_be_included(tmp_path: Path) -> None:
    write(tmp_path, "agents.json", "[{ id: 'a' }, { id: 'b' }]")
    main = write(tmp_path, "c.json", "{ agents: { list: { $include: 'agents.json' } } }")

    assert [agent.id for agent in load(main).agents.items] == ["a", "b"]


def test_includes_that_go_round_are_reported_with_their_way(tmp_path: Path) -> None:
    main = write(tmp_path, "c.json", "{ $include: 'a.json' }")
    a = write(tmp_path, "a.json", "{ tools: { $include: 'b.json' } }")
    b = write(tmp_path, "b.json", "{ $include: './a.json' }")

    (problem,) = problems_of(main)

    assert f"{a} -> {b} -> {a}" in problem


def test_ten_levels_of_includes_are_read_and_eleven_are_not(tmp_path: Path) -> None:
    for level in range(1, 12):
        write(tmp_path, f"{level}.json", f"{{ $include: '{level + 1}.json' }}")
    write(tmp_path, "12.json", "{}")

    assert load(tmp_path / "2.json").path == tmp_path / "2.json"
    assert "nested more than 10 deep" in problems_of(tmp_path / "1.json")[0]


def test_every_unusable_include_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "broken.json", "{ a: }")
    write(tmp_path, "list.json", "[]")
    main = write(
        tmp_path,
        "c.json",
        """{
          tools: { $include: './zz.json' }, session: { $include: 'broken.json' },
          models: { $include: 'list.json', providers: {} }, agents: { $include: 7 },
        }""",
    )

    missing, broken, siblings, number = problems_of(main)

    assert missing.startswith(f"$include './zz.json' (resolved to {tmp_path / 'zz.json'}): cannot be read")
    assert broken.endswith("unexpected '}' at line 1, column 6")
    assert "must hold an object" in siblings
    assert number == "$include must be a file name or a list of file names"


def test_a_mapping_can_include_only_by_absolute_name(tmp_path: Path) -> None:
    part = write(tmp_path, "part.json", "{ port: 9 }")

    assert load({"gateway": {"$include": str(part)}}).gateway.port == 9
    assert "relative name" in problems_of({"gateway": {"$include": "part.json"}})[0]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
KEYS = st.text() | st.sampled_from(
    sorted({name.rpartition(".")[2].removesuffix("[]") for name in served_keys()})
)
JSONISH = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def outcome(source: dict[str, Any]) -> Config | ConfigError:
    try:
        return load_config(source, {"HOME": "/h"}, require_auth=False)
    except ConfigError as error:
        return error


@settings(deadline=None)
@given(st.dictionaries(KEYS | st.just("$include"), JSONISH, max_size=5))
def test_any_mapping_is_a_configuration_or_a_config_error(source: dict[str, Any]) -> None:
    result = outcome(source)

    assert result.problems if isinstance(result, ConfigError) else result.agents.items
    str(result).encode()


@settings(deadline=None, max_examples=30)
@given(value=JSONISH)
@pytest.mark.parametrize("place", [name for name in served_keys() if "*" not in name and "[" not in name])
def test_any_value_at_any_key_is_taken_or_refused(place: str, value: Any) -> None:
    source = value
    for key in reversed(place.split(".")):
        source = {key: source}

    result = outcome(source)

    assert result.problems if isinstance(result, ConfigError) else result.agents.items


@settings(deadline=None)
@given(JSONISH, JSONISH)
def test_what_is_laid_on_top_wins(base: Any, over: Any) -> None:
    if isinstance(base, dict) and isinstance(over, dict):
        assert merge(base, over).keys() == base.keys() | over.keys()  # type: ignore[attr-defined]
    elif not (isinstance(base, list) and isinstance(over, list)):
        assert merge(base, over) is over


def test_a_mapping_that_contains_itself_is_refused() -> None:
    source: dict[str, Any] = {}
    source["agents"] = source

    with pytest.raises(ConfigError, match="nested too deeply"):
        load(source)


# Secrets stay secret


def test_no_secret_is_shown_by_a_configuration_or_an_error() -> None:
    source: dict[str, Any] = {
        "env": {"KEY": TOKEN},
        "gateway": AUTH,
        "models": {"providers": {"x": {"apiKey": "${KEY}", "headers": {"a": TOKEN}}}},
    }
    config = load(source)
    assert config.gateway.auth.secret == TOKEN
    assert TOKEN not in f"{config!r} {config} {config.gateway!r} {config.models}"

    source["gateway"] = {"auth": {"token": [TOKEN], "mode": TOKEN}, "port": TOKEN, "bind": TOKEN}
    source["models"]["providers"]["x"] |= {"apiKey": TOKEN + "\n\n" + TOKEN, "baseUrl": f"http://{TOKEN}@h"}
    with pytest.raises(ConfigError) as caught:
        load(source)
    assert len(caught.value.problems) == 6
    assert TOKEN not in f"{caught.value!r} {caught.value} {caught.value.__context__!r}"


# The page


def documented() -> set[str]:
    rows = re.findall(
        r"^\| `([\w.<>*\[\]]+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    return {row.replace("<agent>", agent) for row in rows for agent in ("agents.list[]", "agents.entries.*")}


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert documented() == set(served_keys())


def test_the_documented_defaults_are_the_defaults() -> None:
    text = PAGE.read_text("utf-8")
    defaults = dict(re.findall(r"^\| `([\w.]+)` \| [^|]+ \| `([^`]+)` \|", text, re.MULTILINE))
    checked = 0
    for name, written in defaults.items():
        value: Any = load({}, HOME="/h")
        for key in name.split("."):
            value = getattr(value, re.sub(r"(?<=[a-z])([A-Z])", r"_\1", key).lower(), None)
        if isinstance(value, int | float | str):
            assert json.loads(written) == value, name
            checked += 1
    assert checked > 20


def test_the_example_of_the_page_loads_without_a_warning(tmp_path: Path) -> None:
    example = re.findall(r"```json5\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0]
    path = write(tmp_path, "openclaw.json", example)

    config = load_config(path, {"OPENCLAW_GATEWAY_TOKEN": "t", "OPENAI_API_KEY": "k", "HOME": "/h"})

    assert config.warnings == ()
    assert config.models.providers["local"].base_url == "http://127.0.0.1:11434/v1"
    assert config.agents.default_id == "main"
