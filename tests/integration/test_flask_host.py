"""A gateway inside an application that was there before, under real threads."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, g, request
from flask.typing import ResponseReturnValue
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from app import ConfigError, Gateway, Tool, ToolContext, ToolError, create_app, tool
from app.cancel import CancelToken
from app.events import TextDelta
from app.providers.base import ModelDone, ModelEvent, ModelInfo, ModelRequest, Provider
from app.runtime import Runtime
from tests.scripted_provider import Hang, Reply, ScriptedProvider, call

PATIENCE = 10.0
TOKEN = "the-token-of-the-host"
HI = {"model": "openclaw", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def model() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider
        assert provider.wait_until_idle(PATIENCE), "a model call was left running"


Init = Callable[..., Runtime]


@pytest.fixture
def init(model: ScriptedProvider, tmp_path: Path) -> Iterator[Init]:
    """Gives an application a gateway: ``init(app, token="...", gateway=Gateway(), url_prefix="/ai")``."""
    runtimes: list[Runtime] = []

    def init(
        app: Flask, *, token: str = TOKEN, gateway: Gateway | None = None, config: Any = None, **options: Any
    ) -> Runtime:
        env = {"OPENCLAW_STATE_DIR": str(tmp_path / f"state-{len(runtimes)}")}
        settings = config or configuration(model, token)
        runtimes.append((gateway or Gateway()).init_app(app, config=settings, env=env, **options).open())
        return runtimes[-1]

    yield init
    for runtime in runtimes:
        runtime.close()


def configuration(model: ScriptedProvider, token: str = TOKEN, **agents: Any) -> dict[str, Any]:
    return {
        "gateway": {
            "auth": {"token": token},
            "http": {"keepAliveSeconds": 1, "endpoints": {"chatCompletions": {"enabled": True}}},
        },
        "models": {"providers": {"scripted": {"baseUrl": model.base_url, "models": [{"id": "m"}]}}},
        "agents": agents,
    }


def host() -> Flask:
    """An application with habits of its own."""
    app = Flask("app")
    app.config.update(SECRET_KEY="of the host", MAX_CONTENT_LENGTH=50, JSON_SORT_KEYS=False)
    for name in ("app", "openai", "health", "control", "v1"):
        blueprint = Blueprint(name, __name__, url_prefix=f"/{name}-of-host")
        blueprint.add_url_rule("/", "index", lambda name=name: f"{name} of the host")
        app.register_blueprint(blueprint)

    @app.before_request
    def remember() -> None:
        g.seen = request.path

    @app.after_request
    def sign(response: Any) -> Any:
        response.headers["X-Host"] = g.seen
        return response

    @app.get("/boom")
    def boom() -> ResponseReturnValue:
        raise ZeroDivisionError

    @app.get("/forbidden")
    def forbidden() -> ResponseReturnValue:
        abort(403)

    @app.errorhandler(Exception)
    def any_error(error: Exception) -> ResponseReturnValue:
        return f"host: {type(error).__name__}", getattr(error, "code", 500)

    @app.errorhandler(404)
    @app.errorhandler(405)
    @app.errorhandler(401)
    def http_error(error: Exception) -> ResponseReturnValue:
        return f"host page {getattr(error, 'code', 0)}", getattr(error, "code", 500)

    return app


def ask(app: Flask, path: str = "/v1/chat/completions", token: str = TOKEN, **fields: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return app.test_client().post(path, json=HI | fields, headers=headers)


def content(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.json["choices"][0]["message"]["content"])


# living together


def test_the_gateway_answers_inside_the_host(init: Init) -> None:
    app = host()
    init(app)

    assert content(ask(app)) == "echo: hi"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/app-of-host/", 200, "app of the host"),
        ("/openai-of-host/", 200, "openai of the host"),
        ("/health-of-host/", 200, "health of the host"),
        ("/control-of-host/", 200, "control of the host"),
        ("/nothing", 404, "host page 404"),
        ("/boom", 500, "host: ZeroDivisionError"),
        ("/forbidden", 403, "host: Forbidden"),
    ],
)
def test_the_hosts_pages_and_errors_stay_its_own(init: Init, path: str, status: int, text: str) -> None:
    app = host()
    before = app.test_client().get(path)
    app = host()
    init(app)

    after = app.test_client().get(path)

    assert (after.status_code, after.text) == (status, text)
    assert (before.status_code, before.text, dict(before.headers)) == (status, text, dict(after.headers))


def test_the_hosts_hooks_run_for_the_gateway_too(init: Init) -> None:
    app = host()
    init(app)

    assert ask(app).headers["X-Host"] == "/v1/chat/completions"
    assert app.test_client().get("/healthz").headers["X-Host"] == "/healthz"


@pytest.mark.parametrize(
    ("method", "path", "token", "status", "code"),
    [
        ("POST", "/v1/chat/completions", "wrong", 401, None),
        ("GET", "/v1/chat/completions", TOKEN, 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", TOKEN, 405, "method_not_allowed"),
        ("POST", "/v1/nothing", TOKEN, 404, "not_found"),
        ("GET", "/v1/models/nobody", TOKEN, 404, "model_not_found"),
        ("DELETE", "/healthz", TOKEN, 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", TOKEN, 400, "invalid_json"),
    ],
)
def test_the_gateways_errors_are_json_whatever_the_host_does_with_errors(
    init: Init, method: str, path: str, token: str, status: int, code: str | None
) -> None:
    app = host()
    init(app)

    headers = {"Authorization": f"Bearer {token}"}
    response = app.test_client().open(
        path, method=method, data=b"{", headers=headers, environ_base={"REMOTE_ADDR": "203.0.113.9"}
    )

    assert (response.status_code, response.mimetype) == (status, "application/json")
    assert set(response.json["error"]) == {"message", "type", "param", "code"}
    assert response.json["error"]["code"] == code


def test_the_hosts_settings_and_the_root_logger_stay_as_they_were(init: Init) -> None:
    app = host()
    config, hooks = dict(app.config), len(app.before_request_funcs[None])
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level

    init(app)
    ask(app)

    assert dict(app.config) == config
    assert len(app.before_request_funcs[None]) == hooks + 1  # which looks at upgrades only
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == (handlers, level)


def test_limits_of_the_hosts_forms_are_not_the_gateways(init: Init) -> None:
    app = host()
    init(app)

    messages = [{"role": "user", "content": "x" * 5_000}]

    assert content(ask(app, messages=messages)) == "echo: " + "x" * 5_000


def test_a_second_gateway_in_one_application_is_refused(init: Init) -> None:
    app = host()
    init(app)

    with pytest.raises(RuntimeError, match="already has a gateway"):
        init(app)
    with pytest.raises(RuntimeError, match="already has a gateway"):
        Gateway(app)
    assert content(ask(app)) == "echo: hi"


def test_a_configuration_that_cannot_be_used_leaves_the_application_alone(
    init: Init, model: ScriptedProvider
) -> None:
    app = host()
    rules = len(list(app.url_map.iter_rules()))

    with pytest.raises(ConfigError):
        init(app, config=configuration(model) | {"agents": {"defaults": {"model": "nowhere/m"}}})

    assert (len(list(app.url_map.iter_rules())), "openclaw" in app.extensions) == (rules, False)
    init(app)
    assert content(ask(app)) == "echo: hi"


def test_everything_moves_below_a_prefix(init: Init) -> None:
    app = host()
    init(app, url_prefix="/ai")

    assert content(ask(app, "/ai/v1/chat/completions")) == "echo: hi"
    assert app.test_client().get("/ai/healthz").json == {"ok": True, "status": "live"}
    assert ask(app).text == "host page 404"
    assert app.test_client().get("/healthz").text == "host page 404"


def test_two_applications_in_one_process_have_nothing_in_common(init: Init, model: ScriptedProvider) -> None:
    gateway, first, second = Gateway(), host(), Flask("second")
    init(first, token="token-of-the-first", gateway=gateway)
    init(second, token="token-of-the-second", gateway=gateway, url_prefix="/two")

    answers = [
        ask(first, token="token-of-the-first", user="alice").status_code,
        ask(first, token="token-of-the-second").status_code,
        ask(second, "/two/v1/chat/completions", "token-of-the-second").status_code,
        ask(second, "/two/v1/chat/completions", "token-of-the-first").status_code,
    ]

    assert answers == [200, 401, 200, 401]
    stores = [app.extensions["openclaw"].runtime.store for app in (first, second)]
    assert [len(store.list_sessions(None, 10)) for store in stores] == [1, 0]
    assert not any(isinstance(value, Flask) for value in vars(gateway).values())


def test_the_stand_alone_application_answers_every_error_as_json(
    model: ScriptedProvider, tmp_path: Path
) -> None:
    app = create_app(configuration(model), env={"OPENCLAW_STATE_DIR": str(tmp_path)})
    with contextlib.closing(app.extensions["openclaw"]):
        assert content(ask(app)) == "echo: hi"
        for path, status in (("/", 404), ("/static/x", 404), ("/v1/x", 404), ("/healthz", 405)):
            response = app.test_client().post(path)
            assert (response.status_code, response.mimetype) == (status, "application/json")


# what is registered in code


def _weather(context: Any, arguments: Mapping[str, Any]) -> str:
    return f"It rains in {arguments['city']}."


WEATHER = Tool("weather", "Tell the weather.", {"type": "object", "properties": {}}, _weather)


def test_a_tool_registered_in_code_can_be_called(init: Init, model: ScriptedProvider) -> None:
    app, gateway = host(), Gateway()
    gateway.register_tool(WEATHER)
    agents = {"list": [{"id": "main", "tools": {"alsoAllow": ["weather"]}}]}
    init(app, gateway=gateway, config=configuration(model, **agents))
    model.script(Reply(tool_calls=[call("weather", {"city": "Ulm"})]), Reply("Take an umbrella."))

    assert content(ask(app)) == "Take an umbrella."
    assert model.requests[1].body["messages"][-1]["content"] == "It rains in Ulm."


def test_a_function_becomes_a_tool_of_the_application(init: Init, model: ScriptedProvider) -> None:
    orders: dict[str, int] = {"tea": 2}

    @tool
    def order(context: ToolContext, item: str, amount: int = 1) -> str:
        """Order something from the shop."""
        if item not in orders:
            raise ToolError(f"There is no {item}.")
        orders[item] += amount
        return f"{context.agent_id} has ordered {orders[item]} {item}"

    app, gateway = host(), Gateway()
    gateway.register_tool(order)
    init(app, gateway=gateway)
    model.script(
        Reply(
            tool_calls=[call("order", {"item": "tea", "amount": 3}, "a"), call("order", {"item": "gin"}, "b")]
        ),
        Reply(tool_calls=[call("order", {"item": "tea", "amount": "many"}, "c")]),
        Reply("Five teas."),
    )

    assert content(ask(app)) == "Five teas."
    offered = {t["function"]["name"]: t["function"] for t in model.requests[0].body["tools"]}["order"]
    assert offered["description"] == "Order something from the shop."
    assert offered["parameters"]["required"] == ["item"]
    done, refused, misread = [m["content"] for m in model.requests[2].body["messages"] if m["role"] == "tool"]
    assert (done, refused) == ("main has ordered 5 tea", "There is no gin.")
    assert "amount" in misread
    assert orders == {"tea": 5}


class Parrot(Provider):
    """Repeats what it is told."""

    id = "parrot"

    def info(self, model: str) -> ModelInfo:
        return ModelInfo()

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        last = request.messages[-1]
        yield TextDelta(f"{request.model} says {last.text}")
        yield ModelDone("stop")

    def close(self) -> None:
        """Nothing to give back."""


def test_a_provider_registered_in_code_answers(init: Init, model: ScriptedProvider) -> None:
    app, gateway = host(), Gateway()
    gateway.register_provider(Parrot())
    init(app, gateway=gateway, config=configuration(model, defaults={"model": "parrot/polly"}))

    assert content(ask(app)) == "polly says hi"


class Confused(Parrot):
    """Has a mistake in it."""

    def info(self, model: str) -> ModelInfo:
        raise LookupError("a detail nobody should see")


def test_a_mistake_in_a_provider_is_json_too_and_tells_no_details(
    init: Init, model: ScriptedProvider
) -> None:
    app, gateway = host(), Gateway()
    gateway.register_provider(Confused())
    init(app, gateway=gateway, config=configuration(model, defaults={"model": "parrot/polly"}))

    response = ask(app)

    assert (response.status_code, response.mimetype) == (500, "application/json")
    assert response.json["error"]["message"] == "internal error"


# through a real threaded server


@contextlib.contextmanager
def serving(app: Any) -> Iterator[int]:
    """The port of a threaded server for ``app``."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


def post(port: int, path: str = "/v1/chat/completions", **fields: Any) -> http.client.HTTPConnection:
    """A connection on which the request has been sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(HI | fields), headers)
    return connection


def hang_up(connection: http.client.HTTPConnection) -> None:
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def test_a_stream_arrives_piece_by_piece(init: Init, model: ScriptedProvider) -> None:
    app, gate = host(), threading.Event()
    init(app)
    model.script(Reply(chunks=["one", " two", " three"], gate=gate, gate_at=1))
    with serving(app) as port, contextlib.closing(post(port, stream=True)) as connection:
        response = connection.getresponse()
        lines = [response.readline() for _ in range(4)]
        assert b'"role":"assistant"' in lines[0]
        assert b'"content":"one"' in lines[2]

        gate.set()
        rest = response.read().decode()

    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    events = [event for event in rest.split("\n\n") if event]
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(deltas) == " two three"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert response.headers["x-request-id"] == chunks[0]["id"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_run_at_the_model_api(
    init: Init, model: ScriptedProvider, stream: bool
) -> None:
    app = host()
    runtime = init(app)
    model.script(Hang(before_headers=False))
    with serving(app) as port:
        connection = post(port, stream=stream, user="alice")
        assert model.wait_for_requests(1)

        before = time.monotonic()
        hang_up(connection)

        assert model.wait_for_disconnect(PATIENCE)
        assert time.monotonic() - before < 2
        [record] = settled(runtime)
    assert (record.status, record.error_code) == ("cancelled", "run_cancelled")


def settled(runtime: Runtime) -> list[Any]:
    """The records of all runs once none is live."""
    deadline = time.monotonic() + PATIENCE
    while runtime.runs.live and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    assert runtime.runs.live == 0
    return runtime.store.list_runs(None, 10)


def test_many_clients_at_once_get_their_own_answers(init: Init, model: ScriptedProvider) -> None:
    app, answers = host(), {}
    init(app)

    def client(port: int, number: int) -> None:
        messages = [{"role": "user", "content": f"question {number}"}]
        with contextlib.closing(post(port, messages=messages)) as connection:
            body = json.loads(connection.getresponse().read())
        answers[number] = body["choices"][0]["message"]["content"]

    with serving(app) as port:
        threads = [threading.Thread(target=client, args=(port, number), daemon=True) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

    assert answers == {number: f"echo: question {number}" for number in range(20)}


def test_a_host_may_mount_the_whole_application_somewhere(init: Init) -> None:
    app = host()
    init(app)

    with serving(DispatcherMiddleware(Flask("outer"), {"/mounted": app})) as port:
        with contextlib.closing(post(port, "/mounted/v1/chat/completions")) as connection:
            assert connection.getresponse().status == 200
        for path in ("/mounted//v1/chat/completions", "/mounted/v1/chat%2Fcompletions"):
            with contextlib.closing(post(port, path)) as connection:
                assert connection.getresponse().status == 404
