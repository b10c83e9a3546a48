"""Whether what the gateway sends is what OpenAI has published.

The models of the official SDK are asked always; OpenAI's OpenAPI document too where
``OPENAI_OPENAPI`` names the file.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
from openai.types import CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

_DOCUMENT = os.environ.get("OPENAI_OPENAPI")


class _ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorResponse(BaseModel):
    error: _ErrorObject


class _ModelList(BaseModel):
    object: str
    data: list[Model]


# What OpenAI's document calls it, and the SDK's model of it.
_KINDS: dict[str, Any] = {
    "CreateChatCompletionResponse": ChatCompletion,
    "CreateChatCompletionStreamResponse": ChatCompletionChunk,
    "ErrorResponse": _ErrorResponse,
    "CreateEmbeddingResponse": CreateEmbeddingResponse,
    "ListModelsResponse": _ModelList,
    "Model": Model,
    "Response": Response,
    "ResponseItemList": ResponseItemList,
    "ResponseStreamEvent": ResponseStreamEvent,
}
_OF_PATHS = {
    "/v1/chat/completions": ("CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"),
    "/v1/models": ("ListModelsResponse", None),
    "/v1/embeddings": ("CreateEmbeddingResponse", None),
    "/v1/responses": ("Response", "ResponseStreamEvent"),
}


def check_body(path: str, status: int, body: Any) -> None:
    """Fail the test if the JSON answer to a request of ``path`` is not as published."""
    path = path.rstrip("/")
    if status >= 400 and path.startswith("/v1"):
        check("ErrorResponse", body)
    elif status == 200 and path in _OF_PATHS:
        check(_OF_PATHS[path][0], body)
    elif status == 200 and path.startswith("/v1/models/"):
        check("Model", body)


def check_event(path: str, data: Any) -> None:
    """Fail the test if one event of a stream is not as published."""
    kind = _OF_PATHS.get(path, ("", None))[1]
    if path.startswith("/v1") and isinstance(data, dict) and "error" in data:
        check("ErrorResponse", data)
    elif kind and data != "[DONE]":
        check(kind, data)


def check(kind: str, value: Any) -> None:
    """Fail the test if ``value`` is no ``kind`` of OpenAI's document."""
    _adapter(kind).validate_python(value)
    if _DOCUMENT:
        faults = [f"{fault.instance_path}: {fault.message}" for fault in _validator(kind).iter_errors(value)]
        assert not faults, (kind, faults, value)


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_KINDS[kind])


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The document says ``nullable`` here and there, which its version of OpenAPI does not know any more."""
    return {"anyOf": [schema, {"type": "null"}]} if schema.pop("nullable", False) is True else schema


@cache
def _validator(kind: str) -> Any:
    assert _DOCUMENT
    document = json.loads(Path(_DOCUMENT).read_bytes(), object_hook=_with_null)
    return jsonschema_rs.Draft202012Validator({**document, "$ref": f"#/components/schemas/{kind}"})
