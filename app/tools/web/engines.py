"""Search engines: Brave, Tavily, SearXNG and DuckDuckGo.

Each speaks its vendor's published interface, except for DuckDuckGo, which has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from ...cancel import CancelToken
from ...errors import ConfigError
from ...wire import InvalidJson, dumps, loads
from ..registry import ToolError
from .charset import decode
from .client import WebClient, WebResponse
from .guard import Guard, parse_url
from .search import DateRange, SearchProvider, SearchQuery, SearchResult, SearchSettings

_BRAVE = "https://api.search.brave.com"
_TAVILY = "https://api.tavily.com"
_DUCKDUCKGO = "https://html.duckduckgo.com"

_KEYED = ("brave", "tavily")

_TAGS = re.compile(r"</?(strong|b|em|i|mark)>")
_BAD_KEY = frozenset({401, 403})
_USED_UP = frozenset({402, 429, 432, 433})  # the last two are Tavily's own


def choose_engine(settings: SearchSettings) -> SearchProvider:
    """The engine that is configured, else SearXNG if there is an address, else one whose key is known,
    else DuckDuckGo.

    An engine without its key is given out too; each search says what is missing.

    :raises ConfigError: SearXNG without an address.
    """
    name: str | None = settings.provider
    if name is None and settings.base_url:
        name = "searxng"  # no key may go to an address that was not meant for it
    name = name or next((name for name in _KEYED if settings.keys.get(name)), "duckduckgo")
    key = settings.keys.get(name, "")
    if name == "brave":
        return Brave(key, settings.base_url or _BRAVE, settings.timeout)
    if name == "tavily":
        return Tavily(key, settings.base_url or _TAVILY, settings.timeout)
    if name == "searxng":
        if not settings.base_url:
            raise ConfigError("tools.web.search.baseUrl: the search provider searxng needs it.")
        return SearXNG(settings.base_url, settings.timeout)
    return DuckDuckGo(settings.base_url or _DUCKDUCKGO, settings.timeout)


class _Engine:
    """What the engines share: a client that reaches their address, and one reading of failures."""

    id: str

    def __init__(self, base_url: str, timeout: float) -> None:
        self._base_url = base_url.rstrip("/")
        # The address is the operator's choice: it may be a private one.
        guard = Guard((parse_url(base_url).host,))
        self._client = WebClient(guard, timeout=timeout)

    def _get(self, path: str, params: Mapping[str, str], cancel: CancelToken, **headers: str) -> WebResponse:
        given = urlencode({name: value for name, value in params.items() if value})
        return self._ask("GET", f"{path}?{given}", cancel, headers)

    def _post(self, path: str, body: bytes, cancel: CancelToken, headers: Mapping[str, str]) -> WebResponse:
        return self._ask("POST", path, cancel, headers, body)

    def _ask(
        self,
        method: str,
        path: str,
        cancel: CancelToken,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> WebResponse:
        """One request, never redirected: its headers may hold a key."""
        url = self._base_url + path
        try:
            response = self._client.request(method, url, cancel, headers=headers, body=body)
        except ToolError as error:
            raise ToolError(f"The web search with {self.id} failed: {error}") from None
        if response.status != 200:
            raise ToolError(f"The web search with {self.id} failed: {self._why(response)}")
        return response

    def _why(self, response: WebResponse) -> str:
        """A sentence about an answer that is no success."""
        if response.status in _BAD_KEY:
            return "it refuses the key or the request. Ask the operator to check the key."
        if response.status in _USED_UP:
            wait = response.headers.get("retry-after", "")
            when = f" in {wait} seconds" if wait.isdecimal() else " later"
            return f"too many searches, or the plan is used up. Try again{when}."
        if response.status >= 500:
            return f"it has trouble of its own (status {response.status}). Try again later."
        return f"it answered with status {response.status}."

    def _json(self, response: WebResponse) -> dict[str, Any]:
        try:
            value = loads(response.body)
        except InvalidJson:
            value = None
        if not isinstance(value, dict):
            raise ToolError(f"The web search with {self.id} failed: its answer is not what it documents.")
        return value


class _KeyedEngine(_Engine):
    """An engine that wants an API key."""

    variable: str

    def __init__(self, key: str, base_url: str, timeout: float) -> None:
        super().__init__(base_url, timeout)
        self._key = key

    def _checked_key(self) -> str:
        if not self._key:
            raise ToolError(
                f"Web search is not set up: {self.id} needs an API key. The operator sets "
                f"tools.web.search.apiKey or the environment variable {self.variable}."
            )
        return self._key


class Brave(_KeyedEngine):
    """Brave Search, `GET /res/v1/web/search`."""

    id = "brave"
    variable = "BRAVE_API_KEY"

    def search(self, query: SearchQuery, cancel: CancelToken) -> list[SearchResult]:
        """See :class:`SearchProvider`."""
        params = {
            "q": query.text,
            "count": str(query.count),
            "country": query.country.upper(),
            "search_lang": query.language,
            "freshness": _joined(query, "to", {p: f"p{p[0]}" for p in ("day", "week", "month", "year")}),
            "text_decorations": "false",
            "result_filter": "web",
        }
        headers = {"Accept": "application/json", "X-Subscription-Token": self._checked_key()}
        response = self._get("/res/v1/web/search", params, cancel, **headers)
        found = self._json(response).get("web")
        hits = found.get("results") if isinstance(found, dict) else None
        return [
            SearchResult(_line(hit, "title"), url, _line(hit, "description"), _line(hit, "age"))
            for hit, url in _hits(hits)
        ]

    def _why(self, response: WebResponse) -> str:
        if response.status == 422 and b"SUBSCRIPTION_TOKEN_INVALID" in response.body:
            return "it refuses the key. Ask the operator to check the key."
        return super()._why(response)


class Tavily(_KeyedEngine):
    """Tavily, `POST /search`. It wants countries by their names, so it is not told any."""

    id = "tavily"
    variable = "TAVILY_API_KEY"

    def search(self, query: SearchQuery, cancel: CancelToken) -> list[SearchResult]:
        """See :class:`SearchProvider`."""
        body: dict[str, str | int] = {"query": query.text, "max_results": query.count}
        if isinstance(query.freshness, DateRange):
            body |= {"start_date": str(query.freshness.start), "end_date": str(query.freshness.end)}
        elif query.freshness:
            body["time_range"] = query.freshness
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._checked_key()}"}
        response = self._post("/search", dumps(body), cancel, headers)
        return [
            SearchResult(_line(hit, "title"), url, _line(hit, "content"), _line(hit, "published_date"))
            for hit, url in _hits(self._json(response).get("results"))
        ]


class SearXNG(_Engine):
    """An instance of SearXNG, `GET /search`. Its settings must permit the format `json`."""

    id = "searxng"

    def search(self, query: SearchQuery, cancel: CancelToken) -> list[SearchResult]:
        """See :class:`SearchProvider`."""
        language = f"{query.language}-{query.country.upper()}".strip("-") if query.language else ""
        period = query.freshness if isinstance(query.freshness, str) else ""
        params = {"q": query.text, "format": "json", "language": language, "time_range": period}
        response = self._get("/search", params, cancel, Accept="application/json")
        return [
            SearchResult(_line(hit, "title"), url, _line(hit, "content"), _line(hit, "publishedDate"))
            for hit, url in _hits(self._json(response).get("results"))
        ]

    def _why(self, response: WebResponse) -> str:
        if response.status == 403:
            return "it does not give JSON. The operator adds json to search.formats of its settings."
        return super()._why(response)


class DuckDuckGo(_Engine):
    """The page that DuckDuckGo serves to browsers without scripts.

    It is meant for people and has no published interface: it may change any day, and after a few
    searches in a row it asks for proof of a human, which is reported as an error. Good enough to
    try things out; for steady use configure one of the others.
    """

    id = "duckduckgo"

    def search(self, query: SearchQuery, cancel: CancelToken) -> list[SearchResult]:
        """See :class:`SearchProvider`."""
        region = f"{query.country}-{query.language or 'en'}" if query.country else ""
        since = _joined(query, "..", {p: p[0] for p in ("day", "week", "month", "year")})
        form = {"q": query.text, "b": "", "kl": region, "df": since}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
        response = self._post("/html/", urlencode(form).encode(), cancel, headers)
        html = decode(response.body, "utf-8")
        if "anomaly-modal" in html:
            raise ToolError(f"The web search with {self.id} failed: {self._why(response)}")
        hits = _scraped(html, self._base_url)
        if hits is None:
            raise ToolError(f"The web search with {self.id} failed: its page is not what it was.")
        return hits

    def _why(self, response: WebResponse) -> str:
        if response.status in {200, 202}:  # that is how it shows its riddle
            return "it wants proof of a human after too many searches. Try again later."
        return super()._why(response)


def _scraped(html: str, base_url: str) -> list[SearchResult] | None:
    """The hits on a page; None if it is no page of results."""
    from lxml.etree import LxmlError  # large, and the other engines do not need it
    from lxml.html import HTMLParser, document_fromstring

    try:
        page = document_fromstring(html.encode(), parser=HTMLParser(encoding="utf-8"))
    except LxmlError:
        return None
    if page.get_element_by_id("links", None) is None:
        return None
    return [hit for box in page.find_class("web-result") if (hit := _scraped_hit(box, base_url))]


def _scraped_hit(box: Any, base_url: str) -> SearchResult | None:
    titles, snippets = box.find_class("result__a"), box.find_class("result__snippet")
    url = _unwrapped(base_url, titles[0].get("href") or "") if titles else None
    if not _is_web(url) or "result--ad" in box.get("class"):
        return None
    return SearchResult(_spaced(titles[0]), str(url), _spaced(snippets[0]) if snippets else "")


def _spaced(element: Any) -> str:
    return " ".join(str(element.text_content()).split())


def _unwrapped(base_url: str, link: str) -> str | None:
    """The address behind a link, which may be one of DuckDuckGo's own redirects; None if it has none."""
    try:
        url = urljoin(base_url, link)
        wrapped = parse_qs(urlsplit(url).query).get("uddg") if "/l/?" in url else None
    except ValueError:
        return None
    return wrapped[0] if wrapped else url


def _hits(hits: object) -> Iterator[tuple[dict[str, Any], str]]:
    for hit in hits if isinstance(hits, list) else ():
        if isinstance(hit, dict) and _is_web(hit.get("url")):
            yield hit, hit["url"]


def _is_web(url: object) -> bool:
    return isinstance(url, str) and url.startswith(("http://", "https://"))


def _line(hit: dict[str, Any], name: str) -> str:
    value = hit.get(name)
    return " ".join(unescape(_TAGS.sub("", value)).split()) if isinstance(value, str) else ""


def _joined(query: SearchQuery, separator: str, periods: Mapping[str, str]) -> str:
    """The freshness as one word of the engine's."""
    if isinstance(query.freshness, DateRange):
        return f"{query.freshness.start}{separator}{query.freshness.end}"
    return periods[query.freshness] if query.freshness else ""
