"""What a scripted provider can answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Reply:
    """An answer, streamed or not as the request asks.

    :ivar chunks: the pieces of ``text`` (default: one per word).
    :ivar delay: seconds before each piece.
    :ivar usage: prompt, completion and total tokens; None leaves usage out.
    :ivar cached: how many of the prompt's tokens came from the cache, and ``cache_write`` into it.
    :ivar finish_reason: None ends the stream without one.
    :ivar tool_calls: made with :func:`call`.
    :ivar gate: held before piece number ``gate_at`` until somebody sets it.
    :ivar hang_after: after so many pieces nothing comes any more.
    :ivar cut_after: after so many pieces the connection is gone.
    :ivar error_after: after so many pieces ``error`` is sent and the stream ends.
    :ivar comments_every: seconds between the comments that are sent during ``delay``.
    :ivar done: send ``[DONE]``.
    :ivar ignore_stream: answer with one JSON body even if a stream was asked for.
    """

    text: str = ""
    chunks: Sequence[str] | None = None
    delay: float = 0.0
    usage: tuple[int, int, int] | None = (11, 7, 18)
    cached: int = 0
    cache_write: int = 0
    finish_reason: str | None = "stop"
    tool_calls: Sequence[dict[str, Any]] = ()
    reasoning: str = ""
    gate: threading.Event | None = None
    gate_at: int = 0
    hang_after: int | None = None
    cut_after: int | None = None
    error_after: int | None = None
    error: Any = field(default_factory=lambda: {"message": "The server broke.", "type": "server_error"})
    comments_every: float | None = None
    done: bool = True
    ignore_stream: bool = False

    @property
    def pieces(self) -> list[dict[str, Any]]:
        """The deltas, in order."""
        texts = self.chunks if self.chunks is not None else _words(self.text)
        reasoning = [{"reasoning_content": self.reasoning}] if self.reasoning else []
        return [*reasoning, *({"content": t} for t in texts), *_call_fragments(self.tool_calls)]

    @property
    def reason(self) -> str | None:
        """The finish reason on the wire."""
        return "tool_calls" if self.tool_calls and self.finish_reason == "stop" else self.finish_reason

    def message(self) -> dict[str, Any]:
        """The whole answer as one message."""
        text = self.text or "".join(self.chunks or ())
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        message |= {"reasoning_content": self.reasoning} if self.reasoning else {}
        return message | ({"tool_calls": list(self.tool_calls)} if self.tool_calls else {})

    def usage_object(self) -> dict[str, Any] | None:
        """``usage`` as it goes over the wire."""
        if self.usage is None:
            return None
        usage: dict[str, Any] = dict(
            zip(("prompt_tokens", "completion_tokens", "total_tokens"), self.usage, strict=True)
        )
        details = {"cached_tokens": self.cached, "cache_write_tokens": self.cache_write}
        return usage | ({"prompt_tokens_details": details} if self.cached or self.cache_write else {})


@dataclass(frozen=True)
class Status:
    """A response with a status and a JSON (or raw) body."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hang:
    """Silence: before the status line, or right after the headers of an event stream."""

    before_headers: bool = True


@dataclass(frozen=True)
class Raw:
    """These very bytes as the body of a 200; ``cut`` drops the connection instead of ending the body."""

    body: bytes | Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    cut: bool = False


@dataclass(frozen=True)
class Garbage:
    """These very bytes instead of an HTTP response; then the connection is closed."""

    data: bytes = b""


ScriptedReply: TypeAlias = Reply | Status | Hang | Raw | Garbage


def call(name: str, arguments: Any = None, call_id: str = "call_1") -> dict[str, Any]:
    """A tool call for ``Reply.tool_calls``; ``arguments`` is JSON text or a value to encode."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def chunk(**fields: Any) -> bytes:
    """One event with one JSON object, for ``Raw``."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def _words(text: str) -> list[str]:
    return [w + " " for w in text.split(" ")[:-1]] + [text.split(" ")[-1]] if text else []


def _call_fragments(calls: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each call as real servers send it: first its id and name, then its arguments in pieces.

    The last piece of all holds the whole call too, for wires that know no pieces.
    """
    for index, one in enumerate(calls):
        name, arguments = one["function"]["name"], one["function"]["arguments"]
        head = {"index": index, "id": one["id"], "type": "function"}
        yield {"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}
        half = len(arguments) // 2
        yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[:half]}}]}
        rest = {"index": index, "function": {"arguments": arguments[half:]}}
        yield {"tool_calls": [rest], "whole": one}
