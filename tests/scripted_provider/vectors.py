"""The wire formats of embeddings. The vectors are worked out of the inputs, the same ones every time."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import struct
from typing import Any

from .replies import Reply, Status

DIMENSIONS = 8
_KNOWN = {"model", "input", "encoding_format", "dimensions", "user"}


def vector_of(one: str | list[int], dimensions: int = DIMENSIONS) -> list[float]:
    """The vector of an input; its numbers are exact in 32 bits."""
    digest = hashlib.sha256(json.dumps(one).encode()).digest()
    return [byte / 128 - 1 for byte in itertools.islice(itertools.cycle(digest), dimensions)]


class _Whole:
    """What is never streamed."""

    content_type = "application/json"
    comment = b""
    streams_unasked = False

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request

    @property
    def inputs(self) -> list[Any]:
        value = self._request["input"]
        return value if isinstance(value, list) and not isinstance(value[0], int) else [value]

    @property
    def vectors(self) -> list[list[float]]:
        return [vector_of(one, self._request.get("dimensions") or DIMENSIONS) for one in self.inputs]

    def opening(self, reply: Reply) -> list[bytes]:
        return []

    def piece(self, piece: dict[str, Any]) -> list[bytes]:
        return []

    def ending(self, reply: Reply) -> list[bytes]:
        return []

    def error(self, error: Any) -> bytes:
        return b""


class Embeddings(_Whole):
    """OpenAI's, which numbers its vectors; here the last one comes first."""

    def refuses(self, request: dict[str, Any], headers: dict[str, str]) -> Status | None:
        strange = sorted(request.keys() - _KNOWN)
        rules = {
            f"Unrecognized request argument supplied: {''.join(strange[:1])}": not strange,
            "you must provide a model parameter": bool(request.get("model")),
            "'$.input' is invalid.": bool(request.get("input")) and all(self.inputs),
            "too many inputs": len(self.inputs) <= 2048,
            "Invalid value for 'dimensions'": request.get("dimensions", 1) <= 3072,
            "Invalid value for 'encoding_format'": request.get("encoding_format", "float")
            in {"float", "base64"},
        }
        problem = next((problem for problem, fulfilled in rules.items() if not fulfilled), None)
        error = {"error": {"message": problem, "type": "invalid_request_error"}}
        return Status(400, error) if problem else None

    def whole(self, reply: Reply) -> dict[str, Any]:
        data = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(self.vectors)
        ]
        usage = {"prompt_tokens": reply.usage[0], "total_tokens": reply.usage[0]} if reply.usage else None
        answer = {"object": "list", "data": data[::-1], "model": self._request["model"]}
        return answer | ({"usage": usage} if usage else {})

    def _encoded(self, vector: list[float]) -> str | list[float]:
        if self._request.get("encoding_format") != "base64":
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class OllamaEmbed(_Whole):
    """Ollama's, which takes texts only."""

    def refuses(self, request: dict[str, Any], headers: dict[str, str]) -> Status | None:
        texts = all(isinstance(one, str) for one in self.inputs)
        return None if texts else Status(400, {"error": "invalid input type"})

    def whole(self, reply: Reply) -> dict[str, Any]:
        answer = {"model": self._request["model"], "embeddings": self.vectors, "total_duration": 1_000_000}
        return answer | ({"prompt_eval_count": reply.usage[0]} if reply.usage else {})
