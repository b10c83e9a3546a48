"""``openclaw chat``: a conversation with an agent in the terminal, through a running gateway."""

from __future__ import annotations

import sys
import termios
from contextlib import closing, suppress
from typing import Any

import click

from ..errors import GatewayError
from ..sessions.keys import main_key
from .approvals import harmless, printable, waiting
from .client import GatewayClient, GatewayDown, gateway_client, url_option
from .turn import session_key, turn

_ANSWERS = {"y": "allow-once", "yes": "allow-once", "n": "deny", "no": "deny", "always": "allow-always"}
_WIDTH = 100  # characters of the line about a tool call


@click.command()
@click.option("--agent", "agent_id", help="The agent's id; the default agent otherwise.")
@click.option("--session-key", "key", help="Continue or start the session with this key.")
@url_option
def chat(agent_id: str | None, key: str | None, url: str | None) -> None:
    """Talk to an agent. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves."""
    client = gateway_client(url)
    client.connect().close()  # fails now rather than at the first message
    talk = _Talk(client, agent_id, key)
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() a history, and costs others nothing
    while (line := _next_line()) is not None:
        if line.strip():
            talk.say(line)


def _next_line() -> str | None:
    """What is typed next; None at the end of the input."""
    while True:
        try:
            return _input("> ")
        except EOFError:
            return None
        except KeyboardInterrupt:
            click.echo("\nCtrl-D leaves.", err=True)


def _input(prompt: str) -> str:
    """A line of input; a prompt is for people only."""
    return input(prompt if sys.stdin.isatty() else "")


class _Talk:
    """Says one thing after the other and shows what comes of it."""

    def __init__(self, client: GatewayClient, agent_id: str | None, key: str | None) -> None:
        self._client = client
        self._agent_id = agent_id
        self._key = key
        self._at_line_start = True

    def say(self, message: str) -> None:
        """Send a message and show its answer to the end; Ctrl-C ends it sooner.

        :raises GatewayDown: nobody can hear.
        """
        try:
            key = session_key(self._agent_id, self._key) or _main(self._agent_id)
            with closing(turn(self._client, "chat.send", message=message, sessionKey=key)) as events:
                for event in events:
                    self._show(event)
        except KeyboardInterrupt:
            self._note("(stopped)")
        except GatewayDown:
            raise
        except GatewayError as error:
            self._complain(str(error))

    def _show(self, event: dict[str, Any]) -> None:
        match event:
            case {"type": "text", "text": text}:
                self._write(harmless(text))
            case {"type": "tool", "name": name, "arguments": arguments}:
                self._note(_line(f"· {name} {arguments}"))
            case {"type": "result", "ok": False, "name": name, "text": text}:
                self._note(_line(f"  {name} failed: {text}"))
            case {"type": "approval"}:
                self._ask(event)
            case {"type": "decision", "decision": "expired"}:
                self._note("  nobody answered in time")
            case {"type": "note", "text": text}:
                self._note(text)
            case {"type": "end", "status": "ok"}:
                self._end_line()
            case {"type": "end", "error": error}:
                self._complain(error["message"])

    def _ask(self, approval: dict[str, Any]) -> None:
        """Put the question and pass the answer on; it may come too late."""
        self._end_line()
        click.echo(waiting(approval))
        _forget_what_was_typed()
        decision = _decision()
        try:
            self._client.call("exec.approval.resolve", id=approval["id"], decision=decision)
        except GatewayError as error:
            self._complain(str(error))

    def _write(self, text: str) -> None:
        if text:
            self._at_line_start = text.endswith("\n")  # first: Ctrl-C may come in between
            click.echo(text, nl=False)

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._write("\n")

    def _note(self, text: str) -> None:
        self._end_line()
        click.secho(text, dim=True)

    def _complain(self, text: str) -> None:
        self._end_line()
        click.echo(f"openclaw: {text}", err=True)


def _main(agent_id: str | None) -> str:
    """The key of the main session of an agent, or of the default one."""
    return main_key(agent_id) if agent_id else "main"


def _forget_what_was_typed() -> None:
    """A line that was written before there was a question is no answer to it."""
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def _decision() -> str:
    """The person's answer; the end of the input is a no."""
    while True:
        try:
            answer = _input("Allow it? [y]es, [n]o, always: ").strip().lower()
        except EOFError:
            return "deny"
        if answer in _ANSWERS:
            return _ANSWERS[answer]


def _line(text: str) -> str:
    return printable(text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…")
