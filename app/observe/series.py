"""Every series that `/metrics` shows.

A label has few values, and none that a client chooses: agents, channels, providers, tools and routes are
those of the gateway, a model is one of the configuration's or ``other``. No session, user or key.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from ..version import version

M = TypeVar("M", bound=MetricWrapperBase)

# Seconds. Answers of models take from a moment to minutes, statements of a database rarely a second.
_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
_WAIT = (0.005, 0.05, 0.25, 1, 5, 15, 60, 300)
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class Family(Generic[M]):
    """One metric with labels; any thread may call it.

    The library looks its children up under a lock, and checks the labels each time.
    """

    def __init__(self, metric: M) -> None:
        self._metric = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *labels: str) -> M:
        """The child with these values of the labels, in their order."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class Series:
    """The metrics of one gateway, by topic."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"openclaw_{name}", text, labels, registry=registry)

        def counters(name: str, text: str, *labels: str) -> Family[Counter]:
            return Family(counter(name, text, *labels))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            # Of several processes: the sum over those that are alive.
            return Gauge(f"openclaw_{name}", text, labels, registry=registry, multiprocess_mode="livesum")

        def seconds(name: str, text: str, buckets: Sequence[float], *labels: str) -> Family[Histogram]:
            name = f"openclaw_{name}_seconds"
            return Family(Histogram(name, text, labels, buckets=buckets, registry=registry))

        self.requests = counters("http_requests", "Answered requests.", "method", "route", "status")
        self.request_seconds = seconds(
            "http_request_duration", "From a request to the last byte of its answer.", _LONG, "route"
        )
        self.requests_open = gauge("http_requests_in_flight", "Requests that are being answered.")
        self.streams_open = gauge("http_streams_open", "Those of them that get a stream of events.")

        self.runs_started = counters("runs_started", "Runs that have left their lanes.", "agent", "channel")
        self.runs = counters("runs", "Runs that have ended.", "agent", "channel", "outcome")
        self.run_seconds = seconds("run_duration", "From the wish for a run to its end.", _LONG, "agent")
        self.run_first = seconds(
            "run_first_token", "From the wish for a run to its first text.", _FIRST, "agent"
        )
        self.run_wait = seconds("run_wait", "How long runs have waited in their lanes.", _WAIT, "agent")
        self.runs_live = gauge("runs_live", "Runs that are waiting or running.")
        self.runs_waiting = gauge("runs_waiting", "Runs that wait in a lane.")
        self.lanes = gauge("session_lanes", "Sessions that have a run waiting or running.")

        model = ("provider", "model")
        self.calls = counters("model_calls", "Calls of models that are over.", *model, "outcome")
        self.call_seconds = seconds("model_call_duration", "How long calls of models took.", _LONG, *model)
        self.call_first = seconds(
            "model_call_first_token", "From a call to the first of its answer.", _FIRST, *model
        )
        self.retries = counters("model_retries", "Calls after a failed one of the same model.", *model)
        self.failovers = counters("model_failovers", "Calls of a model in place of one that failed.", *model)
        self.cooling = Family(
            gauge("model_cooldowns", "Keys and models that are left alone after failures.", "provider")
        )
        self.tokens = counters(
            "model_tokens", "Tokens; input includes cached ones, output reasoning.", *model, "kind"
        )
        self.cost = counters("model_cost_dollars", "What calls of known price have cost.", *model)

        self.tools = counters("tool_calls", "Calls of the agents' own tools.", "tool", "outcome")
        self.tool_seconds = seconds(
            "tool_call_duration", "From a call to when the model had its result.", _LONG, "tool"
        )

        self.sockets = gauge("websocket_connections", "Clients that have said hello.")
        self.frames_dropped = counter("websocket_frames_dropped", "Events left out for slow clients.")
        self.clients_dropped = counter("websocket_clients_dropped", "Clients given up as too slow.")

        self.store_seconds = seconds(
            "store_operation_duration", "How long the store took.", _SHORT, "operation"
        )
        self.store_errors = counters("store_errors", "Operations that have failed.", "operation")

        self.bus_connected = gauge("bus_connected", "Processes that reach the others over the bus.")
        self.bus_published = counter("bus_messages_published", "What was to be told to other processes.")
        self.bus_dropped = counter("bus_messages_dropped", "What was lost of it: the bus was away or slow.")

        build = Gauge(
            "openclaw_build_info",
            "1, with what is running.",
            ("version", "python"),
            registry=registry,
            multiprocess_mode="max",
        )
        build.labels(version(), platform.python_version()).set(1)


class Total:
    """Shows a count that somebody else keeps as a counter."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._shown: float = 0

    def show(self, total: float) -> None:
        """Catch up with ``total``; one that went back was begun anew."""
        self._counter.inc(total - self._shown if total >= self._shown else total)
        self._shown = total
