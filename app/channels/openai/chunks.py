"""Run events and errors in OpenAI's wire format. Pure: ids and times are arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import GatewayError
from ...events import RunCompleted
from ...messages import FinishReason, ToolCall, Usage
from ...wire import dumps

DONE = b"data: [DONE]\n\n"
FRAGMENT = 256  # characters of a text in one chunk


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
    :param tools: the client brought some: the answer may have no text at all, which is null.
    :param legacy: a call goes by the name of ``function_call``.
    :param reasoning: what the model thinks is shown beside the answer, as ``reasoning_content``.
    """

    def __init__(
        self,
        response_id: str,
        created: int,
        model: str,
        *,
        include_usage: bool = False,
        tools: bool = False,
        legacy: bool = False,
        reasoning: bool = False,
    ) -> None:
        self._frame: Mapping[str, Any] = {"id": response_id, "created": created, "model": model}
        self._options = {
            "include_usage": include_usage,
            "tools": tools,
            "legacy": legacy,
            "reasoning": reasoning,
        }
        self._include_usage = include_usage
        self._tools = tools
        self._legacy = legacy
        self.shows_reasoning = reasoning
        self._before, self._after = self._split_content_chunk()

    def card(self) -> dict[str, Any]:
        """What it is made from, in JSON's types."""
        return {**self._frame, **self._options}

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Completion:
        """What has given this :meth:`card`.

        :raises TypeError, KeyError: nothing has.
        """
        options = dict(card)
        return cls(options.pop("id"), options.pop("created"), options.pop("model"), **options)

    def body(self, answer: RunCompleted, metadata: Mapping[str, str] | None = None) -> bytes:
        """The whole answer in one object; with the client's ``metadata`` if it is asked for later."""
        content = None if answer.tool_calls and not answer.text else answer.text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        reason = self._reason(answer.finish_reason)
        if self.shows_reasoning and answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        message |= self._called(answer.tool_calls)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return dumps(
            {
                "id": self._frame["id"],
                "object": "chat.completion",
                "created": self._frame["created"],
                "model": self._frame["model"],
                "choices": [choice],
                "usage": usage_body(answer.usage),
                **({} if metadata is None else {"metadata": dict(metadata)}),
            }
        )

    def role(self) -> bytes:
        """The first chunk; it says who speaks and gets the headers on their way."""
        content = None if self._tools else ""
        return self._event([_choice({"role": "assistant", "content": content, "refusal": None})])

    def content(self, text: str) -> bytes:
        """A chunk with more of the answer."""
        return self._before + dumps(text) + self._after

    def reasoning(self, text: str) -> bytes:
        """A chunk with more of what the model thinks."""
        return self._event([_choice({"reasoning_content": text})])

    def end(self, answer: RunCompleted) -> bytes:
        """Everything after the last word: calls, finish chunk, usage if asked for, ``[DONE]``."""
        events = [self._event([_choice(delta)]) for delta in self._call_deltas(answer.tool_calls)]
        if self._tools and not (answer.text or events):  # the first chunk has left that open
            events.append(self.content(""))
        events.append(self._event([_choice({}, self._reason(answer.finish_reason))]))
        if self._include_usage:
            events.append(self._event([], usage_body(answer.usage)))
        return b"".join((*events, DONE))

    def _reason(self, reason: FinishReason) -> str:
        return "function_call" if self._legacy and reason == "tool_calls" else reason

    def _called(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """The field of a message that holds its calls, if it has any."""
        if not calls:
            return {}
        if self._legacy:
            return {"function_call": _function(calls[0].name, calls[0].arguments)}
        return {"tool_calls": [_whole_call(call) for call in calls]}

    def _call_deltas(self, calls: Sequence[ToolCall]) -> Iterator[dict[str, Any]]:
        """Each call: who is called, then the arguments in pieces."""
        if self._legacy:
            for call in calls[:1]:
                yield {"function_call": _function(call.name, "")}
                yield from ({"function_call": {"arguments": piece}} for piece in fragments(call.arguments))
            return
        for index, call in enumerate(calls):
            yield {
                "tool_calls": [{"index": index, **_whole_call(call), "function": _function(call.name, "")}]
            }
            for piece in fragments(call.arguments):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

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


def fragments(text: str) -> Iterator[str]:
    """A text, or the arguments of a call, in pieces as they are streamed."""
    return (text[i : i + FRAGMENT] for i in range(0, len(text), FRAGMENT))


def _whole_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": _function(call.name, call.arguments)}


def _function(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
