"""The one retry layer: the same model again when that may help, another key, the next model.

Nothing is tried again once the caller has seen text: two attempts are never spliced.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias, TypeVar

from ..cancel import Cancelled, CancelToken
from ..errors import ProviderError, ProviderReason
from ..events import TextDelta
from ..log import get_logger
from ..messages import Usage
from ..providers.base import ModelEvent, ModelRequest
from ..sessions.records import ModelCall
from .cooldown import Cooldowns, Standing, restated
from .models import Candidate

ATTEMPTS = 3
# Seconds: one wait while another model is ready, one wait without, and all waits of a run.
SHORT_WAIT = 5.0
LONGEST_WAIT = 20.0
LONGEST_WAITING = 60.0

# Another key may do better at once.
_OF_THE_KEY = frozenset({ProviderReason.AUTH, ProviderReason.BILLING, ProviderReason.RATE_LIMIT})

_Event = TypeVar("_Event")

BuildRequest: TypeAlias = Callable[[Candidate, int], ModelRequest]
# Makes ready, for a candidate and one of its keys, a call that then yields the events of an answer.
Prepare: TypeAlias = Callable[[Candidate, int], Callable[[], Iterator[_Event]]]
_Outcome: TypeAlias = Generator[_Event, None, list[ProviderError]]

_log = get_logger("model")


@dataclass(frozen=True, slots=True)
class CallReport:
    """A model call that is over, for whoever keeps watch.

    :ivar candidate: who was called.
    :ivar call: its record.
    :ivar first: seconds until something of the answer came; None if nothing did.
    :ivar usage: None if nobody counted, as after a failure.
    :ivar finish_reason: why a model stopped; "" for a failure, and for vectors.
    :ivar after: ``provider/model`` of the failed call that this one makes up for.
    """

    candidate: Candidate
    call: ModelCall
    first: float | None = None
    usage: Usage | None = None
    finish_reason: str = ""
    after: str | None = None

    @property
    def cost(self) -> float | None:
        """In US dollars; None if the tokens or their price are not known."""
        price = self.candidate.info.price
        return None if price is None or self.usage is None else price.of(self.usage)


# Called in the run's thread. Must be quick and must not raise.
CallWatch: TypeAlias = Callable[[CallReport], None]


def unwatched(report: CallReport) -> None:
    """For calls that nobody keeps watch over."""


class ModelCaller:
    """Calls the models of one agent for one run, in the run's thread.

    Each model gets one call with each of its keys, and retries while it has had fewer than
    three calls. A model whose keys are cooling waits behind all others. Once a model has
    answered, the run's later calls begin with it.

    :param candidates: the models to try, in order; at least one.
    :param time_left: seconds of the run's budget; no wait begins that it would cut short.
    :param pause: waits so many seconds, ``cancel.sleep`` by default.
    :param clock: seconds, never going back.
    :param watch: is told of each call when it is over.
    :ivar answered_by: ``provider/model`` of the last answer, of the first candidate until then.
    :ivar calls: all calls that are over, in order.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        cancel: CancelToken,
        cooldowns: Cooldowns,
        *,
        time_left: Callable[[], float] = lambda: inf,
        pause: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        watch: CallWatch = unwatched,
    ) -> None:
        self._candidates = list(dict.fromkeys(candidates))
        self._cancel = cancel
        self._cooldowns = cooldowns
        self._time_left = time_left
        self._pause = pause or cancel.sleep
        self._clock = clock
        self._watch = watch
        self._failed: str | None = None  # the model of the last call, unless that was answered
        self._waited = 0.0
        self.answered_by = candidates[0].ref
        self.calls: list[ModelCall] = []

    def stream(self, build: BuildRequest) -> Generator[ModelEvent, None, None]:
        """The events of the first model call that works out.

        :param build: makes the request for a candidate and one of its keys, before each call.
        :raises ProviderError: nothing worked, or the answer broke off.
        :raises Cancelled: the run was cancelled.
        """

        def prepare(candidate: Candidate, key: int) -> Callable[[], Iterator[ModelEvent]]:
            request = build(candidate, key)
            return lambda: candidate.provider.stream(request, self._cancel)

        return self.ask(prepare)

    def ask(self, prepare: Prepare[_Event]) -> Generator[_Event, None, None]:
        """The events of the first call of any kind that works out; raises like :meth:`stream`."""
        untried = list(self._candidates)
        self._failed = None
        failures: dict[Candidate, list[ProviderError]] = {}
        while untried:
            standings = [(candidate, self._standing(candidate)) for candidate in untried]
            candidate, best = min(standings, key=lambda one: (not one[1].ready, one[1].retry_in))
            wait = best.retry_in
            if wait and not self._may_wait(wait, SHORT_WAIT):
                failures.update({c: [s.error] for c, s in standings if s.error})
                break
            if wait:
                self._wait(wait)
                continue
            untried.remove(candidate)
            errors = yield from self._ask(candidate, best.keys[0], prepare, untried)
            if not errors:
                self._stay_with(candidate)
                return
            failures[candidate] = errors
            untried = _worth_asking(untried, candidate, errors[-1])
        raise _verdict({c.ref: failures[c] for c in self._candidates if c in failures})

    def _ask(
        self, candidate: Candidate, key: int, prepare: Prepare[_Event], others: Sequence[Candidate]
    ) -> _Outcome[_Event]:
        """One model's answer, beginning with ``key``. Returns why there is none, or nothing at all."""
        tried, errors = set[int](), list[ProviderError]()
        while True:
            error = yield from self._call(candidate, key, prepare(candidate, key))
            if error is None:
                return []
            tried.add(key)
            errors.append(error)
            other = self._other_key(candidate, error, tried)
            if other is None and (wait := self._backoff(error, len(errors), others)) is not None:
                self._wait(wait)
                continue
            self._cooldowns.failed(candidate.provider.id, key, candidate.model, error)
            if other is None:
                return errors
            key = other

    def _call(
        self, candidate: Candidate, key: int, call: Callable[[], Iterator[_Event]]
    ) -> Generator[_Event, None, ProviderError | None]:
        """One call. Returns its failure if nobody has seen a word of the answer."""
        visible, noted = False, _Noted(self._clock())
        event: _Event | None = None
        try:
            for event in call():
                if noted.first is None:
                    noted.first = self._clock()
                visible = visible or isinstance(event, TextDelta)
                yield event
        except ProviderError as error:
            self._note(candidate, key, noted, error.reason.value, status=error.upstream_status)
            _log.warning("%s, key %d: %s (%s)", candidate.ref, key, error, error.reason)
            if not visible:
                return error
            self._cooldowns.failed(candidate.provider.id, key, candidate.model, error)
            raise
        except (Cancelled, GeneratorExit):
            self._note(candidate, key, noted, "cancelled")
            raise
        self._note(candidate, key, noted, "ok", last=event)
        self._cooldowns.succeeded(candidate.provider.id, key, candidate.model)
        self.answered_by = candidate.ref
        return None

    def _note(
        self,
        candidate: Candidate,
        key: int,
        noted: _Noted,
        outcome: str,
        *,
        status: int | None = None,
        last: object = None,
    ) -> None:
        milliseconds = round((self._clock() - noted.started) * 1000)
        call = ModelCall(candidate.ref, key, outcome, status, milliseconds)
        self.calls.append(call)
        usage, reason = getattr(last, "usage", None), getattr(last, "finish_reason", "")
        first = None if noted.first is None else noted.first - noted.started
        after, self._failed = self._failed, None if outcome == "ok" else candidate.ref
        self._watch(CallReport(candidate, call, first, usage, reason, after))

    def _standing(self, candidate: Candidate) -> Standing:
        return self._cooldowns.standing(candidate.provider.id, candidate.credentials, candidate.model)

    def _other_key(self, candidate: Candidate, error: ProviderError, tried: set[int]) -> int | None:
        if error.reason not in _OF_THE_KEY:
            return None
        ready = (key for key in self._standing(candidate).keys if self._is_ready(candidate, key))
        return next((key for key in ready if key not in tried), None)

    def _is_ready(self, candidate: Candidate, key: int) -> bool:
        return self._cooldowns.ready_in(candidate.provider.id, key, candidate.model) == 0

    def _backoff(self, error: ProviderError, calls: int, others: Sequence[Candidate]) -> float | None:
        """Seconds until the same key is worth another try; None if it is not."""
        if not error.retryable or calls >= ATTEMPTS:
            return None
        seconds = max(error.retry_after or 0.0, 0.5 * 2 ** (calls - 1) * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        patience = SHORT_WAIT if any(self._standing(other).ready for other in others) else LONGEST_WAIT
        return seconds if self._may_wait(seconds, patience) else None

    def _may_wait(self, seconds: float, patience: float) -> bool:
        return seconds <= min(patience, LONGEST_WAITING - self._waited) and seconds < self._time_left()

    def _wait(self, seconds: float) -> None:
        self._waited += seconds
        self._pause(seconds)

    def _stay_with(self, candidate: Candidate) -> None:
        """Begin with ``candidate`` from now on: it knows its own thoughts, and whoever failed
        before it would cost its patience again in every round."""
        self._candidates.remove(candidate)
        self._candidates.insert(0, candidate)


@dataclass(slots=True)
class _Noted:
    """When a call began, and when the first of its answer came, by the caller's clock."""

    started: float
    first: float | None = None


def _worth_asking(untried: Sequence[Candidate], failed: Candidate, error: ProviderError) -> list[Candidate]:
    """Those of ``untried`` that may do better than the one that failed."""
    if error.reason is ProviderReason.FORMAT:
        return []
    if error.reason is ProviderReason.CONTEXT_OVERFLOW:
        window = failed.info.context_window
        return [candidate for candidate in untried if candidate.info.context_window > window]
    return list(untried)


def _verdict(failures: Mapping[str, Sequence[ProviderError]]) -> ProviderError:
    """The one error that stands for all failures of all models: the one that can be acted on."""
    every = [error for errors in failures.values() for error in errors]
    chosen = min(every, key=_hopelessness)
    return restated(chosen, message=_summary(failures), retry_after=_soonest(chosen, every))


def _summary(failures: Mapping[str, Sequence[ProviderError]]) -> str:
    worth_telling = {ref: min(errors, key=_hopelessness) for ref, errors in failures.items()}
    if len(worth_telling) == 1:
        return next(iter(worth_telling.values())).message
    each = (f"{ref}: {e.message.rstrip('.')} ({e.reason})" for ref, e in worth_telling.items())
    return f"All models failed ({len(worth_telling)}): {' | '.join(each)}"


def _soonest(chosen: ProviderError, every: Sequence[ProviderError]) -> float | None:
    """The shortest pause that a failure as hopeful as ``chosen`` asks for, if that one asks for any."""
    if chosen.retry_after is None:
        return None
    peers = [error for error in every if _hopelessness(error) == _hopelessness(chosen)]
    return min(error.retry_after for error in peers if error.retry_after is not None)


def _hopelessness(error: ProviderError) -> int:
    """How little can be done: shorten the conversation, try again later, mend the request, nothing."""
    if error.reason is ProviderReason.CONTEXT_OVERFLOW:
        return 0
    if error.retryable:
        return 1
    return 2 if error.reason is ProviderReason.FORMAT else 3
