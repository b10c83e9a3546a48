"""Runs as OpenTelemetry's spans, named as its conventions for generative AI have it.

A run is one span, ``invoke_agent``, with a span below it for each call of a model (``chat``) and each call of
a tool (``execute_tool``). It belongs to the trace of whoever asked, and a sub-agent's run to its parent's.
Imported only where somebody wants traces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import context
from ..agents.failover import CallReport
from ..events import (
    TERMINAL,
    RunCancelled,
    RunCompleted,
    RunEvent,
    TerminalEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from ..messages import Usage
from ..runs.attempt import error_of
from ..runs.run import Run
from .contents import input_messages, output_messages

_NAME = "openclaw_gateway"
_HEADERS = TraceContextTextMapPropagator()
# Characters of a header, as the standard has it; of what is not right the library logs all.
_LONGEST = 512
# The others only where there is something to count.
_ALWAYS = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")


class Tracing:
    """Makes spans of what runs go through. Any thread may call any method."""

    def __init__(
        self, provider: TracerProvider, *, contents: bool = False, close: Callable[[], None] = lambda: None
    ) -> None:
        """:param provider: OpenTelemetry's, which makes tracers.
        :param contents: put what is said into spans, too.
        :param close: called when the gateway stops.
        """
        self._tracer = provider.get_tracer(_NAME)
        self._contents = contents
        self._live: dict[str, _RunSpan] = {}
        self.close = close

    def incoming(self, environ: Mapping[str, Any]) -> Mapping[str, str]:
        """Which trace a request belongs to: that of the span it is in, or else of its client."""
        if trace.get_current_span().get_span_context().is_valid:
            carrier: dict[str, str] = {}
            _HEADERS.inject(carrier)
            return carrier
        named = (("traceparent", "HTTP_TRACEPARENT"), ("tracestate", "HTTP_TRACESTATE"))
        return {name: str(environ[key]) for name, key in named if 0 < len(environ.get(key, "")) <= _LONGEST}

    def observe(self, run: object) -> Callable[[RunEvent], None]:
        """Listens to a run; in its own thread, and what that does from now on is a part of the run."""
        if not isinstance(run, Run):  # one of vectors is no more than its model calls
            return _ignore
        span = self._live[run.id] = _RunSpan(self._tracer, run, contents=self._contents)
        context.refine(trace=span.carrier())

        def hear(event: RunEvent) -> None:
            span.hear(event)
            if isinstance(event, TERMINAL):
                self._live.pop(run.id, None)

        return hear

    def called(self, run_id: str, report: CallReport) -> None:
        """A model call is over: a span that ends now."""
        live, call = self._live.get(run_id), report.call
        provider, model = report.candidate.provider.id, report.candidate.model
        operation = "embeddings" if live is None else "chat"
        now = time.time_ns()
        span = self._tracer.start_span(
            f"{operation} {model}",
            live.below if live else _extracted(context.current().trace),
            kind=SpanKind.CLIENT,
            attributes=_model_attributes(operation, provider, model) | _usage_attributes(report.usage),
            start_time=now - 1_000_000 * call.milliseconds,
        )
        if report.finish_reason:
            span.set_attribute("gen_ai.response.finish_reasons", [report.finish_reason])
        if report.first is not None:
            span.set_attribute("openclaw.time_to_first_token", report.first)
        if call.status is not None:
            span.set_attribute("http.response.status_code", call.status)
        if call.outcome != "ok":
            _fail(span, call.outcome)
        span.end(now)
        if live is not None:
            live.answered_by(provider, model)


class _RunSpan:
    """The span of a run under way; the run's threads call all methods."""

    def __init__(self, tracer: Tracer, run: Run, *, contents: bool) -> None:
        self._tracer = tracer
        self._contents = contents
        self._tools: dict[str, Span] = {}
        self._run = run
        self._span = tracer.start_span(
            f"invoke_agent {run.agent_id}",
            _extracted(context.current().trace),
            kind=SpanKind.INTERNAL,
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.id": run.agent_id,
                "gen_ai.agent.name": run.agent_id,
                "openclaw.run.id": run.id,
                "openclaw.channel": run.channel,
            },
            start_time=1_000_000 * run.created_at,
        )
        self.below = trace.set_span_in_context(self._span)
        if contents and self._span.is_recording():
            self._span.set_attribute("gen_ai.input.messages", input_messages(run.request.messages))

    def carrier(self) -> dict[str, str]:
        """The headers that say that something belongs to this run."""
        carrier: dict[str, str] = {}
        _HEADERS.inject(carrier, self.below)
        return carrier

    def answered_by(self, provider: str, model: str) -> None:
        """A model was called for this run."""
        self._span.set_attribute("gen_ai.provider.name", provider)
        self._span.set_attribute("gen_ai.request.model", model)

    def hear(self, event: RunEvent) -> None:
        """Take note of what happens."""
        if isinstance(event, TextDelta):  # first: nothing else is so frequent
            return
        if isinstance(event, ToolStarted):
            self._tools[event.call_id] = self._tool_span(event)
        elif isinstance(event, ToolFinished):
            self._end_tool(event)
        elif isinstance(event, TERMINAL):
            self._end(event)

    def _tool_span(self, event: ToolStarted) -> Span:
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": event.name,
            "gen_ai.tool.call.id": event.call_id,
            "gen_ai.tool.type": "function",
        }
        if self._contents:
            attributes["gen_ai.tool.call.arguments"] = event.arguments
        return self._tracer.start_span(
            f"execute_tool {event.name}", self.below, kind=SpanKind.INTERNAL, attributes=attributes
        )

    def _end_tool(self, event: ToolFinished) -> None:
        span = self._tools.pop(event.call_id, None)
        if span is None:
            return
        if self._contents:
            span.set_attribute("gen_ai.tool.call.result", event.text)
        if event.is_error:
            _fail(span, "tool_error")
        span.end()

    def _end(self, event: TerminalEvent) -> None:
        for tool in self._tools.values():
            _fail(tool, "cancelled")
            tool.end()
        span = self._span
        if self._run.session_id is not None:
            span.set_attribute("gen_ai.conversation.id", self._run.session_id)
        if isinstance(event, RunCompleted):
            span.set_attributes(_usage_attributes(event.usage))
            span.set_attribute("gen_ai.response.finish_reasons", [event.finish_reason])
            if self._contents:
                span.set_attribute("gen_ai.output.messages", output_messages(event))
        elif (error := error_of(event)) is not None:
            _fail(span, event.reason.value if isinstance(event, RunCancelled) else error.code or error.type)
        span.end()


def _ignore(event: RunEvent) -> None:
    """There is nothing to hear."""


def _extracted(carrier: Mapping[str, str]) -> Any:
    """OpenTelemetry's context of a trace; an empty one, and not that of the thread, for no trace."""
    return _HEADERS.extract(carrier, Context())


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _model_attributes(operation: str, provider: str, model: str) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
    }


def _usage_attributes(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    attributes = {
        "gen_ai.usage.input_tokens": usage.input,
        "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.cached,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
    }
    return {name: count for name, count in attributes.items() if count or name in _ALWAYS}
