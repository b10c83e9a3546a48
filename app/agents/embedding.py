"""Vectors for an agent: which model makes them, and its calls, a slice of the inputs at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from ..cancel import CancelToken
from ..errors import ConfigError, InvalidRequest, ProviderError, ProviderReason
from ..messages import Usage
from ..providers.base import Embedder, EmbeddingRequest, Embeddings
from ..sessions.records import ModelCall
from .cooldown import Cooldowns, restated
from .failover import CallWatch, ModelCaller, unwatched
from .models import Candidate
from .registry import Agent

# Inputs of one call: an answer that can be read before other requests notice.
SLICE = 256
_MODEL_HEADER = "x-openclaw-model"

Input: TypeAlias = str | tuple[int, ...]


def choose_embedder(
    agent: Agent, asked: str | None, inputs: Sequence[Input], resolve: Callable[[str], Candidate]
) -> Candidate:
    """The model ``asked`` for as ``provider/model``, else the agent's own.

    :raises InvalidRequest: there is no such model, or it makes no vectors of such inputs.
    """
    candidate = _stated(asked, resolve) if asked else _own(agent)
    if not _embedder(candidate).embeds_tokens and not all(isinstance(one, str) for one in inputs):
        raise InvalidRequest(
            f"The provider {candidate.provider.id!r} embeds texts, not tokens: send `input` as text.",
            param="input",
            code="tokens_not_supported",
        )
    return candidate


def _own(agent: Agent) -> Candidate:
    if agent.embedder is None:
        raise InvalidRequest(
            f"No model makes embeddings for agent {agent.id!r}. "
            "Set agents.defaults.embeddingModel in openclaw.json to a provider/model that does.",
            param="model",
            code="embeddings_not_configured",
        )
    return agent.embedder


def _stated(asked: str, resolve: Callable[[str], Candidate]) -> Candidate:
    try:
        candidate = resolve(asked)
    except ConfigError as error:
        raise InvalidRequest(str(error), param=_MODEL_HEADER, code="model_not_found") from None
    if not isinstance(candidate.provider, Embedder):
        raise InvalidRequest(
            f"The API of the provider {candidate.provider.id!r} has no embeddings.",
            param=_MODEL_HEADER,
            code="embeddings_not_supported",
        )
    return candidate


def _embedder(candidate: Candidate) -> Embedder:
    assert isinstance(candidate.provider, Embedder), "it was chosen for that"
    return candidate.provider


class EmbeddingTurn:
    """The calls that turn inputs into vectors, in one thread.

    No other model ever takes over: vectors of different models cannot be compared.

    :param candidate: from :func:`choose_embedder`.
    :param time_left: seconds of the budget; no wait begins that it would cut short.
    :param watch: is told of each call when it is over.
    :ivar usage: of all calls so far.
    """

    def __init__(
        self,
        candidate: Candidate,
        inputs: Sequence[Input],
        dimensions: int | None,
        *,
        cancel: CancelToken,
        cooldowns: Cooldowns,
        time_left: Callable[[], float],
        watch: CallWatch = unwatched,
    ) -> None:
        self._candidate = candidate
        self._provider = _embedder(candidate)
        self._inputs = tuple(inputs)
        self._dimensions = dimensions
        self._cancel = cancel
        self._caller = ModelCaller((candidate,), cancel, cooldowns, time_left=time_left, watch=watch)
        self.usage = Usage()

    @property
    def calls(self) -> list[ModelCall]:
        """All calls that are over, in order."""
        return self._caller.calls

    def run(self) -> Iterator[Embeddings]:
        """The vectors in the order of the inputs, some of them at a time.

        :raises InvalidRequest: the model cannot make vectors of the length that was asked for.
        :raises ProviderError: a call failed for good; what came before is of no use.
        :raises Cancelled: soon after the token fires.
        """
        for start in range(0, len(self._inputs), SLICE):
            answer = self._embed(self._inputs[start : start + SLICE])
            self.usage += answer.usage or Usage()
            self._check_length(len(answer.vectors[0]))
            yield answer

    def _embed(self, inputs: tuple[Input, ...]) -> Embeddings:
        def prepare(candidate: Candidate, key: int) -> Callable[[], Iterator[Embeddings]]:
            request = EmbeddingRequest(candidate.model, inputs, self._dimensions, candidate.timeouts, key)
            return lambda: iter((self._provider.embed(request, self._cancel),))

        try:
            [answer] = self._caller.ask(prepare)
        except ProviderError as error:
            if error.reason is not ProviderReason.CONTEXT_OVERFLOW:
                raise
            text = f"An input is longer than the model {self._candidate.ref!r} takes."
            raise restated(error, message=text) from None
        return answer

    def _check_length(self, length: int) -> None:
        if self._dimensions not in (None, length):
            raise InvalidRequest(
                f"The model {self._candidate.ref!r} makes vectors of {length} dimensions, not of others.",
                param="dimensions",
                code="dimensions_not_supported",
            )
