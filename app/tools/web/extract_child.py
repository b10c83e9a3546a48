"""The process that makes readable text of an HTML page.

A program, not a module: it is run by its path, so it imports nothing of the package. In: one
JSON object with ``html``, ``url`` and ``mode`` (markdown or text). Out: ``title`` and ``text``,
empty if the page has none.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import trafilatura


def main() -> None:
    """Do one job."""
    job = json.load(sys.stdin.buffer)
    json.dump({"title": _title(job["html"]), "text": _text(**job)}, sys.stdout)


def _title(html: str) -> str:
    tree = trafilatura.load_html(html)
    title = None if tree is None else tree.findtext(".//title")
    return " ".join((title or "").split())


def _text(html: str, url: str, mode: str) -> str:
    whole = f"<html><body>{html}</body></html>"  # of a fragment nothing else would be taken
    return _main_text(html, url, mode) or trafilatura.html2txt(html) or trafilatura.html2txt(whole)


def _main_text(html: str, url: str, mode: str) -> str | None:
    form: dict[str, Any] = {"output_format": "txt"}
    if mode == "markdown":
        form = {"output_format": "markdown", "include_links": True, "include_formatting": True}
    try:
        text: str | None = trafilatura.extract(
            html, url=url, favor_recall=True, include_comments=False, **form
        )
    except Exception:
        return None
    return text


if __name__ == "__main__":
    main()
