"""Frames: what a client's message means, and what ours look like.

One JSON object in each message. Clients drop a whole frame for a key that is null or that
they do not know, so an encoder leaves out what is absent and adds nothing of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ...messages import JsonObject, JsonValue
from ...wire import InvalidJson, clean, dumps, loads
from .protocol import Refusal

MAX_NAME_LENGTH = 512

_NOBODY: Final = "invalid"  # answers a frame that has no id


@dataclass(frozen=True, slots=True)
class Request:
    """A request; ``params`` is an object, an empty one for anything else."""

    id: str
    method: str
    params: JsonObject


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is no request.

    :ivar reply: the id to answer to; None if it is not even JSON and gets no answer.
    """

    reply: str | None
    message: str


def parse(data: bytes | str) -> Request | Malformed:
    """What one message of a client asks. Never raises."""
    try:
        frame = loads(clean(data).encode() if isinstance(data, str) else data)
    except InvalidJson as error:
        return Malformed(None, f"invalid request frame: {error}")
    if not isinstance(frame, dict):
        return Malformed(_NOBODY, "invalid request frame: must be object")
    problem = _problem(frame)
    if problem is not None:
        return Malformed(_reply_to(frame), f"invalid request frame: {problem}")
    params = frame.get("params")
    return Request(str(frame["id"]), str(frame["method"]), params if isinstance(params, dict) else {})


def response(request_id: str, payload: JsonValue = None) -> bytes:
    """The frame that answers a request with success."""
    return dumps({"type": "res", "id": request_id, "ok": True, "payload": payload})


def error(request_id: str, refusal: Refusal) -> bytes:
    """The frame that answers a request with an error, the same for every version."""
    body: dict[str, Any] = {"code": refusal.code, "message": str(refusal) or "the request failed"}
    if refusal.details is not None:
        body["details"] = refusal.details
    if refusal.retry_after_ms is not None:
        body |= {"retryable": True, "retryAfterMs": refusal.retry_after_ms}
    frame = {"type": "res", "id": request_id, "ok": False, "error": body}
    if refusal.payload is not None:
        frame["payload"] = refusal.payload
    return dumps(frame)


def event(name: str, payload: bytes, *, seq: int | None = None, state_version: bytes | None = None) -> bytes:
    """The frame of an event.

    :param payload: encoded JSON, spliced in: encoded once, sent to many.
    :param seq: counts the events of a connection; None for one that is not counted.
    :param state_version: encoded JSON.
    """
    parts = [b'{"type":"event","event":', dumps(name), b',"payload":', payload]
    if seq is not None:
        parts += [b',"seq":', b"%d" % seq]
    if state_version is not None:
        parts += [b',"stateVersion":', state_version]
    return b"".join((*parts, b"}"))


def _problem(frame: JsonObject) -> str | None:
    if frame.get("type") != "req":
        return 'at /type: must be "req"'
    for name in ("id", "method"):
        value = frame.get(name)
        if name not in frame:
            return f"must have required property '{name}'"
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH:
            return f"at /{name}: must be string of 1 to {MAX_NAME_LENGTH} characters"
    return None


def _reply_to(frame: JsonObject) -> str:
    sent = frame.get("id")
    return sent if isinstance(sent, str) and 0 < len(sent) <= MAX_NAME_LENGTH else _NOBODY
