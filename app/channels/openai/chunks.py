"""Run events and errors in OpenAI's wire format. Pure: ids and times are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import GatewayError
from ...messages import FinishReason, Usage
from ...wire import dumps

DONE = b"data: [DONE]\n\n"


def error_body(error: GatewayError) -> dict[str, Any]:
    """OpenAI's error object, with all four keys that SDKs look for."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_event(error: GatewayError) -> bytes:
    """An error after the first byte; OpenAI's SDKs raise it."""
    return b"data: " + dumps(error_body(error)) + b"\n\n"


def usage_body(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object; cached tokens are a part of the prompt's."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


class Completion:
    """One chat completion: everything that is the same in all its chunks.

    :param response_id: ``chatcmpl-…``. :param created: unix time in seconds.
    :param model: the string the client asked with.
    """

    def __init__(self, response_id: str, created: int, model: str, *, include_usage: bool = False) -> None:
        self._frame: Mapping[str, Any] = {"id": response_id, "created": created, "model": model}
        self._include_usage = include_usage
        self._before, self._after = self._split_content_chunk()

    def body(self, text: str, finish_reason: FinishReason, usage: Usage) -> bytes:
        """The whole answer in one object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return dumps(
            {
                "id": self._frame["id"],
                "object": "chat.completion",
                "created": self._frame["created"],
                "model": self._frame["model"],
                "choices": [choice],
                "usage": usage_body(usage),
            }
        )

    def role(self) -> bytes:
        """The first chunk; it says who speaks and gets the headers on their way."""
        return self._event([_choice({"role": "assistant", "content": "", "refusal": None})])

    def content(self, text: str) -> bytes:
        """A chunk with more of the answer."""
        return self._before + dumps(text) + self._after

    def end(self, finish_reason: FinishReason, usage: Usage) -> bytes:
        """Everything after the last word: finish chunk, usage if asked for, ``[DONE]``."""
        events = self._event([_choice({}, finish_reason)])
        if self._include_usage:
            events += self._event([], usage_body(usage))
        return events + DONE

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {
            "id": self._frame["id"],
            "object": "chat.completion.chunk",
            "created": self._frame["created"],
            "model": self._frame["model"],
            "choices": choices,
        }
        if self._include_usage:
            chunk["usage"] = usage
        return b"data: " + dumps(chunk) + b"\n\n"

    def _split_content_chunk(self) -> tuple[bytes, bytes]:
        """What stands before and after the text: a content chunk differs in nothing else."""
        before, _, after = self._event([_choice({"content": ""})]).partition(b'"content":""')
        return before + b'"content":', after


def _choice(delta: dict[str, Any], finish_reason: FinishReason | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
