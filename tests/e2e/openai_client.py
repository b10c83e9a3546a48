"""The official OpenAI SDK for Python, its strict validation switched on."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI, OpenAI

from tests.e2e.gateway_process import TOKEN, GatewayProcess


def sdk(gateway: GatewayProcess, api_key: str = TOKEN, **options: Any) -> OpenAI:
    """A client without retries. The caller closes it."""
    return OpenAI(**_options(gateway, api_key), **options)


def async_sdk(gateway: GatewayProcess) -> AsyncOpenAI:
    """The same for asyncio."""
    return AsyncOpenAI(**_options(gateway, TOKEN))


def _options(gateway: GatewayProcess, api_key: str) -> dict[str, Any]:
    return {
        "base_url": f"{gateway.base_url}/v1",
        "api_key": api_key,
        "max_retries": 0,
        "timeout": 20,
        "_strict_response_validation": True,
    }


def ask(client: OpenAI, text: str = "hi", model: str = "openclaw") -> str:
    """What the assistant says to one message of a user."""
    completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return completion.choices[0].message.content or ""
