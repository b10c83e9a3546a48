"""Measures runs: those of agents and of vectors, their model calls and their tools."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Protocol

from ..agents.failover import CallReport
from ..cancel import CancelReason
from ..errors import RunTimeout
from ..events import (
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TerminalEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from .series import Series

_OTHER = "other"


class Watched(Protocol):
    """A run, whatever it makes."""

    @property
    def agent_id(self) -> str:
        """Whose it is."""

    @property
    def channel(self) -> str:
        """Who asks."""

    @property
    def created_at(self) -> int:
        """When it was asked for, Unix milliseconds."""


class RunMeter:
    """Turns what runs go through into series. Any thread may call any method."""

    def __init__(self, series: Series, *, models: Container[str], knows_tool: Callable[[str], bool]) -> None:
        """:param models: references that may be labels, now or later; what else clients choose is ``other``.
        :param knows_tool: whether a name is a tool's; a model may make up any.
        """
        self._series = series
        self._models = models
        self._knows_tool = knows_tool

    def observe(self, run: Watched) -> Callable[[RunEvent], None]:
        """Listens to a run."""
        return _Meter(run, self._series, self._tool)

    def called(self, run_id: str, report: CallReport) -> None:  # noqa: ARG002 - of all runs alike
        """A model call is over."""
        series, call, usage = self._series, report.call, report.usage
        candidate = report.candidate
        who = candidate.provider.id, candidate.model if call.model in self._models else _OTHER
        series.calls(*who, call.outcome).inc()
        series.call_seconds(*who).observe(call.milliseconds / 1000)
        if report.first is not None:
            series.call_first(*who).observe(report.first)
        if report.after is not None:
            (series.retries if report.after == call.model else series.failovers)(*who).inc()
        if usage is not None:
            series.tokens(*who, "input").inc(usage.input)
            series.tokens(*who, "output").inc(usage.output)
            if usage.cached or usage.reasoning or usage.cache_write:
                series.tokens(*who, "cached").inc(usage.cached)
                series.tokens(*who, "reasoning").inc(usage.reasoning)
                series.tokens(*who, "cache_write").inc(usage.cache_write)
        if cost := report.cost:
            series.cost(*who).inc(cost)

    def _tool(self, name: str) -> str:
        return name if self._knows_tool(name) else _OTHER


class _Meter:
    """One run. Called for each piece of its answer: nearly all of them need one look at most."""

    __slots__ = ("_agent", "_run", "_series", "_silent", "_tool", "_tools")

    def __init__(self, run: Watched, series: Series, tool: Callable[[str], str]) -> None:
        self._run = run
        self._agent = run.agent_id.lower()  # an id may be written in any case
        self._series = series
        self._tool = tool
        self._silent = True
        self._tools: dict[str, tuple[str, float]] = {}  # calls under way: the tool's label, and since when

    def __call__(self, event: RunEvent) -> None:
        kind = type(event)
        if kind is TextDelta:
            if self._silent:
                self._silent = False
                self._series.run_first(self._agent).observe(self._age())
        elif hear := _HEARD.get(kind):
            hear(self, event)

    def _age(self) -> float:
        """Seconds since somebody wanted the run; a clock that is set back makes no negative ones."""
        return max(0.0, time.time() - self._run.created_at / 1000)

    def _started(self, event: RunStarted) -> None:
        waited = max(0, event.at - self._run.created_at)
        self._series.runs_started(self._agent, self._run.channel).inc()
        self._series.run_wait(self._agent).observe(waited / 1000)

    def _tool_started(self, event: ToolStarted) -> None:
        self._tools[event.call_id] = self._tool(event.name), time.perf_counter()

    def _tool_finished(self, event: ToolFinished) -> None:
        tool, since = self._tools.pop(event.call_id, (self._tool(event.name), None))
        self._series.tools(tool, "error" if event.is_error else "ok").inc()
        if since is not None:
            self._series.tool_seconds(tool).observe(time.perf_counter() - since)

    def _ended(self, event: TerminalEvent) -> None:
        for tool, _ in self._tools.values():
            self._series.tools(tool, "cancelled").inc()
        self._series.runs(self._agent, self._run.channel, outcome_of(event)).inc()
        self._series.run_seconds(self._agent).observe(self._age())


_HEARD: dict[type, Callable[..., None]] = {
    RunStarted: _Meter._started,  # noqa: SLF001 - its own
    ToolStarted: _Meter._tool_started,  # noqa: SLF001 - its own
    ToolFinished: _Meter._tool_finished,  # noqa: SLF001 - its own
    RunCompleted: _Meter._ended,  # noqa: SLF001 - its own
    RunFailed: _Meter._ended,  # noqa: SLF001 - its own
    RunCancelled: _Meter._ended,  # noqa: SLF001 - its own
}


def outcome_of(event: TerminalEvent) -> str:
    """How a run ended, in a word: ``completed``, ``failed``, ``timeout`` or ``cancelled``."""
    if isinstance(event, RunCompleted):
        return "completed"
    if isinstance(event, RunCancelled):
        return "timeout" if event.reason is CancelReason.TIMEOUT else "cancelled"
    return "timeout" if isinstance(event.error, RunTimeout) else "failed"
