"""The catalogue of known models: its data, and how a model is found in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.messages import Usage
from app.providers import catalogue
from app.providers.base import Price
from app.providers.catalogue import lookup
from app.providers.known import KNOWN, OLLAMA
from app.providers.streaming import LEVELS

FACTS = json.loads(Path(catalogue.__file__).with_suffix(".json").read_text())
EVERY = [(vendor, model) for vendor, models in FACTS.items() for model in models]


def test_the_vendors_are_known_ones_and_ollama() -> None:
    assert FACTS.keys() <= {vendor.id for vendor in (*KNOWN, OLLAMA)}


@pytest.mark.parametrize(("vendor", "model"), EVERY)
def test_the_facts_about_a_model_make_sense(vendor: str, model: str) -> None:
    info = lookup(vendor, model)

    assert info is not None
    assert set(FACTS[vendor][model]) <= {
        "context",
        "output",
        "images",
        "levels",
        "adaptive",
        "sampling",
        "prefill",
        "price",
    }
    assert info.context_window >= 32_768
    assert info.max_output is None or 4096 <= info.max_output < info.context_window
    assert list(info.levels) == [level for level in LEVELS if level in info.levels]
    assert info.reasoning == (None if "levels" not in FACTS[vendor][model] else bool(info.levels))
    if info.price is not None:
        assert 0 < info.price.cache_read <= info.price.input <= info.price.output
        assert info.price.input <= info.price.cache_write <= 2 * info.price.input


def test_every_vendors_default_model_is_in_the_catalogue() -> None:
    for vendor in (*KNOWN, OLLAMA):
        assert lookup(vendor.id, vendor.default_model) or vendor.default_model == "openrouter/auto"


@pytest.mark.parametrize(
    ("vendor", "model", "same_as"),
    [
        ("anthropic", "claude-haiku-4-5-20251001", ("anthropic", "claude-haiku-4-5")),
        ("anthropic", "claude-haiku-4-5@20251001", ("anthropic", "claude-haiku-4-5")),
        ("openai", "gpt-5.5-2026-04-23", ("openai", "gpt-5.5")),
        ("xai", "grok-4.7-latest", ("xai", "grok-4.7")),
        ("openrouter", "openai/gpt-5.5", ("openai", "gpt-5.5")),
        ("openrouter", "anthropic/claude-haiku-4.5", ("anthropic", "claude-haiku-4-5")),
        ("openrouter", "x-ai/grok-4.7", ("xai", "grok-4.7")),
        ("ollama", "gpt-oss:20b", ("ollama", "gpt-oss")),
    ],
)
def test_variants_and_resold_models_are_found(vendor: str, model: str, same_as: tuple[str, str]) -> None:
    assert lookup(vendor, model) is not None
    assert lookup(vendor, model) is lookup(*same_as)


@pytest.mark.parametrize(
    ("vendor", "model"),
    [
        ("openai", "gpt-5.5-turbo"),
        ("openai", "claude-haiku-4-5"),
        ("openrouter", "openai/gpt-5.5:free"),
        ("openrouter", "openrouter/auto"),
        ("nobody", "gpt-5.5"),
    ],
)
def test_nothing_is_known_about_other_models(vendor: str, model: str) -> None:
    assert lookup(vendor, model) is None


@given(st.sampled_from([*FACTS, "openrouter", ""]), st.text())
def test_any_name_may_be_looked_up(vendor: str, model: str) -> None:
    assert lookup(vendor, model) is None or vendor


def test_a_price_counts_cached_tokens_apart() -> None:
    usage = Usage(input=1_000_000, output=100_000, cached=500_000, cache_write=200_000)

    assert Price(2, 10, 0.2, 2.5).of(usage) == pytest.approx(0.3 * 2 + 0.5 * 0.2 + 0.2 * 2.5 + 0.1 * 10)
