"""Keys and models that are left alone for a while because they have just failed.

What a failure says decides how much of it is left alone: a refused key is refused for every
model, a rate limit holds for one model, an overloaded model is overloaded for every key. A
request that is wrong says nothing about anybody.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from ..errors import ProviderError, ProviderReason

_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0
_MOST = 2_000
# What is left of a wait after a timer that was a hair early.
_NOTHING = 0.001

_Scope: TypeAlias = tuple[str, int | None, str | None]
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a model may be called now.

    :ivar keys: the keys that may be used now, the best one first.
    :ivar ready: the first of them is not cooling; else it is worth a call only if no other
        model is ready.
    :ivar retry_in: seconds until a key may be used; 0 if ``keys`` holds one.
    :ivar error: why none may be used, with ``retry_in`` as its ``retry_after``; else None.
    """

    keys: tuple[int, ...]
    ready: bool
    retry_in: float
    error: ProviderError | None


class Cooldowns:
    """What one gateway remembers of failed model calls, in memory and bounded.

    Any thread may call any method.

    :param clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _entries and _last_good
        self._entries: dict[_Scope, _Entry] = {}
        self._last_good: dict[tuple[str, str], int] = {}

    def ready_in(self, provider: str, credential: int, model: str) -> float:
        """Seconds until this key and model have cooled down; 0 if they are ready."""
        with self._lock:
            return self._left(provider, credential, model).ready_in

    def standing(self, provider: str, credentials: int, model: str) -> Standing:
        """How ``model`` stands with its provider's keys, which are numbered from 0.

        The key that answered last comes first: the provider's prompt cache is its own.
        """
        with self._lock:
            good = self._last_good.get((provider, model))
            if not self._entries:  # nothing has failed lately: most of the time
                return Standing(_first(good, credentials), ready=True, retry_in=0.0, error=None)
            left = {key: self._left(provider, key, model) for key in range(credentials)}
        usable = [key for key in left if left[key].retry_in == 0]
        if usable:
            keys = sorted(usable, key=lambda key: (left[key].ready_in > 0, key != good))
            return Standing(tuple(keys), left[keys[0]].ready_in == 0, 0.0, None)
        soonest = min(left.values(), key=lambda one: one.retry_in)
        assert soonest.error is not None, "only a failure makes a key wait"
        error = restated(soonest.error, retry_after=soonest.retry_in)
        return Standing((), ready=False, retry_in=soonest.retry_in, error=error)

    def failed(self, provider: str, credential: int, model: str, error: ProviderError) -> None:
        """A call has failed and is not tried again with this key."""
        rule = _RULES.get(error.reason)
        if rule is None:
            return
        scope = (provider, credential if rule.of_key else None, model if rule.of_model else None)
        with self._lock:
            _put(self._entries, scope, rule.next(self._entries.get(scope), error, self._clock()))

    def succeeded(self, provider: str, credential: int, model: str) -> None:
        """A call was answered: whatever was remembered against it is forgotten."""
        with self._lock:
            for scope in _scopes(provider, credential, model):
                self._entries.pop(scope, None)
            _put(self._last_good, (provider, model), credential)

    def forget(self) -> None:
        """Begin anew: keys and models are others now."""
        with self._lock:
            self._entries.clear()
            self._last_good.clear()

    def cooling(self) -> dict[str, int]:
        """How many keys and models are left alone now, by provider."""
        with self._lock:
            entries = [(provider, entry.until) for (provider, _, _), entry in self._entries.items()]
        now = self._clock()
        return dict(Counter(provider for provider, until in entries if until > now))

    def _left(self, provider: str, credential: int, model: str) -> _Left:
        now = self._clock()
        entries = (self._entries.get(scope) for scope in _scopes(provider, credential, model))
        return max((entry.left(now) for entry in entries if entry), default=_Left(), key=_strictness)


def restated(
    error: ProviderError, *, message: str | None = None, retry_after: float | None = None
) -> ProviderError:
    """The same failure as a new error: without its traceback, which holds on to a whole request."""
    return ProviderError(
        error.reason,
        error.message if message is None else message,
        provider=error.provider,
        upstream_status=error.upstream_status,
        retry_after=retry_after,
    )


@dataclass(frozen=True, slots=True)
class _Left:
    """Seconds that are left, and the failure that they are due to."""

    ready_in: float = 0.0
    retry_in: float = 0.0
    error: ProviderError | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One cool-down.

    :ivar failures: failures since the last success; those of calls that were under way when
        the cool-down began are not counted.
    :ivar until: when it is over.
    :ivar again: from when on a call is worth a try if there is nobody else to ask.
    """

    failures: int
    until: float
    again: float
    error: ProviderError

    def left(self, now: float) -> _Left:
        """What is left of it."""
        return _Left(_seconds(self.until - now), _seconds(self.again - now), self.error)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a class of failures cools.

    :ivar of_key: the key it happened with, else all of them.
    :ivar of_model: the model it happened with, else all of the provider's.
    :ivar ladder: seconds by number of failures; the last one holds from there on.
    """

    of_key: bool
    of_model: bool
    ladder: tuple[float, ...]

    def next(self, entry: _Entry | None, error: ProviderError, now: float) -> _Entry:
        """What ``entry`` becomes by another failure. A provider's own word on its pause is obeyed.

        Nothing else keeps the only key of the only model waiting: its owner may have put it
        right by now, and an error that nobody has just given helps no caller.
        """
        told = min(error.retry_after or 0.0, _DAY)
        again = now + told
        if entry and now < entry.until:
            again = max(entry.again, again)
            return _Entry(entry.failures, max(entry.until, again), again, restated(error))
        failures = entry.failures + 1 if entry and now - entry.until < _DAY else 1
        until = now + max(self.ladder[min(failures, len(self.ladder)) - 1], told)
        return _Entry(failures, until, again, restated(error))


_LADDER = (_MINUTE, 5 * _MINUTE, 25 * _MINUTE, _HOUR)
_KEY = _Rule(of_key=True, of_model=False, ladder=_LADDER)
_ACCOUNT = _Rule(of_key=True, of_model=False, ladder=(5 * _HOUR, 10 * _HOUR, 20 * _HOUR, _DAY))
_RATE = _Rule(of_key=True, of_model=True, ladder=_LADDER)
# Trouble of the moment: the first one is forgiven.
_MODEL = _Rule(of_key=False, of_model=True, ladder=(0.0, _MINUTE / 2, _MINUTE, 2 * _MINUTE))

_RULES: Mapping[ProviderReason, _Rule] = MappingProxyType(
    {
        ProviderReason.AUTH: _KEY,
        ProviderReason.BILLING: _ACCOUNT,
        ProviderReason.RATE_LIMIT: _RATE,
        ProviderReason.OVERLOADED: _MODEL,
        ProviderReason.SERVER_ERROR: _MODEL,
        ProviderReason.TIMEOUT: _MODEL,
        ProviderReason.CONNECTION: _MODEL,
        ProviderReason.TRUNCATED: _MODEL,
    }
)


def _scopes(provider: str, credential: int, model: str) -> Iterator[_Scope]:
    yield provider, credential, None
    yield provider, credential, model
    yield provider, None, model


def _first(good: int | None, credentials: int) -> tuple[int, ...]:
    """All keys, the ``good`` one first."""
    return tuple(sorted(range(credentials), key=lambda key: key != good))


def _seconds(left: float) -> float:
    return left if left > _NOTHING else 0.0


def _strictness(left: _Left) -> tuple[float, float]:
    return left.retry_in, left.ready_in


def _put(table: dict[_K, _V], key: _K, value: _V) -> None:
    """Set ``key`` as the newest one; the oldest one goes if there are too many."""
    table.pop(key, None)
    table[key] = value
    if len(table) > _MOST:
        del table[next(iter(table))]
