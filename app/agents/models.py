"""Which model answers: references, and the candidates they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..errors import ConfigError
from ..messages import SamplingParams
from ..providers.base import CallTimeouts, ModelInfo, Provider

THINKING = ("off", "minimal", "low", "medium", "high", "xhigh", "max")

_NO_PARAMS = SamplingParams()

# Levels of thinking that no model API knows by this name; None leaves it to the model.
_EFFORTS: Mapping[str, str | None] = MappingProxyType({"off": "none", "adaptive": None, "ultra": "max"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model that may answer, and how it is called."""

    provider: Provider
    model: str
    timeouts: CallTimeouts

    @property
    def ref(self) -> str:
        """``provider/model``."""
        return f"{self.provider.id}/{self.model}"

    @property
    def credentials(self) -> int:
        """How many keys its provider has; one if the provider does not say, or needs none."""
        return max(1, getattr(self.provider, "credentials", 1))

    @property
    def info(self) -> ModelInfo:
        """What the model can do."""
        return self.provider.info(self.model)

    def ignores(self, params: SamplingParams) -> tuple[str, ...]:
        """Which of ``params`` make no difference here; none if the provider does not say."""
        ask = getattr(self.provider, "ignores", None)
        return ask(self.model, params) if ask else ()


def resolve_candidate(ref: str, providers: Mapping[str, Provider], timeouts: CallTimeouts) -> Candidate:
    """The candidate that ``provider/model`` stands for, split at the first slash.

    :raises ConfigError: the provider does not exist.
    """
    provider_id, slash, model = ref.partition("/")
    provider = providers.get(provider_id.lower())
    if not slash or not model or provider is None:
        known = ", ".join(sorted(providers)) or "none"
        raise ConfigError(f'The model "{ref}" names no known provider (provider/model; providers: {known}).')
    return Candidate(provider, model, timeouts)


def merge_params(base: SamplingParams, over: SamplingParams) -> SamplingParams:
    """Parameters of ``over`` where it states them, of ``base`` elsewhere."""
    if over == _NO_PARAMS:
        return base
    if base == _NO_PARAMS:
        return over
    stated = {name: getattr(over, name) for name in SamplingParams.__slots__}
    return replace(base, **{n: value for n, value in stated.items() if value != getattr(_NO_PARAMS, n)})


def effort_of(level: str | None) -> str | None:
    """What model APIs call a level of thinking; None leaves it to the model."""
    return _EFFORTS.get(level, level) if level else None
