"""The compose file, and two gateways behind its nginx."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import load_config
from tests.e2e.gateway_process import CHECKOUT, TOKEN, GatewayProcess, free_port, gateway_config
from tests.e2e.http_client import Connection, chat, chat_body, request_bytes
from tests.e2e.ws_client import WsClient
from tests.nginx_engine import NginxEngine
from tests.scripted_provider import Reply, ScriptedProvider


def test_the_compose_file_starts_what_its_nginx_asks(tmp_path: Path) -> None:
    folder = CHECKOUT / "examples" / "compose"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    services = compose["services"]
    asked = re.findall(r"server ([\w-]+):18789 ", (folder / "nginx.conf").read_text())
    assert asked == ["gateway-1", "gateway-2"]
    for name in asked:
        assert services[name]["build"] == "../.."
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        settings = services[name]["environment"]
        network = compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]
        assert json.loads(settings["OPENCLAW__GATEWAY__TRUSTED_PROXIES"]) == [network]
        env = {key: text for key, text in settings.items() if "$" not in text}
        config = load_config(None, env | {"HOME": str(tmp_path), "OPENCLAW_GATEWAY_TOKEN": TOKEN})
        assert config.warnings == ()
    assert set(services) == {*asked, "migrate", "nginx", "postgres", "redis"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)


@pytest.fixture
def behind_nginx(provider_port: int, tmp_path: Path) -> Iterator[tuple[list[GatewayProcess], Any]]:
    """Two gateways, each with a state of its own, behind the nginx of the compose file."""
    gateways = []
    for name in ("gateway-1", "gateway-2"):
        (tmp_path / name).mkdir()
        config = gateway_config(f"http://127.0.0.1:{provider_port}/v1")
        gateways.append(GatewayProcess(config, tmp_path / name, env={"OPENCLAW_DRAIN_SECONDS": "3"}).start())
    port = free_port()
    text = (CHECKOUT / "examples" / "compose" / "nginx.conf").read_text()
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    for number, gateway in enumerate(gateways, 1):
        text = text.replace(f"gateway-{number}:18789", f"127.0.0.1:{gateway.port}")
    front = type("Front", (), {"port": port})
    with NginxEngine(text, port) as nginx:
        front.log = lambda: nginx.log
        yield gateways, front
    for gateway in gateways:
        gateway.stop()


def test_the_nginx_of_the_example_passes_streams_on_at_once_and_lets_web_sockets_through(
    behind_nginx: tuple[list[GatewayProcess], Any], provider: ScriptedProvider
) -> None:
    _, front = behind_nginx
    provider.on("slowly", Reply("one two", delay=0.4))
    with Connection(front) as stream:
        stream.send(request_bytes(chat_body("slowly", stream=True))).read_head()
        arrived = [(time.monotonic(), event) for event in stream.events()]
    assert arrived[-1][1] == "[DONE]"
    assert arrived[-1][0] - arrived[0][0] > 0.6, "nginx has kept the beginning back"
    with WsClient(front.port) as client:
        assert client.ask("health")["ok"] is True


def test_one_gateway_after_the_other_restarts_behind_nginx_and_nobody_finds_the_door_shut(
    behind_nginx: tuple[list[GatewayProcess], Any], provider: ScriptedProvider
) -> None:
    gateways, front = behind_nginx
    told: list[int] = []
    for gateway in gateways:
        provider.script(*[Reply("one two three", delay=0.3)] * 4)
        streams = [Connection(front) for _ in range(4)]
        for stream in streams:
            stream.send(request_bytes(chat_body("hello", stream=True))).read_head()
        gateway.terminate()
        while gateway.alive:
            told.append(chat(front, "hello").status)
        for stream in streams:
            with stream:
                assert [*stream.events()][-1] == "[DONE]"
        gateway.wait()
        told += [chat(front, "hello").status for _ in range(4)]
        gateway.start()
    assert set(told) <= {200, 503}, front.log()
    assert told[-1] == 200
