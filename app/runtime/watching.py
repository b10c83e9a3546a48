"""What is measured and traced of a gateway, bound to its parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..agents.cooldown import Cooldowns
from ..agents.failover import CallReport
from ..bus import Bus
from ..config import Config
from ..errors import ConfigError
from ..observe.metrics import REFRESH, Metrics
from ..observe.runs import RunMeter, Watched
from ..observe.series import Total
from ..observe.store import timed
from ..observe.tracing import open_tracing
from ..runs.executor import Executor
from ..runs.run import Listener
from ..runs.service import RunService
from ..sessions.store import Store

if TYPE_CHECKING:
    from ..observe.spans import Tracing


@dataclass(frozen=True)
class Watch:
    """Those who look on.

    :ivar metrics: None where none are wanted.
    :ivar tracing: None where nobody gets traces.
    """

    metrics: Metrics | None
    tracing: Tracing | None

    def store(self, store: Store) -> Store:
        """``store``, measured."""
        return store if self.metrics is None else timed(store, self.metrics.series)

    def of_runs(self, models: Collection[str], knows_tool: Callable[[str], bool]) -> RunWatch:
        """Who looks on at runs.

        :param models: all references of the configuration.
        :param knows_tool: whether a name is a tool's.
        """
        watchers: list[_RunWatcher] = []
        names = set(models)
        if self.metrics is not None:
            watchers.append(RunMeter(self.metrics.series, models=names, knows_tool=knows_tool))
        if self.tracing is not None:
            watchers.append(self.tracing)
        return RunWatch(watchers, names)

    def close(self) -> None:
        """The gateway stops: send what is left to be sent."""
        if self.tracing is not None:
            self.tracing.close()

    def begin(self, runs: RunService, cooldowns: Cooldowns, bus: Bus, executor: Executor) -> None:
        """Look at what does not show itself, from now on."""
        if self.metrics is None:
            return
        metrics, series = self.metrics, self.metrics.series
        published, dropped = Total(series.bus_published), Total(series.bus_dropped)
        left_alone: dict[str, int] = {}

        def look() -> None:
            counts = runs.counts()
            series.runs_live.set(counts.live)
            series.runs_waiting.set(counts.waiting)
            series.lanes.set(counts.sessions)
            left_alone.update(dict.fromkeys(left_alone, 0) | cooldowns.cooling())
            for provider, count in left_alone.items():
                series.cooling(provider).set(count)
            series.bus_connected.set(bus.shared and bus.healthy)
            published.show(bus.published)
            dropped.show(bus.dropped)

        metrics.look(look)
        if metrics.directory:
            _keep_fresh(metrics, executor)


class _RunWatcher(Protocol):
    def observe(self, run: Watched) -> Listener: ...

    def called(self, run_id: str, report: CallReport) -> None: ...


class RunWatch:
    """Several who look on at runs, as one."""

    def __init__(self, watchers: Sequence[_RunWatcher], names: set[str]) -> None:
        """:param names: the references that may be shown."""
        self._watchers = tuple(watchers)
        self._names = names

    def name(self, models: Collection[str]) -> None:
        """Show these models by their names, too; the configuration has changed."""
        self._names.update(models)

    @property
    def observers(self) -> list[Callable[[Watched], Listener]]:
        """To be asked for a listener to each run."""
        return [watcher.observe for watcher in self._watchers]

    def called(self, run_id: str, report: CallReport) -> None:
        """A model call is over."""
        for watcher in self._watchers:
            watcher.called(run_id, report)


def open_watch(config: Config, env: Mapping[str, str], executor: Executor) -> Watch:
    """What the configuration and the environment ask for.

    :raises ConfigError: it is not to be had.
    """
    metrics = _open_metrics(env) if config.gateway.metrics.enabled else None
    return Watch(metrics, open_tracing(env, executor.spawn))


def _open_metrics(env: Mapping[str, str]) -> Metrics:
    directory = env.get("PROMETHEUS_MULTIPROC_DIR", "")
    try:
        return Metrics(directory)
    except OSError as error:
        told = f"PROMETHEUS_MULTIPROC_DIR: nothing can be written in {directory} ({error.strerror})."
        raise ConfigError(told) from error


def _keep_fresh(metrics: Metrics, executor: Executor) -> None:
    """A scrape that another process answers finds what was last written."""

    def again() -> None:
        metrics.refresh()
        executor.after(REFRESH, again)

    again()
