"""Vendors whose API is known, so that a key is all they need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .openai_completions import WireSwitches

Api: TypeAlias = Literal["openai-completions", "openai-responses", "anthropic-messages", "ollama"]


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """One vendor.

    :ivar env_keys: environment variables that may hold the API key, the first one set wins.
    :ivar default_model: used when only the key is configured.
    :ivar embedding_model: makes the vectors where the configuration names no model for that.
    :ivar schemas: models of it that are known at all hold their answers to a JSON schema.
    :ivar apis: the wire formats served at this address, by the names they have in the
        configuration, the preferred one first.
    """

    id: str
    base_url: str
    env_keys: tuple[str, ...]
    default_model: str
    switches: WireSwitches = field(default_factory=WireSwitches)
    apis: tuple[Api, ...] = ("openai-completions",)
    embedding_model: str | None = None
    schemas: bool = False

    @property
    def api(self) -> Api:
        """The preferred wire format."""
        return self.apis[0]


# Hints that a request fails for, at vendors that say so in their documents.
_PENALTIES = frozenset({"frequency_penalty", "presence_penalty"})
_OPENAIS = frozenset({"verbosity", "prediction"})

# In this order a key found in the environment makes its vendor the default one.
KNOWN: tuple[KnownProvider, ...] = (
    KnownProvider(
        "openai",
        "https://api.openai.com/v1",
        ("OPENAI_API_KEY",),
        "gpt-6.1-terra",
        WireSwitches(max_tokens_field="max_completion_tokens", store=True, cache_key=True),
        # Its newer models call tools, or think while they do, only by the first of the two.
        apis=("openai-responses", "openai-completions"),
        embedding_model="text-embedding-3-small",
        schemas=True,
    ),
    KnownProvider(
        "anthropic",
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        "claude-sonnet-5-5",
        apis=("anthropic-messages",),
        schemas=True,
    ),
    KnownProvider(
        "google",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "gemini-3.8-flash",
        WireSwitches(lacks=_PENALTIES | _OPENAIS | {"seed", "logit_bias", "service_tier"}),
    ),
    KnownProvider("openrouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), "openrouter/auto"),
    KnownProvider(
        "groq",
        "https://api.groq.com/openai/v1",
        ("GROQ_API_KEY",),
        "openai/gpt-oss-120b",
        WireSwitches(lacks=_OPENAIS | {"logit_bias"}),
    ),
    KnownProvider(
        "xai",
        "https://api.x.ai/v1",
        ("XAI_API_KEY",),
        "grok-4.7",
        WireSwitches(lacks=_PENALTIES | _OPENAIS | {"logit_bias"}),
    ),
    KnownProvider(
        "mistral",
        "https://api.mistral.ai/v1",
        ("MISTRAL_API_KEY",),
        "mistral-large-latest",
        WireSwitches(lacks=frozenset({"seed", "logit_bias", "verbosity", "service_tier"})),
    ),
    KnownProvider(
        "deepseek",
        "https://api.deepseek.com/v1",
        ("DEEPSEEK_API_KEY",),
        "deepseek-v4-flash",
        WireSwitches(json_schema=False, reasoning_back=True),
    ),
    KnownProvider(
        "cerebras",
        "https://api.cerebras.ai/v1",
        ("CEREBRAS_API_KEY",),
        "gpt-oss-120b",
        WireSwitches(lacks=_PENALTIES | _OPENAIS | {"logit_bias", "service_tier"}),
    ),
    KnownProvider(
        "moonshot",
        "https://api.moonshot.ai/v1",
        ("MOONSHOT_API_KEY",),
        "kimi-k3.1-pro",
        WireSwitches(reasoning_back=True),
    ),
    KnownProvider("together", "https://api.together.xyz/v1", ("TOGETHER_API_KEY",), "openai/gpt-oss-120b"),
)

# It needs no key, so that none says that it is there: it exists once it is configured.
OLLAMA = KnownProvider("ollama", "http://127.0.0.1:11434", ("OLLAMA_API_KEY",), "gpt-oss", apis=("ollama",))
