"""What becomes of each parameter of a chat completion request. Pure.

Every parameter of OpenAI's schema is in one table. None is dropped in silence: what is not read
by one of the other parsers is refused by its name, or named as being without effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from ...messages import JsonObject
from .fields import boolean, choice, integer, invalid, string, unserved

# Looks at a parameter that is there; True if it asks for something that will not happen.
_Check: TypeAlias = Callable[[JsonObject], bool]

_PRINTABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_NAMED = 20
_MOST_PAIRS = 16


def parse_metadata(body: JsonObject) -> dict[str, str]:
    """The caller's notes: at most 16, with names of 64 characters and values of 512.

    :raises InvalidRequest: they are something else.
    """
    value = body.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid("metadata", "must be an object")
    if len(value) > _MOST_PAIRS:
        raise invalid("metadata", f"holds {len(value)} pairs; at most {_MOST_PAIRS} are taken")
    if any(len(name) > 64 for name in value):
        raise invalid("metadata", "has a name of more than 64 characters")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > 512:
            raise invalid(f"metadata.{name}", "must be a string of at most 512 characters")
    return {name: str(text) for name, text in value.items()}


def without_effect(body: JsonObject) -> tuple[str, ...]:
    """The names of those parameters of a request that change nothing, for the caller to be told.

    :raises InvalidRequest: one asks for what would change the meaning of the answer and is not served.
    """
    names = [name for name, value in body.items() if value is not None and _is_idle(name, body)]
    if isinstance(options := body.get("stream_options"), dict) and options.get("include_obfuscation"):
        names.append("stream_options.include_obfuscation")
    return tuple(names[:_MOST_NAMED])


def _is_idle(name: str, body: JsonObject) -> bool:
    if name not in PARAMETERS:
        return _PRINTABLE.fullmatch(name) is not None
    check = PARAMETERS[name]
    return check is not None and check(body)


def _refused(name: str, why: str) -> _Check:
    def check(_: JsonObject) -> bool:
        raise unserved(name, why)

    return check


def _one_choice(body: JsonObject) -> bool:
    if integer(body, "n", 1, 128) != 1:
        raise unserved("n", "Only n=1 is served: an agent's run has one answer.")
    return False


def _no_logprobs(body: JsonObject) -> bool:
    if boolean(body, "logprobs"):
        raise unserved("logprobs", "Log probabilities are not served.")
    return False


def _no_top_logprobs(body: JsonObject) -> bool:
    if integer(body, "top_logprobs", 0, 20):
        raise unserved("top_logprobs", "Log probabilities are not served.")
    return False


def _only_text(body: JsonObject) -> bool:
    value = body["modalities"]
    if not isinstance(value, list):
        raise invalid("modalities", "must be an array")
    if any(kind != "text" for kind in value):
        raise unserved("modalities", "Only text is served.")
    return False


def _identifier(body: JsonObject) -> bool:
    if len(string(body, "safety_identifier") or "") > 64:
        raise invalid("safety_identifier", "is longer than 64 characters")
    return True


def _one_of(name: str, values: Sequence[str]) -> _Check:
    return lambda body: choice(body, name, values) is not None


def _an_object(name: str) -> _Check:
    def check(body: JsonObject) -> bool:
        if not isinstance(body[name], dict):
            raise invalid(name, "must be an object")
        return bool(body[name])

    return check


# None: another parser reads it, and the run or the model's provider gets it.
PARAMETERS: Mapping[str, _Check | None] = MappingProxyType(
    {
        **dict.fromkeys(("model", "messages", "stream", "stream_options", "user", "store", "metadata")),
        **dict.fromkeys(("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop")),
        **dict.fromkeys(("frequency_penalty", "presence_penalty", "logit_bias", "response_format")),
        **dict.fromkeys(("reasoning_effort", "verbosity", "prediction", "service_tier", "prompt_cache_key")),
        **dict.fromkeys(("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")),
        "include_reasoning": None,  # the name that OpenRouter and vLLM have for it
        "n": _one_choice,
        "logprobs": _no_logprobs,
        "top_logprobs": _no_top_logprobs,
        "modalities": _only_text,
        "audio": _refused("audio", "Only text is served."),
        "web_search_options": _refused(
            "web_search_options", "Searching the web is up to the agent, which has tools of its own for it."
        ),
        "moderation": _refused("moderation", "Moderation of requests and answers is not served."),
        "safety_identifier": _identifier,
        "prompt_cache_retention": _one_of("prompt_cache_retention", ("in_memory", "in-memory", "24h")),
        "prompt_cache_options": _an_object("prompt_cache_options"),
    }
)
