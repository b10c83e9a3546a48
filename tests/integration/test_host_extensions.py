"""Extensions and proxies of a host around its gateway; its tools and providers in its context."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from flask import Flask, current_app
from flask_cors import CORS
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_sqlalchemy import SQLAlchemy
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import make_server

from app import Gateway, ToolError, tool
from app.cancel import CancelToken
from app.events import TextDelta
from app.providers.base import ModelDone, ModelEvent, ModelInfo, ModelRequest
from tests.integration.hosting import TOKEN, Give, ask, configuration
from tests.integration.runs import PATIENCE, wait_until
from tests.scripted_provider import Reply, ScriptedProvider, call

# extensions of the host


def test_pages_elsewhere_may_call_what_both_lists_name(give: Give, model: ScriptedProvider) -> None:
    app, page = Flask("host"), "https://page.example"
    CORS(app, origins=[page], supports_credentials=True)
    config = configuration(model)
    config["gateway"]["http"]["cors"] = {"allowedOrigins": [page]}
    give(app, config=config)
    client = app.test_client()

    asked = {"Origin": page, "Access-Control-Request-Method": "POST"}
    preflight = client.options("/v1/chat/completions", headers=asked)
    answer = client.get("/v1/models", headers={"Origin": page, "Authorization": f"Bearer {TOKEN}"})

    assert (preflight.status_code, answer.status_code) == (204, 200)
    for response in (preflight, answer):
        assert response.headers.getlist("Access-Control-Allow-Origin") == [page]


def test_limits_of_the_host_hold_for_the_gateway_and_are_told_in_its_words(give: Give) -> None:
    app = Flask("host")
    app.register_error_handler(429, lambda error: ("<h1>slow down</h1>", 429))
    Limiter(get_remote_address, app=app, storage_uri="memory://", default_limits=["2/hour"])
    give(app)

    answers = [ask(app) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json["error"]["message"] == "2 per 1 hour"


# proxies


@pytest.mark.parametrize("settings", [{}, {"SERVER_NAME": "shop.example", "APPLICATION_ROOT": "/shop"}])
def test_behind_a_proxy_that_takes_the_prefix_off(give: Give, settings: Mapping[str, str]) -> None:
    app = Flask("host")
    app.config.update(settings)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1, x_host=1)  # type: ignore[method-assign]
    give(app)
    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
        ) as it:
            headers = {
                "Authorization": f"Bearer {TOKEN}",
                "X-Forwarded-Prefix": "/shop",
                "X-Forwarded-Host": "shop.example",
            }
            it.request("GET", "/v1/models", headers=headers)
            assert it.getresponse().status == 200
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


# in the host's context


def shop(tmp_path: Path) -> tuple[Flask, SQLAlchemy, type]:
    app, db = Flask("shop"), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'shop.db'}"
    db.init_app(app)

    class Parcel(db.Model):  # type: ignore[name-defined, misc]
        id = db.Column(db.Integer, primary_key=True)
        place = db.Column(db.String)

    with app.app_context():
        db.create_all()
        db.session.add(Parcel(id=7, place="Ulm"))
        db.session.commit()
    return app, db, Parcel


def test_a_tool_reads_and_writes_the_hosts_tables(
    give: Give, model: ScriptedProvider, tmp_path: Path
) -> None:
    app, db, parcels = shop(tmp_path)
    gateway, torn = Gateway(), []
    app.teardown_appcontext(lambda error: torn.append((current_app.name, error)))

    @gateway.tool
    def move(number: int, place: str) -> str:
        """Move a parcel."""
        parcel = db.session.get(parcels, number)
        if parcel is None:
            raise ToolError(f"There is no parcel {number}.")
        parcel.place = place
        db.session.commit()
        return "moved"

    @gateway.tool
    def breaks() -> str:
        """Break."""
        db.session.get(parcels, 7).place = "nowhere"
        db.session.flush()
        raise LookupError("a detail of the host")

    give(app, gateway=gateway)
    model.script(
        Reply(
            tool_calls=[
                call("move", {"number": 7, "place": "Bonn"}, "a"),
                call("move", {"number": 8, "place": "x"}, "b"),
            ]
        ),
        Reply(tool_calls=[call("breaks", {}, "c")]),
        Reply("done"),
    )

    assert ask(app).json["choices"][0]["message"]["content"] == "done"
    said = [m["content"] for m in model.requests[-1].body["messages"] if m["role"] == "tool"]
    assert said == ["moved", "There is no parcel 8.", "The tool failed with an internal error."]
    assert [type(error) for _, error in torn if error is not None] == [ToolError, LookupError]
    with app.app_context():
        assert db.session.get(parcels, 7).place == "Bonn"
        assert move(7, "Rome") == "moved", "it is still a function of the host"


def test_a_tool_has_no_context_unless_it_asks(give: Give, model: ScriptedProvider) -> None:
    app, gateway = Flask("host"), Gateway()

    @tool
    def where() -> str:
        """Tell where this runs."""
        return current_app.name if current_app else "nowhere"

    gateway.register_tool(where)
    give(app, gateway=gateway)
    model.script(Reply(tool_calls=[call("where", {})]), Reply("done"))

    assert ask(app).status_code == 200
    assert [m["content"] for m in model.requests[-1].body["messages"] if m["role"] == "tool"] == ["nowhere"]


class Librarian:
    """A provider of the host's that answers out of its database."""

    id = "librarian"

    def __init__(self, db: SQLAlchemy, parcels: type) -> None:
        self._db = db
        self._parcels = parcels
        self.contexts: list[object] = []
        self.closed = 0

    def info(self, model: str) -> ModelInfo:
        return ModelInfo()

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        try:
            parcel = self._db.session.get(self._parcels, 7)
            for word in ("It ", "is ", "in "):
                self.contexts.append(current_app._get_current_object())  # type: ignore[attr-defined]
                yield TextDelta(word)
            yield TextDelta(parcel.place)  # still of the same session
            yield ModelDone("stop")
        finally:
            assert current_app
            self.closed += 1

    def close(self) -> None:
        pass


def test_a_provider_keeps_one_context_for_a_whole_answer(
    give: Give, model: ScriptedProvider, tmp_path: Path
) -> None:
    app, db, parcels = shop(tmp_path)
    torn: list[object] = []
    app.teardown_appcontext(torn.append)
    gateway, librarian = Gateway(), Librarian(db, parcels)
    gateway.register_provider(librarian, app_context=True)
    agents = {"defaults": {"model": "librarian/x"}}
    give(app, gateway=gateway, config=configuration(model, agents=agents))
    before = len(torn)

    answer = ask(app)

    assert answer.json["choices"][0]["message"]["content"] == "It is in Ulm"
    assert (librarian.contexts, librarian.closed) == ([app] * 3, 1)
    wait_until(lambda: len(torn) == before + 2)  # the provider's, and the request's
