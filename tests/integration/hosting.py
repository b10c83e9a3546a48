"""What tests of host applications have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from app.channels.mount import Mount
from tests.scripted_provider import ScriptedProvider

TOKEN = "the-token-of-the-host"
HI = {"model": "openclaw", "messages": [{"role": "user", "content": "hi"}]}

Give = Callable[..., Mount]


def configuration(model: ScriptedProvider, token: str = TOKEN, **sections: Any) -> dict[str, Any]:
    return {
        "gateway": {"auth": {"token": token}, "http": {"endpoints": {"chatCompletions": {"enabled": True}}}},
        "models": {"providers": {"scripted": {"baseUrl": model.base_url, "models": [{"id": "m"}]}}},
        **sections,
    }


def ask(app: Flask, prefix: str = "", token: str = TOKEN, **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return app.test_client().post(f"{prefix}/v1/chat/completions", json=HI, headers=headers, **options)
