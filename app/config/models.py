"""The `models` section: providers, their credentials and their models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, Strict, model_validator

from .section import Count, LowerKeys, Secret, Section, Text, web_address

Dollars: TypeAlias = Annotated[float, Field(ge=0, le=1_000_000)]
ApiKind: TypeAlias = Literal[
    "openai-completions", "openai-responses", "anthropic-messages", "ollama", "embedded"
]

_EMBEDDED_ONLY = {
    "model_path": "modelPath",
    "context_size": "contextSize",
    "threads": "threads",
    "slots": "slots",
}


class Compat(Section):
    """What an OpenAI-compatible server can do; None leaves the choice to the provider."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    supports_usage_in_streaming: bool | None = None
    supports_developer_role: bool | None = None
    supports_store: bool | None = None
    supports_prefill: bool | None = None
    supports_tools: bool | None = None
    supports_strict_mode: bool | None = None
    supports_json_schema: bool | None = None


class CostConfig(Section):
    """What a model costs, in US dollars per million tokens."""

    input: Dollars = 0.0
    output: Dollars = 0.0
    cache_read: Dollars | None = None
    cache_write: Dollars | None = None


class ModelConfig(Section):
    """A model of a provider; None leaves it to what is known about the model."""

    id: Text
    input: Annotated[tuple[Literal["text", "image"], ...], Strict(False)] | None = None
    context_window: Count | None = None
    max_tokens: Count | None = None
    reasoning: bool | None = None
    cost: CostConfig | None = None


class ProviderConfig(Section):
    """A model API, or with ``api: "embedded"`` a model in this process's care.

    Without ``api``, a known vendor's own is meant, else OpenAI's chat completions.
    """

    base_url: Annotated[str, AfterValidator(web_address)] | None = None
    api_key: Secret | None = None
    api_keys: Annotated[tuple[Secret, ...], Strict(False)] = ()
    api: ApiKind | None = None
    headers: Mapping[Text, Secret] = {}
    auth_header: bool = True
    models: Annotated[tuple[ModelConfig, ...], Strict(False)] = ()
    compat: Compat = Compat()
    model_path: Text | None = None
    context_size: Annotated[int, Field(ge=256, le=2**20)] = 8192
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    slots: Annotated[int, Field(ge=1, le=256)] = 2

    @model_validator(mode="after")
    def _refuse_stray_keys(self) -> Self:
        stray = [alias for name, alias in _EMBEDDED_ONLY.items() if name in self.model_fields_set]
        if stray and self.api != "embedded":
            raise ValueError(f'{", ".join(stray)}: only with api "embedded"')
        return self


class ModelsConfig(Section):
    """All model providers by id."""

    providers: Annotated[Mapping[Text, ProviderConfig], LowerKeys] = {}
