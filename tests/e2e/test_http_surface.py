"""What is around the answers: headers, pages of other origins, tool activity, other spellings of paths."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import (
    PATH,
    Answer,
    Connection,
    chat,
    chat_body,
    open_stream,
    request_bytes,
    send,
    stream_events,
)
from tests.e2e.tool_runs import asking
from tests.scripted_provider import Reply, ScriptedProvider

PAGE = "https://chat.example"
ASKS = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


@pytest.fixture(scope="module")
def webbed(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway that pages of two origins may call."""
    cors = {"allowedOrigins": [PAGE, "http://localhost:3000/"], "maxAgeSeconds": 30}
    return start_gateway(gateway={"http": {"cors": cors, "maxBodyBytes": 10_000}})


# headers


def test_every_response_has_an_id_of_its_own_and_says_how_long_it_took(gateway: GatewayProcess) -> None:
    answers = [
        chat(gateway),
        chat(gateway, stream=True),
        chat(gateway, temperature=9),
        send(gateway, chat_body(), token=None),
        send(gateway, b"{"),
        send(gateway, method="GET"),
        send(gateway, method="GET", path="/v1/models"),
        send(gateway, method="GET", path="/v1/nothing"),
        send(gateway, method="GET", path="/healthz"),
        send(gateway, method="GET", path="/api/sessions"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"chatcmpl-[0-9a-f-]{36}|req_[0-9a-f]{32}", one) for one in ids)
    assert all(0 <= int(answer.headers["openai-processing-ms"]) < 10_000 for answer in answers)


def test_what_no_part_of_the_gateway_serves_has_an_id_too(gateway: GatewayProcess) -> None:
    assert send(gateway, method="GET", path="/nothing").headers["x-request-id"].startswith("req_")


def test_a_client_cannot_choose_the_id(gateway: GatewayProcess) -> None:
    answer = chat(gateway, headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == answer.json["id"]


def test_an_answer_says_who_gave_it_and_how_long_it_had_to_wait(gateway: GatewayProcess) -> None:
    answer = chat(gateway, model="openclaw/beta")
    described = re.fullmatch(
        r'id="([^"]+)", agent="beta", model="scripted/model", queued=(\d+)', answer.headers["openclaw-run"]
    )
    assert described is not None
    assert described[1] == answer.json["id"]
    assert int(described[2]) < 5_000


def test_the_time_in_the_queue_is_told(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.on("slowly", Reply("one", delay=0.4))
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: chat(gateway, "slowly", user="quentin"), range(2)))
    queued = sorted(int(answer.headers["openclaw-run"].rpartition("queued=")[2]) for answer in answers)
    assert queued[0] < 300 < queued[1]


def test_a_stream_says_which_run_it_shows(gateway: GatewayProcess) -> None:
    with Connection(gateway) as connection:
        _, _, headers = connection.send(request_bytes(chat_body(stream=True))).read_head()
        run_id = next(connection.events())["id"]
    assert headers["openclaw-run"] == f'id="{run_id}", agent="main"'
    assert "openclaw-ignored" not in headers


def test_parameters_without_effect_are_named(gateway: GatewayProcess) -> None:
    answer = chat(gateway, safety_identifier="someone", wishes="three")
    assert set(answer.headers["openclaw-ignored"].split(", ")) >= {"safety_identifier", "wishes"}
    assert "openclaw-ignored" not in chat(gateway).headers


def test_the_room_that_is_left_is_told(start_gateway: StartGateway, provider: ScriptedProvider) -> None:
    small = start_gateway(agents={"defaults": {"maxPending": 3, "maxPendingPerSession": 2}})
    gate = threading.Event()
    provider.on("wait", Reply("one", gate=gate))

    def room(answer: Answer) -> tuple[str, ...]:
        names = ("limit", "remaining", "reset")
        return tuple(answer.headers[f"x-ratelimit-{name}-requests"] for name in names)

    assert room(chat(small)) == ("3", "3", "0s")
    assert room(chat(small, user="ann")) == ("2", "2", "0s")
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(chat, small, "wait", user="ann") for _ in range(2)]
        assert wait_until(lambda: room(chat(small))[1] == "1")
        refused = chat(small, user="ann")
        assert (refused.status, refused.error["code"]) == (429, "session_busy")
        assert room(refused) == ("2", "0", "1s")
        waiting.append(pool.submit(chat, small, "wait"))
        assert wait_until(lambda: provider.active == 2)
        refused = chat(small)
        assert (refused.status, refused.error["code"]) == (503, "gateway_busy")
        assert (refused.headers["retry-after"], room(refused)) == ("1", ("3", "0", "1s"))
        gate.set()
        assert {task.result().status for task in waiting} == {200}


# pages of other origins


def test_a_preflight_is_answered_without_the_secret(webbed: GatewayProcess) -> None:
    wanted = "authorization, content-type, x-stainless-os, X-OpenClaw-Session-Key, idempotency-key, x-evil"
    headers = ASKS | {
        "Access-Control-Request-Headers": wanted,
        "Access-Control-Request-Private-Network": "true",
    }

    answer = send(webbed, method="OPTIONS", token=None, headers=headers)

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-max-age"] == "30"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert answer.headers["vary"] == "Origin"
    assert answer.headers["access-control-allow-headers"] == (
        "authorization, content-type, x-stainless-os, x-openclaw-session-key, idempotency-key"
    )
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/models", "GET, HEAD"), (f"{PATH}/x", "GET, HEAD, POST, DELETE"), (f"{PATH}/x/stream", "GET")],
)
def test_a_preflight_tells_what_a_path_takes(path: str, methods: str, webbed: GatewayProcess) -> None:
    answer = send(webbed, method="OPTIONS", path=path, token=None, headers=ASKS)
    assert answer.headers["access-control-allow-methods"] == methods


def test_answers_streams_and_errors_can_be_read_by_the_page(webbed: GatewayProcess) -> None:
    page = {"Origin": PAGE}
    answers = [
        chat(webbed, headers=page),
        chat(webbed, headers=page, stream=True),
        chat(webbed, headers=page, temperature=9),
        chat(webbed, "x" * 20_000, headers=page),
        send(webbed, chat_body(), token=None, headers=page),
        send(webbed, method="GET", path="/v1/nothing", headers=page),
        send(webbed, method="PUT", headers=page),
    ]
    assert [answer.status for answer in answers] == [200, 200, 400, 413, 401, 404, 405]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["vary"] == "Origin"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://chat.example.evil.test",
        "https://evil.test",
        "http://chat.example",
        "https://chat.example:8443",
        "null",
        "*",
        "",
    ],
)
def test_pages_of_other_origins_get_nothing(origin: str, webbed: GatewayProcess) -> None:
    preflight = send(webbed, method="OPTIONS", token=None, headers=ASKS | {"Origin": origin})
    answer = chat(webbed, headers={"Origin": origin})

    assert (preflight.status, answer.status) == (405, 200)
    for one in (preflight, answer):
        assert one.headers["vary"] == "Origin"
        assert not any(name.startswith("access-control") for name in one.headers)


def test_an_origin_is_compared_without_case_and_slash(webbed: GatewayProcess) -> None:
    for origin in ("http://localhost:3000", "HTTP://LOCALHOST:3000"):
        answer = chat(webbed, headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin


def test_without_a_list_browsers_are_told_nothing(gateway: GatewayProcess) -> None:
    preflight = send(gateway, method="OPTIONS", token=None, headers=ASKS)
    answer = chat(gateway, headers={"Origin": PAGE})

    assert (preflight.status, preflight.headers["allow"]) == (405, "POST")
    for one in (preflight, answer):
        assert "vary" not in one.headers
        assert not any(name.startswith("access-control") for name in one.headers)


def test_where_no_secret_is_asked_for_only_listed_pages_get_in(start_gateway: StartGateway) -> None:
    cors = {"allowedOrigins": [PAGE]}
    unguarded = start_gateway(gateway={"auth": {"mode": "none", "token": None}, "http": {"cors": cors}})
    here = {"Host": f"localhost:{unguarded.port}"}

    assert chat(unguarded, headers=here | {"Origin": PAGE}).status == 200
    assert chat(unguarded, headers=here | {"Origin": "https://evil.test"}).status == 401
    assert chat(unguarded, headers={"Host": "chat.example", "Origin": PAGE}).status == 401


# tool activity


def comments_of(connection: Connection) -> list[Any]:
    prefix = ": openclaw "
    return [json.loads(line.removeprefix(prefix)) for line in connection.lines() if line.startswith(prefix)]


@pytest.mark.parametrize("keep", [False, True])
def test_tool_activity_is_shown_to_those_who_ask_for_it(
    keep: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(asking(("read", {"path": "nothing.txt"}), text="Let me see."), Reply("It is not there."))
    headers = {"x-openclaw-events": "lifecycle, Tools"}
    with open_stream(gateway, headers=headers, store=keep) as stream:
        began, ended = comments_of(stream)

    assert (began["type"], began["name"]) == ("tool.started", "read")
    assert json.loads(began["arguments"]) == {"path": "nothing.txt"}
    assert ended == {"type": "tool.finished", "id": began["id"], "name": "read", "is_error": True}


@pytest.mark.parametrize("headers", [{}, {"x-openclaw-events": "lifecycle"}])
def test_nobody_else_sees_it(headers: Any, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(asking(("read", {"path": "nothing.txt"})), Reply("It is not there."))
    answer = chat(gateway, headers=headers, stream=True)
    assert b"openclaw {" not in answer.body
    assert answer.text == "It is not there."


@pytest.mark.parametrize("keep", [False, True])
def test_it_stands_between_the_chunks_of_the_answer(
    keep: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(asking(("read", {"path": "nothing.txt"}), text="First."), Reply("Then."))
    with open_stream(gateway, headers={"x-openclaw-events": "tools"}, store=keep) as stream:
        text = "\n".join(stream.lines())
    assert (
        text.index("First.") < text.index("tool.started") < text.index("tool.finished") < text.index("Then.")
    )


@pytest.mark.parametrize("keep", [False, True])
def test_the_official_sdk_does_not_notice_it(
    keep: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(asking(("read", {"path": "nothing.txt"}), text="First."), Reply("Then."))
    client = OpenAI(base_url=f"{gateway.base_url}/v1", api_key=TOKEN, max_retries=0)
    with (
        client,
        client.chat.completions.create(
            model="openclaw",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            store=keep,
            extra_headers={"x-openclaw-events": "tools"},
        ) as stream,
    ):
        chunks = list(stream)

    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "First.\n\nThen."


# other spellings


@pytest.mark.parametrize("path", [f"{PATH}/", "/chat/completions", "/chat/completions/"])
def test_chat_completions_are_found_where_careless_clients_look(path: str, gateway: GatewayProcess) -> None:
    assert send(gateway, chat_body(), path=path).text == "echo: hi"
    assert stream_events(send(gateway, chat_body(stream=True), path=path).body)[-1] == "[DONE]"
    refused = send(gateway, chat_body(), path=path, token=None)
    assert refused.status == 401
    assert send(gateway, method="GET", path=path).headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/models/", "/models", "/models/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_models_are_found_where_careless_clients_look(
    path: str, method: str, gateway: GatewayProcess
) -> None:
    answer = send(gateway, method=method, path=path)
    expected = send(gateway, method=method, path="/v1/models")
    assert (answer.status, answer.body) == (200, expected.body)
    assert answer.headers["content-length"] == expected.headers["content-length"]


def test_a_model_is_found_without_the_prefix(gateway: GatewayProcess) -> None:
    assert send(gateway, method="GET", path="/models/openclaw/beta").json["id"] == "openclaw/beta"


@pytest.mark.parametrize(
    "path", [f"{PATH}//", "//chat/completions", "/chat%2Fcompletions", "/models//", "/v1//"]
)
def test_no_other_spelling_is_served(path: str, gateway: GatewayProcess) -> None:
    assert send(gateway, chat_body(), path=path).status == 404


def test_what_is_switched_off_is_off_by_every_name(disabled: GatewayProcess) -> None:
    for path in (f"{PATH}/", "/chat/completions", f"{PATH}/x", f"{PATH}/x/stream", f"{PATH}/x/cancel"):
        answer = send(disabled, chat_body(), path=path)
        assert (answer.status, answer.error["code"]) == (404, "endpoint_disabled")
