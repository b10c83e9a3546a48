"""What is publicly known about the models of known vendors: sizes, levels of thinking, prices.

The facts are in ``catalogue.json``, gathered in November 2026 from the vendors' model pages
(OpenAI, Anthropic, DeepSeek) and from the price list that the LiteLLM project publishes.
Prices are list prices of short prompts, in US dollars per million tokens: input, output,
read from the cache, written to the cache. Discounts, batches and the surcharges of very long
prompts are not in it. A context window at Ollama is what a server of middling size gives, not
what the model could take. No levels at all mean that nobody knows whether the model thinks, an
empty list that it does not. ``sampling`` is false where a temperature is refused, by OpenAI's
models that think and, since Opus 4.7, by Anthropic's.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .base import ModelInfo, Price

# The vendors as OpenRouter calls them. It passes their prices on.
_RESOLD = MappingProxyType(
    {
        "anthropic": "anthropic",
        "openai": "openai",
        "google": "google",
        "x-ai": "xai",
        "mistralai": "mistral",
        "deepseek": "deepseek",
        "moonshotai": "moonshot",
    }
)
# The day a model was frozen, or the word for the newest one; for Ollama also its size.
_VARIANT = re.compile(r"(?:[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest)|:[\w.-]+)$")


def lookup(vendor: str, model: str) -> ModelInfo | None:
    """What is known about ``model`` of ``vendor``, an id of :data:`.known.KNOWN`; None if nothing is.

    A dated variant or the ``latest`` one counts as the model itself, unless it has an entry of
    its own.
    """
    if vendor == "openrouter":
        vendor, _, model = model.partition("/")
        vendor = _RESOLD.get(vendor, "")
        if ":" in model:  # free, faster or longer for another price
            return None
    models = _catalogue().get(vendor, {})
    names = (model, _VARIANT.sub("", model), model.replace(".", "-"))  # Anthropic's 4-5 is resold as 4.5
    return next((models[name] for name in names if name in models), None)


@cache
def _catalogue() -> dict[str, dict[str, ModelInfo]]:
    text = Path(__file__).with_suffix(".json").read_text("utf-8")
    return {
        vendor: {name: _info(facts) for name, facts in models.items()}
        for vendor, models in json.loads(text).items()
    }


def _info(facts: dict[str, Any]) -> ModelInfo:
    levels = facts.get("levels")
    return ModelInfo(
        context_window=facts["context"],
        max_output=facts.get("output"),
        images=facts.get("images", False),
        prefill=facts.get("prefill", False),
        reasoning=None if levels is None else bool(levels),
        levels=tuple(levels or ()),
        adaptive=facts.get("adaptive", False),
        sampling=facts.get("sampling", True),
        price=Price(*facts["price"]) if "price" in facts else None,
    )
