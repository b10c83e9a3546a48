"""What the HTTP channels share: reading a body, rendering an error, matching a path exactly."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Mapping
from itertools import chain
from typing import Any, Self
from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException, default_exceptions

from ..errors import BodyTimeout, GatewayError, InvalidRequest, MethodNotAllowed, NotFound, PayloadTooLarge
from ..log import get_logger
from ..messages import JsonValue
from ..wire import InvalidJson, dumps, loads
from .client import client_socket
from .openai.chunks import error_body

ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

_PIECE = 64 * 1024
_BEGAN = "openclaw.began"
_SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

_log = get_logger("http")


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON body that no cache keeps."""
    sent = {"Cache-Control": "no-store", **(headers or {})}
    return Response(body, status, mimetype="application/json", headers=sent)


def event_stream(events: Generator[bytes], headers: Mapping[str, str] | None = None) -> Response:
    """Server-sent events. They have begun when this returns: whoever drops the response closes them.

    A generator that nobody has started would not notice, and its run would go on for nobody.
    """
    begun = chain((next(events),), events)
    response = Response(begun, mimetype="text/event-stream", headers=dict(headers or {}))
    response.call_on_close(events.close)
    return response


def error_response(error: GatewayError) -> Response:
    """An error before the first byte, in OpenAI's shape."""
    return json_response(dumps(error_body(error)), error.status, error.headers)


def render_errors(blueprint: Blueprint) -> None:
    """Answer everything that goes wrong in ``blueprint`` as JSON, without details of ours.

    All its responses get the headers that :func:`finish` gives.
    """

    def render(error: Exception) -> Response:
        if isinstance(error, GatewayError):
            return error_response(error)
        if isinstance(error, HTTPException):
            return error_response(error_from_http(error))
        _log.error("%s %s %s failed", request_id(), request.method, request.path, exc_info=error)
        return error_response(GatewayError("internal error"))

    def begin() -> None:
        request.environ[_BEGAN] = time.perf_counter()

    # By status as well: of those, the host's handlers would come before one for all exceptions.
    kinds: list[type[Exception] | int] = [Exception, *default_exceptions]
    for kind in kinds:
        blueprint.register_error_handler(kind, render)
    blueprint.before_request(begin)
    blueprint.after_request(finish)


def finish(response: Response) -> Response:
    """``response`` with what every response has: an id, the time it took, and what keeps browsers safe."""
    headers = response.headers
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if "x-request-id" not in headers:
        headers["x-request-id"] = request_id()
    if (began := request.environ.get(_BEGAN)) is not None:
        headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - began)))
    return response


def request_id() -> str:
    """What the current request is called in the log, unless its run has an id."""
    return str(request.environ.setdefault("openclaw.request_id", f"req_{uuid.uuid4().hex}"))


def require_exact_path() -> None:
    """Serve the path as written only: no doubled slash, no ``%2F``, no escapes that decode to it.

    :raises NotFound: the raw target is another spelling of the path.
    """
    raw = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI")
    if raw is None:
        return
    target = str(raw).partition("?")[0]
    if not target.startswith("/"):
        target = urlsplit(target).path
    # A proxy may have taken the root off the path, and said so in a header.
    if target not in (request.root_path + request.path, request.path):
        raise NotFound("Nothing is served at this path.")


def require_method(*allowed: str) -> None:
    """:raises MethodNotAllowed: the request uses another method."""
    if request.method not in allowed:
        raise MethodNotAllowed(allowed)


def request_headers() -> dict[str, str]:
    """The headers of the current request but those of its body, names in lower case."""
    # Read from the environment: the framework's own view of it takes three times as long.
    sent = ((name, value) for name, value in request.environ.items() if name.startswith("HTTP_"))
    return {name[5:].replace("_", "-").lower(): value for name, value in sent}


def read_json(limit: int, timeout: float) -> JsonValue:
    """The request's body as JSON, whatever its content type; an empty one is ``{}``.

    :param limit: bytes. :param timeout: seconds within which the whole body has to arrive.
    :raises PayloadTooLarge, BodyTimeout, InvalidRequest: as their names say.
    """
    body = _read_body(limit, timeout)
    try:
        return loads(body) if body.strip() else {}
    except InvalidJson as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.", code="invalid_json") from None


def _read_body(limit: int, timeout: float) -> bytes:
    """Reads up to ``limit`` itself: WSGI servers cut a chunked body at a limit in silence."""
    length = _content_length()
    if length is None and "chunked" not in str(request.environ.get("HTTP_TRANSFER_ENCODING", "")).lower():
        return b""
    if length is not None and length > limit:
        raise _too_large(limit)
    stream: Any = request.environ["wsgi.input"]
    remaining = limit + 1 if length is None else length
    pieces: list[bytes] = []
    with _Deadline(timeout) as deadline:
        while remaining > 0:
            deadline.arm()
            try:
                piece = stream.read(min(_PIECE, remaining))
            except TimeoutError:
                raise BodyTimeout("The request body did not arrive in time.") from None
            except Exception:  # every server has its own for a body that is cut off or badly chunked
                raise InvalidRequest("The request body is incomplete or malformed.") from None
            if not piece:
                break
            pieces.append(piece)
            remaining -= len(piece)
    body = b"".join(pieces)
    if len(body) > limit:
        raise _too_large(limit)
    if length is not None and len(body) < length:
        raise InvalidRequest("The request body is shorter than its Content-Length.")
    return body


def _content_length() -> int | None:
    text = str(request.environ.get("CONTENT_LENGTH") or "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):  # some servers pass on anything
        raise InvalidRequest("The Content-Length is not a number of bytes.")
    return int(text)


class _Deadline:
    """Puts what is left of a time limit on the client's socket, and takes it off again."""

    def __init__(self, seconds: float) -> None:
        self._socket = client_socket(request.environ)
        self._before = self._socket.gettimeout() if self._socket else None
        self._until = time.monotonic() + seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket:
            self._socket.settimeout(self._before)

    def arm(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise BodyTimeout("The request body did not arrive in time.")
        if self._socket:
            self._socket.settimeout(left)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {limit} bytes.", code="payload_too_large")


def error_from_http(error: HTTPException) -> GatewayError:
    """What the framework refused, as an error of ours."""
    code = error.code or 500
    if code == 404:
        return NotFound("Nothing is served at this path.")
    if code == 405 and (allowed := getattr(error, "valid_methods", None)):
        return MethodNotAllowed(tuple(sorted(allowed)))
    if code >= 500:
        return GatewayError("internal error")
    shown = InvalidRequest(error.description or error.name)
    shown.status = code
    return shown
