"""What is to be seen of each HTTP request: a line in the log, series, and whose trace it belongs to."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from flask import Blueprint, Response, request

from .. import context
from ..errors import GatewayError
from ..log import get_logger
from ..observe.series import Series
from ..runtime.watching import Watch
from .http import request_id
from .mount import Mount

_SEEN = "openclaw.seen"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
_NOBODY = Watch(None, None)
# What whoever passes requests on calls them; anything else is not worth a line.
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_EVENTS = "text/event-stream"

_log = get_logger("access")


def watch_requests(blueprint: Blueprint, mount: Mount, level: int = logging.INFO) -> None:
    """See every request of ``blueprint``, from before anything is checked to the last byte of the answer.

    To be called before any other hook is registered.

    :param level: of the lines; lower for what is asked every few seconds.
    """
    line = level if mount.config.logging.requests else 0

    def begin() -> None:
        watch = _watch(mount)
        seen = request.environ[_SEEN] = _Seen(watch.metrics.series if watch.metrics else None, line)
        trace = watch.tracing.incoming(request.environ) if watch.tracing else {}
        context.enter(context.Context(seen.id, trace=trace))

    def answer(response: Response) -> Response:
        seen: _Seen | None = request.environ.pop(_SEEN, None)
        if seen is not None:
            seen.answer(response)
        return response

    def leave(_: BaseException | None) -> None:
        context.leave()

    blueprint.before_request(begin)
    blueprint.after_request(answer)
    blueprint.teardown_request(leave)


class _Seen:
    """One request; its thread calls all methods."""

    __slots__ = ("_began", "_line", "_method", "_route", "_sent", "_series", "_streams", "_upstream", "id")

    def __init__(self, series: Series | None, line: int) -> None:
        """:param line: the level of its line in the log; 0 for none."""
        self._began = time.perf_counter()
        self._series = series
        self._line = line and _log.isEnabledFor(line) and line
        self._method = request.method if request.method in _METHODS else "other"
        self._route = str(request.url_rule)
        self._sent = 0
        self._streams = False
        self._upstream = str(request.environ.get("HTTP_X_REQUEST_ID", ""))
        self.id = request_id()
        if series is not None:
            series.requests_open.inc()

    def answer(self, response: Response) -> None:
        """There is an answer, whose last byte is yet to be sent."""
        self._streams = response.mimetype == _EVENTS
        if response.is_streamed:
            if self._line:
                response.response = map(self._count, response.response)
        else:
            self._sent = response.content_length or 0
        if self._streams and self._series is not None:
            self._series.streams_open.inc()
        response.call_on_close(lambda: self._end(response))

    def _count(self, piece: Any) -> Any:
        self._sent += len(piece)
        return piece

    def _end(self, response: Response) -> None:
        seconds = time.perf_counter() - self._began
        if (series := self._series) is not None:
            series.requests_open.dec()
            if self._streams:
                series.streams_open.dec()
            series.requests(self._method, self._route, str(response.status_code)).inc()
            series.request_seconds(self._route).observe(seconds)
        if self._line:
            self._tell(response, seconds)

    def _tell(self, response: Response, seconds: float) -> None:
        milliseconds = round(1000 * seconds, 1)
        shown_id = response.headers.get("x-request-id", self.id)
        fields = {
            "method": self._method,
            "route": self._route,
            "status": response.status_code,
            "duration_ms": milliseconds,
            "bytes": self._sent,
            "request_id": self.id,
        }
        if upstream := _ID.fullmatch(self._upstream):
            fields["upstream_request_id"] = upstream[0]
        if shown_id != self.id:  # what the client was told is the id of its run
            fields["run_id"] = shown_id
        _log.log(
            self._line, "%s %s %d in %.1f ms, %d bytes, %s",
            self._method, self._route, response.status_code, milliseconds, self._sent, shown_id,
            extra={"fields": fields},
        )  # fmt: skip


def _watch(mount: Mount) -> Watch:
    """Who looks on; nobody before the gateway is open."""
    try:
        return mount.runtime.watch if mount.is_open else _NOBODY
    except GatewayError:  # of another process; whoever serves the request says so
        return _NOBODY
