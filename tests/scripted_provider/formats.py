"""The wire formats that a scripted provider speaks. One object writes one answer.

An answer is made of pieces (``Reply.pieces``): a text, a thought, or a fragment of a tool call.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any, Protocol

from .replies import Reply, Status
from .vectors import Embeddings, OllamaEmbed


class Format(Protocol):
    """How an answer looks on the wire.

    :ivar content_type: of a stream.
    :ivar comment: bytes that mean nothing but a sign of life.
    :ivar streams_unasked: a request that does not say wants a stream.
    """

    content_type: str
    comment: bytes
    streams_unasked: bool

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
    formats: dict[str, type[Format]] = {
        "/chat/completions": ChatCompletions,
        "/v1/messages": Messages,
        "/responses": Responses,
        "/api/chat": OllamaChat,
        "/embeddings": Embeddings,
        "/api/embed": OllamaEmbed,
    }
    kind = next((kind for end, kind in formats.items() if path.endswith(end)), None)
    return kind(request) if kind else None  # type: ignore[call-arg]


class _ServerSentEvents:
    content_type = "text/event-stream"
    comment = b": still here\n\n"
    streams_unasked = False


class ChatCompletions(_ServerSentEvents):
    """OpenAI's old one."""

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
        return [self._delta({name: value for name, value in piece.items() if name != "whole"})]

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


_SIGNATURE = "c2lnbmVk"
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class Messages(_ServerSentEvents):
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
        thoughts = [{"type": "thinking", "thinking": reply.reasoning, "signature": _SIGNATURE}]
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
        signed = [self._delta("signature_delta", signature=_SIGNATURE)] if self._open == "thinking" else []
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
        "input_tokens": reply.usage[0] - reply.cached - reply.cache_write,
        "cache_creation_input_tokens": reply.cache_write,
        "cache_read_input_tokens": reply.cached,
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
    budgeted = request.get("thinking", {}).get("type") == "enabled"
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
            not budgeted or 1024 <= request["thinking"]["budget_tokens"] < request.get("max_tokens", 0)
        ),
        "thinking: a final assistant message must start with a thinking block": (
            not budgeted
            or (
                roles[-1:] == ["user"]
                and (
                    not _ids(messages[-1], "tool_result", "tool_use_id")
                    or messages[-2]["content"][0]["type"] in {"thinking", "redacted_thinking"}
                )
            )
        ),
        "Thinking may not be enabled when tool_choice forces tool use.": not (
            "thinking" in request
            and request["thinking"]["type"] != "disabled"
            and request.get("tool_choice", {}).get("type") in {"any", "tool"}
        ),
        "tool_choice may only be specified while providing tools": (
            "tool_choice" not in request or bool(request.get("tools"))
        ),
        "thinking: temperature may only be set to 1": not ({"thinking", "temperature"} <= request.keys()),
        "thinking: Invalid `signature` in `thinking` block": all(
            block.get("signature") == _SIGNATURE for block in blocks if block["type"] == "thinking"
        ),
        "thinking: a message must not end with a thinking block": not any(
            message["content"][-1]["type"] == "thinking" for message in messages
        ),
        "cache_control cannot be set for thinking blocks": not any(
            "cache_control" in block for block in blocks if block["type"] == "thinking"
        ),
        "A maximum of 4 blocks with cache_control may be provided": (
            sum("cache_control" in block for block in (*texts, *request.get("tools", []))) <= 4
        ),
        "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'": (
            request.get("output_config", {}).get("effort", "low") in {"low", "medium", "high", "xhigh", "max"}
        ),
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be false": (
            _is_closed(request.get("output_config", {}).get("format", {}).get("schema"))
        ),
        "output_config.format: a trailing assistant message cannot be continued": not (
            "format" in request.get("output_config", {}) and roles[-1:] == ["assistant"]
        ),
    }
    return next((problem for problem, fulfilled in rules.items() if not fulfilled), None)


def _is_closed(schema: Any) -> bool:
    """True if no object in it may have properties that are not named."""
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    closed = schema.get("type") != "object" or schema.get("additionalProperties") is False
    return closed and all(map(_is_closed, schema.values()))


_STATUS = {"length": "incomplete", "content_filter": "incomplete"}
_RESPONSE_FIELDS = {
    "model", "input", "instructions", "stream", "store", "tools", "tool_choice", "max_output_tokens",
    "temperature", "top_p", "reasoning", "include", "prompt_cache_key", "text", "metadata", "user",
    "parallel_tool_calls", "truncation", "service_tier", "previous_response_id",
}  # fmt: skip
_ENCRYPTED = "ZW5jcnlwdGVk"


class Responses(_ServerSentEvents):
    """OpenAI's new one: output items that are added, continued and done."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._number = 0
        self._output: list[dict[str, Any]] = []  # the last one is open unless _closed
        self._closed = True

    def refuses(self, request: dict[str, Any], headers: dict[str, str]) -> Status | None:
        problem = _responses_problem(request)
        error = {"message": problem, "type": "invalid_request_error", "param": None, "code": None}
        return Status(400, {"error": error}) if problem else None

    def whole(self, reply: Reply) -> dict[str, Any]:
        for piece in reply.pieces:
            self.piece(piece)
        self._close()
        return self._response(_STATUS.get(reply.reason or "", "completed"), reply)

    def opening(self, reply: Reply) -> list[bytes]:
        response = self._response("in_progress", None)
        return [self._event(f"response.{kind}", response=response) for kind in ("created", "in_progress")]

    def piece(self, piece: dict[str, Any]) -> list[bytes]:
        if "content" in piece:
            events = self._switch("message", {"role": "assistant", "content": []})
            _append(self._output[-1]["content"], "output_text", piece["content"], annotations=[])
            delta = {"item_id": self._output[-1]["id"], "content_index": 0, "delta": piece["content"]}
            return [*events, self._event("response.output_text.delta", **delta, logprobs=[])]
        if "reasoning_content" in piece:
            events = self._switch("reasoning", {"summary": []})
            self._output[-1] |= {"encrypted_content": _ENCRYPTED} if self._wants_encrypted else {}
            _append(self._output[-1]["summary"], "summary_text", piece["reasoning_content"])
            delta = {"summary_index": 0, "delta": piece["reasoning_content"]}
            return [*events, self._event("response.reasoning_summary_text.delta", **delta)]
        return self._call_piece(piece["tool_calls"][0])

    def ending(self, reply: Reply) -> list[bytes]:
        events = self._close()
        status = _STATUS.get(reply.reason or "", "completed")
        if reply.reason is None:
            return events
        return [*events, self._event(f"response.{status}", response=self._response(status, reply))]

    def error(self, error: Any) -> bytes:
        code = _CODES.get(error.get("type"), error.get("type"))
        return self._event("error", code=code, message=error["message"], param=None)

    @property
    def _wants_encrypted(self) -> bool:
        return "reasoning.encrypted_content" in self._request.get("include", [])

    def _call_piece(self, fragment: dict[str, Any]) -> list[bytes]:
        function, events = fragment["function"], []
        if "id" in fragment:
            call = {"call_id": fragment["id"], "name": function["name"], "arguments": ""}
            events = self._switch("function_call", call, again=True)
        self._output[-1]["arguments"] += function["arguments"]
        item_id = self._output[-1]["id"]
        delta = {"item_id": item_id, "delta": function["arguments"]}
        return [*events, self._event("response.function_call_arguments.delta", **delta)]

    def _switch(self, kind: str, item: dict[str, Any], *, again: bool = False) -> list[bytes]:
        """Close the open item and open one of ``kind``, unless it is open already."""
        if not self._closed and self._output[-1]["type"] == kind and not again:
            return []
        closed = self._close()
        self._closed = False
        self._output.append(
            {"id": f"item_{len(self._output)}", "type": kind, "status": "in_progress", **item}
        )
        return [*closed, self._event("response.output_item.added", item=dict(self._output[-1]))]

    def _close(self) -> list[bytes]:
        if self._closed:
            return []
        self._closed = True
        item = self._output[-1]
        item["status"] = "completed"
        done = [self._event("response.output_item.done", item=item)]
        if item["type"] != "function_call":
            return done
        whole = {"item_id": item["id"], "name": item["name"], "arguments": item["arguments"]}
        return [self._event("response.function_call_arguments.done", **whole), *done]

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        index = {} if "response" in fields or kind == "error" else {"output_index": len(self._output) - 1}
        return _event(kind, sequence_number=self._number, **index, **fields)

    def _response(self, status: str, reply: Reply | None) -> dict[str, Any]:
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        why = reasons.get(reply.reason or "") if reply else None
        return {
            "id": "resp_scripted",
            "object": "response",
            "created_at": 1_700_000_000,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "model": self._request.get("model", "scripted"),
            "output": self._output if reply else [],
            "usage": _response_usage(reply) if reply else None,
        }


_CODES = {"rate_limit_error": "rate_limit_exceeded", "api_error": "server_error"}


def _append(parts: list[dict[str, Any]], kind: str, text: str, **fields: Any) -> None:
    if not parts:
        parts.append({"type": kind, "text": "", **fields})
    parts[0]["text"] += text


def _response_usage(reply: Reply) -> dict[str, Any] | None:
    if reply.usage is None:
        return None
    return {
        "input_tokens": reply.usage[0],
        "input_tokens_details": {"cached_tokens": reply.cached, "cache_write_tokens": reply.cache_write},
        "output_tokens": reply.usage[1],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.usage[2],
    }


def _responses_problem(request: dict[str, Any]) -> str | None:
    """What OpenAI's API finds wrong with a request, or None."""
    items = request.get("input") or []
    kinds = [item.get("type", "message") for item in items]
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    strange = sorted(request.keys() - _RESPONSE_FIELDS)
    rules = {
        f"Unknown parameter: '{''.join(strange[:1])}'.": not strange,
        "Missing required parameter: 'input'.": bool(items),
        "Invalid 'max_output_tokens': integer below minimum value.": (
            request.get("max_output_tokens", 16) >= 16
        ),
        "Invalid value: 'text'. Supported values are: 'input_text', 'input_image'.": all(
            part["type"] in {"input_text", "input_image"}
            and (part["type"] != "input_image" or "detail" in part)
            for item in items
            if item.get("role") == "user" and isinstance(item["content"], list)
            for part in item["content"]
        ),
        "Missing required parameter: 'tools[0].name'.": all(
            isinstance(tool.get("name"), str) and "strict" in tool for tool in request.get("tools", [])
        ),
        "Tool choice 'required' must be specified with 'tools' parameter.": (
            "tool_choice" not in request or bool(request.get("tools"))
        ),
        "No tool output found for function call.": set(calls) <= set(outputs),
        "No tool call found for function call output.": set(outputs) <= set(calls),
        "Duplicate item found.": len(set(calls)) == len(calls),
        "Invalid 'input[0].call_id': string too long.": all(1 <= len(one) <= 64 for one in calls),
        "Invalid 'input[0].name': string does not match pattern.": all(
            re.fullmatch(r"[a-zA-Z0-9_-]+", item["name"]) for item in items if "arguments" in item
        ),
        "Item of type 'reasoning' was provided without its required following item.": all(
            following in {"message", "function_call", "reasoning"}
            for kind, following in pairwise([*kinds, "end"])
            if kind == "reasoning"
        ),
        "The encrypted content could not be verified.": all(
            item.get("encrypted_content") == _ENCRYPTED for item in items if item.get("type") == "reasoning"
        ),
        "Unsupported value: 'reasoning.effort'.": (
            request.get("reasoning", {}).get("effort", "low")
            in {"none", "minimal", "low", "medium", "high", "xhigh", "max"}
        ),
    }
    return next((problem for problem, fulfilled in rules.items() if not fulfilled), None)


class OllamaChat:
    """Ollama's: one JSON object per line, calls in one piece and without ids."""

    content_type = "application/x-ndjson"
    comment = b"\n"
    streams_unasked = True

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request

    def refuses(self, request: dict[str, Any], headers: dict[str, str]) -> Status | None:
        problem = _ollama_problem(request)
        return Status(400, {"error": problem}) if problem else None

    def whole(self, reply: Reply) -> dict[str, Any]:
        text = reply.text or "".join(reply.chunks or ())
        message: dict[str, Any] = {"content": text}
        if reply.reasoning:
            message["thinking"] = reply.reasoning
        if reply.tool_calls:
            message["tool_calls"] = [_ollama_call(one) for one in reply.tool_calls]
        return self._object(message, reply)

    def opening(self, reply: Reply) -> list[bytes]:
        return []

    def piece(self, piece: dict[str, Any]) -> list[bytes]:
        if "content" in piece:
            return [self._line({"content": piece["content"]})]
        if "reasoning_content" in piece:
            return [self._line({"content": "", "thinking": piece["reasoning_content"]})]
        return (
            [self._line({"content": "", "tool_calls": [_ollama_call(piece["whole"])]})]
            if "whole" in piece
            else []
        )

    def ending(self, reply: Reply) -> list[bytes]:
        if reply.reason is None:
            return []
        return [json.dumps(self._object({"content": ""}, reply)).encode() + b"\n"]

    def error(self, error: Any) -> bytes:
        return json.dumps({"error": error}).encode() + b"\n"

    def _line(self, message: dict[str, Any]) -> bytes:
        return json.dumps(self._object(message, None)).encode() + b"\n"

    def _object(self, message: dict[str, Any], reply: Reply | None) -> dict[str, Any]:
        """One line; the last one if ``reply`` is given."""
        line = {
            "model": self._request.get("model"),
            "created_at": "2026-11-23T08:00:00.000000Z",
            "message": {"role": "assistant", **message},
            "done": reply is not None,
        }
        if reply is None:
            return line
        line["done_reason"] = "length" if reply.reason == "length" else "stop"
        line["total_duration"] = 1_000_000
        if reply.usage:
            line |= {"prompt_eval_count": reply.usage[0], "eval_count": reply.usage[1]}
        return line


def _ollama_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"function": {"name": function["name"], "arguments": json.loads(function["arguments"])}}


def _ollama_problem(request: dict[str, Any]) -> str | None:
    """What Ollama finds wrong with a request, or None. It skips fields that it does not know."""
    messages = request.get("messages", [])
    images = [image for message in messages for image in message.get("images", [])]
    calls = [call["function"] for message in messages for call in message.get("tool_calls", [])]
    rules = {
        "model is required": bool(request.get("model")),
        "json: cannot unmarshal array into Go struct field Message.messages.content of type string": all(
            isinstance(message["content"], str) for message in messages
        ),
        "json: cannot unmarshal string into Go struct field .arguments of type map[string]interface {}": all(
            isinstance(call["arguments"], dict) for call in calls
        ),
        "illegal base64 data at input byte 4": all(
            re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", image) for image in images
        ),
        'invalid think value (must be "high", "medium", "low", true, or false)': (
            request.get("think", True) in (True, False, "low", "medium", "high", "max")
        ),
        'invalid format: expected "json" or a JSON schema': (
            isinstance(request.get("format", {}), dict) or request["format"] == "json"
        ),
    }
    return next((problem for problem, fulfilled in rules.items() if not fulfilled), None)


def _ids(message: dict[str, Any], kind: str, key: str) -> set[str]:
    return {block[key] for block in message["content"] if block["type"] == kind}


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **fields})


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
