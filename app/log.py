"""Logging: standard library loggers under ``openclaw``, configured only by a stand-alone host.

A host application that embeds the gateway keeps its own set-up; nothing here touches the
root logger.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

_ROOT = "openclaw"
# A shorter one occurs in many a harmless word, and masking it would ruin every line.
_SHORTEST_SECRET = 8
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def get_logger(area: str) -> logging.Logger:
    """The logger of one area of the gateway, ``openclaw.<area>``."""
    return logging.getLogger(f"{_ROOT}.{area}")


def configure_logging(secrets: Iterable[str] = (), level: int = logging.INFO) -> None:
    """Send the gateway's log lines to stderr, with every string in ``secrets`` masked.

    Secrets shorter than 8 characters are not masked.
    For the stand-alone host only. Calling it again replaces the former set-up.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(_FORMAT, tuple(s for s in secrets if len(s) >= _SHORTEST_SECRET)))
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


class _Redacting(logging.Formatter):
    """Masks secrets in the finished line, so that tracebacks are covered too."""

    def __init__(self, fmt: str, secrets: tuple[str, ...]) -> None:
        super().__init__(fmt)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line
