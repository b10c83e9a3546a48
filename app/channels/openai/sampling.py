"""Sampling parameters of a request. Pure."""

from __future__ import annotations

from ...messages import JsonObject, JsonValue, SamplingParams
from ...providers.streaming import LEVELS
from .fields import choice, integer, invalid, number
from .formats import parse_response_format

_SAFE_INTEGER = 2**53 - 1
_MOST_BIASES = 1024
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")


def parse_sampling(body: JsonObject) -> SamplingParams:
    """How the caller wants the model to write."""
    longest = integer(body, "max_completion_tokens", 1, _SAFE_INTEGER)
    legacy = integer(body, "max_tokens", 1, _SAFE_INTEGER)
    return SamplingParams(
        temperature=number(body, "temperature", 0, 2),
        top_p=number(body, "top_p", 0, 1),
        max_tokens=legacy if longest is None else longest,
        frequency_penalty=number(body, "frequency_penalty", -2, 2),
        presence_penalty=number(body, "presence_penalty", -2, 2),
        seed=integer(body, "seed", -(2**63), 2**63 - 1),
        stop=_stop(body.get("stop")),
        response_format=parse_response_format(body.get("response_format")),
        reasoning_effort=choice(body, "reasoning_effort", LEVELS),
        verbosity=choice(body, "verbosity", ("low", "medium", "high")),
        logit_bias=_logit_bias(body.get("logit_bias")),
        prediction=_prediction(body.get("prediction")),
        service_tier=_service_tier(body),
    )


def _stop(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ()
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise invalid("stop", "must be a string or an array of strings")
    if len(entries) > 4:
        raise invalid("stop", "supports at most 4 sequences")
    if not all(isinstance(entry, str) and entry for entry in entries):
        raise invalid("stop", "entries must be non-empty strings")
    return tuple(str(entry) for entry in entries)


def _logit_bias(value: JsonValue) -> JsonObject | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid("logit_bias", "must be an object")
    if len(value) > _MOST_BIASES:
        raise invalid("logit_bias", f"names {len(value)} tokens; at most {_MOST_BIASES} are taken")
    if not all(name.isascii() and name.isdigit() and len(name) < 10 for name in value):
        raise invalid("logit_bias", "must have ids of tokens as its names")
    if not all(_is_bias(bias) for bias in value.values()):
        raise invalid("logit_bias", "must have integers from -100 to 100 as its values")
    return value or None


def _is_bias(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -100 <= value <= 100


def _prediction(value: JsonValue) -> JsonObject | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("type") != "content":
        raise invalid("prediction", 'must be an object of type "content"')
    content = value.get("content")
    parts = content if isinstance(content, list) and content else None
    if not isinstance(content, str) and (parts is None or not all(map(_is_text_part, parts))):
        raise invalid("prediction.content", "must be a string or an array of text parts")
    return {"type": "content", "content": content}


def _is_text_part(part: JsonValue) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _service_tier(body: JsonObject) -> str | None:
    tier = choice(body, "service_tier", _TIERS)
    return None if tier == "auto" else tier  # which is what a provider does unasked
