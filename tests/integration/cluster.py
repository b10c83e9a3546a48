"""Several gateways on one Postgres and one Redis, in one process: each is what a process would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from app.config import load_config
from app.runtime import Runtime, build_runtime

TOKEN = "a-token-of-tests"


@contextmanager
def members(
    directory: Path, provider_url: str, database_url: str, redis_url: str, *, lease: float = 15.0
) -> Iterator[Callable[..., Runtime]]:
    """Opens gateways that are one; all that are left open are closed at the end."""
    with ExitStack() as stack:
        count = 0

        def member(**defaults: Any) -> Runtime:
            nonlocal count
            count += 1
            env = {
                "OPENCLAW_STATE_DIR": str(directory / f"state{count}"),
                "OPENCLAW_DATABASE_URL": database_url,
                "OPENCLAW_REDIS_URL": redis_url,
                "OPENCLAW_LEASE_SECONDS": str(lease),
            }
            document = {
                "gateway": {"auth": {"token": TOKEN}},
                "agents": {"defaults": {"model": "scripted/m", **defaults}},
                "models": {"providers": {"scripted": {"baseUrl": provider_url, "apiKey": "sk-scripted"}}},
            }
            runtime = build_runtime(load_config(document, env), env)
            stack.callback(runtime.close)
            return runtime

        yield member
