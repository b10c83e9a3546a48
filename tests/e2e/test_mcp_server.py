"""A published MCP server in a real gateway: used in a run, killed, and used again."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import chat
from tests.scripted_provider import Received, Reply, ScriptedProvider, call

ASK = call("clock__get_current_time", {"timezone": "Europe/Rome"})


@pytest.fixture(scope="module")
def clocked(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway with the published server mcp-server-time, called ``clock``."""
    server = {"command": sys.executable, "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"]}
    return start_gateway(
        mcp={"servers": {"clock": server}}, agents={"list": [{"id": "main"}, {"id": "bare"}]}
    )


def servers_of(gateway: GatewayProcess) -> list[psutil.Process]:
    children = psutil.Process(gateway.worker_pid).children(recursive=True)
    return [child for child in children if is_server(child)]


def is_server(process: psutil.Process) -> bool:
    try:
        return "mcp_server_time" in process.cmdline()
    except psutil.Error:  # it is ending
        return False


def offered(received: Received) -> set[str]:
    return {tool["function"]["name"] for tool in received.body.get("tools", [])}


def tool_result(received: Received) -> dict[str, Any]:
    message: dict[str, Any] = received.body["messages"][-1]
    assert message["role"] == "tool"
    return message


def test_a_published_server_is_used_killed_and_used_again(
    clocked: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(tool_calls=[ASK]), Reply("It is late."))

    assert chat(clocked, "what time is it?").text == "It is late."
    assert "clock__get_current_time" in offered(provider.requests[0])
    assert "Europe/Rome" in tool_result(provider.requests[1])["content"]

    [server] = servers_of(clocked)
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: [s.pid for s in servers_of(clocked)] not in ([], [server.pid]), 20, "the next server")
    provider.script(Reply(tool_calls=[ASK]), Reply("It is later."))

    assert chat(clocked, "and now?").text == "It is later."
    assert "Europe/Rome" in tool_result(provider.requests[-1])["content"]


def test_what_the_server_says_is_marked_as_coming_from_outside(
    clocked: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(tool_calls=[ASK]), Reply("It is late."))

    chat(clocked, "what time is it?")

    assert tool_result(provider.requests[-1])["content"].startswith("<<<external content: MCP server clock.")


def test_a_policy_holds_for_tools_of_servers_too(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    server = {"command": sys.executable, "args": ["-m", "mcp_server_time"]}
    gateway = start_gateway(mcp={"servers": {"clock": server}}, tools={"deny": ["clock__*"]})
    provider.script(Reply(tool_calls=[ASK]), Reply("I cannot tell."))

    assert chat(gateway, "what time is it?").text == "I cannot tell."
    assert not any(name.startswith("clock__") for name in offered(provider.requests[0]))
    assert "There is no tool named" in tool_result(provider.requests[1])["content"]


def test_nothing_of_a_server_is_left_when_the_gateway_is_killed(start_gateway: StartGateway) -> None:
    server = {"command": sys.executable, "args": ["-m", "mcp_server_time"]}
    gateway = start_gateway(mcp={"servers": {"clock": server}})
    wait_until(lambda: servers_of(gateway), 20, "the server")
    processes = psutil.Process(gateway.worker_pid).children(recursive=True)

    gateway.kill9()

    wait_until(lambda: not any(process.is_running() for process in processes), 10, "the end of all of them")
