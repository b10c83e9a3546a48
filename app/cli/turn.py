"""A turn of an agent at the gateway, as it is shown while it goes on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from ..agents.turn import SEPARATOR
from ..errors import GatewayError
from ..runs.command import answered, text_event
from ..sessions.keys import main_key, parse_explicit_key
from .client import Connection, GatewayClient, GatewayLost, check

Event = dict[str, Any]
Events = Generator[Event]

# Seconds to tell the gateway that a turn is to stop.
_FAREWELL = 5.0
_SHOWN = 300  # characters of a tool call's arguments, and of its result
_ENDS = ("final", "aborted", "error")


def turn(client: GatewayClient, method: str, **params: Any) -> Events:
    """The events of a turn, as ``runs.command.progress`` has them; the last one is its ``end``.

    Closing the generator stops the turn. If the connection is lost and the gateway comes back,
    the turn goes on where it is; one that the gateway's death has ended is not begun again.

    :param method: ``agent``, or ``chat.send``, which obeys commands.
    :raises GatewayDown: the connection was refused.
    :raises GatewayError: the gateway refused, or was lost for good.
    """
    turn = _Turn(method, params)
    with closing(client.connect()) as connection, suppress(GatewayLost):
        yield from turn.begin(connection)
        return
    try:
        with closing(client.reconnect()) as connection:
            yield from turn.resume(connection)
    except GatewayLost:
        raise GatewayLost(
            f"The connection to the gateway at {client.url} was lost; the turn was not repeated."
        ) from None


def session_key(agent: str | None, key: str | None) -> str | None:
    """The key to send for the flags ``--agent`` and ``--session-key``; None if there is no key.

    :raises GatewayError: the key cannot be used, or belongs to another agent.
    """
    if not key or not key.strip():
        return None
    agent = agent.lower() if agent else None
    named = parse_explicit_key(key, {part.lower() for part in key.strip().split(":")[1:2]})
    if agent and named.agent_id not in (None, agent):
        raise GatewayError(f"The session key belongs to agent {named.agent_id!r}.")
    return main_key(agent, named.key) if agent and named.agent_id is None else named.key


class _Turn:
    """One turn under an id of its own, perhaps over two connections."""

    def __init__(self, method: str, params: dict[str, Any]) -> None:
        self._id = f"run-{uuid.uuid4()}"
        self._method = method
        self._params = params
        self._said = ""  # of the answer
        self._follows = True  # all of the answer has come so far
        self._over = False

    def begin(self, connection: Connection) -> Events:
        """Ask for the turn and follow it to its end."""
        with self._stopping(connection):
            told = connection.call(self._method, **self._params, idempotencyKey=self._id)
            if "runIds" in told:  # it was asked to stop, and that was all
                yield from self._answered(_stopped(told["runIds"]))
                return
            yield {"type": "start", "runId": self._id}
            if note := told.get("note"):
                yield {"type": "note", "text": note}
            yield from self._follow(connection)

    def resume(self, connection: Connection) -> Events:
        """Go on with a turn whose connection was lost: it may be over, going on, or never have begun."""
        found = self._outcome(connection)
        if found["state"] == "unknown":
            yield from self.begin(connection)
            return
        self._follows = False
        if found["state"] == "ended":
            yield from self._end(found)
            return
        with self._stopping(connection):
            yield from self._follow(connection)

    def _outcome(self, connection: Connection) -> dict[str, Any]:
        found: dict[str, Any] = connection.call("openclaw.outcome", runId=self._id)
        return found

    def _follow(self, connection: Connection) -> Events:
        for frame in connection.frames():
            match frame:
                case {"type": "res"}:
                    # The second answer to `agent`, which comes after the event that ends the run: unless
                    # the run could not be started after all.
                    check(frame)
                case {"event": "chat", "payload": {"runId": self._id, "state": state} as payload}:
                    if state in _ENDS:
                        yield from self._last(connection, payload)
                        return
                case {"event": "agent", "payload": {"runId": self._id, "stream": stream, "data": data}}:
                    yield from self._progress(stream, data)
                case {"event": "exec.approval.requested", "payload": {"request": request} as payload}:
                    if request.get("runId") == self._id:
                        yield _approval(payload, request)
                case {"event": "exec.approval.resolved", "payload": {"request": request} as payload}:
                    if request.get("runId") == self._id:
                        yield {"type": "decision", "id": payload["id"], "decision": payload["decision"]}

    def _progress(self, stream: str, data: dict[str, Any]) -> Iterator[Event]:
        if stream == "assistant" and self._follows:
            begins = data["text"] == data["delta"]
            yield self._say(SEPARATOR + data["delta"] if begins and self._said else data["delta"])
        elif stream == "tool":
            yield from _tool(data)

    def _last(self, connection: Connection, payload: dict[str, Any]) -> Iterator[Event]:
        found = self._outcome(connection)
        if found["state"] == "ended":
            yield from self._end(found)
        else:  # a command, for which there was no run
            yield from self._answered(_text(payload["message"]))

    def _end(self, found: dict[str, Any]) -> Iterator[Event]:
        report = found["report"]
        if report["status"] == "ok" and (rest := self._unsaid(report)):
            yield text_event(rest)
        if note := found.get("note"):
            yield {"type": "note", "text": note}
        self._over = True
        yield {"type": "end", **report}

    def _answered(self, text: str) -> Iterator[Event]:
        yield text_event(text)
        self._over = True
        yield answered(text)

    def _say(self, text: str) -> Event:
        self._said += text
        return text_event(text)

    def _unsaid(self, report: dict[str, Any]) -> str:
        """What is missing of the answer; all of it on a new line if it is not as it was told."""
        whole = "".join(part["text"] for part in report["result"]["payloads"])
        return whole.removeprefix(self._said) if whole.startswith(self._said) else f"\n{whole}"

    @contextmanager
    def _stopping(self, connection: Connection) -> Iterator[None]:
        """Stop the turn if nobody listens any more."""
        try:
            yield
        except GatewayError:
            raise
        except BaseException:
            if not self._over:
                with suppress(GatewayError):
                    connection.call("sessions.abort", patience=_FAREWELL, runId=self._id)
            raise


def _tool(data: dict[str, Any]) -> Iterator[Event]:
    match data:
        case {"phase": "start", "toolCallId": call_id, "name": name, "args": arguments}:
            shown = json.dumps(arguments, ensure_ascii=False)[:_SHOWN]
            yield {"type": "tool", "id": call_id, "name": name, "arguments": shown}
        case {"phase": "result", "toolCallId": call_id, "name": name, "isError": failed, "result": result}:
            shown = _text(result)[:_SHOWN]
            yield {"type": "result", "id": call_id, "name": name, "ok": not failed, "text": shown}


def _approval(payload: dict[str, Any], request: dict[str, Any]) -> Event:
    waiting = {"id": payload["id"], "command": request["command"], "directory": request["cwd"]}
    return {"type": "approval", **waiting, "expiresAt": payload["expiresAtMs"]}


def _text(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["content"])


def _stopped(run_ids: list[str]) -> str:
    number = len(run_ids)
    return f"Stopped {number} run{'s' * (number > 1)}." if number else "Nothing is running."
