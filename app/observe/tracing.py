"""Whether runs are traced, and who gets the spans. OpenTelemetry is loaded only if somebody does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..log import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as OwnProvider
    from opentelemetry.trace import TracerProvider

    from .spans import Tracing

_SERVICE = "openclaw-gateway"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CONTENTS = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
# Seconds for the last spans to go out when the gateway stops.
_FAREWELL = 2.0

_log = get_logger("traces")


def open_tracing(
    env: Mapping[str, str], spawn: Callable[[str, Callable[[], None]], object]
) -> Tracing | None:
    """Spans for the application's own provider if it has one, else for the collector that ``env`` names.

    None where there is neither, or ``OTEL_SDK_DISABLED`` says so. The application's provider is never
    replaced, and none is put where it has none.

    :param spawn: starts a thread.
    :raises ConfigError: the variables of OpenTelemetry hold what it cannot use.
    """
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    contents = env.get(_CONTENTS, "").strip().lower() in ("true", "span_only", "span_and_event")
    if (provider := _of_the_host()) is not None:
        return _tracing(provider, contents=contents)
    if env.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp" or not any(map(env.get, _ENDPOINTS)):
        return None
    try:
        own = _own(env)
    except ValueError as mistake:
        raise ConfigError(f"Traces cannot be sent as the variables OTEL_* say: {mistake}") from mistake
    except ImportError:
        _log.warning("no traces: they need the extra `otel` (pip install 'openclaw-gateway[otel]')")
        return None
    return _tracing(own, contents=contents, close=lambda: _shut_down(own, spawn))


def _tracing(
    provider: TracerProvider, *, contents: bool, close: Callable[[], None] = lambda: None
) -> Tracing:
    from .spans import Tracing

    return Tracing(provider, contents=contents, close=close)


def _of_the_host() -> TracerProvider | None:
    """The provider that the application has set, if it has set one."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def _own(env: Mapping[str, str]) -> OwnProvider:
    """A provider for this gateway alone; OpenTelemetry's own variables set it up.

    :raises ImportError: the SDK is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = env.get("OTEL_SERVICE_NAME") or "service.name=" in env.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": _SERVICE})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _shut_down(provider: OwnProvider, spawn: Callable[[str, Callable[[], None]], object]) -> None:
    """Send what is left; a collector that does not answer holds up nobody for long."""
    done = threading.Event()

    def shut_down() -> None:
        try:
            provider.shutdown()
        finally:
            done.set()

    spawn("openclaw-traces", shut_down)
    done.wait(_FAREWELL)
