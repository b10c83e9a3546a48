"""A run's events as ``agent`` and ``chat`` payloads. Pure: what time it is, is an argument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ...agents.turn import SEPARATOR
from ...cancel import CancelReason
from ...errors import RunTimeout
from ...events import (
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TerminalEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    ToolUpdated,
)
from ...messages import JsonValue
from .history import arguments
from .views import Json, present

DELTA_MILLISECONDS = 150  # at least so long between two deltas of a chat
_SHOWN = 16_000  # characters of a tool's result
_STOPPED_BY = {
    CancelReason.USER: "rpc",
    CancelReason.DISCONNECT: "disconnect",
    CancelReason.TIMEOUT: "timeout",
    CancelReason.SHUTDOWN: "shutdown",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """An event to be sent.

    :ivar about_tools: only for those who want to see what tools do.
    :ivar droppable: may be left out for a client that is slow.
    """

    name: Literal["agent", "chat"]
    payload: Json
    about_tools: bool = False
    droppable: bool = False


class Narrator:
    """Tells one run: ``agent`` events with numbers of their own, and ``chat`` events with the text so far.

    Any number of ``chat`` deltas come, at most one in 150 ms, and then, last of all, exactly one
    of ``final``, ``aborted`` and ``error``.
    """

    def __init__(self, run_id: str, session_key: str, agent_id: str) -> None:
        self._common: Json = {"runId": run_id, "sessionKey": session_key, "agentId": agent_id}
        self._seq = 0
        self._pieces: list[str] = []
        self._length = 0
        self._message_at = 0  # where in the text the message begins that the model is writing
        self._told = 0  # how much of the text the last delta had
        self._told_at = -DELTA_MILLISECONDS
        self._started_at: int | None = None

    @property
    def text(self) -> str:
        """All that was said so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def behind(self) -> bool:
        """True while something was said that no delta has told yet."""
        return self._told < self._length

    def catch_up(self, now: int) -> Iterator[Frame]:
        """The delta that was held back, once it is time for it."""
        if self.behind:
            yield self._delta(now)

    def hear(self, event: RunEvent) -> None:
        """Take in the run's next event without a word: nobody is listening."""
        match event:
            case RunStarted(at):
                self._started_at = at
            case TextDelta(text):
                self._pieces.append(text)
                between = text == SEPARATOR and self._message_at == self._length
                self._length += len(text)
                if between:  # two messages, and part of neither
                    self._message_at = self._length
            case ToolStarted():
                self._message_at = self._length
            case RunCompleted() | RunFailed() | RunCancelled():
                self._told = self._length  # by the end itself

    def tell(self, event: RunEvent, now: int) -> Iterator[Frame]:
        """The frames for the run's next event, in the order to be sent.

        :param now: Unix milliseconds.
        """
        self.hear(event)
        match event:
            case RunStarted(at):
                yield self._agent("lifecycle", {"phase": "start", "startedAt": at}, now)
            case TextDelta(text):
                yield from self._say(text, now)
            case ToolStarted(call_id, name, text):
                yield from self.catch_up(now)  # a terminal shows the call below what was said before
                yield self._tool("start", call_id, name, {"args": arguments(text)}, now)
            case ToolUpdated(call_id, name, text):
                yield self._tool("update", call_id, name, {"partialResult": _content(text)}, now)
            case ToolFinished(call_id, name, is_error, text):
                result: Json = {"isError": is_error, "result": _content(text)}
                yield self._tool("result", call_id, name, result, now)
            case RunCompleted() | RunFailed() | RunCancelled():
                yield from self._end(event, now)

    def _say(self, text: str, now: int) -> Iterator[Frame]:
        if said := self.text[self._message_at :]:
            yield self._agent("assistant", {"text": said, "delta": text}, now)
            if now - self._told_at >= DELTA_MILLISECONDS:
                yield self._delta(now)

    def _delta(self, now: int) -> Frame:
        text = self.text
        news, self._told, self._told_at = text[self._told :], len(text), now
        fields: Json = {"message": message(text, now), "deltaText": news}
        return self._chat("delta", fields, droppable=True)

    def _end(self, event: TerminalEvent, now: int) -> Iterator[Frame]:
        if self._started_at is not None:
            yield self._agent("lifecycle", self._last_phase(event, self._started_at, now), now)
        if isinstance(event, RunCompleted):
            shown = message(event.text, now, event.finish_reason)
            yield self._chat("final", {"message": shown, "stopReason": event.finish_reason})
        elif why := stopped_by(event):
            said = message(self.text, now) if self._pieces else None
            yield self._chat("aborted", present({"stopReason": why, "message": said}))
        elif isinstance(event, RunFailed):
            yield self._chat("error", {"errorMessage": event.error.message})

    def _last_phase(self, event: TerminalEvent, started_at: int, now: int) -> Json:
        phase: Json = {"phase": "end", "startedAt": started_at, "endedAt": now}
        if isinstance(event, RunFailed):
            return phase | {"phase": "error", "error": event.error.message}
        if isinstance(event, RunCancelled):
            return phase | {"aborted": True, "status": "cancelled"}
        return phase

    def _tool(self, phase: str, call_id: str, name: str, fields: Json, now: int) -> Frame:
        data: Json = {"phase": phase, "name": name, "toolCallId": call_id}
        return self._agent("tool", data | fields, now, about_tools=True)

    def _agent(self, stream: str, data: Json, now: int, *, about_tools: bool = False) -> Frame:
        self._seq += 1
        payload = self._common | {"stream": stream, "data": data, "seq": self._seq, "ts": now}
        return Frame("agent", payload, about_tools=about_tools)

    def _chat(self, state: str, fields: Json, *, droppable: bool = False) -> Frame:
        payload = self._common | {"seq": self._seq, "state": state}
        return Frame("chat", payload | fields, droppable=droppable)


def stopped_by(ending: TerminalEvent) -> str | None:
    """What stopped a run before its end; None if it came to an end, good or bad."""
    match ending:
        case RunCancelled(reason):
            return _STOPPED_BY[reason]
        case RunFailed(error) if error.code == RunTimeout.code:
            return "timeout"
    return None


def final(run_id: str, session_key: str, agent_id: str, text: str, now: int) -> Json:
    """The payload of a ``chat`` event that no run has led to."""
    common: Json = {"runId": run_id, "sessionKey": session_key, "agentId": agent_id}
    return common | {"seq": 0, "state": "final", "message": message(text, now, "stop")}


def message(text: str, now: int, stop_reason: str | None = None) -> Json:
    """What the agent has said, as ``chat`` events show it."""
    shown: Json = {"role": "assistant", "content": [{"type": "text", "text": text}], "timestamp": now}
    return shown | ({"stopReason": stop_reason} if stop_reason else {})


def _content(text: str) -> JsonValue:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return {"content": [{"type": "text", "text": shown}]}
