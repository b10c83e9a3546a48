"""Users of the host: everybody sees what is theirs, over every route there is, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Request
from flask.testing import FlaskClient

from app import Caller, Gateway
from app.channels.mount import Mount
from tests.integration.runs import PATIENCE, wait_until
from tests.scripted_provider import Hang, ScriptedProvider

TOKEN = "the-token-of-the-owner"
SECRET = "xylophone"


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider
        assert provider.wait_until_idle(PATIENCE)


def who(asked: Request) -> Caller | None:
    if not (name := asked.headers.get("X-User")):
        return None
    scopes = asked.headers.get("X-Scopes", "operator.read operator.write")
    agents = tuple(asked.headers.get("X-Agents", "").split())
    return Caller(name, scopes=frozenset(scopes.split()), agents=agents)


@pytest.fixture(scope="module")
def mount(model: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    app = Flask("host")
    switches = {name: {"enabled": True} for name in ("chatCompletions", "responses")}
    config = {
        "gateway": {
            "auth": {"token": TOKEN},
            "http": {"endpoints": switches, "cors": {"allowedOrigins": ["https://page.example"]}},
        },
        "models": {"providers": {"scripted": {"baseUrl": model.base_url, "models": [{"id": "m"}]}}},
        "agents": {
            "defaults": {"model": "scripted/m", "embeddingModel": "scripted/e"},
            "list": [{"id": "main", "default": True}, {"id": "beta"}],
        },
    }
    env = {"OPENCLAW_STATE_DIR": str(tmp_path_factory.mktemp("state"))}
    mount = Gateway().init_app(app, config=config, env=env, authenticate=who)
    mount.host = app  # type: ignore[attr-defined]
    yield mount
    mount.close()


@dataclass
class User:
    """Somebody who asks; ``name`` is None for one who has the token."""

    client: FlaskClient
    name: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        own = {"Authorization": f"Bearer {TOKEN}"} if self.name is None else {"X-User": self.name}
        sent = {**own, **self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.client.open(path, method=method, json=body, headers=sent)

    def chat(self, text: str, **headers: str) -> Any:
        return self.ask("POST", "/v1/chat/completions", said(text), **headers)


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "openclaw", "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def user(mount: Mount) -> Any:
    """``user("ann")``, with headers of hers; ``user()`` for the owner."""
    client = mount.host.test_client()  # type: ignore[attr-defined]
    return lambda name=None, **headers: User(
        client, name, {name.replace("_", "-"): value for name, value in headers.items()}
    )


DIARY = {"x_openclaw_session_key": "diary"}


@pytest.fixture(scope="module")
def owned(mount: Mount) -> dict[str, str]:
    """What Ann has: the values of the routes' variables, and the names that her requests had."""
    ann = User(mount.host.test_client(), "ann")  # type: ignore[attr-defined]
    assert ann.chat(SECRET, **DIARY).status_code == 200
    kept = ann.ask("POST", "/v1/chat/completions", said(SECRET, store=True), **DIARY)
    assert ann.chat(SECRET, **DIARY, idempotency_key="once").status_code == 200
    response = ann.ask("POST", "/v1/responses", {"model": "openclaw", "input": SECRET})
    talk = {"model": "openclaw", "input": SECRET, "conversation": "talk"}
    assert ann.ask("POST", "/v1/responses", talk).status_code == 200
    return {
        "run_id": kept.json["id"],
        "response_id": response.json["id"],
        "key": "agent:main:caller:ann:diary",
        "item": response.json["output"][0]["id"],
    }


# Every route of the gateway: what somebody else is answered who knows everything that Ann knows.
HERS, OWNERS, OWN = "there is no such thing", "only the owner may", "theirs, without a word of hers"
ROUTES = {
    "POST /v1/chat/completions": OWN,
    "GET /v1/chat/completions/<run_id>": HERS,
    "POST /v1/chat/completions/<run_id>": HERS,
    "DELETE /v1/chat/completions/<run_id>": HERS,
    "GET /v1/chat/completions/<run_id>/stream": HERS,
    "POST /v1/chat/completions/<run_id>/cancel": HERS,
    "POST /v1/responses": OWN,
    "GET /v1/responses/<string:response_id>": HERS,
    "DELETE /v1/responses/<string:response_id>": HERS,
    "POST /v1/responses/<string:response_id>/cancel": HERS,
    "GET /v1/responses/<string:response_id>/input_items": HERS,
    "POST /v1/embeddings": OWN,
    "GET /v1/models": OWN,
    "GET /v1/models/<path:name>": OWN,
    "POST /api/agent": OWNERS,
    "POST /api/chat": OWNERS,
    "GET /api/usage": OWNERS,
    "GET /api/sessions": OWN,
    "GET /api/sessions/<path:key>": HERS,
    "DELETE /api/sessions/<path:key>": HERS,
    "POST /api/sessions/<path:key>/stop": HERS,
    "GET /api/approvals": OWNERS,
    "POST /api/approvals/<approval_id>": OWNERS,
    "GET /openapi.json": OWN,
}
BODIES = {
    "/v1/chat/completions": said("hello"),
    "/v1/responses": {"model": "openclaw", "input": "hello"},
    "/v1/embeddings": {"model": "openclaw", "input": "hello"},
    "/api/agent": {"message": "hello", "sessionKey": "agent:main:caller:ann:diary"},
    "/api/chat": {"message": "hello", "sessionKey": "agent:main:caller:ann:diary"},
}


def served(mount: Mount) -> set[str]:
    """All routes, but probes and those that only refuse."""
    from app.channels.openai.views import _METHODS

    found: set[str] = set()
    for rule in mount.host.url_map.iter_rules():  # type: ignore[attr-defined]
        blueprint, _, endpoint = rule.endpoint.rpartition(".")
        if blueprint == "openclaw_openai" and not rule.rule.endswith("/"):
            found |= {f"{method} {rule.rule}" for method in _METHODS.get(endpoint, ())}
        elif blueprint == "openclaw_control":
            found |= {f"{method} {rule.rule}" for method in rule.methods}
        elif blueprint == "openclaw_openapi":
            found.add(f"GET {rule.rule}")
    return {route for route in found if not route.startswith(("HEAD", "OPTIONS"))}


def test_every_route_is_in_the_table(mount: Mount) -> None:
    assert served(mount) == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["bob", "Ann", "an", "ann:diary", "caller:ann"])
def test_somebody_else_gets_nothing_of_hers(user: Any, owned: dict[str, str], name: str, route: str) -> None:
    method, path = route.split(" ")
    address = path
    for variable, value in {**owned, "name": "openclaw", "approval_id": "1"}.items():
        for spelling in (f"<{variable}>", f"<string:{variable}>", f"<path:{variable}>"):
            address = address.replace(spelling, value)
    body = BODIES.get(path) or ({"metadata": {}, "decision": "deny"} if method == "POST" else None)

    answer = user(name).ask(method, address, body, **DIARY)

    text = answer.get_data(as_text=True)
    assert answer.status_code == {HERS: 404, OWNERS: 403, OWN: 200}[ROUTES[route]], text
    assert SECRET not in text


def test_nothing_of_hers_is_lost_by_that(user: Any, owned: dict[str, str]) -> None:
    ann = user("ann")

    assert ann.ask("GET", f"/v1/responses/{owned['response_id']}").json["status"] == "completed"
    assert ann.ask("GET", f"/v1/chat/completions/{owned['run_id']}").status_code == 200
    assert SECRET in ann.ask("GET", f"/api/sessions/{owned['key']}").text
    listed = [session["key"] for session in ann.ask("GET", "/api/sessions").json["sessions"]]
    assert owned["key"] in listed
    assert all(key.startswith("agent:main:caller:ann:") for key in listed)


@pytest.mark.parametrize(
    "key",
    [
        "diary",
        "agent:main:diary",
        "agent:main:caller:ann:diary",
        "AGENT:main:caller:ann:diary",
        "caller:ann:diary",
    ],
)
def test_a_session_of_her_name_is_another_one(
    user: Any, owned: dict[str, str], model: ScriptedProvider, key: str
) -> None:
    assert user("bob").chat("what did I say?", x_openclaw_session_key=key).status_code == 200

    assert SECRET not in json.dumps(model.requests[-1].body)


def test_a_response_of_hers_is_neither_followed_nor_referred_to(user: Any, owned: dict[str, str]) -> None:
    bob = user("bob")
    follow = {"model": "openclaw", "input": "and?", "previous_response_id": owned["response_id"]}
    refer = {"model": "openclaw", "input": [{"type": "item_reference", "id": owned["item"]}]}

    assert bob.ask("POST", "/v1/responses", follow).json["error"]["code"] == "previous_response_not_found"
    assert bob.ask("POST", "/v1/responses", refer).status_code == 400
    assert user("ann").ask("POST", "/v1/responses", follow).status_code == 200


def test_a_conversation_of_her_name_is_another_one(
    user: Any, owned: dict[str, str], model: ScriptedProvider
) -> None:
    talk = {"model": "openclaw", "input": "and?", "conversation": "talk"}

    assert user("bob").ask("POST", "/v1/responses", talk).status_code == 200
    assert SECRET not in json.dumps(model.requests[-1].body)
    assert user("ann").ask("POST", "/v1/responses", talk).status_code == 200
    assert SECRET in json.dumps(model.requests[-1].body)


def test_an_idempotency_key_of_hers_is_another_one(user: Any, owned: dict[str, str]) -> None:
    theirs = user("bob").chat("hello", **DIARY, idempotency_key="once")
    hers = user("ann").chat(SECRET, **DIARY, idempotency_key="once")

    assert (theirs.status_code, "idempotent-replayed" in theirs.headers) == (200, False)
    assert (hers.status_code, hers.headers["idempotent-replayed"]) == (200, "true")


def test_nobody_else_stops_her_run_while_it_goes_on(user: Any, mount: Mount, model: ScriptedProvider) -> None:
    model.script(Hang())
    response = user("ann").ask(
        "POST", "/v1/responses", {"model": "openclaw", "input": "x", "background": True}
    )
    run_id = response.json["id"]
    wait_until(lambda: model.active == 1)

    assert user("bob").ask("POST", f"/v1/responses/{run_id}/cancel").status_code == 404
    assert user("bob").ask("GET", f"/v1/responses/{run_id}?stream=true").status_code == 404
    assert model.active == 1
    assert user("ann").ask("POST", f"/v1/responses/{run_id}/cancel").json["status"] == "cancelled"


def test_the_owner_sees_everything(user: Any, owned: dict[str, str]) -> None:
    for owner in (user(), user("root", X_Scopes="operator.admin")):
        assert owner.ask("GET", f"/v1/responses/{owned['response_id']}").status_code == 200
        assert SECRET in owner.ask("GET", f"/api/sessions/{owned['key']}").text
        assert owner.ask("GET", "/api/approvals").status_code == 200


def test_who_may_read_only_starts_nothing(user: Any) -> None:
    reader = user("ann", X_Scopes="operator.read")

    assert reader.ask("GET", "/v1/models").status_code == 200
    refused = reader.chat("hello")
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "forbidden")
    assert "operator.write" in refused.json["error"]["message"]


def test_who_has_no_scope_sees_nothing(user: Any) -> None:
    assert user("ann", X_Scopes="").ask("GET", "/v1/models").status_code == 403


def test_a_caller_may_be_bound_to_agents(user: Any) -> None:
    bound = user("ann", X_Agents="beta")

    assert 'agent="beta"' in bound.chat("hello").headers["openclaw-run"]
    for headers in ({"x_openclaw_agent_id": "main"}, {"x_openclaw_session_key": "agent:main:diary"}):
        refused = bound.chat("hello", **headers)
        assert (refused.status_code, refused.json["error"]["code"]) == (403, "forbidden")
    names = [one["id"] for one in bound.ask("GET", "/v1/models").json["data"]]
    assert names == ["openclaw", "openclaw/default", "openclaw/beta"]
    assert bound.ask("GET", "/v1/models/openclaw/main").status_code == 404


def test_a_caller_does_not_choose_the_model(user: Any) -> None:
    refused = user("ann").chat("hello", x_openclaw_model="scripted/dear")

    assert (refused.status_code, refused.json["error"]["code"]) == (400, "model_not_allowed")
    assert user().chat("hello", x_openclaw_model="scripted/dear").status_code == 200


def test_whom_nobody_knows_is_refused(mount: Mount) -> None:
    client = mount.host.test_client()  # type: ignore[attr-defined]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        elsewhere = {"REMOTE_ADDR": "203.0.113.9"}
        answer = client.get("/v1/models", headers=headers, environ_base=elsewhere)
        assert (answer.status_code, answer.mimetype) == (401, "application/json")


@pytest.mark.parametrize("mode", [{}, {"mode": "none"}, {"mode": "token"}])
def test_without_a_secret_only_the_host_lets_in(
    model: ScriptedProvider, tmp_path: Path, mode: dict[str, str]
) -> None:
    app = Flask("host")
    config = {
        "gateway": {"auth": mode, "http": {"endpoints": {"chatCompletions": {"enabled": True}}}},
        "models": {"providers": {"scripted": {"baseUrl": model.base_url, "models": [{"id": "m"}]}}},
    }
    env = {"OPENCLAW_STATE_DIR": str(tmp_path)}
    mount = Gateway().init_app(app, config=config, env=env, authenticate=who)
    client = app.test_client()

    answers = [
        client.get("/v1/models", headers=headers).status_code
        for headers in ({"X-User": "ann"}, {}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"})
    ]
    mount.close()

    assert answers == [200, 401, 401, 401]


def fails(asked: Request) -> Caller | None:
    raise ZeroDivisionError("a secret of the host")


def mistakes(asked: Request) -> Caller | None:
    return "ann"  # type: ignore[return-value]


@pytest.mark.parametrize("authenticate", [fails, mistakes])
def test_what_the_host_does_wrong_while_it_looks_lets_nobody_in(
    model: ScriptedProvider, tmp_path: Path, authenticate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("host")
    config = {
        "gateway": {"http": {"endpoints": {"chatCompletions": {"enabled": True}}}},
        "models": {"providers": {"scripted": {"baseUrl": model.base_url, "models": [{"id": "m"}]}}},
    }
    env = {"OPENCLAW_STATE_DIR": str(tmp_path)}
    mount = Gateway().init_app(app, config=config, env=env, authenticate=authenticate)
    answer = app.test_client().get("/v1/models")
    mount.close()

    assert (answer.status_code, answer.mimetype) == (500, "application/json")
    assert answer.json["error"]["message"] == "internal error"
    assert "a secret of the host" in caplog.text or "must return a Caller or None, not str" in caplog.text
