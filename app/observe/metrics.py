"""The metrics of one gateway, and what a scrape gets to see.

Where several worker processes serve one port, each scrape reaches one of them and has to see the sum of all:
then the library keeps all values in files of the directory that ``PROMETHEUS_MULTIPROC_DIR`` names, and
adds them up. That is decided when the library is loaded, for the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ..log import get_logger
from .series import Series

# Seconds between two looks at what is only known by looking, where other processes answer scrapes, too.
REFRESH = 5.0

_log = get_logger("metrics")


class Metrics:
    """Any thread may call any method.

    :ivar series: what is measured.
    :ivar directory: where the values of all processes are, "" if there is one process.
    """

    def __init__(self, directory: str = "") -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self.series = Series(self._registry)
        self.directory = directory
        self._looks: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # one look at a time: a total is shown by its difference
        if not directory:
            ProcessCollector(registry=self._registry)

    def look(self, look: Callable[[], None]) -> None:
        """Have ``look`` set what is only known by looking; called before each scrape, must be quick."""
        self._looks.append(look)

    def refresh(self) -> None:
        """Look now."""
        with self._lock:
            for look in self._looks:
                try:
                    look()
                except Exception:  # the other series are right all the same
                    _log.exception("a series could not be brought up to date")

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything as text, and its content type, as a client's ``Accept`` header asks for."""
        self.refresh()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library compares a version that is no number
            encode, content_type = choose_encoder("")
        return encode(cast(Collector, self)), content_type

    def collect(self) -> Iterator[Metric]:
        """All series but when each was begun: that would be half as many again."""
        whole = _merged(self.directory) if self.directory else self._registry.collect()
        for metric in whole:
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def _merged(directory: str) -> Iterable[Metric]:
    """The values of all processes. A file without any is of one that has just come, or died then."""
    files = [str(path) for path in Path(directory).glob("*.db") if _is_begun(path)]
    return cast(Iterable[Metric], MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]


def _is_begun(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # tidied up after a worker that is gone
        return False
