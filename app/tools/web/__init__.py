"""Tools that reach the web: `web_fetch` and `web_search`."""

from __future__ import annotations

from dataclasses import dataclass

from ..registry import Tool
from .engines import choose_engine
from .fetch import FetchSettings, web_fetch_tool
from .guard import Resolver
from .search import SearchSettings, web_search_tool

__all__ = ["FetchSettings", "SearchSettings", "WebSettings", "web_tools"]


@dataclass(frozen=True, slots=True)
class WebSettings:
    """How the web may be used."""

    fetch: FetchSettings = FetchSettings()
    search: SearchSettings = SearchSettings()


def web_tools(settings: WebSettings, resolve: Resolver | None = None) -> tuple[Tool, ...]:
    """`web_fetch` and `web_search`, as far as they are enabled. Nothing is connected yet.

    :param resolve: looks up the names of pages in place of the system.
    :raises ConfigError: an entry of ``fetch.allow_private`` is no network, or SearXNG has no address.
    """
    tools = []
    if settings.fetch.enabled:
        tools.append(web_fetch_tool(settings.fetch, resolve))
    if settings.search.enabled:
        tools.append(web_search_tool(choose_engine(settings.search), settings.search.count))
    return tuple(tools)
