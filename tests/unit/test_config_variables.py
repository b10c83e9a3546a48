"""Settings by environment alone: the whole configuration in one variable, and a variable for every key."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import Config, load_config
from app.config.schema import Document, served_keys
from app.errors import ConfigError

HOME = {"HOME": "/h"}
SECRET = "hush-hush-0123456789"

# What a value may be is in the schema; these have rules of their own.
SAMPLES: dict[str, Any] = {
    "gateway.customBindHost": "10.0.0.7",
    "gateway.trustedProxies": ["10.0.0.0/8"],
    "gateway.controlUi.allowedOrigins": ["https://app.example"],
    "gateway.http.cors.allowedOrigins": ["https://app.example"],
    "userTimezone": "Europe/Rome",
    "embeddingModel": "lab/embedder",
    "primary": "lab/large",
    "fallbacks": ["lab/small"],
    "model": "lab/large",
    "baseUrl": "https://models.example/v1",
    "url": "https://tools.example/mcp",
    "token": SECRET,
    "password": SECRET,
    "apiKey": SECRET,
    "apiKeys": [SECRET],
    "headers": {"x-key": SECRET},
    "databaseUrl": "postgresql://gateway@db.example/openclaw",
    "pruneAfter": "30d",
    "resetArchiveRetention": "12h",
    "pruneRunsAfter": "26w",
    "redisUrl": "redis://bus.example:6379/0",
}
# Keys that are refused without others.
COMPANIONS: dict[str, dict[str, str]] = {
    "mcp.servers.*": {"OPENCLAW__MCP__SERVERS__NAME__COMMAND": "true"},
    "mcp.servers.*.url": {"OPENCLAW__MCP__SERVERS__NAME__COMMAND": ""},
    "models.providers.*.modelPath": {"OPENCLAW__MODELS__PROVIDERS__NAME__API": "embedded"},
    "models.providers.*.contextSize": {"OPENCLAW__MODELS__PROVIDERS__NAME__API": "embedded"},
    "models.providers.*.threads": {"OPENCLAW__MODELS__PROVIDERS__NAME__API": "embedded"},
    "models.providers.*.slots": {"OPENCLAW__MODELS__PROVIDERS__NAME__API": "embedded"},
    "models.providers.*.models[]": {"OPENCLAW__MODELS__PROVIDERS__NAME__MODELS__0__ID": "large"},
    "agents.list[]": {"OPENCLAW__AGENTS__LIST__0__ID": "one"},
    "agents.list[].id": {},
}


def load(env: dict[str, str], source: Any = None) -> Config:
    return load_config(source, HOME | {"OPENCLAW_STATE_DIR": "/nowhere"} | env, require_auth=False)


def problems(env: dict[str, str], source: Any = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(env, source)
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.__context__!r}"
    return caught.value.problems


def variable(key: str) -> str:
    """The variable of a key, with `name` as every name and the first item of every list."""
    words = key.replace("[]", ".0").replace("*", "NAME").split(".")
    return "__".join(["OPENCLAW", *(word.upper() for word in words)])


@cache
def whole_schema() -> dict[str, Any]:
    return Document.model_json_schema(by_alias=True)


@cache
def schema_of(key: str) -> dict[str, Any]:
    """The JSON schema of a key's value; ``mixed`` if it may be of several types."""
    whole = whole_schema()
    node: dict[str, Any] = whole

    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        while True:
            if "$ref" in schema:
                schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
            elif options := [s for s in schema.get("anyOf", []) if s.get("type") != "null"]:
                schema = options[0] | {"default": schema.get("default"), "mixed": len(options) > 1}
            else:
                return schema

    for word in key.replace("[]", ".[]").split("."):
        node = resolved(node)
        if word == "[]":
            node = node["items"]
        elif word == "*":
            node = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
        else:
            node = node["properties"][word]
    return resolved(node)


def sample(key: str) -> Any:
    """A value for a key that is right and not its default."""
    for name in (key, key.rpartition(".")[2]):
        if name in SAMPLES:
            return SAMPLES[name]
    schema = schema_of(key)
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != schema.get("default"))
    kind = schema.get("type", "object")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        return low if low != schema.get("default") else low + 1
    if kind == "array":
        items = schema["items"]
        return [items["enum"][0]] if "enum" in items else [] if "$ref" in items else ["sample"]
    return {"boolean": not schema.get("default"), "string": "sample"}.get(kind, {})


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def at(key: str, value: Any) -> Any:
    """A configuration that holds nothing but ``value`` at ``key``."""
    for word in reversed(key.replace("[]", ".[]").split(".")):
        value = [value] if word == "[]" else {"name" if word == "*" else word: value}
    return value


def companions(key: str) -> dict[str, str]:
    found = {}
    for prefix, env in COMPANIONS.items():
        if key == prefix or (key.startswith(f"{prefix}.") and not prefix.endswith("[].id")):
            found |= env
    return {name: text for name, text in found.items() if name != variable(key)}


def sections_of(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Document.model_fields if name != "env"}


@pytest.mark.parametrize("key", served_keys())
def test_every_key_of_the_schema_has_a_variable_that_sets_it(key: str) -> None:
    alone = companions(key)
    value = sample(key)

    config = load(alone | {variable(key): written(value)})

    said = json.loads(json.dumps(at(key, value)))
    if not alone:
        assert sections_of(config) == sections_of(load({}, said))
    if value not in ({}, []) and not key.startswith("env"):
        assert sections_of(config) != sections_of(load(alone))
    assert variable(key) in config.variables


SCALARS = ("boolean", "integer", "number", "string")
LEAVES = [
    key
    for key, schema in ((key, schema_of(key)) for key in served_keys())
    if schema.get("type") in SCALARS and not schema.get("mixed")
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), min_size=1)
JSON_VALUES = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


@settings(deadline=None, max_examples=150)
@given(key=st.sampled_from(LEAVES), value=JSON_VALUES)
def test_a_variable_says_what_the_file_would_say(key: str, value: Any) -> None:
    """Whatever the value: what one takes the other takes, and what one refuses the other refuses."""
    text = written(value)
    if schema_of(key)["type"] == "string":
        value = text  # where a text is wanted, `5` is one
    elif isinstance(value, str):
        return

    def outcome(env: dict[str, str], source: Any) -> Any:
        try:
            return sections_of(load(env, source))
        except ConfigError as error:
            return [re.sub(r" \(OPENCLAW\w+\)", "", problem) for problem in error.problems]

    assert outcome({variable(key): text}, {}) == outcome({}, at(key, value))


@settings(deadline=None)
@given(st.lists(st.sampled_from([*served_keys(), "no.such", "agents.list[].x"]), max_size=4), TEXTS)
def test_any_variable_with_any_text_is_taken_or_refused_by_name(keys: list[str], text: str) -> None:
    names = [variable(key) for key in keys]
    try:
        taken = load(dict.fromkeys(names, text)).variables
    except ConfigError as error:
        taken = error.problems
    assert taken or not names


def test_variables_win_over_the_whole_and_the_whole_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "openclaw.json"
    file.write_text('{ gateway: { port: 1001, bind: "lan" }, session: { mainKey: "file" } }')
    env = {"OPENCLAW_CONFIG_PATH": str(file)}
    assert load(env).gateway.port == 1001

    env["OPENCLAW_CONFIG_JSON"] = "{ gateway: { port: 1002 }, /* JSON5 */ }"
    config = load(env)
    assert (config.gateway.port, config.gateway.bind, config.session.main_key) == (1002, "loopback", "main")
    assert config.path is None
    assert config.warnings == (
        "OPENCLAW_CONFIG_JSON is the configuration; the file of OPENCLAW_CONFIG_PATH is not read",
    )

    env["OPENCLAW__GATEWAY__PORT"] = "1003"
    config = load(env)
    assert config.gateway.port == 1003
    assert config.variables == ("OPENCLAW_CONFIG_JSON", "OPENCLAW__GATEWAY__PORT")


def test_a_host_that_passes_its_configuration_keeps_it_but_for_single_keys() -> None:
    env = {"OPENCLAW_CONFIG_JSON": "{ gateway: { port: 1 } }", "OPENCLAW__SESSION__MAIN_KEY": "home"}
    config = load(env, {"gateway": {"port": 2}})
    assert (config.gateway.port, config.session.main_key) == (2, "home")
    assert config.variables == ("OPENCLAW__SESSION__MAIN_KEY",)


@pytest.mark.parametrize(
    "name",
    [
        "OPENCLAW__GATEWAY__AUTH__RATELIMIT__MAXATTEMPTS",
        "OPENCLAW__GATEWAY__AUTH__RATE_LIMIT__MAX_ATTEMPTS",
        "OPENCLAW__gateway__auth__rateLimit__maxAttempts",
    ],
)
def test_small_and_capital_letters_and_underscores_are_all_the_same(name: str) -> None:
    assert load({name: "3"}).gateway.auth.rate_limit.max_attempts == 3


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), (" TRUE ", True)])
def test_a_switch_may_be_written_as_any_platform_writes_it(text: str, value: bool) -> None:
    assert (
        load(
            {"OPENCLAW__GATEWAY__HTTP__ENDPOINTS__RESPONSES__ENABLED": text}
        ).gateway.http.endpoints.responses.enabled
        is value
    )


def test_where_a_text_or_false_may_stand_both_can_be_said() -> None:
    name = "OPENCLAW__SESSION__MAINTENANCE__RESET_ARCHIVE_RETENTION"
    assert load({name: "false"}).session.maintenance.reset_archive_retention is False
    assert load({name: "12h"}).session.maintenance.reset_archive_retention is not False


def test_names_that_people_chose_are_met_as_they_are_written_and_new_ids_are_small() -> None:
    source = {"models": {"providers": {"my-lab": {"baseUrl": "http://h/v1", "headers": {"X-Key": "one"}}}}}
    env = {
        "OPENCLAW__MODELS__PROVIDERS__MY_LAB__APIKEY": SECRET,
        "OPENCLAW__MODELS__PROVIDERS__MY_LAB__HEADERS__X_KEY": "two",
        "OPENCLAW__MODELS__PROVIDERS__OTHER__BASEURL": "http://o/v1",
        "OPENCLAW__MCP__SERVERS__Files__COMMAND": "serve-files",
        "OPENCLAW__MCP__SERVERS__Files__ENV__API_TOKEN": SECRET,
    }
    config = load(env, source)
    lab = config.models.providers["my-lab"]
    assert lab.api_key is not None
    assert lab.api_key.get_secret_value() == SECRET
    assert {name: value.get_secret_value() for name, value in lab.headers.items()} == {"X-Key": "two"}
    assert config.models.providers["other"].base_url == "http://o/v1"
    assert set(config.mcp.servers["files"].env) == {"API_TOKEN"}


def test_a_section_as_json_comes_before_its_single_keys_and_lists_grow_in_order() -> None:
    env = {
        "OPENCLAW__AGENTS__LIST__0__NAME": "First",
        "OPENCLAW__AGENTS": '{ list: [{ id: "one" }] }',
        "OPENCLAW__AGENTS__LIST__1": '{ "id": "two" }',
        "OPENCLAW__AGENTS__LIST__2__ID": "three",
        "OPENCLAW__AGENTS__LIST__2__MODEL__PRIMARY": "lab/large",
    }
    agents = load(env).agents.items
    assert [(agent.id, agent.name) for agent in agents] == [("one", "First"), ("two", None), ("three", None)]
    assert agents[2].model is not None
    assert agents[2].model.primary == "lab/large"


def test_what_a_variable_refers_to_is_looked_up() -> None:
    env = {"OPENCLAW__GATEWAY__AUTH__TOKEN": "${MY_SECRET}", "MY_SECRET": SECRET}
    assert load(env).gateway.auth.secret == SECRET


def test_an_empty_variable_says_nothing() -> None:
    assert load({"OPENCLAW__GATEWAY__PORT": "", "OPENCLAW_CONFIG_JSON": ""}).gateway.port == 18_789


MISTAKES = [
    ("GATEWAY__PORT", SECRET, "gateway.port ({}): must be a whole number"),
    ("GATEWAY__BIND", SECRET, "gateway.bind ({}): must be 'loopback', 'lan', 'auto' or 'custom'"),
    ("GATEWAY", f"[{SECRET!r}]", "gateway ({}): must be an object"),
    ("GATEWAY", f"{{prot: {SECRET!r}}}", 'gateway.prot ({}): unknown key; did you mean "port"?'),
    (
        "GATEWAY__AUTH",
        f"{{token: {SECRET!r}",
        "{}: the text ends too early; see what opens at line 1, column 1",
    ),
    ("GATEWAY__PROT", SECRET, "{}: there is no key PROT; did you mean PORT?"),
    ("ZZZ", SECRET, "{}: there is no key ZZZ"),
    ("GATEWAY__PORT__X", SECRET, "{}: there is no key X"),
    ("AGENTS__LIST__1__ID", SECRET, "{}: the list has only 0 items before it"),
    ("GATEWAY__TRUSTEDPROXIES", SECRET, "gateway.trustedProxies ({}): must be a list"),
]


@pytest.mark.parametrize(("key", "text", "problem"), MISTAKES)
def test_a_mistake_names_its_variable_and_quotes_nothing(key: str, text: str, problem: str) -> None:
    name = f"OPENCLAW__{key}"
    assert problems({name: text}) == (problem.format(name),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{{gateway: {SECRET!r}}}", "gateway: must be an object"),
        (f"[{SECRET!r}]", "the configuration must be an object"),
        (f"{{token: {SECRET!r}", "the text ends too early; see what opens at line 1, column 1"),
    ],
)
def test_a_mistake_in_the_whole_names_its_place(text: str, problem: str) -> None:
    with pytest.raises(
        ConfigError, match="The configuration in OPENCLAW_CONFIG_JSON cannot be used"
    ) as caught:
        load({"OPENCLAW_CONFIG_JSON": text})
    assert caught.value.problems == (problem,)


def test_a_key_below_something_else_is_refused() -> None:
    name = "OPENCLAW__AGENTS__DEFAULTS__MODEL__FALLBACKS"
    source = {"agents": {"defaults": {"model": "lab/large"}}}
    assert problems({name: '["lab/small"]'}, source) == (f"{name}: a value of another kind is in its way",)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gateway.example"])
def test_without_a_secret_the_environment_cannot_open_the_gateway_to_the_network(host: str) -> None:
    env = HOME | {"OPENCLAW_GATEWAY_HOST": host}
    source: dict[str, Any] = {"gateway": {"auth": {"mode": "none"}}}
    with pytest.raises(ConfigError) as caught:
        load_config(source, env)
    (problem,) = caught.value.problems
    assert problem.startswith(
        f'OPENCLAW_GATEWAY_HOST: with gateway.auth.mode "none" everyone gets in who reaches {host}'
    )

    source["gateway"]["auth"]["allowOpenNetwork"] = True
    assert load_config(source, env).gateway.auth.allow_open_network


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1", "localhost"])
def test_without_a_secret_this_machine_is_fine(host: str) -> None:
    env = HOME | {"OPENCLAW_GATEWAY_HOST": host}
    assert load_config({"gateway": {"auth": {"mode": "none"}}}, env).gateway.auth.mode == "none"
