"""Which release this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The number of the installed release; "0" in a checkout that nobody has installed."""
    try:
        return metadata.version("openclaw-gateway")
    except metadata.PackageNotFoundError:
        return "0"
