"""The tool `web_search`, over one of several search engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Literal, Protocol, TypeAlias

from pydantic import Field

from ...cancel import CancelToken
from ..registry import Tool, ToolContext, ToolError
from ..signature import tool
from ..untrusted import fenced

Period: TypeAlias = Literal["day", "week", "month", "year"]

_PERIODS: dict[str, Period] = {
    "day": "day", "pd": "day", "week": "week", "pw": "week",
    "month": "month", "pm": "month", "year": "year", "py": "year",
}  # fmt: skip
_FRESHNESS = r"^(day|week|month|year|p[dwmy]|\d{4}-\d\d-\d\dto\d{4}-\d\d-\d\d)?$"
_SNIPPET_CHARS = 1000
MAX_RESULTS = 10


@dataclass(frozen=True, slots=True)
class DateRange:
    """From one day to another, both included."""

    start: date
    end: date


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for.

    :ivar country: two letters, lower case, or empty.
    :ivar language: an ISO 639-1 code, lower case, or empty.
    :ivar freshness: how new a page has to be.
    """

    text: str
    count: int
    country: str = ""
    language: str = ""
    freshness: Period | DateRange | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One hit; ``age`` says when the page is from, in the engine's own words."""

    title: str
    url: str
    snippet: str = ""
    age: str = ""


class SearchProvider(Protocol):
    """A search engine. Any thread."""

    @property
    def id(self) -> str:
        """Its name in the configuration."""
        ...

    def search(self, query: SearchQuery, cancel: CancelToken) -> list[SearchResult]:
        """Hits, best first; what the engine cannot narrow down by, it ignores.

        :raises ToolError: no answer, or none that is of use; the text says what to do.
        :raises Cancelled: soon after ``cancel`` fires.
        """
        ...


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Which engine is asked, and how.

    :ivar provider: its id; None takes SearXNG if there is a ``base_url``, else the first one with
        a key, else DuckDuckGo, which needs none.
    :ivar keys: API keys by provider id.
    :ivar base_url: another address of the chosen engine; SearXNG has no other.
    :ivar count: number of results if the model does not say.
    :ivar timeout: seconds for one search.
    """

    enabled: bool = True
    provider: Literal["brave", "tavily", "searxng", "duckduckgo"] | None = None
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    base_url: str | None = None
    count: int = 5
    timeout: float = 30.0


def web_search_tool(provider: SearchProvider, count: int) -> Tool:
    """The tool over one engine; ``count`` results unless the model says how many."""
    usual = max(1, min(count, MAX_RESULTS))

    @tool(parallel=True)
    def web_search(
        context: ToolContext,
        query: Annotated[str, Field(min_length=1, max_length=400)],
        count: Annotated[int | None, Field(ge=1, le=MAX_RESULTS, description="Number of results.")] = None,
        country: Annotated[str, Field(pattern="^([A-Za-z]{2})?$", description="Such as DE.")] = "",
        search_lang: Annotated[str, Field(pattern="^([A-Za-z]{2})?$", description="Such as de.")] = "",
        freshness: Annotated[
            str,
            Field(pattern=_FRESHNESS, description="day, week, month, year, or 2026-01-01to2026-01-31."),
        ] = "",
    ) -> str:
        """Search the web. Gives titles, addresses and snippets; read a page with web_fetch."""
        asked = SearchQuery(
            query.strip(), count or usual, country.lower(), search_lang.lower(), _freshness(freshness)
        )
        results = provider.search(asked, context.cancel)[: asked.count]
        return _shown(results, provider.id) if results else "Nothing was found."

    return web_search


def _freshness(text: str) -> Period | DateRange | None:
    if not text or text in _PERIODS:
        return _PERIODS.get(text)
    start, _, end = text.partition("to")
    try:
        return DateRange(date.fromisoformat(start), date.fromisoformat(end))
    except ValueError:
        raise ToolError(f"freshness: {text} holds a day that does not exist.") from None


def _shown(results: list[SearchResult], engine: str) -> str:
    return fenced("\n\n".join(map(_entry, range(1, len(results) + 1), results)), f"search results, {engine}")


def _entry(number: int, result: SearchResult) -> str:
    age = f" ({result.age})" if result.age else ""
    lines = (f"{number}. {result.title}{age}", result.url, result.snippet[:_SNIPPET_CHARS])
    return "\n   ".join(line for line in lines if line)
