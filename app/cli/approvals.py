"""``openclaw approvals``: commands of agents that wait for an operator's word."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import click

from ..config import load_config
from ..errors import GatewayError
from .client import GatewayClient


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def approvals(context: click.Context, as_json: bool) -> None:
    """List the commands that wait, or answer one by its ID or the beginning of it."""
    if context.invoked_subcommand is not None:
        return
    pending = _pending(_client())
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
def allow(approval_id: str) -> None:
    """Let the command run, this once."""
    _answer(approval_id, "allow-once")


@approvals.command()
@click.argument("approval_id", metavar="ID")
def always(approval_id: str) -> None:
    """Let the command run, and its programs from now on."""
    _answer(approval_id, "allow-always")


@approvals.command()
@click.argument("approval_id", metavar="ID")
def deny(approval_id: str) -> None:
    """Refuse the command."""
    _answer(approval_id, "deny")


def waiting(approval: dict[str, Any]) -> str:
    """What waits, for a terminal. Nothing in it can move the cursor or hide a part of the command."""
    directory, command = printable(approval["directory"]), printable(approval["command"])
    return f"An agent wants to run, in {directory}:\n  {command}"


def printable(text: str) -> str:
    """``text`` in one line, everything that is not seen written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _answer(beginning: str, decision: str) -> None:
    client = _client()
    matches = [approval["id"] for approval in _pending(client) if approval["id"].startswith(beginning)]
    if len(matches) != 1:
        found = "More than one command waits" if matches else "No command waits"
        raise GatewayError(f"{found} under {beginning!r}.")
    if not client.call("POST", "/approvals", matches[0], body={"decision": decision})["resolved"]:
        raise GatewayError("Somebody else has just answered.")
    click.echo(f"{decision}: {matches[0]}")


def _pending(client: GatewayClient) -> list[dict[str, Any]]:
    pending: list[dict[str, Any]] = client.call("GET", "/approvals")["approvals"]
    return pending


def _client() -> GatewayClient:
    return GatewayClient(load_config(None, os.environ, require_auth=False))
