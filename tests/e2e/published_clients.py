"""The published clients that are driven against a gateway: which they are, and how they are told of it.

None of them can reach anything but this machine: for all else they are told of a proxy that is
not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.published import npm_packages, python_with
from tests.scripted_provider import Received

SCRIPTS = Path(__file__).parent / "clients" / "published"
FROM_PYPI: dict[str, tuple[str, ...]] = {
    "langchain": (
        "langchain==1.4.7",
        "langchain-openai==1.7.3",
    ),
    "pydantic-ai": ("pydantic-ai-slim[openai]==2.68.0",),
    "openai-agents": ("openai-agents==0.24.0",),
    "smolagents": ("smolagents[openai]==1.26.0",),
    "litellm": ("litellm==1.106.2",),
    "instructor": ("instructor==1.17.0",),
    "llm": ("llm==0.36",),
    "shell-gpt": (
        "shell-gpt==1.5.1",
        "click==8.3.1",
    ),
    "elia": (
        "elia-chat==1.10.0",
        "litellm==1.106.2",
    ),
}
FROM_NPM = {
    "openai": {"openai": "7.57.0", "zod": "4.6.7"},
    "ai-sdk": {"ai": "7.0.173", "@ai-sdk/openai-compatible": "3.0.92", "zod": "4.6.7"},
    "opencode": {"opencode-ai": "1.18.33"},
    "codex": {"@openai/codex": "0.169.0"},
}
NOWHERE = "http://127.0.0.1:9"
QUIET = {
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "ALL_PROXY": NOWHERE,
    "NO_PROXY": "127.0.0.1,localhost",
    "DO_NOT_TRACK": "1",
}
LITELLM = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
MENU = {"dish": "soup", "courses": 1}


def env_of(gateway: GatewayProcess, **more: str) -> dict[str, str]:
    """What most clients want to know: where, and with which key."""
    return {**QUIET, "OPENAI_BASE_URL": f"{gateway.base_url}/v1", "OPENAI_API_KEY": TOKEN, **more}


def python_of(client: str) -> Path:
    """The Python that has a client; it is installed if need be."""
    return python_with(client, *FROM_PYPI[client])


def npm_of(client: str) -> Path:
    """The directory that a client is installed in, if need be now."""
    return npm_packages(client, FROM_NPM[client])


def schema_of(received: Received) -> Any:
    """The schema that the model was held to."""
    return received.body["response_format"]["json_schema"]["schema"]
