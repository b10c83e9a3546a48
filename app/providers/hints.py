"""What a caller may ask of a model's style, and not every model or API takes.

An answer without it is still an answer to the same question. So it is left out of the call
instead of failing it, and whoever asked is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from ..messages import SamplingParams
from .base import ModelInfo

_HINTS = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "logit_bias", "prediction",
    "verbosity", "service_tier", "reasoning_effort",
)  # fmt: skip
_SAMPLING = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"})
# With these values it is the same whether the hint is taken or not.
_NEUTRAL: Mapping[str, object] = MappingProxyType(
    {"temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "reasoning_effort": "none"}
)
_NO_PARAMS = SamplingParams()


def unheeded(params: SamplingParams, info: ModelInfo, lacks: Collection[str]) -> tuple[str, ...]:
    """The hints in ``params`` that a call of the model has to leave out.

    :param lacks: what its API does not have.
    """
    if params == _NO_PARAMS:
        return ()
    return tuple(
        name
        for name in _HINTS
        if getattr(params, name) is not None and (name in lacks or _is_refused(name, info))
    )


def missed(params: SamplingParams, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the hints ``names`` whose absence makes a difference."""
    return tuple(name for name in names if getattr(params, name) not in (None, _NEUTRAL.get(name)))


def without(params: SamplingParams, names: Iterable[str]) -> SamplingParams:
    """``params`` without these hints."""
    nothing = dict.fromkeys(names)
    return replace(params, **nothing) if nothing else params  # type: ignore[arg-type] # every hint may be None


def _is_refused(name: str, info: ModelInfo) -> bool:
    if name == "reasoning_effort":
        return info.reasoning is False
    return not info.sampling and name in _SAMPLING
