"""When a gateway opens, and how several live together."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from flask import Blueprint, Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import make_server

from app import ConfigError
from app.errors import GatewayDraining, StoreError, Unavailable
from openclaw_gunicorn import gateways_in
from tests.integration.hosting import TOKEN, Give, ask, configuration
from tests.integration.runs import PATIENCE, wait_until
from tests.integration.ws_client import RawClient, connect_request, frame
from tests.scripted_provider import ScriptedProvider

# when it opens


def test_nothing_is_touched_before_the_first_request(give: Give, tmp_path: Path) -> None:
    app = Flask("host")
    threads = set(threading.enumerate())
    mount = give(app)

    assert app.test_client().get("/healthz").status_code == 200
    assert (mount.is_open, (tmp_path / "state").exists()) == (False, False)
    assert set(threading.enumerate()) == threads
    assert ask(app).status_code == 200
    assert (mount.is_open, (tmp_path / "state").exists()) == (True, True)


def test_to_be_ready_is_to_be_open(give: Give) -> None:
    app = Flask("host")
    mount = give(app)

    assert app.test_client().get("/readyz").status_code == 200
    assert mount.is_open


def test_a_mistake_in_the_configuration_is_told_at_once(give: Give, model: ScriptedProvider) -> None:
    for agents in ({"defaults": {"model": "nowhere/m"}}, {"defaults": {"tools": 3}}):
        with pytest.raises(ConfigError):
            give(Flask("host"), config=configuration(model, agents=agents))


def test_many_first_requests_open_it_once(give: Give) -> None:
    app = Flask("host")
    mount = give(app)
    runtimes: list[object] = []
    threads = [threading.Thread(target=lambda: runtimes.append(mount.runtime)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert runtimes == [mount.runtime] * 16


def test_a_state_that_somebody_has_is_asked_for_again_later(give: Give, tmp_path: Path) -> None:
    first, second = Flask("first"), Flask("second")
    holder = give(first)
    assert ask(first).status_code == 200
    waiting = give(second)

    refused = ask(second)
    assert (refused.status_code, refused.mimetype) == (500, "application/json")
    assert "Another gateway is using this state directory" in refused.json["error"]["message"]
    assert str(tmp_path) not in refused.text
    with pytest.raises(StoreError):
        waiting.open()
    holder.close()

    wait_until(lambda: ask(second).status_code == 200)


def test_one_process_of_several_is_refused_with_what_to_do(give: Give) -> None:
    app = Flask("host")
    mount = give(app)

    refused = ask(app, environ_overrides={"wsgi.multiprocess": True})

    assert (refused.status_code, mount.is_open) == (503, False)
    assert "run one worker process" in refused.json["error"]["message"]
    assert "OPENCLAW_DATABASE_URL and OPENCLAW_REDIS_URL" in refused.json["error"]["message"]
    assert str(mount.try_open(processes=2)).startswith("This server runs several processes")
    assert mount.try_open(processes=1) is None


def test_what_was_closed_before_it_opened_stays_closed(give: Give, tmp_path: Path) -> None:
    app = Flask("host")
    mount = give(app)
    mount.close()

    assert ask(app).status_code == 503
    with pytest.raises(GatewayDraining):
        mount.open()
    assert not (tmp_path / "state").exists()


def test_a_child_does_not_use_what_its_parent_has_opened(give: Give) -> None:
    mount = give(Flask("host"))
    mount.open()
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:  # pragma: no cover - in another process
        try:
            mount.open()
        except Unavailable as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    told = os.read(reading, 1_000)
    os.close(reading)
    assert b"before the server started its worker processes" in told


# several gateways


def test_two_gateways_of_one_application_have_their_own_everything(
    give: Give, model: ScriptedProvider
) -> None:
    app = Flask("host")
    one = give(app, url_prefix="/one", state="one")
    two = give(app, url_prefix="two/", state="two", config=configuration(model, "the-token-of-two"))

    assert [ask(app, "/one").status_code, ask(app, "/two").status_code] == [200, 401]
    assert ask(app, "/two", "the-token-of-two").status_code == 200
    assert app.extensions["openclaw"] is one
    assert list(gateways_in(app)) == [one, two]
    assert [len(mount.runtime.store.list_runs(None, 10)) for mount in (one, two)] == [1, 1]
    with pytest.raises(RuntimeError, match="already has a gateway under '/one'"):
        give(app, url_prefix="/one/", state="three")


def test_connections_find_the_gateway_of_their_path(give: Give, model: ScriptedProvider) -> None:
    app = Flask("host")
    outer = give(app, state="outer")
    inner = give(app, url_prefix="/inner", state="inner", config=configuration(model, "the-token-of-inner"))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        for path, mount, token in (("/", outer, TOKEN), ("/inner/x", inner, "the-token-of-inner")):
            with RawClient(server.server_port, path) as client:
                assert client.event()["event"] == "connect.challenge"
                client.send(frame(connect_request(token)))
                assert client.answer("hello")["ok"]
                assert mount.is_open
    finally:
        outer.close()
        inner.close()
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


def test_a_host_may_have_used_our_names(give: Give) -> None:
    app = Flask("host")
    for name in ("openclaw_openai", "openai"):
        blueprint = Blueprint(name, __name__, url_prefix=f"/{name}")
        blueprint.add_url_rule("/", "index", lambda name=name: name)
        app.register_blueprint(blueprint)
    give(app)

    assert ask(app).status_code == 200
    assert app.test_client().get("/openclaw_openai/").text == "openclaw_openai"


def test_the_hosts_own_paths_beside_ours_stay_its_own(give: Give) -> None:
    app = Flask("host")
    app.add_url_rule("/v1/users", "users", lambda: "users of the host")
    app.add_url_rule("/api/orders", "orders", lambda: "orders of the host")
    give(app)
    client = app.test_client()

    assert client.get("/v1/users").text == "users of the host"
    assert client.get("/api/orders").text == "orders of the host"
    assert ask(app).status_code == 200


def test_the_server_finds_gateways_behind_middleware(give: Give) -> None:
    app = Flask("host")
    mount = give(app)
    outer = DispatcherMiddleware(Flask("outer"), {"/in": ProxyFix(app.wsgi_app)})

    assert list(gateways_in(outer)) == [mount]
    assert list(gateways_in(lambda environ, start: [])) == []
