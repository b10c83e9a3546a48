"""``openclaw approvals``: commands of agents that wait for an operator's word."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from typing import Any

import click

from ..errors import GatewayError
from .client import GatewayClient, gateway_client, url_option

# Letters and marks without any ink.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Of an id: a command that comes between looking and answering must not be the one that is answered.
_SHORTEST_BEGINNING = 4


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@url_option
@click.pass_context
def approvals(context: click.Context, as_json: bool, url: str | None) -> None:
    """List the commands that wait, or answer one by its ID or at least 4 characters of it."""
    if context.invoked_subcommand is not None:
        return
    pending = _pending(gateway_client(url))
    if as_json:
        print(json.dumps({"approvals": pending}, ensure_ascii=False))
        return
    for approval in pending:
        left = max(0, approval["expiresAt"] / 1000 - time.time())
        click.echo(f"{approval['id']}  {approval['sessionKey']}  {left:.0f} s left\n{waiting(approval)}\n")
    if not pending:
        click.echo("No command waits.")


@approvals.command()
@click.argument("approval_id", metavar="ID")
@url_option
def allow(approval_id: str, url: str | None) -> None:
    """Let the command run, this once."""
    _answer(approval_id, "allow-once", url)


@approvals.command()
@click.argument("approval_id", metavar="ID")
@url_option
def always(approval_id: str, url: str | None) -> None:
    """Let the command run, and its programs from now on."""
    _answer(approval_id, "allow-always", url)


@approvals.command()
@click.argument("approval_id", metavar="ID")
@url_option
def deny(approval_id: str, url: str | None) -> None:
    """Refuse the command."""
    _answer(approval_id, "deny", url)


def waiting(approval: dict[str, Any]) -> str:
    """What waits, for a terminal. Nothing in it can move the cursor or hide a part of the command."""
    directory, lines = printable(approval["directory"]), approval["command"].split("\n")
    amount = f" these {len(lines)} lines" if len(lines) > 1 else ""
    return "\n  ".join((f"An agent wants to run{amount}, in {directory}:", *map(printable, lines)))


def printable(text: str) -> str:
    """``text`` in one line, everything that is not seen written out."""
    return "".join(char if _is_seen(char) else char.encode("unicode_escape").decode() for char in text)


def harmless(text: str) -> str:
    """``text`` without what would command the terminal."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def _is_seen(char: str) -> bool:
    return char.isprintable() and not _BLANK.match(char)


def _answer(beginning: str, decision: str, url: str | None) -> None:
    if len(beginning) < _SHORTEST_BEGINNING:
        raise GatewayError(f"Give at least {_SHORTEST_BEGINNING} characters of the ID.")
    client = gateway_client(url)
    matches = [approval["id"] for approval in _pending(client) if approval["id"].startswith(beginning)]
    if len(matches) != 1:
        found = "More than one command waits" if matches else "No command waits"
        raise GatewayError(f"{found} under {beginning!r}.")
    client.call("exec.approval.resolve", id=matches[0], decision=decision)
    click.echo(f"{decision}: {matches[0]}")


def _pending(client: GatewayClient) -> list[dict[str, Any]]:
    return [_approval(row) for row in client.call("exec.approval.list")]


def _approval(row: dict[str, Any]) -> dict[str, Any]:
    """A command that waits, as this command line has always shown it."""
    request = row["request"]
    return {
        "id": row["id"],
        **{name: request[name] for name in ("agentId", "sessionKey", "runId", "command")},
        "directory": request["cwd"],
        "createdAt": row["createdAtMs"],
        "expiresAt": row["expiresAtMs"],
    }
