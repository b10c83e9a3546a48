"""``openclaw sessions``: look at conversations and delete them."""

from __future__ import annotations

import json
import os
import sys
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
from ..sessions.sql import open_store
from .client import GatewayClient, GatewayDown


@click.group()
def sessions() -> None:
    """List, show and delete sessions."""


@sessions.command("list")
@click.option("--agent", "agent_id", help="Only this agent's sessions.")
@click.option("--archived", is_flag=True, help="Also those whose key has a newer session.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_sessions(agent_id: str | None, archived: bool, as_json: bool) -> None:
    """List sessions, newest first."""
    config = load_config(None, os.environ, require_auth=False)
    with closing(open_store(config.state_dir, readonly=True)) as store:
        rows = [session_json(one) for one in store.list_sessions(agent_id, 1_000, archived=archived)]
    if as_json:
        print(json.dumps({"sessions": rows}, ensure_ascii=False))
        return
    # A pipe has no width: there every session is one line, whatever its length.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(_table(rows) if rows else "No sessions yet.")


@sessions.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(key: str, as_json: bool) -> None:
    """Print the transcript of the session KEY."""
    config = load_config(None, os.environ, require_auth=False)
    with closing(open_store(config.state_dir, readonly=True)) as store:
        shown = transcript_json(key, store)
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
    click.echo(f"{click.style(role, bold=True)} {remark}\n{text}\n")


@sessions.command()
@click.argument("key")
def delete(key: str) -> None:
    """Delete the session KEY with its transcript."""
    if not _delete(key):
        raise GatewayError(f"There is no session {key!r}.")
    click.echo(f"Deleted {key}.")


def _delete(key: str) -> bool:
    """Through the gateway, which owns the state while it runs; else directly."""
    config = load_config(None, os.environ, require_auth=False)
    try:
        return bool(GatewayClient(config).call("DELETE", "/sessions", key).get("deleted"))
    except GatewayDown:
        with closing(open_store(config.state_dir)) as store:
            return store.delete_session(key)


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
            "cost": f"${row['cost']:,.4f}",
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
