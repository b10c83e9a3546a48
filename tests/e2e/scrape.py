"""What `/metrics` of a real gateway shows, by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.http_client import send


class Scrape:
    """One look at all series."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __call__(self, name: str, /, **labels: str) -> float:
        """The value of one series of ours; 0 for one that is not there."""
        return self._values.get((f"openclaw_{name}", frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> set[str]:
        """All values that a label has in any series of ours."""
        return {dict(labels)[name] for _, labels in self._values if name in dict(labels)}

    @property
    def series(self) -> set[tuple[str, frozenset[Any]]]:
        """All that there are, with their labels."""
        return set(self._values)

    def since(self, before: Scrape, name: str, **labels: str) -> float:
        """By how much a series has grown."""
        return self(name, **labels) - before(name, **labels)


def scrape(gateway: GatewayProcess, headers: Mapping[str, str] | None = None) -> Scrape:
    """Look now."""
    answer = send(gateway, method="GET", path="/metrics", headers=headers)
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scrape(answer.body.decode())
