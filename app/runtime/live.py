"""What may change while the gateway runs: the configuration, and the providers made from it."""

from __future__ import annotations

from collections.abc import Mapping

from ..agents.models import Candidate, resolve_candidate
from ..config import Config
from ..providers.base import Provider
from .agents import call_timeouts


class Live:
    """The configuration and the providers of this moment. Any thread may call any method."""

    def __init__(self, config: Config, providers: Mapping[str, Provider]) -> None:
        self._now = (config, providers)  # replaced as a whole, so that no lock is needed

    @property
    def config(self) -> Config:
        """The configuration that holds now."""
        return self._now[0]

    @property
    def providers(self) -> Mapping[str, Provider]:
        """All providers by id."""
        return self._now[1]

    def adopt(self, config: Config, providers: Mapping[str, Provider]) -> None:
        """Let these hold from now on."""
        self._now = (config, providers)

    def resolve(self, ref: str) -> Candidate:
        """The model that ``provider/model`` stands for now.

        :raises ConfigError: the provider does not exist.
        """
        config, providers = self._now
        return resolve_candidate(ref, providers, call_timeouts(config.agents.defaults))
