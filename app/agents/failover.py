"""The one retry layer: the same model again when that may help, then the next model.

Nothing is tried again once the caller has seen text: two attempts are never spliced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from ..events import TextDelta
from ..log import get_logger
from ..providers.base import ModelEvent, ModelRequest
from .models import Candidate

ATTEMPTS = 3
LONGEST_WAIT = 20.0

# Another model would refuse these too, or must not be asked.
_FINAL = frozenset({ProviderReason.FORMAT, ProviderReason.CONTEXT_OVERFLOW})

_log = get_logger("model")


class ModelCaller:
    """Calls the models of one agent for one run, and counts what it took."""

    def __init__(self, candidates: Sequence[Candidate], cancel: CancelToken) -> None:
        self._candidates = candidates
        self._cancel = cancel
        self.attempts = 0
        self.answered_by = candidates[0].ref

    def stream(self, build: Callable[[Candidate], ModelRequest]) -> Iterator[ModelEvent]:
        """The events of the first model call that works out.

        :param build: makes the request for a candidate; called again for each of them.
        :raises ProviderError: nothing worked, or the answer broke off.
        :raises Cancelled: the run was cancelled.
        """
        failure: ProviderError | None = None
        for candidate in self._candidates:
            try:
                yield from self._try(candidate, build(candidate))
            except _Untouched as untouched:
                failure = untouched.error
                if failure.reason in _FINAL:
                    break
            else:
                return
        assert failure is not None, "an agent has at least one candidate"
        raise failure

    def _try(self, candidate: Candidate, request: ModelRequest) -> Iterator[ModelEvent]:
        for attempt in range(1, ATTEMPTS + 1):
            visible = False
            self.attempts += 1
            try:
                for event in candidate.provider.stream(request, self._cancel):
                    visible = visible or isinstance(event, TextDelta)
                    yield event
            except ProviderError as error:
                _log.warning("%s: %s (%s)", candidate.ref, error, error.reason)
                if visible:
                    raise
                wait = _pause(error, attempt)
                if wait is None:
                    raise _Untouched(error) from error
                self._cancel.sleep(wait)
            else:
                self.answered_by = candidate.ref
                return


class _Untouched(Exception):
    """The candidate failed for good, and nobody has seen a word of it."""

    def __init__(self, error: ProviderError) -> None:
        super().__init__(str(error))
        self.error = error


def _pause(error: ProviderError, attempt: int) -> float | None:
    """Seconds until the same model is worth another try; None if it is not."""
    if not error.retryable or attempt == ATTEMPTS:
        return None
    pause = max(error.retry_after or 0.0, 0.5 * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
    return pause if pause <= LONGEST_WAIT else None
