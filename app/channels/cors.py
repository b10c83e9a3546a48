"""Pages in a browser that may call the gateway: an allow-list of origins, empty by default.

A page proves who it is by the secret in its ``Authorization`` header, as everybody does. The
browser is never asked to send credentials of its own.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from urllib.parse import urlsplit

from flask import Request, Response, request

from ..config import CorsConfig
from ..errors import Forbidden, InvalidRequest

_ALLOWED = re.compile(
    r"authorization|content-type|accept|idempotency-key|x-request-id|user-agent|openai-[a-z-]+"
    r"|x-openclaw-[a-z-]+|x-stainless-[a-z-]+",
    re.ASCII,
)
_EXPOSED = ", ".join(
    (
        *("x-request-id", "openai-processing-ms", "openclaw-run", "openclaw-ignored", "idempotent-replayed"),
        *("retry-after", "x-should-retry", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
        "x-ratelimit-reset-requests",
    )
)


class Cors:
    """Answers browsers that ask for a page of another origin. Any thread may call any method.

    :ivar origins: of the pages, in lower case.
    """

    def __init__(self, settings: CorsConfig) -> None:
        self.origins = frozenset(settings.allowed_origins)
        self._max_age = str(settings.max_age_seconds)

    def preflight(self, methods: Sequence[str]) -> Response | None:
        """The answer to a browser that asks whether it may send a request; None if nobody asks that.

        It is sent without the secret, so it is answered without.

        :param methods: what the path takes.
        """
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not (asks and self._is_allowed()):
            return None
        response = Response(status=204)
        headers = response.headers
        headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        headers["Access-Control-Max-Age"] = self._max_age
        if names := _permitted(request.headers.get("Access-Control-Request-Headers", "")):
            headers["Access-Control-Allow-Headers"] = names
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return response

    def finish(self, response: Response) -> Response:
        """Let the page of an allowed origin read ``response``, and its headers."""
        if not self.origins:
            return response
        response.vary.add("Origin")
        if self._is_allowed():
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return response

    def _is_allowed(self) -> bool:
        return bool(self.origins) and request.headers.get("Origin", "").lower() in self.origins


def require_same_site(asked: Request, origins: Container[str]) -> None:
    """No page of another site may send what its visitor's browser would sign with a cookie of the host's.

    :param origins: of pages that may, in lower case.
    :raises Forbidden: another page has sent it. :raises InvalidRequest: a form may have, as it is not JSON.
    """
    if asked.method in ("GET", "HEAD"):  # a page of another origin cannot read the answer
        return
    origin = asked.headers.get("Origin", "").lower()
    if origin not in origins and not _is_own_page(asked, origin):
        raise Forbidden("A page of another site has sent this.")
    if asked.headers.get("Content-Length", "0") == "0" and "Transfer-Encoding" not in asked.headers:
        return
    if not asked.is_json:
        error = InvalidRequest("The Content-Type must be application/json.", code="unsupported_media_type")
        error.status = 415
        raise error


def _is_own_page(asked: Request, origin: str) -> bool:
    """By what the browser says of it, or else by its origin; programs that are no browsers say nothing."""
    if site := asked.headers.get("Sec-Fetch-Site"):
        return site in ("same-origin", "none")
    try:
        return not origin or urlsplit(origin).netloc == asked.host.lower()
    except ValueError:
        return False


def _permitted(names: str) -> str:
    wanted = (name.strip().lower() for name in names[:4_000].split(","))
    return ", ".join(name for name in wanted if _ALLOWED.fullmatch(name))
