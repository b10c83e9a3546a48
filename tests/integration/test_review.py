"""What a hostile caller, an odd model API or a careless tool must not bring about."""

from __future__ import annotations

import base64
import gc
import http.client
import json
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response

from app.cancel import CancelReason
from app.channels.client import client_address
from app.channels.openai.images import MAX_IMAGE_BYTES
from app.channels.openai.schema import parse_chat_request
from app.config import load_config
from app.errors import InvalidRequest, RunAborted, SessionBusy
from app.events import TERMINAL, RunCancelled, RunEvent, RunFailed
from app.extension import Gateway
from app.messages import AssistantMessage, JsonValue, UserMessage
from app.runs.command import outcome
from app.runs.executor import Executor
from app.runs.lanes import SessionLanes
from app.runs.run import Run, RunRequest
from app.runtime import Runtime, build_runtime
from app.tools.registry import Tool, ToolContext
from tests.e2e.gateway_process import TOKEN, GatewayProcess, gateway_config, wait_until
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, call

PATIENCE = 10.0
PATH = "/v1/chat/completions"


@pytest.fixture
def model() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def start(model: ScriptedProvider, tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    """Builds a runtime whose agent may use the given tool."""
    built: list[Runtime] = []

    def build(*tools: Tool) -> Runtime:
        document = gateway_config(model.base_url, tools={"allow": [tool.name for tool in tools] or ["read"]})
        env = {"OPENCLAW_STATE_DIR": str(tmp_path / "state")}
        built.append(build_runtime(load_config(document, env), env, tools=tools))
        return built[-1]

    yield build
    for runtime in built:
        runtime.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that wants no secret; nobody answers for its model."""
    config = gateway_config("http://127.0.0.1:9/v1", gateway={"auth": {"mode": "none", "token": None}})
    with GatewayProcess(config, tmp_path_factory.mktemp("open")) as gateway:
        yield gateway


def ask(runtime: Runtime, text: str = "hi") -> Run:
    return runtime.runs.start(
        RunRequest(
            run_id=f"r-{time.monotonic_ns()}",
            agent_id="main",
            session_key="chat",
            ephemeral=False,
            channel="tests",
            messages=(UserMessage.of(text),),
            created_at=1_000,
        )
    )


def end_of(run: Run) -> RunEvent:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        events = run.stream.get(0.5)
        if events and isinstance(events[-1], TERMINAL):
            return events[-1]
    raise AssertionError("the run did not end")


def tool(function: Callable[[ToolContext, Mapping[str, JsonValue]], str]) -> Tool:
    return Tool("probe", "A tool of these tests.", {"type": "object"}, function)


def calls_probe(text: str = "") -> Reply:
    return Reply(text, tool_calls=[call("probe", {})], finish_reason="tool_calls")


def test_a_tool_that_exits_the_process_only_ends_its_run(
    start: Callable[..., Runtime], model: ScriptedProvider
) -> None:
    def leave(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
        raise SystemExit(3)

    runtime = start(tool(leave))
    model.script(calls_probe())
    assert isinstance(end_of(ask(runtime)), RunFailed)
    assert runtime.runs.live == 0
    assert not isinstance(end_of(ask(runtime, "again")), RunFailed), "the session's lane is free"


def test_text_before_a_tool_call_is_stored_once_when_the_tool_is_cancelled(
    start: Callable[..., Runtime], model: ScriptedProvider
) -> None:
    inside = threading.Event()

    def wait(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
        inside.set()
        context.cancel.sleep(PATIENCE)
        return ""

    runtime = start(tool(wait))
    model.script(calls_probe("let me see"))
    run = ask(runtime)
    assert inside.wait(PATIENCE)
    run.cancel(CancelReason.USER)
    assert end_of(run) == RunCancelled(CancelReason.USER)
    history = [entry.message for entry in runtime.store.load("chat").history]
    assert [m.text for m in history if isinstance(m, AssistantMessage)] == ["let me see"]


def test_an_absurd_token_count_of_a_provider_costs_nobody_the_answer(
    start: Callable[..., Runtime], model: ScriptedProvider
) -> None:
    runtime = start()
    model.script(Reply("fine", usage=(2**64 - 1, 2, 2**64 - 1)))
    run = ask(runtime)
    assert not isinstance(end_of(run), RunFailed)
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert record.status == "completed"
    assert record.usage.input > 2**30
    assert record.usage.output == 2


def test_a_retry_date_that_is_no_date_is_ignored(
    start: Callable[..., Runtime], model: ScriptedProvider
) -> None:
    runtime = start()
    strange = {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"}
    model.script(Status(401, {"error": {"message": "no"}}, strange))
    end = end_of(ask(runtime))
    assert isinstance(end, RunFailed)
    assert end.error.code == "provider_auth"


def test_a_deadline_that_fails_leaves_the_others_in_force() -> None:
    executor, fired = Executor(), threading.Event()

    def fail() -> None:
        raise ValueError("a deadline of a test that fails")

    executor.after(0, fail)
    executor.after(0.05, fired.set)
    assert fired.wait(PATIENCE)
    executor.close()


def test_cleared_deadlines_are_forgotten_although_a_long_one_is_in_front_of_them() -> None:
    executor, kept = Executor(), []
    executor.after(600, executor.close)

    def action() -> None: ...

    for _ in range(3_000):
        deadline = executor.after(600, action)
        kept.append(weakref.ref(deadline))
        deadline.clear()
        del deadline
    assert sum(reference() is not None for reference in kept) < 1_500
    executor.close()


def test_a_stream_that_the_host_drops_before_its_first_byte_ends_its_run(
    model: ScriptedProvider, tmp_path: Path
) -> None:
    host = Flask("host")
    host.logger.disabled = True  # pytest keeps log records, and with the error all that it has seen

    @host.after_request
    def fail(response: Response) -> Response:
        if response.mimetype == "text/event-stream":
            raise ValueError("a hook of the host that fails")
        return response

    config = gateway_config(model.base_url)
    runtime = Gateway().init_app(host, config=config, env={"OPENCLAW_STATE_DIR": str(tmp_path)}).open()
    model.script(Hang())
    body = {"stream": True, "messages": [{"role": "user", "content": "hi"}]}
    answer = host.test_client().post(PATH, json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 500
    gc.collect()  # the error, its traceback and the response hold one another
    wait_until(lambda: runtime.runs.live == 0, PATIENCE, "the end of the run")
    runtime.close()


def test_refused_sessions_leave_no_lane_behind() -> None:
    lanes = SessionLanes(0)
    for key in ("a", "b"):
        with pytest.raises(SessionBusy):
            lanes.enter(key, "run")
    assert len(lanes) == 0


def test_a_command_is_answered_even_when_its_record_cannot_be_read(start: Callable[..., Runtime]) -> None:
    runtime = start()
    runtime.close()
    told = outcome(RunCancelled(CancelReason.USER), "r-1", runtime.store)
    assert told["error"]["message"] == RunAborted(CancelReason.USER).message
    assert told["result"] == {"payloads": [], "meta": {}}


def status(gateway: GatewayProcess, method: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_without_a_secret_a_page_of_another_name_is_kept_out_although_the_name_leads_here(
    gateway: GatewayProcess,
) -> None:
    assert status(gateway, "GET", "/api/sessions", Host=f"localhost:{gateway.port}") == 200
    assert status(gateway, "GET", "/api/sessions", Host=f"[::1]:{gateway.port}") == 200
    assert status(gateway, "GET", "/api/sessions", Host=f"evil.example:{gateway.port}") == 401
    assert status(gateway, "GET", "/v1/models", Host="localhost.evil.example") == 401


@pytest.mark.parametrize("size", [b"zz", b"-2", b"0x2"])
def test_a_body_with_a_bad_chunk_is_the_clients_mistake(gateway: GatewayProcess, size: bytes) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) as client:
        client.sendall(head + size + b"\r\n{}\r\n0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def schema_of(text: str) -> str:
    return '"response_format":{"type":"json_schema","json_schema":' + text + "}"


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        (schema_of(nested(980)), "response_format"),
        (schema_of('{"a":1e999,"b":' + "9" * 30 + "}"), None),
        ('"top_p":' + "9" * 5000, None),
        (f'"model":"{"x" * 257}"', "model"),
    ],
)
def test_what_could_not_be_sent_on_is_refused_at_once(
    gateway: GatewayProcess, extra: str, param: str | None
) -> None:
    body = '{"messages":[{"role":"user","content":"hi"}],' + extra + "}"
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE)
    connection.request("POST", PATH, body)
    response = connection.getresponse()
    error: dict[str, Any] = json.loads(response.read())["error"]
    connection.close()
    assert (response.status, error["param"]) == (400, param)
    assert "sys." not in error["message"]
    assert len(error["message"]) < 300


def test_a_wrong_method_on_the_control_channel_is_answered_with_the_right_ones(
    gateway: GatewayProcess,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE)
    connection.request("PUT", "/api/sessions")
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    connection.close()
    assert response.status == 405
    assert error["code"] == "method_not_allowed"
    assert "GET" in response.headers["Allow"]


def test_an_image_of_exactly_the_limit_is_within_it() -> None:
    def image_of(size: int) -> JsonValue:
        data = base64.b64encode(b"\x89PNG\r\n\x1a\n".ljust(size, b"x")).decode()
        part: JsonValue = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        return {"messages": [{"role": "user", "content": [part]}]}

    assert parse_chat_request(image_of(MAX_IMAGE_BYTES)).messages
    for more in (1, 2, 3):
        with pytest.raises(InvalidRequest, match="larger than 10 MiB"):
            parse_chat_request(image_of(MAX_IMAGE_BYTES + more))


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("192.0.2.7:5678", "192.0.2.7"),
        ("[2001:db8::7]:5678", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("6.6.6.6, 192.0.2.7:5678, 10.0.0.9:80", "192.0.2.7"),
        ("192.0.2.7:5678:9", "10.0.0.1"),
    ],
)
def test_a_proxy_that_adds_the_port_still_tells_its_clients_apart(forwarded: str, client: str) -> None:
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": forwarded}
    assert str(client_address(environ, [ip_network("10.0.0.0/8")])) == client
