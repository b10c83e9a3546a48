"""The wire formats that a scripted provider speaks. One object writes one answer.

An answer is made of pieces (``Reply.pieces``): a text, a thought, or a fragment of a tool call.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any, Protocol

from .replies import Reply, Status


class Format(Protocol):
    """How an answer looks on the wire."""

    def refuses(self, request: dict[str, Any], headers: dict[str, str]) -> Status | None:
        """What the real API would answer to a request that it does not take."""

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The answer as one JSON object."""

    def opening(self, reply: Reply) -> list[bytes]:
        """The events before the first piece."""

    def piece(self, piece: dict[str, Any]) -> list[bytes]:
        """The events of one piece."""

    def ending(self, reply: Reply) -> list[bytes]:
        """The events after the last piece."""

    def error(self, error: Any) -> bytes:
        """The event of a failure in the middle."""


def format_for(path: str, request: dict[str, Any]) -> Format | None:
    """The format that is served at ``path``, if any."""
    if path.endswith("/chat/completions"):
        return ChatCompletions(request)
    return Messages(request) if path.endswith("/v1/messages") else None


class ChatCompletions:
    """OpenAI's."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request

    def refuses(self, request: dict[str, Any], headers: dict[str, str]) -> Status | None:
        return None

    def whole(self, reply: Reply) -> dict[str, Any]:
        choice = {"index": 0, "message": reply.message(), "finish_reason": reply.reason}
        return self._completion("chat.completion", choice, reply.usage_object())

    def opening(self, reply: Reply) -> list[bytes]:
        return [self._delta({"role": "assistant", "content": ""})]

    def piece(self, piece: dict[str, Any]) -> list[bytes]:
        return [self._delta(piece)]

    def ending(self, reply: Reply) -> list[bytes]:
        events = [self._delta({}, reply.reason)] if reply.reason is not None else []
        if reply.usage and (self._request.get("stream_options") or {}).get("include_usage"):
            events.append(_data(self._completion("chat.completion.chunk", None, reply.usage_object())))
        return [*events, b"data: [DONE]\n\n"] if reply.done else events

    def error(self, error: Any) -> bytes:
        return _data({"error": error})

    def _delta(self, delta: Any, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _data(self._completion("chat.completion.chunk", choice, None))

    def _completion(self, kind: str, choice: Any, usage: Any) -> dict[str, Any]:
        return {
            "id": "chatcmpl-scripted",
            "object": kind,
            "created": 1_700_000_000,
            "model": self._request.get("model", "scripted"),
            "choices": [choice] if choice else [],
            **({"usage": usage} if usage else {}),
        }


_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class Messages:
    """Anthropic's: content blocks that are opened, continued and closed one after the other."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._index = -1
        self._open: str | None = None

    def refuses(self, request: dict[str, Any], headers: dict[str, str]) -> Status | None:
        problem = _problem(request, headers)
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": problem}}
        return Status(400, error) if problem else None

    def whole(self, reply: Reply) -> dict[str, Any]:
        message = reply.message()
        thoughts = [{"type": "thinking", "thinking": reply.reasoning, "signature": "c2lnbmVk"}]
        texts = [{"type": "text", "text": message["content"]}]
        calls = [
            {
                "type": "tool_use",
                "id": one["id"],
                "name": one["function"]["name"],
                "input": json.loads(one["function"]["arguments"]),
            }
            for one in reply.tool_calls
        ]
        content = [*(thoughts if reply.reasoning else []), *(texts if message["content"] else []), *calls]
        return self._message(content, _stop_reason(reply), _usage(reply))

    def opening(self, reply: Reply) -> list[bytes]:
        usage = {**_usage(reply), "output_tokens": 1} if reply.usage else {}
        return [_event("message_start", message=self._message([], None, usage)), _event("ping")]

    def piece(self, piece: dict[str, Any]) -> list[bytes]:
        if "content" in piece:
            opened = self._switch("text", {"text": ""})
            return [*opened, self._delta("text_delta", text=piece["content"])]
        if "reasoning_content" in piece:
            opened = self._switch("thinking", {"thinking": "", "signature": ""})
            return [*opened, self._delta("thinking_delta", thinking=piece["reasoning_content"])]
        [fragment] = piece["tool_calls"]
        function, opened = fragment["function"], []
        if "id" in fragment:
            block = {"id": fragment["id"], "name": function["name"], "input": {}}
            opened = self._switch("tool_use", block, again=True)
        return [*opened, self._delta("input_json_delta", partial_json=function["arguments"])]

    def ending(self, reply: Reply) -> list[bytes]:
        events = self._close()
        if reply.reason is not None:
            delta = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
            usage = {"output_tokens": reply.usage[1]} if reply.usage else {}
            events.append(_event("message_delta", delta=delta, usage=usage))
        return [*events, _event("message_stop")] if reply.done else events

    def error(self, error: Any) -> bytes:
        return _event("error", error=error)

    def _switch(self, kind: str, block: dict[str, Any], *, again: bool = False) -> list[bytes]:
        """Close the open block and open one of ``kind``, unless it is open already."""
        if self._open == kind and not again:
            return []
        closed = self._close()
        self._index, self._open = self._index + 1, kind
        opened = _event("content_block_start", index=self._index, content_block={"type": kind, **block})
        return [*closed, opened]

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        signed = [self._delta("signature_delta", signature="c2lnbmVk")] if self._open == "thinking" else []
        self._open = None
        return [*signed, _event("content_block_stop", index=self._index)]

    def _delta(self, kind: str, **fields: Any) -> bytes:
        return _event("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def _message(self, content: list[Any], reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": "msg_scripted",
            "type": "message",
            "role": "assistant",
            "model": self._request.get("model", "scripted"),
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }


def _stop_reason(reply: Reply) -> str | None:
    return _STOP_REASONS.get(reply.reason or "", reply.reason)


def _usage(reply: Reply) -> dict[str, int]:
    if reply.usage is None:
        return {}
    return {
        "input_tokens": reply.usage[0],
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": reply.usage[1],
    }


def _problem(request: dict[str, Any], headers: dict[str, str]) -> str | None:
    """What Anthropic's API finds wrong with a request, or None."""
    messages = request.get("messages") or []
    roles = [message["role"] for message in messages]
    blocks = [block for message in messages for block in message["content"]]
    texts = [*blocks, *request.get("system", [])]
    names = [tool["name"] for tool in request.get("tools", [])]
    calls = [block for block in blocks if block["type"] == "tool_use"]
    nothing: dict[str, Any] = {"content": []}
    rules = {
        "anthropic-version: header is required": "anthropic-version" in headers,
        "max_tokens: Field required": isinstance(request.get("max_tokens"), int),
        "messages: first message must use the user role": roles[:1] == ["user"],
        "messages: roles must alternate": all(a != b for a, b in pairwise(roles)),
        "messages: text content blocks must contain non-whitespace text": all(
            block["text"].strip() for block in texts if block["type"] == "text"
        ),
        "messages: final assistant content cannot end with trailing whitespace": not (
            roles[-1:] == ["assistant"] and re.search(r"\s$", blocks[-1].get("text", ""))
        ),
        "messages: `tool_use` ids must be unique": len({one["id"] for one in calls}) == len(calls),
        "messages: `tool_use` ids and names must be plain": all(
            re.fullmatch(r"[A-Za-z0-9_-]+", one["id"]) and re.fullmatch(r"[A-Za-z0-9_-]{1,128}", one["name"])
            for one in calls
        ),
        "messages: each `tool_use` block must have a `tool_result` block in the next message": all(
            _ids(one, "tool_use", "id") == _ids(following, "tool_result", "tool_use_id")
            for one, following in pairwise([nothing, *messages, nothing])
        ),
        "tools: called tools must be declared": not calls or bool(names),
        "thinking: budget_tokens must be less than max_tokens and at least 1024": (
            "thinking" not in request
            or 1024 <= request["thinking"]["budget_tokens"] < request.get("max_tokens", 0)
        ),
        "thinking: a final assistant message must start with a thinking block": (
            "thinking" not in request
            or not (roles[-1:] == ["assistant"] or _ids(messages[-1], "tool_result", "tool_use_id"))
        ),
        "thinking: temperature may only be set to 1": not ({"thinking", "temperature"} <= request.keys()),
    }
    return next((problem for problem, fulfilled in rules.items() if not fulfilled), None)


def _ids(message: dict[str, Any], kind: str, key: str) -> set[str]:
    return {block[key] for block in message["content"] if block["type"] == kind}


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **fields})


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
