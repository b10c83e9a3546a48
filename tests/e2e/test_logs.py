"""The log of a real gateway, for programs: every line an object, from the server's first to its last."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import Connection, chat, request_bytes, send
from tests.e2e.tool_runs import asking
from tests.scripted_provider import Reply, ScriptedProvider, Status

PATIENCE = 10.0
CHAT = "/v1/chat/completions"
TALKATIVE = {"requests": True}


def lines(gateway: GatewayProcess, **wanted: Any) -> list[dict[str, Any]]:
    """The lines with these fields."""
    everything = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    return [line for line in everything if wanted.items() <= line.items()]


def line(gateway: GatewayProcess, **wanted: Any) -> dict[str, Any]:
    """The one line with these fields, once it is there."""
    found = wait_until(lambda: lines(gateway, **wanted), PATIENCE, f"a line with {wanted}")
    assert len(found) == 1
    one: dict[str, Any] = found[0]
    return one


def test_every_line_is_an_object(start_gateway: StartGateway) -> None:
    gateway = start_gateway(logging={"consoleStyle": "json"})
    assert chat(gateway).status == 200
    gateway.stop()
    banner, *written = gateway.log.splitlines()

    assert banner.startswith("Starting the gateway on")
    loggers = {json.loads(line)["logger"] for line in written}
    assert {"gunicorn.error", "openclaw.gateway", "openclaw.run"} <= loggers
    assert all({"time", "level", "logger", "message"} <= json.loads(line).keys() for line in written)


def test_a_request_and_its_run_find_each_other(start_gateway: StartGateway) -> None:
    gateway = start_gateway(env={"OPENCLAW_LOG_FORMAT": "json"}, logging=TALKATIVE)
    answer = chat(gateway, headers={"X-Request-Id": "router-7", "x-openclaw-session-key": "agent:main:anna"})
    request = line(gateway, logger="openclaw.access", route=CHAT)
    run = line(gateway, logger="openclaw.run", run_id=answer.json["id"])

    assert run["request_id"] == request["request_id"]
    assert request["run_id"] == answer.headers["x-request-id"] == answer.json["id"]
    assert request["upstream_request_id"] == "router-7"
    shown = {name: request[name] for name in ("method", "status", "bytes")}
    assert shown == {"method": "POST", "status": 200, "bytes": len(answer.body)}
    assert request["duration_ms"] >= run["duration_ms"] - 1
    assert (run["agent"], run["outcome"], run["channel"]) == ("main", "completed", "openai")
    assert "anna" not in gateway.log


def test_a_stream_is_told_of_when_its_last_byte_is_sent(start_gateway: StartGateway) -> None:
    gateway = start_gateway(env={"OPENCLAW_LOG_FORMAT": "json"}, logging=TALKATIVE)
    answer = chat(gateway, "a b c d e", stream=True)
    request = line(gateway, logger="openclaw.access", route=CHAT)
    assert request["bytes"] == len(answer.body)
    assert request["run_id"] == answer.headers["x-request-id"]


def test_what_clients_send_is_not_in_the_line_of_a_request(start_gateway: StartGateway) -> None:
    gateway = start_gateway(env={"OPENCLAW_LOG_FORMAT": "json"}, logging=TALKATIVE)
    path = "/v1/models/hidden-model?token=hidden-token"
    answer = send(gateway, method="GET", path=path, headers={"X-Request-Id": 'a"b c\\'})
    assert answer.status == 404
    with Connection(gateway) as connection:
        connection.send(request_bytes(b'{"hidden-body": 1', path=CHAT)).read()
    refused = line(gateway, logger="openclaw.access", route="/v1/models/<path:name>")
    line(gateway, logger="openclaw.access", status=400)

    assert refused["request_id"] == answer.headers["x-request-id"]
    assert "upstream_request_id" not in refused
    assert "run_id" not in refused
    assert "hidden" not in gateway.log
    assert not lines(gateway, route="/readyz")


def test_lines_of_a_run_say_whose_they_are(start_gateway: StartGateway, provider: ScriptedProvider) -> None:
    gateway = start_gateway(env={"OPENCLAW_LOG_FORMAT": "json", "OPENCLAW_LOG_LEVEL": "debug"})
    provider.script(Status(500), asking(("ls", {})), Reply("done"))
    answer = chat(gateway, headers={"x-openclaw-session-key": "agent:main:anna"})
    failed = line(gateway, logger="openclaw.model", level="warning")
    session = line(gateway, logger="openclaw.run", level="debug")

    assert failed["run_id"] == session["run_id"] == answer.json["id"]
    assert session["message"].endswith("belongs to session agent:main:anna")
    assert not lines(gateway, logger="openclaw.access")


def test_the_newest_lines_are_shown_in_either_format(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        env={"OPENCLAW_LOG_FORMAT": "json", "OPENCLAW_GATEWAY_TOKEN": TOKEN}, logging=TALKATIVE
    )
    run_id = chat(gateway).json["id"]
    line(gateway, logger="openclaw.run", run_id=run_id)
    shown = gateway.command("logs", "--limit", "20")
    assert shown.returncode == 0, shown.stderr
    assert f"run {run_id} agent=main completed" in shown.stdout
