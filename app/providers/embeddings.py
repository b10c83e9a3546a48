"""Vectors over HTTP: what OpenAI's ``POST /embeddings`` and Ollama's ``POST /api/embed`` take and give."""

from __future__ import annotations

import base64
import binascii
import sys
from abc import abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from ..messages import JsonObject, JsonValue, Usage
from ..wire import InvalidJson, loads
from .base import Embedder, EmbeddingRequest, Embeddings
from .streaming import StreamingProvider, as_count, as_object, protocol_error

_ACCEPT = MappingProxyType({"accept": "application/json"})
_BODY_LIMIT = 64 * 1024 * 1024  # 256 vectors of 8,192 numbers, as text


class EmbeddingProvider(StreamingProvider, Embedder):
    """A server that makes vectors, too. A subclass knows where and in which wire format."""

    def embed(self, request: EmbeddingRequest, cancel: CancelToken) -> Embeddings:
        """See :meth:`Embedder.embed`."""
        cancel.raise_if_cancelled()
        return self._embed(request, cancel)

    @abstractmethod
    def _embed(self, request: EmbeddingRequest, cancel: CancelToken) -> Embeddings: ...

    def _ask(
        self, url: str, body: Mapping[str, JsonValue], request: EmbeddingRequest, cancel: CancelToken
    ) -> dict[str, JsonValue]:
        """The one JSON object that answers a call."""
        with self._send(url, body, request, cancel, _ACCEPT) as response:
            response.expect_stall()
            answer = response.read(_BODY_LIMIT + 1)
        if len(answer) > _BODY_LIMIT:
            raise protocol_error(self.id, "sent an answer that is too large")
        try:
            value = loads(answer)
        except InvalidJson:
            value = None
        if not isinstance(value, dict):
            raise _no_vectors(self.id)
        return value


class OpenAIEmbeddings(EmbeddingProvider):
    """OpenAI's API, of which a subclass knows the address of the ``embeddings``."""

    embeds_tokens = True
    _embeddings_url: str

    def _embed(self, request: EmbeddingRequest, cancel: CancelToken) -> Embeddings:
        """A server that objects to base64, which is less to send and to read, is asked for numbers."""
        body = openai_body(request)
        try:
            answer = self._ask(self._embeddings_url, body, request, cancel)
        except ProviderError as error:
            if error.reason is not ProviderReason.FORMAT or "encoding_format" not in str(error):
                raise
            del body["encoding_format"]
            answer = self._ask(self._embeddings_url, body, request, cancel)
        return read_openai(self.id, answer, len(request.inputs))


def openai_body(request: EmbeddingRequest) -> dict[str, JsonValue]:
    """The JSON body of OpenAI's call."""
    body: dict[str, JsonValue] = {
        "model": request.model,
        "input": _inputs(request),
        "encoding_format": "base64",
    }
    return body | _dimensions(request)


def read_openai(provider: str, answer: JsonObject, count: int) -> Embeddings:
    """The vectors in OpenAI's answer, which numbers them.

    :raises ProviderError: PROTOCOL; they are not the vectors of ``count`` inputs.
    """
    data = answer.get("data")
    items = [as_object(item) for item in data] if isinstance(data, list) else []
    indices = (item.get("index", place) for place, item in enumerate(items))
    numbered = {n: item for n, item in zip(indices, items, strict=True) if isinstance(n, int)}
    if len(items) != count or numbered.keys() != set(range(count)):
        raise _no_vectors(provider)
    stated = as_object(answer.get("usage"))
    usage = Usage(input=as_count(stated.get("prompt_tokens"))) if stated else None
    return _checked(provider, [numbered[number].get("embedding") for number in range(count)], usage)


def ollama_body(request: EmbeddingRequest, window: int | None) -> dict[str, JsonValue]:
    """The JSON body of Ollama's call. It is asked to refuse an input that is too long, not to cut it."""
    body: dict[str, JsonValue] = {"model": request.model, "input": _inputs(request), "truncate": False}
    if window:
        body["options"] = {"num_ctx": window}
    return body | _dimensions(request)


def read_ollama(provider: str, answer: JsonObject, count: int) -> Embeddings:
    """The vectors in Ollama's answer; raises like :func:`read_openai`."""
    vectors = answer.get("embeddings")
    if not isinstance(vectors, list) or len(vectors) != count:
        raise _no_vectors(provider)
    read = as_count(answer.get("prompt_eval_count"))
    return _checked(provider, vectors, Usage(input=read) if read else None)


def _inputs(request: EmbeddingRequest) -> JsonValue:
    return [one if isinstance(one, str) else list(one) for one in request.inputs]


def _dimensions(request: EmbeddingRequest) -> dict[str, JsonValue]:
    return {} if request.dimensions is None else {"dimensions": request.dimensions}


def _checked(provider: str, stated: Sequence[JsonValue], usage: Usage | None) -> Embeddings:
    vectors = tuple(_vector(provider, one) for one in stated)
    if len({len(vector) for vector in vectors}) != 1 or not all(isfinite(sum(vector)) for vector in vectors):
        raise _no_vectors(provider)
    return Embeddings(vectors, usage)


def _vector(provider: str, stated: JsonValue) -> array[float]:
    """Numbers, or their 32-bit floats, the low byte first, in base64."""
    vector = array("f")
    try:
        if isinstance(stated, str):
            vector.frombytes(base64.b64decode(stated, validate=True))
            if sys.byteorder == "big":
                vector.byteswap()
        elif isinstance(stated, list):
            vector.fromlist(stated)  # type: ignore[arg-type]  # it refuses what is no number
    except (binascii.Error, ValueError, TypeError, OverflowError):
        raise _no_vectors(provider) from None
    if not vector:
        raise _no_vectors(provider)
    return vector


def _no_vectors(provider: str) -> ProviderError:
    return protocol_error(provider, "answered with something that is not a list of embeddings")
