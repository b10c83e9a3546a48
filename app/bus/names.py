"""Names as they are in Redis. Whatever a text holds, half a surrogate pair included, is its own name."""

from __future__ import annotations


def to_bytes(name: str) -> bytes:
    """A name in Redis."""
    return name.encode("utf-8", "surrogatepass")


def to_text(name: bytes) -> str:
    """A name out of Redis. One that nobody here can have given is readable all the same."""
    try:
        return name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return name.decode("utf-8", "replace")
