"""``openclaw agent``: one turn of an agent, through the gateway or in this process."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import closing
from typing import Any

import click
from rich.console import Console

from ..agents.models import THINKING
from ..cancel import CancelReason
from ..config import load_config
from ..errors import GatewayError
from ..events import TERMINAL
from ..log import configure_logging
from ..runs.command import parse_agent_request, progress
from ..runtime import build_runtime, secrets_of
from .approvals import harmless, waiting
from .client import OwnGatewayDown, gateway_client, url_option
from .turn import Event, Events, session_key, turn


@click.command()
@click.option("-m", "--message", help="What to say to the agent.")
@click.option("--agent", "agent_id", help="The agent's id; the default agent otherwise.")
@click.option("--session-id", help="Continue or start the session with this id.")
@click.option("--session-key", help="Continue or start the session with this key.")
@click.option("--model", metavar="PROVIDER/MODEL", help="The model to use instead of the agent's.")
@click.option("--thinking", metavar="LEVEL", help=f"How hard the model should think: {', '.join(THINKING)}.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long the turn may take; 0 for no limit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--local", is_flag=True, help="Run the turn in this process, without a gateway.")
@url_option
def agent(
    message: str | None,
    agent_id: str | None,
    session_id: str | None,
    session_key: str | None,
    model: str | None,
    thinking: str | None,
    timeout: float | None,
    as_json: bool,
    local: bool,
    url: str | None,
) -> None:
    """Send one message to an agent and print its answer."""
    body = {
        "message": message,
        "agent": agent_id,
        "sessionId": session_id,
        "sessionKey": session_key,
        "model": model,
        "thinking": thinking,
        "timeout": timeout,
    }
    end = _Display(quiet=as_json).show(_turn(body, url, local=local))
    ok = end.get("status") == "ok"
    if as_json:
        print(json.dumps(end["result"] if local and ok else end, ensure_ascii=False))
    elif not ok:
        click.echo(f"openclaw: {_explained(end)}", err=True)
    if not ok:
        sys.exit(1)


def _turn(body: Event, url: str | None, *, local: bool) -> Events:
    """The turn's events; however it goes, the last one is its ``end``."""
    run_id = None
    try:
        for event in _events(body, url, local=local):
            run_id = event.get("runId", run_id)
            yield event
    except GatewayError as error:
        yield {
            "type": "end",
            "ok": False,
            "runId": run_id,
            "origin": "local" if local else "gateway",
            "status": "error",
            "summary": "failed",
            "error": {"type": "cli_error", "message": error.message},
        }


def _events(body: Event, url: str | None, *, local: bool) -> Events:
    if not (body["message"] or "").strip():
        raise GatewayError("Missing message. Use -m TEXT.")
    if body["sessionId"] and body["sessionKey"]:
        raise GatewayError("Use either --session-id or --session-key.")
    if local and url:
        raise GatewayError("Use either --local or --url.")
    yield from _in_process(body) if local else _anywhere(body, url)


def _anywhere(body: Event, url: str | None) -> Events:
    """Through the gateway; in this process only if it is this machine's and nobody can have been asked."""
    try:
        yield from turn(gateway_client(url), "agent", **_params(body))
    except OwnGatewayDown as down:
        click.echo(f"{down} Running the turn in this process.", err=True)
        for event in _in_process(body):
            if event["type"] == "end":
                event["result"]["meta"]["transport"] = "embedded"
            yield event


def _params(body: Event) -> dict[str, Any]:
    """What the gateway is asked for, in the words of its protocol."""
    if body["timeout"] is not None and not 0 <= body["timeout"] < math.inf:
        raise GatewayError("The timeout must be a positive number of seconds, or 0 for none.")
    same = {name: body[name] for name in ("message", "sessionId", "model", "thinking", "timeout")}
    return {**same, "agentId": body["agent"], "sessionKey": session_key(body["agent"], body["sessionKey"])}


def _in_process(body: Event) -> Events:
    config = load_config(None, os.environ, require_auth=False, platform_env=True)
    configure_logging(secrets_of(config, os.environ), "warn")
    with closing(build_runtime(config, os.environ)) as runtime:
        run = runtime.runs.start(parse_agent_request(body, runtime.agents))
        try:
            yield {"type": "start", "runId": run.id}
            while True:
                events = run.stream.get()
                yield from filter(None, (progress(event, run.id, runtime.store) for event in events))
                if events and isinstance(events[-1], TERMINAL):
                    return
        finally:
            run.cancel(CancelReason.USER)


def _explained(end: Event) -> str:
    """Why there is no answer, and which run to look for in the log."""
    run = f" (run {end['runId']})" if end.get("runId") else ""
    return f"{end['error']['message']}{run}"


class _Display:
    """Shows a turn on the terminal while it goes on."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._has_sign = not quiet and sys.stderr.isatty()
        self._sign = Console(stderr=True).status("waiting for the agent …")
        self._at_line_start = True

    def show(self, events: Events) -> Event:
        """Print text as it comes; returns the last event. Leaving early ends the turn."""
        with closing(events):
            try:
                self._wait()
                for event in events:
                    if event["type"] == "end":
                        return self._end(event)
                    self._progress(event)
            finally:
                self._sign.stop()
        raise AssertionError("a turn has an end")

    def _progress(self, event: Event) -> None:
        if event["type"] == "text":
            self._print(event["text"])
        elif event["type"] == "tool":
            self._sign.update(f"using {event['name']} …")
            self._wait()
        elif event["type"] == "approval":
            self._sign.stop()
            click.echo("" if self._at_line_start else "\n", nl=False, err=True)
            click.echo(f"{waiting(event)}\nopenclaw approvals allow|always|deny {event['id']}", err=True)

    def _wait(self) -> None:
        """Show the sign, unless it would wipe out the line that the answer is writing."""
        if self._has_sign and self._at_line_start:
            self._sign.start()

    def _print(self, text: str) -> None:
        if not self._quiet and text:
            self._sign.stop()
            click.echo(harmless(text) if sys.stdout.isatty() else text, nl=False)
            self._at_line_start = text.endswith("\n")

    def _end(self, event: Event) -> Event:
        if not self._at_line_start:
            self._print("\n")
        return {key: value for key, value in event.items() if key != "type"}
