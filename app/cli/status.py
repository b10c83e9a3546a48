"""``openclaw status``: whether the gateway answers, and what it is doing."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

import click

from ..errors import GatewayError
from .client import gateway_client, url_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@url_option
def status(as_json: bool, url: str | None) -> None:
    """Say whether the gateway answers, and what it is doing. Exits with 1 if it does not answer."""
    client = gateway_client(url)
    try:
        found = client.call("openclaw.status")
    except GatewayError as error:
        if not as_json:
            raise
        print(json.dumps({"reachable": False, "url": client.url, "error": error.message}))
        sys.exit(1)
    if as_json:
        print(json.dumps({"reachable": True, "url": client.url, **found}, ensure_ascii=False))
        return
    for name, value in _lines(client.url, found):
        click.echo(f"{name + ':':<12} {value}")


def _lines(url: str, found: dict[str, Any]) -> list[tuple[str, str]]:
    waiting = found["approvals"]
    return [
        ("Gateway", f"{url}, {'going away' if found['draining'] else 'running'}"),
        ("Version", found["version"]),
        ("Up for", str(timedelta(seconds=found["uptimeMs"] // 1000))),
        ("Agent", f"{found['agent']} ({found['model']})"),
        ("Runs", f"{found['runs']} under way"),
        ("Sessions", str(found["sessions"])),
        ("Approvals", f"{waiting} waiting; see openclaw approvals" if waiting else "none waiting"),
        ("Connections", f"{found['connections']}, this one included"),
    ]
