"""What a host has registered, called within its application's context, as its own views are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import copy_context
from dataclasses import replace

from flask import Flask

from ..cancel import CancelToken
from ..messages import JsonValue, SamplingParams
from ..providers.base import (
    Embedder,
    EmbeddingRequest,
    Embeddings,
    ModelEvent,
    ModelInfo,
    ModelRequest,
    Provider,
)
from ..tools.registry import Tool, ToolContext


def tool_within(app: Flask, tool: Tool) -> Tool:
    """``tool``, each of whose calls has a context of its own, which is torn down after it."""

    def call(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
        with app.app_context():
            return tool.function(context, arguments)

    return replace(tool, function=call)


def provider_within(app: Flask, provider: Provider) -> Provider:
    """``provider``, each of whose calls has a context of its own, from its beginning to its end."""
    if isinstance(provider, Embedder):
        return _EmbedderWithin(app, provider, provider)
    return _ProviderWithin(app, provider)


class _ProviderWithin:
    def __init__(self, app: Flask, provider: Provider) -> None:
        self._app = app
        self._provider = provider
        self.id = provider.id
        self.credentials = getattr(provider, "credentials", 1)

    def info(self, model: str) -> ModelInfo:
        return self._provider.info(model)

    def ignores(self, model: str, params: SamplingParams) -> tuple[str, ...]:
        ignores = getattr(self._provider, "ignores", None)
        return ignores(model, params) if ignores else ()

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        # Between two events the thread is not the provider's: what it does then must not see the context.
        inside, context = copy_context(), self._app.app_context()
        inside.run(context.push)
        try:
            events = inside.run(self._provider.stream, request, cancel)
            try:
                while (event := inside.run(next, events, None)) is not None:
                    yield event
            finally:
                if close := getattr(events, "close", None):
                    inside.run(close)
        finally:
            inside.run(context.pop)

    def close(self) -> None:
        self._provider.close()


class _EmbedderWithin(_ProviderWithin):
    def __init__(self, app: Flask, provider: Provider, embedder: Embedder) -> None:
        super().__init__(app, provider)
        self._embedder = embedder
        self.embeds_tokens = getattr(embedder, "embeds_tokens", False)

    def embed(self, request: EmbeddingRequest, cancel: CancelToken) -> Embeddings:
        with self._app.app_context():
            return self._embedder.embed(request, cancel)
