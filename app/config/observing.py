"""The section `logging` and `gateway.metrics`: what operators see of the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from .section import Section


class LoggingConfig(Section):
    """Lines on stderr, of the stand-alone gateway only: a host has a log of its own."""

    level: Literal["silent", "fatal", "error", "warn", "info", "debug", "trace"] = "info"
    console_style: Literal["pretty", "compact", "json"] = "pretty"
    requests: bool = False


class MetricsConfig(Section):
    """Prometheus' metrics at `/metrics`."""

    enabled: bool = True
    auth: Literal["gateway", "none"] = "gateway"


def with_log_variables(
    document: dict[str, Any], env: Mapping[str, str], variables: dict[str, str]
) -> dict[str, Any]:
    """``document`` with what ``OPENCLAW_LOG_LEVEL`` and ``OPENCLAW_LOG_FORMAT`` say of the log; they win.

    :param variables: gets the names of those that are set, by the path of the key.
    """
    logging = document.get("logging", {})
    if not isinstance(logging, dict):
        return document
    for name, key in (("OPENCLAW_LOG_LEVEL", "level"), ("OPENCLAW_LOG_FORMAT", "consoleStyle")):
        if value := env.get(name, "").strip().lower():
            logging = {**logging, key: "pretty" if value == "text" else value}
            variables[f"logging.{key}"] = name
    return {**document, "logging": logging} if logging else document
