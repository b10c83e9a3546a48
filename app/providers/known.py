"""Vendors whose API is known, so that a key is all they need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .openai_completions import WireSwitches


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """One vendor.

    :ivar env_keys: environment variables that may hold the API key, the first one set wins.
    :ivar default_model: used when only the key is configured.
    :ivar api: the wire format, by the name it has in the configuration.
    """

    id: str
    base_url: str
    env_keys: tuple[str, ...]
    default_model: str
    switches: WireSwitches = field(default_factory=WireSwitches)
    api: Literal["openai-completions", "anthropic-messages"] = "openai-completions"


# In this order a key found in the environment makes its vendor the default one.
KNOWN: tuple[KnownProvider, ...] = (
    KnownProvider(
        "openai",
        "https://api.openai.com/v1",
        ("OPENAI_API_KEY",),
        "gpt-5-mini",
        WireSwitches(max_tokens_field="max_completion_tokens", store=True),
    ),
    KnownProvider(
        "anthropic",
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        "claude-sonnet-4-5",
        api="anthropic-messages",
    ),
    KnownProvider(
        "google",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "gemini-2.5-flash",
    ),
    KnownProvider("openrouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), "openrouter/auto"),
    KnownProvider("groq", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",), "llama-3.3-70b-versatile"),
    KnownProvider("xai", "https://api.x.ai/v1", ("XAI_API_KEY",), "grok-4"),
    KnownProvider("mistral", "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",), "mistral-large-latest"),
    KnownProvider("deepseek", "https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",), "deepseek-chat"),
    KnownProvider("cerebras", "https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",), "gpt-oss-120b"),
    KnownProvider("moonshot", "https://api.moonshot.ai/v1", ("MOONSHOT_API_KEY",), "kimi-k2-turbo-preview"),
    KnownProvider(
        "together",
        "https://api.together.xyz/v1",
        ("TOGETHER_API_KEY",),
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    ),
)
