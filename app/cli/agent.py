"""``openclaw agent``: one turn of an agent, through the gateway or in this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

import click
from rich.console import Console

from ..cancel import CancelReason
from ..config import Config, load_config
from ..errors import GatewayError
from ..events import TERMINAL
from ..runs.command import THINKING, parse_agent_request, progress
from ..runtime import build_runtime
from .client import GatewayClient, GatewayDown

Events = Iterator[dict[str, Any]]


@click.command()
@click.option("-m", "--message", help="What to say to the agent.")
@click.option("--agent", "agent_id", help="The agent's id; the default agent otherwise.")
@click.option("--session-id", help="Continue or start the session with this id.")
@click.option("--session-key", help="Continue or start the session with this key.")
@click.option("--thinking", type=click.Choice(THINKING), help="How hard the model should think.")
@click.option("--timeout", type=float, help="Seconds the turn may take.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--local", is_flag=True, help="Run the turn in this process, without a gateway.")
def agent(
    message: str | None,
    agent_id: str | None,
    session_id: str | None,
    session_key: str | None,
    thinking: str | None,
    timeout: float | None,
    as_json: bool,
    local: bool,
) -> None:
    """Send one message to an agent and print its answer."""
    if not message or not message.strip():
        raise GatewayError("Missing message. Use -m TEXT.")
    if session_id and session_key:
        raise GatewayError("Use either --session-id or --session-key.")
    body = {
        "message": message,
        "agent": agent_id,
        "sessionId": session_id,
        "sessionKey": session_key,
        "thinking": thinking,
        "timeout": timeout,
    }
    config = load_config(None, os.environ, require_auth=False)
    end = _Printer(quiet=as_json).show(_local(config, body) if local else _anywhere(config, body))
    ok = end.get("status") == "ok"
    if as_json:
        print(json.dumps(end["result"] if local and ok else end, ensure_ascii=False))
    elif not ok:
        raise GatewayError(end["error"]["message"])
    if not ok:
        sys.exit(1)


def _anywhere(config: Config, body: dict[str, Any]) -> Events:
    """Through the gateway; in this process only if nobody can have taken the request."""
    try:
        yield from GatewayClient(config).agent(body)
    except GatewayDown as down:
        click.echo(f"{down} Running the turn in this process.", err=True)
        for event in _local(config, body):
            if event["type"] == "end":
                event["result"]["meta"]["transport"] = "embedded"
            yield event


def _local(config: Config, body: dict[str, Any]) -> Generator[dict[str, Any]]:
    runtime = build_runtime(config, os.environ)
    try:
        run = runtime.runs.start(parse_agent_request(body, runtime.agents))
        try:
            while True:
                events = run.stream.get(1.0)
                yield from filter(None, (progress(event, run.id, runtime.store) for event in events))
                if events and isinstance(events[-1], TERMINAL):
                    return
        finally:
            run.cancel(CancelReason.USER)
    finally:
        runtime.close()


class _Printer:
    """Shows a turn on the terminal while it goes on."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._status = Console(stderr=True).status("waiting for the agent …")

    def show(self, events: Events) -> dict[str, Any]:
        """Print text as it comes; returns the last event."""
        end: dict[str, Any] = {}
        waiting = not self._quiet and sys.stderr.isatty()
        if waiting:
            self._status.start()
        try:
            for event in events:
                end = self._event(event) or end
        finally:
            self._status.stop()
            if isinstance(events, Generator):
                events.close()
        if not end:
            raise GatewayError("The gateway ended the turn without a result; it was not repeated.")
        return end

    def _event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        kind = event.pop("type", None)
        if kind == "text" and not self._quiet:
            self._status.stop()
            click.echo(event["text"], nl=False)
            sys.stdout.flush()
        if kind == "tool" and not self._quiet:
            self._status.update(f"using {event['name']} …")
        if kind == "end":
            if not self._quiet and event.get("status") == "ok":
                click.echo()
            return event
        return None
