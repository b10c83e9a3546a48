"""``openclaw usage``: what runs have come to, in tokens and in money."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import load_config
from ..runs.usage import parse_usage_query, usage_report
from ..sessions.sql import open_store
from .client import OwnGatewayDown, gateway_client, url_option

_COLUMNS = {
    "runs": "runs",
    "input": "input",
    "cache read": "cacheRead",
    "cache write": "cacheWrite",
    "output": "output",
    "reasoning": "reasoning",
}


@click.command()
@click.option(
    "--since", metavar="TIME", help="12h, 7d, 2w, or a date such as 2026-11-01 (UTC). [default: 30d]"
)
@click.option("--until", metavar="TIME", help="Only what began before then.")
@click.option("--by", metavar="NAMES", help="Any of day, agent, model, session, with commas. [default: day]")
@click.option("--agent", help="Only this agent's runs.")
@click.option("--session", metavar="KEY", help="Only this session's runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@url_option
def usage(as_json: bool, url: str | None, **asked: str | None) -> None:
    """Add up tokens and cost of the runs that have ended.

    Input is without what came from a provider's cache or went into it; output includes reasoning.
    """
    report = _report({name: value for name, value in asked.items() if value is not None}, url)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    # A pipe has no width: there every group is one line, however long its name.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(_table(report) if report["rows"] else "No runs in this time.")
    if report["total"]["unpriced"]:
        console.print("+ N runs: N runs without a known price.")


def _report(asked: dict[str, str], url: str | None) -> dict[str, Any]:
    """Through the gateway, which knows what it has just done; else from its store."""
    try:
        return dict(gateway_client(url).call("openclaw.usage", **asked))
    except OwnGatewayDown:
        config = load_config(None, os.environ, require_auth=False, platform_env=True)
        query = parse_usage_query(asked, time.time_ns() // 1_000_000)
        with closing(open_store(config.store_place, readonly=True)) as store:
            return usage_report(query, store)


def _table(report: dict[str, Any]) -> Table:
    table = Table(box=None, show_footer=bool(report["by"]))
    total = report["total"]
    for place, name in enumerate(report["by"]):
        table.add_column(name, "" if place else "total", overflow="fold")
    for heading, name in _COLUMNS.items():
        table.add_column(heading, f"{total[name]:,}", justify="right")
    table.add_column("cost", _cost(total), justify="right")
    for row in report["rows"]:
        names = (Text(row[name]) for name in report["by"])  # Text: a key's brackets are no markup
        table.add_row(*names, *(f"{row[name]:,}" for name in _COLUMNS.values()), _cost(row))
    return table


def _cost(sums: dict[str, Any]) -> str:
    unpriced = sums["unpriced"]
    known = f"${sums['cost']:,.4f}" if sums["cost"] or not unpriced else ""
    return " ".join(filter(None, (known, f"+ {unpriced} run{'s' * (unpriced > 1)}" if unpriced else "")))
