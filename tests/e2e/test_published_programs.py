"""Published programs of others, each installed apart, at work on a real gateway; and their documentation.

What happened is taken from the gateway's records and from what reached the model; what a program
prints only adds to that.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import CHECKOUT, TOKEN, GatewayProcess
from tests.e2e.published import run_program
from tests.e2e.published_clients import (
    FROM_NPM,
    FROM_PYPI,
    LITELLM,
    MENU,
    QUIET,
    SCRIPTS,
    env_of,
    npm_of,
    python_of,
    schema_of,
)  # fmt: skip
from tests.e2e.terminal import Terminal
from tests.e2e.tool_runs import asking, endings, results, tool_names
from tests.scripted_provider import Reply, ScriptedProvider

pytestmark = pytest.mark.timeout(600)  # each client is installed by the first test that needs it


# --- command lines ---

Program = Callable[..., subprocess.CompletedProcess[str]]


LLM_MODELS = """
- model_id: openclaw
  model_name: openclaw
  api_base: {base_url}/v1
  api_key_name: openclaw
  supports_schema: true
  supports_tools: true
"""


def llm_for(gateway: GatewayProcess, home: Path) -> Program:
    """``llm``, with the gateway as one of its models."""
    python = python_of("llm")
    models = LLM_MODELS.format(base_url=gateway.base_url)
    (home / "extra-openai-models.yaml").write_text(models)
    env = env_of(gateway, LLM_USER_PATH=str(home))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_program([str(python), "-m", "llm", *arguments], home, env)

    assert run("keys", "set", "openclaw", "--value", TOKEN).returncode == 0
    return run


@pytest.fixture
def llm(gateway: GatewayProcess, tmp_path: Path) -> Program:
    return llm_for(gateway, tmp_path)


def test_llm_answers_and_goes_on(llm: Program, provider: ScriptedProvider) -> None:
    done = llm("-m", "openclaw", "my name is Ada")
    assert (done.returncode, done.stdout) == (0, "echo: my name is Ada\n"), done.stderr
    assert llm("-c", "who am I?").stdout == "echo: who am I?\n"
    said = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert said == ["my name is Ada", "echo: my name is Ada", "who am I?"]


def test_llm_calls_a_function_and_gets_an_object(llm: Program, provider: ScriptedProvider) -> None:
    function = 'def get_weather(city: str) -> str:\n    return f"clear in {city}"\n'
    provider.script(asking(("get_weather", {"city": "Rome"})), Reply("It is clear."))
    done = llm("-m", "openclaw", "--functions", function, "how is the weather in Rome?")
    assert (done.returncode, done.stdout) == (0, "It is clear.\n"), done.stderr
    assert results(provider.requests[1]) == ["clear in Rome"]

    provider.script(Reply(json.dumps(MENU)))
    done = llm("-m", "openclaw", "--schema", "dish, courses int", "what is for dinner?")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == MENU
    assert schema_of(provider.requests[2])["required"] == ["dish", "courses"]


def test_llm_gets_an_object_from_the_built_in_model(start_gateway: StartGateway, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    gateway = start_gateway(agents={"defaults": {"model": "embedded/smollm2-135m"}})
    llm = llm_for(gateway, tmp_path)
    done = llm("-m", "openclaw", "-o", "max_tokens", "100", "--schema", "dish, courses int", "Soup, please.")
    assert done.returncode == 0, done.stderr
    menu = json.loads(done.stdout)
    assert isinstance(menu["dish"], str)
    assert isinstance(menu["courses"], int)


def test_shell_gpt_writes_a_command_and_keeps_a_chat(
    gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("shell-gpt")
    env = env_of(gateway, API_BASE_URL=f"{gateway.base_url}/v1", DEFAULT_MODEL="openclaw")
    env |= {"OPENAI_USE_FUNCTIONS": "false", "PRETTIFY_MARKDOWN": "false", "TERM": "dumb"}
    env |= {"CHAT_CACHE_PATH": str(tmp_path / "chats"), "CACHE_PATH": str(tmp_path / "cache")}

    def sgpt(*arguments: str) -> str:
        done = run_program([str(python), "-m", "sgpt", *arguments], tmp_path, env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    provider.on("list files", Reply("ls -l"))
    for _ in range(2):
        assert sgpt("--shell", "--no-interaction", "list files") == "ls -l"
    assert len(provider.requests) == 1
    assert sgpt("--shell", "--no-interaction", "--no-cache", "list files") == "ls -l"
    assert len(provider.requests) == 2
    assert sgpt("--chat", "ada", "my name is Ada") == "echo: my name is Ada"
    assert sgpt("--chat", "ada", "who am I?") == "echo: who am I?"
    said = [m["content"] for m in provider.requests[-1].body["messages"] if m["role"] != "system"]
    assert said == ["my name is Ada", "echo: my name is Ada", "who am I?"]


# --- a chat app ---

ELIA_CONFIG = """
default_model = "openclaw"

[[models]]
id = "openclaw"
name = "openai/openclaw"
display_name = "OpenClaw"
api_base = "{base_url}/v1"
api_key = "{key}"
"""


def test_elia_shows_an_answer_while_it_comes_and_keeps_the_chat(
    gateway: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    python = python_of("elia")
    config = tmp_path / ".config" / "elia" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(ELIA_CONFIG.format(base_url=gateway.base_url, key=TOKEN))
    env = {**QUIET, **LITELLM, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "xterm-256color"}
    start = "from elia_chat.__main__ import cli; cli()"
    gate = threading.Event()
    provider.script(Reply(chunks=["It is ", "soup ", "with bread."], gate=gate, gate_at=2))

    with Terminal([str(python), "-c", start, "what is for dinner?"], env) as elia:
        early = elia.wait_for("It is soup", "Agent is responding")
        assert "with bread" not in early
        gate.set()
        elia.wait_for("It is soup with bread.", without="Agent is responding")
        elia.type("and then?\n")
        elia.wait_for("echo: and then?")

    said = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert said[-3:] == ["what is for dinner?", "It is soup with bread.", "and then?"]


# --- coding agents of the terminal ---


OPENCODE_CONFIG = """
{
  "provider": {
    "openclaw": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "OpenClaw",
      "options": { "baseURL": "{base_url}/v1", "apiKey": "{env:OPENAI_API_KEY}" },
      "models": { "openclaw/bare": { "name": "OpenClaw", "tool_call": true } }
    }
  }
}
"""


def test_opencode_writes_a_file_with_its_own_tool(
    generous: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    installed = npm_of("opencode")
    opencode = max(installed.glob("node_modules/opencode-*-*/bin/opencode"))
    config = json.loads(OPENCODE_CONFIG.replace("{base_url}", generous.base_url))
    session = {"x-openclaw-session-key": "agent:bare:opencode"}
    config["provider"]["openclaw"]["options"]["headers"] = session
    config |= {"autoupdate": False, "share": "disabled", "permission": "allow"}
    (tmp_path / "opencode.json").write_text(json.dumps(config))
    env = env_of(
        generous,
        OPENCODE_DISABLE_AUTOUPDATE="1",
        OPENCODE_DISABLE_MODELS_FETCH="1",
        OPENCODE_DISABLE_LSP_DOWNLOAD="1",
        OPENCODE_DISABLE_DEFAULT_PLUGINS="1",
    )
    notes = tmp_path / "notes.txt"
    provider.script(asking(("write", {"filePath": str(notes), "content": "soup\n"})), Reply("Written."))

    command = [str(opencode), "run", "--model", "openclaw/openclaw/bare", "--title", "t", "note dinner"]
    done = run_program(command, tmp_path, env)

    assert done.returncode == 0, done.stderr
    assert notes.read_text() == "soup\n"
    assert "Written." in done.stdout
    first, second = provider.requests
    assert "write" in tool_names(first)
    assert "note dinner" in first.user_text
    [result] = results(second)
    assert "success" in result.lower()
    assert endings(generous, "agent:bare:opencode") == ["completed"] * 2


CODEX_CONFIG = """
model = "openclaw/bare"
model_provider = "openclaw"
web_search = "disabled"

[features]
multi_agent = false

[model_providers.openclaw]
name = "OpenClaw"
base_url = "{base_url}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""
UNATTENDED = (
    "approval_policy='never'",
    "sandbox_mode='danger-full-access'",
    "check_for_update_on_startup=false",
    "analytics.enabled=false",
    "model_providers.openclaw.http_headers={x-openclaw-session-key='agent:bare:codex'}",
)


def test_codex_runs_a_command_with_its_own_tool(
    generous: GatewayProcess, provider: ScriptedProvider, tmp_path: Path
) -> None:
    installed = npm_of("codex")
    [codex] = installed.glob("node_modules/@openai/codex-*/vendor/*/bin/codex")
    home = tmp_path / ".codex"
    home.mkdir()
    (home / "config.toml").write_text(CODEX_CONFIG.format(base_url=generous.base_url))
    command = {"cmd": "echo soup > notes.txt"}
    provider.script(asking(("exec_command", command)), Reply("Written."))

    options = [word for setting in UNATTENDED for word in ("--config", setting)]
    run = [str(codex), "exec", "--skip-git-repo-check", *options, "note dinner"]
    done = run_program(run, tmp_path, env_of(generous))

    assert done.returncode == 0, done.stderr
    assert "Written." in done.stdout
    assert "exec_command" in tool_names(provider.requests[0])
    assert (tmp_path / "notes.txt").read_text() == "soup\n"
    assert endings(generous, "agent:bare:codex") == ["completed"] * 2


# --- what people read ---


@pytest.fixture(scope="module")
def guide() -> str:
    return (CHECKOUT / "docs" / "clients.md").read_text()


@pytest.mark.parametrize(
    "package",
    [f"openai=={openai.__version__}"]
    + [requirement for requirements in FROM_PYPI.values() for requirement in requirements]
    + [f"{name}@{version}" for packages in FROM_NPM.values() for name, version in packages.items()],
)
def test_the_guide_names_what_is_tested(package: str, guide: str) -> None:
    assert package in guide


@pytest.mark.parametrize(
    "config",
    [LLM_MODELS, ELIA_CONFIG, OPENCODE_CONFIG, CODEX_CONFIG],
    ids=["llm", "elia", "opencode", "codex"],
)
def test_the_guide_has_the_configuration_that_is_tested(config: str, guide: str) -> None:
    shown = config.replace("{base_url}", "http://127.0.0.1:18789").replace("{key}", "YOUR_TOKEN")
    assert shown.strip() in guide


def test_every_line_of_code_in_the_guide_is_one_that_is_tested(guide: str) -> None:
    blocks = re.findall(r"```(?:python|js)\n(.*?)```", guide, re.DOTALL)
    scripts = [path.read_text() for path in SCRIPTS.iterdir() if path.is_file()]
    tested = {line for script in scripts for line in script.splitlines()}
    assert blocks
    assert [line for block in blocks for line in block.splitlines() if line not in tested] == []
