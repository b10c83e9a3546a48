"""What a thread works for: told to its log lines and its traces.

Threads don't inherit it, greenlets neither: who starts one for the same purpose hands it on with
:func:`carried`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Context:
    """For whom a thread is at work; "" where that is nobody.

    :ivar request_id: of the HTTP request, or of the WebSocket connection.
    :ivar trace: the headers of W3C Trace Context that say which span all this belongs to.
    """

    request_id: str = ""
    run_id: str = ""
    agent_id: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)


_NOBODY = Context()
_current: ContextVar[Context] = ContextVar("openclaw_context", default=_NOBODY)


def current() -> Context:
    """What the calling thread works for."""
    return _current.get()


def enter(context: Context) -> None:
    """The calling thread works for this from now on, until :func:`leave`."""
    _current.set(context)


def leave() -> None:
    """The calling thread works for nobody."""
    _current.set(_NOBODY)


def refine(**facts: Any) -> None:
    """More is known of what the calling thread works for; fields of :class:`Context` by name."""
    _current.set(replace(_current.get(), **facts))


@contextmanager
def working_for(context: Context) -> Iterator[None]:
    """The calling thread works for ``context`` within the block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def carried(work: Callable[[], None]) -> Callable[[], None]:
    """``work`` for another thread, which then works for what this one does."""
    context = _current.get()

    def carry() -> None:
        _current.set(context)
        work()

    return carry
