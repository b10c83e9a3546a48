"""The store, with a look at the clock around each of its operations."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from ..sessions.store import Store
from .series import Series

# Not of the database: what watches it, and what ends it.
_NOT_TIMED = frozenset({"watch", "close"})


def timed(store: Store, series: Series) -> Store:
    """``store`` with its operations measured; all that it has besides is reached as before."""
    return cast(Store, _TimedStore(store, series))


class _TimedStore:
    def __init__(self, store: Store, series: Series) -> None:
        self._store = store
        for name in _operations():
            if (operation := getattr(store, name, None)) is not None:
                setattr(self, name, _Timed(name, operation, series))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Timed:
    """One operation."""

    __slots__ = ("_failed", "_name", "_operation", "_took")

    def __init__(self, name: str, operation: Callable[..., Any], series: Series) -> None:
        self._operation = operation
        self._name = name
        self._took = series.store_seconds  # shown once there is something to show
        self._failed = series.store_errors(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._operation(*args, **kwargs)
        except Exception:
            self._failed.inc()
            raise
        finally:
            self._took(self._name).observe(time.perf_counter() - began)


def _operations() -> list[str]:
    named = (name for name, value in vars(Store).items() if callable(value))
    return [name for name in named if not name.startswith("_") and name not in _NOT_TIMED]
