"""OpenClaw's published command line and terminal, both generations, and clients of others.

That a turn ran here is taken from the gateway's store and the model's requests, never from what the
client prints: the old one falls back to an agent of its own without a word.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from app.sessions.records import Run
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import chat, open_stream
from tests.e2e.openclaw_clients import NEW, OLD, OpenClaw, install, install_python_clients
from tests.scripted_provider import Reply, ScriptedProvider, Status

pytestmark = pytest.mark.timeout(600)  # the first test installs what it needs

ESCAPE = "\x1b"
MAIN = "agent:main:main"


@pytest.fixture(scope="module", params=[OLD, NEW], ids=str)
def installed(request: pytest.FixtureRequest) -> Path:
    return install(request.param)


@pytest.fixture(scope="module")
def gateway(installed: Path, start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """One that no other generation has talked to."""
    return start_gateway()


@pytest.fixture
def openclaw(installed: Path, tmp_path: Path, gateway: GatewayProcess) -> OpenClaw:
    return OpenClaw(installed, tmp_path, gateway)


def runs(gateway: GatewayProcess, session: str) -> list[Run]:
    """The records of a session's runs, newest first."""
    with closing(gateway.store()) as store:
        return store.list_runs(session, 10)


def said(gateway: GatewayProcess, session: str) -> list[str]:
    """What was said in a session, by the person and by the agent."""
    with closing(gateway.store()) as store:
        return [entry.message.text for entry in store.transcript(session).history]


def test_gateway_call_prints_the_health_of_this_gateway(openclaw: OpenClaw) -> None:
    done = openclaw.run("gateway", "call", "health", "--json")
    assert done.returncode == 0, done.stderr
    health = json.loads(done.stdout)
    assert (health["ok"], health["defaultAgentId"]) == (True, "main")
    assert [agent["agentId"] for agent in health["agents"]] == ["main", "beta"]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("health", "Agents: main (default), beta"),
        ("status", "reachable"),
        ("gateway probe", "Reachable: yes"),
        ("logs", "Log file: "),
    ],
)
def test_a_command_that_looks_at_the_gateway_succeeds(openclaw: OpenClaw, command: str, shown: str) -> None:
    done = openclaw.run(*command.split())
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert "unreachable" not in done.stdout


def test_a_message_from_the_command_line_is_answered_by_a_run_of_this_gateway(
    openclaw: OpenClaw, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    before = runs(gateway, MAIN)
    done = openclaw.run("agent", "--agent", "main", "--message", "what is for dinner?")
    assert done.returncode == 0, done.stderr
    assert "echo: what is for dinner?" in done.stdout
    assert [request.user_text for request in provider.requests] == ["what is for dinner?"]
    run, *earlier = runs(gateway, MAIN)
    assert (earlier, run.status, run.channel) == (before, "completed", "cli")
    assert said(gateway, MAIN)[-2:] == ["what is for dinner?", "echo: what is for dinner?"]


def test_a_failed_model_is_told_on_the_command_line(
    openclaw: OpenClaw, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Status(401, {"error": {"message": "Incorrect API key provided."}}))
    done = openclaw.run("agent", "--agent", "main", "--message", "fail")
    assert done.returncode == 1
    assert runs(gateway, MAIN)[0].error_code == "provider_auth"
    assert len(provider.requests) == 1


def test_a_wrong_token_is_refused_with_the_reason(
    installed: Path, tmp_path: Path, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    stranger = OpenClaw(installed, tmp_path, gateway, token="another-token")
    done = stranger.run("gateway", "call", "health")
    assert done.returncode == 1
    assert "gateway token mismatch" in done.stdout + done.stderr
    assert "another-token" not in gateway.log


@pytest.mark.parametrize("installed", [OLD], indirect=True, ids=str)
def test_a_device_token_of_another_gateway_fails_once(
    openclaw: OpenClaw, tmp_path: Path, provider: ScriptedProvider
) -> None:
    assert openclaw.run("gateway", "call", "health").returncode == 0
    identity = tmp_path / ".openclaw" / "identity"
    device = json.loads((identity / "device.json").read_text())["deviceId"]
    token = {"token": "of-another-gateway", "role": "operator", "scopes": [], "updatedAtMs": 1}
    stored = {"version": 1, "deviceId": device, "tokens": {"operator": token}}
    (identity / "device-auth.json").write_text(json.dumps(stored))

    first = openclaw.run("gateway", "call", "health")
    assert first.returncode == 1
    assert "run the command again" in first.stderr
    assert openclaw.run("gateway", "call", "health").returncode == 0


def test_the_terminal_shows_the_history_and_a_streamed_answer(
    openclaw: OpenClaw, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    chat(gateway, "what was said before", headers={"x-openclaw-session-key": "agent:main:kitchen"})
    gate = threading.Event()
    provider.script(Reply(chunks=["It is ", "soup ", "with bread."], gate=gate, gate_at=2))
    with openclaw.terminal("tui", "--session", "kitchen") as terminal:
        terminal.wait_for("echo: what was said before", "connected | idle")
        terminal.type("what is for dinner?\r")
        early = terminal.wait_for("It is soup")
        assert "with bread" not in early
        gate.set()
        terminal.wait_for("It is soup with bread.", "connected | idle")
    assert runs(gateway, "agent:main:kitchen")[0].status == "completed"
    assert said(gateway, "agent:main:kitchen")[2:] == ["what is for dinner?", "It is soup with bread."]


def test_escape_in_the_terminal_stops_the_run_at_the_model(
    openclaw: OpenClaw, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(chunks=["some", "never"], hang_after=1))
    with openclaw.terminal("tui", "--session", "hall") as terminal:
        terminal.wait_for("connected | idle")
        terminal.type("tell me a long story\r")
        terminal.wait_for("some")
        terminal.type(ESCAPE)
        terminal.wait_for("aborted")
    assert provider.wait_for_disconnect()
    assert wait_until(lambda: runs(gateway, "agent:main:hall")[0].ended_at)
    assert runs(gateway, "agent:main:hall")[0].status == "cancelled"


@pytest.mark.parametrize("installed", [NEW], indirect=True, ids=str)  # the old one does not ask for it
def test_a_terminal_that_comes_late_sees_and_stops_a_run_of_an_http_client(
    openclaw: OpenClaw, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    key = "agent:main:cellar"
    provider.script(Reply(chunks=["It is ", "soup ", "never"], hang_after=2))
    with open_stream(gateway, "what is for dinner?", headers={"x-openclaw-session-key": key}):
        assert provider.wait_for_requests(1)
        with openclaw.terminal("tui", "--session", "cellar") as terminal:
            terminal.wait_for("what is for dinner?", "It is soup")
            terminal.type(ESCAPE)
            terminal.wait_for("aborted")
        assert provider.wait_for_disconnect()
        assert wait_until(lambda: runs(gateway, key)[0].ended_at)
    assert runs(gateway, key)[0].status == "cancelled"


def test_a_terminal_outlives_a_restart_of_the_gateway(
    openclaw: OpenClaw, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    with openclaw.terminal("tui", "--session", "garden") as terminal:
        terminal.wait_for("connected | idle")
        gateway.stop()
        terminal.wait_for("disconnected")
        gateway.start()
        terminal.wait_for("connected | idle", without="disconnected")
        terminal.type("still there?\r")
        terminal.wait_for("echo: still there?")
    assert said(gateway, "agent:main:garden") == ["still there?", "echo: still there?"]


# clients of others

NODE_CLIENT = """
import { OpenClawClient } from "openclaw-node";
const [url, token] = process.argv.slice(2);
const client = new OpenClawClient({ url, token });
await client.connect();
const answer = client.chat("what is for dinner?", { sessionKey: "agent:main:node" });
const chunks = await Array.fromAsync(answer);
const agents = (await client.agents.list()).agents.map((agent) => agent.id);
console.log(JSON.stringify({ chunks, agents }));
await client.disconnect();
"""

PYTHON_SDK = """
import asyncio, json, sys
from openclaw_sdk import OpenClawClient
from openclaw_sdk.core.config import ClientConfig
from openclaw_sdk.gateway.protocol import ProtocolGateway

async def main(url):
    gateway = ProtocolGateway(url)
    await gateway.connect()
    client = OpenClawClient(config=ClientConfig(gateway_ws_url=url), gateway=gateway)
    answer = await client.get_agent("main", "sdk").execute("what is for dinner?")
    agents = [agent.agent_id for agent in await client.list_agents()]
    print(json.dumps({"text": answer.content, "ok": answer.success, "agents": agents}))
    await gateway.close()

asyncio.run(main(sys.argv[1]))
"""

AGENTWATCH = """
import asyncio, json, sys
from agentwatch_cli.moltbot_client import MoltbotClient

async def main(url, token):
    client = MoltbotClient(url, token)
    connected = await client.connect()
    print(json.dumps([connected, await client.chat([{"role": "user", "content": "who are you?"}])]))
    await client.disconnect()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    return install_python_clients()


def run_client(command: list[str], home: Path) -> Any:
    """What a client prints last, as JSON."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("installed", [NEW], indirect=True, ids=str)
def test_openclaw_node_streams_an_answer(installed: Path, gateway: GatewayProcess, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(installed / "node_modules")
    (tmp_path / "client.mjs").write_text(NODE_CLIENT)
    url = f"ws://127.0.0.1:{gateway.port}"
    told = run_client([str(installed / "node"), "client.mjs", url, TOKEN], tmp_path)
    pieces = [chunk["text"] for chunk in told["chunks"] if chunk["type"] == "text"]
    assert "".join(pieces) == "echo: what is for dinner?"
    assert told["chunks"][-1]["type"] == "done"
    assert told["agents"] == ["main", "beta"]
    assert runs(gateway, "agent:main:node")[0].status == "completed"


@pytest.mark.parametrize("installed", [NEW], indirect=True, ids=str)
def test_openclaw_sdk_talks_to_an_agent(python: Path, gateway: GatewayProcess, tmp_path: Path) -> None:
    write_identity(tmp_path / ".openclaw" / "identity")
    url = f"ws://127.0.0.1:{gateway.port}/gateway"
    told = run_client([str(python), "-c", PYTHON_SDK, url], tmp_path)
    assert told == {"text": "echo: what is for dinner?", "ok": True, "agents": ["main", "beta"]}
    assert runs(gateway, "agent:main:sdk")[0].status == "completed"


def write_identity(place: Path) -> None:
    """A device as OpenClaw keeps it, with the gateway's token: this client connects with nothing else."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    device = {
        "deviceId": hashlib.sha256(raw).hexdigest(),
        "publicKeyPem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "privateKeyPem": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    }
    operator = {"token": TOKEN, "role": "operator", "scopes": ["operator.admin"]}
    place.mkdir(parents=True)
    (place / "device.json").write_text(json.dumps(device))
    (place / "device-auth.json").write_text(json.dumps({"tokens": {"operator": operator}}))


@pytest.mark.parametrize("installed", [NEW], indirect=True, ids=str)
def test_agentwatch_asks_an_agent(python: Path, gateway: GatewayProcess, tmp_path: Path) -> None:
    url = f"ws://127.0.0.1:{gateway.port}"
    told = run_client([str(python), "-c", AGENTWATCH, url, TOKEN], tmp_path)
    assert told == [True, "echo: who are you?"]
