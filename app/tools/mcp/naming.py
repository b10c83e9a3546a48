"""What the tools of MCP servers are called here."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

_LONGEST = 64
_HASH_LENGTH = 8


def tool_names(tools: Sequence[tuple[str, str]]) -> list[str]:
    """A name for every (server, tool) that each model API takes: ``<server>__<tool>``.

    Letters, digits, ``_`` and ``-``, 64 at most. Tools that would share a name, or whose name
    is too long, get a hash at its end, so that no name depends on the order of the tools.
    """
    plain = [re.sub(r"[^a-zA-Z0-9_-]+", "_", f"{server}__{tool}") for server, tool in tools]
    count = Counter(plain)
    return [
        name if count[name] == 1 and len(name) <= _LONGEST else _hashed(name, *tool)
        for name, tool in zip(plain, tools, strict=True)
    ]


def _hashed(name: str, server: str, tool: str) -> str:
    digest = hashlib.sha256(f"{server}\0{tool}".encode()).hexdigest()[:_HASH_LENGTH]
    return f"{name[: _LONGEST - _HASH_LENGTH - 1]}_{digest}"
