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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_sessions(agent_id: str | None, as_json: bool) -> None:
    """List sessions, newest first."""
    config = load_config(None, os.environ, require_auth=False)
    with closing(open_store(config.state_dir, readonly=True)) as store:
        rows = [session_json(session) for session in store.list_sessions(agent_id, 1_000, 0)]
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
    for entry in shown["transcript"]:
        message = entry["message"]
        click.echo(f"{click.style(message['role'], bold=True)} {_time(entry['at'])}\n{_shown(message)}\n")


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
    for heading in ("key", "messages", "tokens", "model", "last used"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        tokens = row["inputTokens"] + row["outputTokens"]
        cells = (row["key"], row["messages"], tokens, row["model"], _time(row["updatedAt"]))
        table.add_row(*(Text(str(cell)) for cell in cells))  # Text: a key's brackets are no markup
    return table


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _shown(message: dict[str, Any]) -> str:
    content = message["content"]
    text = content if isinstance(content, str) else "\n".join(p.get("text", "[image]") for p in content)
    calls = [f"→ {call['name']}({call['arguments']})" for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, (text, *calls)))
