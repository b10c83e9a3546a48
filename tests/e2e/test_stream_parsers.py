"""Published parsers of event streams do not notice what is between the chunks.

That are comments of keep-alive and of tool activity, and in streams that can be come back to the
chunks' numbers as well.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.published import npm_packages, python_with, run_client
from tests.e2e.published_clients import npm_of
from tests.e2e.tool_runs import asking
from tests.scripted_provider import Reply, ScriptedProvider

pytestmark = pytest.mark.timeout(300)  # the first test of each installs what it needs

SCRIPTS = Path(__file__).parent / "clients" / "parsers"


def node_sdk(home: Path) -> list[str]:
    return _node(home, npm_of("openai"), "openai.mjs")


def eventsource_parser(home: Path) -> list[str]:
    return _node(home, npm_packages("eventsource-parser", {"eventsource-parser": "3.1.1"}), "eventsource.mjs")


def httpx_sse(home: Path) -> list[str]:
    python = python_with("httpx-sse", "httpx-sse==0.4.3", "httpx==0.28.1")
    return [str(python), str(SCRIPTS / "httpx_sse_client.py")]


def _node(home: Path, installed: Path, script: str) -> list[str]:
    shutil.copy(SCRIPTS / script, home)
    (home / "node_modules").symlink_to(installed / "node_modules")
    return [str(installed / "node"), script]


@pytest.fixture(scope="module")
def lively(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway that is never silent for long."""
    return start_gateway(gateway={"http": {"keepAliveSeconds": 0.1}})


@pytest.mark.parametrize("kind", ["store", "plain"])
@pytest.mark.parametrize("parser", [node_sdk, eventsource_parser, httpx_sse], ids=lambda p: p.__name__)
def test_only_chunks_come_out(
    parser: Callable[[Path], list[str]],
    kind: str,
    lively: GatewayProcess,
    provider: ScriptedProvider,
    tmp_path: Path,
) -> None:
    command = parser(tmp_path)
    gate = threading.Event()
    provider.script(
        asking(("read", {"path": "nothing.txt"}), text="First."), Reply("Then more.", gate=gate, gate_at=1)
    )
    threading.Timer(1.5, gate.set).start()
    env = {"OPENAI_BASE_URL": f"{lively.base_url}/v1", "OPENAI_API_KEY": TOKEN}

    chunks: list[Any] = run_client([*command, kind], tmp_path, env)

    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "First.\n\nThen more."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
