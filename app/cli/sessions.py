"""``openclaw sessions``: look at conversations and delete them."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import load_config
from ..errors import GatewayError
from ..runs.command import session_json, transcript_json
from ..runs.retention import delete_old
from ..runtime import retention_rules
from ..sessions.sql import open_store
from ..sessions.store import Store
from .approvals import harmless
from .client import OwnGatewayDown, gateway_client, url_option


@click.group()
def sessions() -> None:
    """List, show and delete sessions."""


@sessions.command("list")
@click.option("--agent", "agent_id", help="Only this agent's sessions.")
@click.option("--archived", is_flag=True, help="Also those whose key has a newer session.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@url_option
def list_sessions(agent_id: str | None, archived: bool, as_json: bool, url: str | None) -> None:
    """List sessions, newest first."""
    rows = _listed(agent_id, url, archived=archived)
    if as_json:
        print(json.dumps({"sessions": rows}, ensure_ascii=False))
        return
    # A pipe has no width: there every session is one line, whatever its length.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(_table(rows) if rows else "No sessions yet.")


@sessions.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@url_option
def show(key: str, as_json: bool, url: str | None) -> None:
    """Print the transcript of the session KEY."""
    shown = _transcript(key, url)
    if as_json:
        print(json.dumps(shown, ensure_ascii=False))
        return
    session = shown["session"]
    above = [entry for entry in shown["transcript"] if entry["seq"] < session["keptFrom"]]
    _print(above)
    if session["summary"]:
        _echo("summary", "which the model sees in place of all above", session["summary"])
    _print(shown["transcript"][len(above) :])


def _print(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        _echo(entry["message"]["role"], _time(entry["at"]), _shown(entry["message"]))


def _echo(role: str, remark: str, text: str) -> None:
    shown = harmless(text) if sys.stdout.isatty() else text
    click.echo(f"{click.style(role, bold=True)} {remark}\n{shown}\n")


@sessions.command()
@click.argument("key")
@url_option
def delete(key: str, url: str | None) -> None:
    """Delete the session KEY with its transcript."""
    if not _delete(key, url):
        raise GatewayError(f"There is no session {key!r}.")
    click.echo(f"Deleted {key}.")


@sessions.command()
@click.option("--dry-run", is_flag=True, help="Only say how much it would be.")
@url_option
def prune(dry_run: bool, url: str | None) -> None:
    """Delete what is old by `session.maintenance`: sessions, and records of runs.

    This is what the gateway does by itself once an hour if `session.maintenance.mode` is `enforce`.
    """
    pruned = _prune(url, dry_run=dry_run)
    if pruned["kept"]:
        click.echo("Everything is kept: session.maintenance names no pruneAfter and no pruneRunsAfter.")
        return
    done = "Would delete" if dry_run else "Deleted"
    click.echo(f"{done} {pruned['sessions']} sessions and {pruned['runs']} records of runs.")


# Each of these asks the gateway, which owns the state while it runs, and else the state itself.


def _listed(agent_id: str | None, url: str | None, *, archived: bool) -> list[dict[str, Any]]:
    try:
        listed = gateway_client(url).call("openclaw.sessions", agentId=agent_id, archived=archived)
        return list(listed["sessions"])
    except OwnGatewayDown:
        with _store(readonly=True) as store:
            return [session_json(one) for one in store.list_sessions(agent_id, 1_000, archived=archived)]


def _transcript(key: str, url: str | None) -> dict[str, Any]:
    try:
        return dict(gateway_client(url).call("openclaw.transcript", key=key))
    except OwnGatewayDown:
        with _store(readonly=True) as store:
            return transcript_json(key, store)


def _delete(key: str, url: str | None) -> bool:
    try:
        return bool(gateway_client(url).call("sessions.delete", key=key, evenMain=True)["deleted"])
    except OwnGatewayDown:
        with _store() as store:
            return store.delete_session(key)


def _prune(url: str | None, *, dry_run: bool) -> dict[str, Any]:
    try:
        return dict(gateway_client(url).call("openclaw.prune", dryRun=dry_run))
    except OwnGatewayDown:
        rules = retention_rules(load_config(None, os.environ, require_auth=False))
        ages = rules.ages(time.time_ns() // 1_000_000)
        if ages is None:
            return {"kept": True}
        with _store(readonly=dry_run) as store:
            pruned = store.count_old(ages) if dry_run else delete_old(store, ages)
        return {"kept": False, "sessions": pruned.sessions, "runs": pruned.runs}


def _store(*, readonly: bool = False) -> closing[Store]:
    config = load_config(None, os.environ, require_auth=False, platform_env=True)
    return closing(open_store(config.store_place, readonly=readonly))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None)
    headings = ["key", "messages", "tokens", "cost", "model", "last used"]
    if not any(row["cost"] for row in rows):
        headings.remove("cost")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = {
            "key": row["key"],
            "messages": row["messages"],
            "tokens": row["inputTokens"] + row["outputTokens"],
            "cost": f"${row['cost']:,.4f}" if row["cost"] else "",
            "model": row["model"],
            "last used": _time(row["updatedAt"]),
        }
        table.add_row(*(Text(str(cells[heading])) for heading in headings))  # a key's brackets are no markup
    return table


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _shown(message: dict[str, Any]) -> str:
    content = message["content"]
    text = content if isinstance(content, str) else "\n".join(p.get("text", "[image]") for p in content)
    calls = [f"→ {call['name']}({call['arguments']})" for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, (text, *calls)))
