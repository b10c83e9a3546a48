"""A scripted model API and runtimes that use it, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import Gateway
from app.channels.mount import Mount
from app.config import load_config
from app.runtime import Runtime, build_runtime
from app.tools.registry import Tool
from tests.integration.hosting import Give, configuration
from tests.integration.runs import PATIENCE, Start
from tests.scripted_provider import ScriptedProvider


@pytest.fixture
def model() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider
        assert provider.wait_until_idle(PATIENCE), "a model call was left running"


@pytest.fixture
def start(model: ScriptedProvider, tmp_path: Path) -> Iterator[Start]:
    """Builds a runtime: ``start(agents={...}, provider={...}, tools=[...], policy={...})``."""
    built: list[Runtime] = []

    def build(
        agents: Mapping[str, Any] | None = None,
        provider: Mapping[str, Any] | None = None,
        tools: Sequence[Tool] = (),
        policy: Mapping[str, Any] | None = None,
        **sections: Any,
    ) -> Runtime:
        scripted = {"baseUrl": model.base_url, "apiKey": "sk-test", "models": [{"id": "m"}]}
        document = {
            "gateway": {"auth": {"token": "a-token-of-tests"}},
            "models": {"providers": {"scripted": scripted | dict(provider or {})}},
            "agents": agents or {},
            "tools": policy or {},
        } | sections
        env = {"OPENCLAW_STATE_DIR": str(tmp_path / "state")}
        built.append(build_runtime(load_config(document, env), env, tools=tools))
        return built[-1]

    yield build
    for runtime in built:
        runtime.close()
        assert runtime.runs.live == 0


@pytest.fixture
def runtime(start: Start) -> Runtime:
    return start()


@pytest.fixture
def give(model: ScriptedProvider, tmp_path: Path) -> Iterator[Give]:
    """``give(app, url_prefix="/ai", state="one", gateway=Gateway(), ...)``; closed in the end."""
    mounts: list[Mount] = []

    def give(app: Flask, *, gateway: Gateway | None = None, state: str = "state", **options: Any) -> Mount:
        options = {
            "config": configuration(model),
            "env": {"OPENCLAW_STATE_DIR": str(tmp_path / state)},
        } | options
        mounts.append((gateway or Gateway()).init_app(app, **options))
        return mounts[-1]

    yield give
    for mount in mounts:
        mount.close()
