"""The tool `web_fetch`: the readable text of one web address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from html import unescape
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...cancel import CancelToken
from ..child import run_child
from ..registry import Tool, ToolContext, ToolError
from ..signature import tool
from ..untrusted import fenced
from .cache import Page, PageCache
from .charset import decode
from .client import WebClient, WebResponse
from .guard import Guard, Resolver

_MIB = 1 << 20
_CACHE_BYTES = 16 * _MIB
_MAX_CHARS = 1_000_000
_EXCERPT_BYTES, _EXCERPT_CHARS = 4096, 300
_LONGEST_TYPE = 256
_EXTRACTOR = Path(__file__).with_name("extract_child.py")

_HTML = frozenset({"text/html", "application/xhtml+xml"})
_TEXT = re.compile(
    r"text/.+|application/(.+\+)?(json|xml|yaml)|application/(javascript|x-javascript|ndjson|x-ndjson|x-yaml|toml)"
)
_LOOKS_LIKE_HTML = re.compile(
    rb"\s*(<!--.{0,500}?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How pages are read.

    :ivar max_chars: length of a result if the model does not say.
    :ivar timeout: seconds for the request, and as many for making text of the page.
    :ivar allow_private: host names and networks that may be reached although they are private.
    """

    enabled: bool = True
    max_chars: int = 50_000
    timeout: float = 30.0
    cache_minutes: float = 15.0
    max_redirects: int = 5
    allow_private: tuple[str, ...] = ()


class PageReader:
    """Reads web addresses as text. One object serves all threads.

    :raises ConfigError: ``allow_private`` holds something that is no network.
    """

    def __init__(self, settings: FetchSettings, resolve: Resolver | None = None) -> None:
        self._settings = settings
        self._client = WebClient(Guard(settings.allow_private, resolve), timeout=settings.timeout)
        self._cache = PageCache(settings.cache_minutes * 60, _CACHE_BYTES)

    def read(self, url: str, mode: str, cancel: CancelToken) -> Page:
        """The page at ``url``; HTML as its main text, in Markdown or plain.

        :raises ToolError: not permitted, not reached, an error status, or nothing to read there.
        :raises Cancelled: soon after ``cancel`` fires.
        """
        page = self._cache.get(url, mode)
        if page is None:
            page = self._fetch(url, mode, cancel)
            self._cache.put(url, mode, page)
        return page

    def _fetch(self, url: str, mode: str, cancel: CancelToken) -> Page:
        response = self._client.request(
            "GET",
            url,
            cancel,
            headers={"Accept": "text/markdown, text/html;q=0.9, text/plain;q=0.8, */*;q=0.5"},
            redirects=self._settings.max_redirects,
        )
        if not 200 <= response.status < 300:
            raise ToolError(_refusal(response))
        title, text = self._title_and_text(response, mode, cancel)
        if not text.strip():
            text = "[The page has no readable text; it may need a browser that runs scripts.]"
        elif response.cut:
            text += "\n\n[The page is longer than what was read of it.]"
        return Page(response.url, response.status, title, text)

    def _title_and_text(self, response: WebResponse, mode: str, cancel: CancelToken) -> tuple[str, str]:
        kind, charset = _content_type(response)
        if kind not in _HTML:
            return "", _plain(decode(response.body, charset))
        html = decode(response.body, charset, html=True)
        answer = run_child(
            _EXTRACTOR,
            {"html": html, "url": response.url, "mode": mode},
            timeout=self._settings.timeout,
            cancel=cancel,
        )
        assert isinstance(answer, dict)
        return str(answer["title"]), str(answer["text"])


def web_fetch_tool(settings: FetchSettings, resolve: Resolver | None = None) -> Tool:
    """The tool over a reader of its own.

    :param resolve: looks up names in place of the system.
    :raises ConfigError: ``allow_private`` holds something that is no network.
    """
    reader = PageReader(settings, resolve)

    @tool(parallel=True)
    def web_fetch(
        context: ToolContext,
        url: Annotated[str, Field(description="An http or https address.")],
        extract_mode: Annotated[Literal["markdown", "text"], Field(alias="extractMode")] = "markdown",
        max_chars: Annotated[int | None, Field(alias="maxChars", ge=100, le=_MAX_CHARS)] = None,
    ) -> str:
        """Fetch a web page and read its main text. HTML becomes Markdown or plain text; text and JSON come as
        they are."""
        page = reader.read(url.strip(), extract_mode, context.cancel)
        return _shown(page, max_chars or settings.max_chars)

    return web_fetch


def _shown(page: Page, limit: int) -> str:
    head = f"URL: {page.url}\nStatus: {page.status}\n"
    if page.title:
        head = f"Title: {page.title[:300]}\n{head}"
    text = page.text
    if len(text) > limit:
        text = f"{text[:limit]}\n\n[Cut: {limit} of {len(text)} characters; ask for more with maxChars.]"
    return fenced(f"{head}\n{text}", f"web page {page.url}")


def _content_type(response: WebResponse) -> tuple[str, str | None]:
    """The media type, which is one that can be read, and the charset if it is declared."""
    header = Message()
    # Longer ones say nothing more, and `email` takes seconds for the worst of them.
    declared = response.headers.get("content-type", "").strip()[:_LONGEST_TYPE]
    header["content-type"] = declared
    kind, charset = header.get_content_type() if declared else "", header.get_param("charset")
    if not kind and _LOOKS_LIKE_HTML.match(response.body[:_EXCERPT_BYTES]):
        kind = "text/html"
    if not kind and b"\0" not in response.body:
        kind = "text/plain"
    if not _TEXT.fullmatch(kind) and kind not in _HTML:
        raise ToolError(
            f"{response.url} holds {kind or 'binary data'}, which is not text and cannot be read."
        )
    return kind, charset if isinstance(charset, str) else None


def _plain(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _refusal(response: WebResponse) -> str:
    try:
        phrase = f" {HTTPStatus(response.status).phrase}"
    except ValueError:
        phrase = ""
    text = _MARKUP.sub(" ", decode(response.body[:_EXCERPT_BYTES], None))
    excerpt = " ".join(unescape(_plain(text)).split())[:_EXCERPT_CHARS]
    said = f"{response.url} answered with status {response.status}{phrase}."
    return f"{said}\n{fenced(excerpt, 'error page')}" if excerpt else said
