"""``openclaw logs``: what the gateway has logged, without a look at its machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import click

from ..wire import InvalidJson, loads
from .approvals import harmless
from .client import Connection, gateway_client, url_option

_LOOK = 0.5  # seconds between two looks for new lines


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "--limit", type=click.IntRange(1, 5_000), default=200, show_default=True, help="Lines to begin with."
)
@click.option("--json", "as_json", is_flag=True, help="Print every line as the JSON object that it is.")
@url_option
def logs(follow: bool, limit: int, as_json: bool, url: str | None) -> None:
    """Print the gateway's newest log lines."""
    with closing(gateway_client(url).connect()) as connection:
        for line in _lines(connection, limit, follow=follow):
            click.echo(line if as_json else _shown(line))


def _lines(connection: Connection, limit: int, *, follow: bool) -> Iterator[str]:
    found = connection.call("logs.tail", limit=limit)
    yield from found["lines"]
    while follow:
        time.sleep(_LOOK)
        found = connection.call("logs.tail", cursor=found["cursor"])
        if found["reset"]:
            click.echo("openclaw: some lines were missed", err=True)
        yield from found["lines"]


def _shown(line: str) -> str:
    """A line for people: when, how bad, from where, what."""
    match _object(line):
        case {"0": str(said), "time": str(moment), "_meta": {"logLevelName": level, "name": str(name)}}:
            area = _object(name).get("subsystem", "")
            line = f"{_local(moment)} {level:<7} {area}: {said}"
            return harmless(line).replace("\n", "\n  ")  # only a line's own beginning is at the margin
    return harmless(line)


def _object(text: str) -> dict[str, Any]:
    try:
        value = loads(text.encode())
    except InvalidJson:
        value = None
    return dict(value) if isinstance(value, dict) else {}


def _local(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
