"""``POST /v1/embeddings``: the request in OpenAI's form, its run, and the answer."""

from __future__ import annotations

import base64
import sys
import time
import uuid
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from flask import Response, request

from ...agents.embedding import Input
from ...errors import GatewayError, InvalidRequest
from ...messages import JsonObject, JsonValue, Usage
from ...runs.embedding import EmbeddingAsk, EmbeddingRun
from ...runtime import Runtime
from ...wire import dumps
from ..caller import caller_of
from ..client import ClientWatch
from ..http import error_response, json_response, read_json, request_headers
from .fields import integer, invalid, string
from .routing import choosable, choose_route
from .run_headers import run_headers

MAX_INPUTS = 2048

_LONGEST_MODEL = 256
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A valid request.

    :ivar model: as the client wrote it, to be echoed.
    :ivar inputs: 1 to 2048 texts, or lists of tokens; none is empty.
    :ivar as_base64: the vectors as 32-bit floats in base64, not as numbers.
    :ivar user: trimmed; None when absent or blank.
    """

    model: str
    inputs: tuple[Input, ...]
    as_base64: bool
    dimensions: int | None
    user: str | None


def parse_embeddings_request(body: JsonValue) -> EmbeddingsRequest:
    """The request that ``body`` describes; unknown fields are ignored.

    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise invalid("encoding_format", "must be float or base64")
    return EmbeddingsRequest(
        model=_model(body),
        inputs=_inputs(body.get("input")),
        as_base64=encoding == "base64",
        dimensions=integer(body, "dimensions", 1, _MOST),
        user=(string(body, "user") or "").strip() or None,
    )


class EmbeddingsView:
    """The view, bound to one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._http = runtime.config.gateway.http
        self._models = choosable(runtime.config.agents.defaults.models)
        if self._models:  # an empty list allows any model, so it must stay empty
            self._models |= {agent.embedder.ref for agent in runtime.agents if agent.embedder}

    def create(self) -> Response:
        """The vectors; what else is wrong with the request comes before a model is asked."""
        body = read_json(self._http.max_body_bytes, self._http.body_timeout_seconds)
        asked = parse_embeddings_request(body)
        run = self._start(asked)
        client = ClientWatch(request.environ)
        data: list[bytes] = []
        usage = Usage()
        try:
            for answer in run.slices(client.gone):
                usage += answer.usage or Usage()
                data += [embedding_object(one, i, asked) for i, one in enumerate(answer.vectors, len(data))]
        except GatewayError as error:
            response = error_response(error)
        else:
            response = json_response(embeddings_body(data, asked.model, usage))
        response.headers.update(run_headers(run))
        return response

    def _start(self, asked: EmbeddingsRequest) -> EmbeddingRun:
        run_id = uuid.uuid4()
        route = choose_route(
            request_headers(),
            asked.model,
            asked.user,
            self._runtime.agents,
            strict_model=self._http.endpoints.chat_completions.strict_model,
            fresh_id=str(run_id),
            models=self._models,
            caller=caller_of(request.environ),
        )
        ask = EmbeddingAsk(
            id=f"embd-{run_id}",
            agent_id=route.agent_id,
            session_key=route.session_key,
            inputs=asked.inputs,
            created_at=int(time.time() * 1000),
            dimensions=asked.dimensions,
            model=route.model,
        )
        return self._runtime.embeddings.start(ask)


def embedding_object(vector: array[float], index: int, asked: EmbeddingsRequest) -> bytes:
    """One entry of the answer's list."""
    value: str | list[float] = _base64(vector) if asked.as_base64 else vector.tolist()
    return dumps({"object": "embedding", "index": index, "embedding": value})


def embeddings_body(data: Sequence[bytes], model: str, usage: Usage) -> bytes:
    """The answer with these entries; vectors have no other tokens than those of the inputs."""
    tokens = {"prompt_tokens": usage.input, "total_tokens": usage.input}
    return b'{"object":"list","data":[%s],"model":%s,"usage":%s}' % (
        b",".join(data),
        dumps(model),
        dumps(tokens),
    )


def _model(body: JsonObject) -> str:
    model = string(body, "model")
    if not model:
        raise invalid("model", "is required", code="missing_required_parameter")
    if len(model) > _LONGEST_MODEL:
        raise invalid("model", f"is longer than {_LONGEST_MODEL} characters")
    return model


def _inputs(value: JsonValue) -> tuple[Input, ...]:
    """One text or list of tokens, or a list of either."""
    if value is None:
        raise invalid("input", "is required", code="missing_required_parameter")
    if isinstance(value, str):
        return (_input(value, "input", str),)
    if not isinstance(value, list):
        raise invalid("input", "must be a string, or an array of strings or tokens")
    if not value:
        raise invalid("input", "must not be empty")
    first = value[0]
    if isinstance(first, int):
        return (_input(value, "input", list),)
    if len(value) > MAX_INPUTS:
        raise invalid("input", f"holds {len(value)} inputs; at most {MAX_INPUTS} are served")
    kind = list if isinstance(first, list) else str
    return tuple(_input(one, f"input[{index}]", kind) for index, one in enumerate(value))


def _input(value: JsonValue, where: str, kind: type) -> Input:
    if not isinstance(value, kind):
        raise invalid(where, f"must be {'a string' if kind is str else 'an array of tokens'}")
    if not value:
        raise invalid(where, "must not be empty")
    if isinstance(value, str):
        return value
    assert isinstance(value, list)
    tokens = tuple(one for one in value if type(one) is int and 0 <= one <= _MOST)
    if len(tokens) < len(value):
        raise invalid(where, "must hold tokens only, which are integers from 0")
    return tokens


def _base64(vector: array[float]) -> str:
    """The 32-bit floats, the low byte first whatever this machine does."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
