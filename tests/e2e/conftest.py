"""One real gateway per configuration, and a scripted model API that every test gets fresh."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.gateway_process import GatewayProcess, free_port, gateway_config
from tests.scripted_provider import ScriptedProvider

_ADDRESSES = itertools.count(2)

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture(scope="session")
def provider_port() -> int:
    """Where all gateways look for their model API."""
    return free_port()


@pytest.fixture(autouse=True)
def provider(provider_port: int) -> Iterator[ScriptedProvider]:
    """The model API of this one test. A request it still serves afterwards has leaked."""
    with ScriptedProvider(port=provider_port) as provider:
        yield provider
        assert provider.wait_until_idle(10), f"{provider.active} model calls were left running"


@pytest.fixture(scope="session")
def start_gateway(provider_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """Starts gateways: ``start_gateway(env={}, gateway={...}, agents={...})`` merges sections into
    the usual configuration. All are stopped at the end of the session, and have to exit in order."""
    started: list[GatewayProcess] = []

    def start(*, env: dict[str, str] | None = None, **sections: Any) -> GatewayProcess:
        config = gateway_config(f"http://127.0.0.1:{provider_port}/v1", **sections)
        gateway = GatewayProcess(config, tmp_path_factory.mktemp("gateway"), env=env)
        started.append(gateway)
        return gateway.start()

    yield start
    running = [gateway for gateway in started if gateway.running]
    for gateway in running:
        gateway.terminate()
    for gateway in running:
        assert gateway.wait() == 0, gateway.log


@pytest.fixture(scope="session")
def gateway(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway with a token, the endpoint on, and the agents ``main`` and ``beta``."""
    return start_gateway()


@pytest.fixture(scope="session")
def hasty(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway without patience, and without a list of agents.

    Model silence of 1 s, runs of 2.5 s, comments every 0.2 s, bodies of 100 kB within 1 s.
    """
    return start_gateway(
        gateway={"http": {"keepAliveSeconds": 0.2, "maxBodyBytes": 100_000, "bodyTimeoutSeconds": 1}},
        agents={
            "defaults": {"firstTokenTimeoutSeconds": 1, "stallTimeoutSeconds": 1, "timeoutSeconds": 2.5},
            "list": [],
        },
    )


@pytest.fixture(scope="session")
def disabled(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway whose operator has not switched the endpoint on."""
    return start_gateway(gateway={"http": {"endpoints": {"chatCompletions": {"enabled": False}}}})


@pytest.fixture(scope="session")
def strict(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway that refuses models that name no agent.

    Its default agent, ``omega``, is not the first; ``kilo`` may not read files. The platform
    would like it to have four workers.
    """
    return start_gateway(
        env={"WEB_CONCURRENCY": "4"},
        gateway={"http": {"endpoints": {"chatCompletions": {"strictModel": True}}}},
        agents={
            "list": [
                {"id": "kilo", "tools": {"deny": ["read"]}},
                {"id": "omega", "default": True},
            ]
        },
    )


@pytest.fixture(scope="session")
def generous(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway with everything on that is off by default.

    Its model sees images, another makes embeddings, and the agent ``bare`` has no tools of its own.
    """
    agents = [{"id": "main", "default": True}, {"id": "beta"}, {"id": "bare", "tools": {"deny": ["*"]}}]
    return start_gateway(
        gateway={"http": {"endpoints": {"responses": {"enabled": True}}}},
        agents={"defaults": {"embeddingModel": "scripted/embedder"}, "list": agents},
        models={"providers": {"scripted": {"models": [{"id": "model", "input": ["text", "image"]}]}}},
    )


@pytest.fixture(scope="session")
def lockable(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway that locks addresses of this machine out, too: for 1.5 s, after three wrong secrets."""
    limits = {"maxAttempts": 3, "lockoutMs": 1500, "exemptLoopback": False}
    return start_gateway(gateway={"auth": {"rateLimit": limits}})


@pytest.fixture
def address() -> str:
    """An address of this machine that no other test calls from."""
    return f"127.0.0.{next(_ADDRESSES)}"
