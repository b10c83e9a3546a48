"""A run's events as ``agent`` and ``chat`` payloads. Pure: what time it is, is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from ...messages import JsonValue, ToolCall
from ...text import GrowingText
from .history import arguments, called, stop_reason
from .views import Json, present

DELTA_MILLISECONDS = 150  # at least so long between two deltas of a chat
# Every event repeats the whole text. So after a long one it takes the longer until the next: no
# listener gets more of an answer than so many characters in a millisecond, however fast it is written.
_CHARACTERS = 64
_SHOWN = 16_000  # characters of a tool's result
_STOPPED_BY = {
    CancelReason.USER: "rpc",
    CancelReason.DISCONNECT: "disconnect",
    CancelReason.TIMEOUT: "timeout",
    CancelReason.SHUTDOWN: "shutdown",
    CancelReason.LOST: "lost",
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
    of ``final``, ``aborted`` and ``error``. Each tells what is new since the one before it, and so do
    the ``agent`` events of what is said.
    """

    def __init__(self, run_id: str, session_key: str, agent_id: str) -> None:
        self._common: Json = {"runId": run_id, "sessionKey": session_key, "agentId": agent_id}
        self._seq = 0
        self._text = GrowingText()
        self._message_at = 0  # where in the text the message begins that the model is writing
        self._told = 0  # how much of the text the last delta had
        self._told_at = -DELTA_MILLISECONDS
        self._streamed = 0  # how much of it the last ``agent`` event had
        self._streamed_at = 0
        self._started_at: int | None = None

    @property
    def text(self) -> str:
        """All that was said so far."""
        return str(self._text)

    @property
    def _length(self) -> int:
        return len(self._text)

    @property
    def behind(self) -> bool:
        """True while something was said that is held back."""
        return self._told < self._length or self._streamed < self._length

    def catch_up(self, now: int) -> Iterator[Frame]:
        """What was held back, as far as it is time for it."""
        if self._streamed < self._length and self._may_stream(now):
            yield self._piece(now)
        if self._told < self._length and self._may_tell(now):
            yield self._delta(now)

    def hear(self, event: RunEvent) -> None:
        """Take in the run's next event without a word: nobody is listening."""
        self._take(event)
        self._streamed = len(self._text)

    def tell(self, event: RunEvent, now: int) -> Iterator[Frame]:
        """The frames for the run's next event, in the order to be sent.

        :param now: Unix milliseconds.
        """
        match event:
            case TextDelta():
                self._take(event)
                yield from self._say(now)
                return
            case ToolStarted():  # a terminal shows the call below what was said before
                yield from self._say_all(now)
            case RunCompleted() | RunFailed() | RunCancelled() if self._streamed < self._length:
                yield self._piece(now)
        self._take(event)
        match event:
            case RunStarted(at):
                yield self._agent("lifecycle", {"phase": "start", "startedAt": at}, now)
            case ToolStarted(call_id, name, text):
                yield self._tool("start", call_id, name, {"args": arguments(text)}, now)
            case ToolUpdated(call_id, name, text):
                yield self._tool("update", call_id, name, {"partialResult": _content(text)}, now)
            case ToolFinished(call_id, name, is_error, text):
                result: Json = {"isError": is_error, "result": _content(text)}
                yield self._tool("result", call_id, name, result, now)
            case RunCompleted() | RunFailed() | RunCancelled():
                yield from self._end(event, now)

    def _take(self, event: RunEvent) -> None:
        if isinstance(event, TextDelta):  # first: nothing else is so frequent
            between = event.text == SEPARATOR and self._message_at == self._length
            self._text.add(event.text)
            if between:  # two messages, and part of neither
                self._message_at = self._streamed = self._length
            return
        match event:
            case RunStarted(at):
                self._started_at = at
            case ToolStarted():
                self._message_at = self._streamed = self._length
            case RunCompleted() | RunFailed() | RunCancelled():
                self._told = self._streamed = self._length  # by the end itself

    def _say(self, now: int) -> Iterator[Frame]:
        """What may be told of a message that the model goes on writing."""
        if self._message_at < self._length:
            yield from self.catch_up(now)

    def _say_all(self, now: int) -> Iterator[Frame]:
        if self._streamed < self._length:
            yield self._piece(now)
        if self._told < self._length:
            yield self._delta(now)

    def _may_stream(self, now: int) -> bool:
        return now - self._streamed_at >= (self._streamed - self._message_at) // _CHARACTERS

    def _may_tell(self, now: int) -> bool:
        return now - self._told_at >= max(DELTA_MILLISECONDS, self._told // _CHARACTERS)

    def _piece(self, now: int) -> Frame:
        text = self.text
        news, self._streamed, self._streamed_at = text[self._streamed :], len(text), now
        return self._agent("assistant", {"text": text[self._message_at :], "delta": news}, now)

    def _delta(self, now: int) -> Frame:
        text = self.text
        news, self._told, self._told_at = text[self._told :], len(text), now
        fields: Json = {"message": message(text, now), "deltaText": news}
        return self._chat("delta", fields, droppable=True)

    def _end(self, event: TerminalEvent, now: int) -> Iterator[Frame]:
        if self._started_at is not None:
            yield self._agent("lifecycle", self._last_phase(event, self._started_at, now), now)
        if isinstance(event, RunCompleted):
            reason = stop_reason(event.finish_reason)
            shown = message(event.text, now, reason, event.tool_calls)
            yield self._chat("final", {"message": shown, "stopReason": reason})
        elif why := stopped_by(event):
            said = message(self.text, now) if self._length else None
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


def message(text: str, now: int, why: str | None = None, calls: Sequence[ToolCall] = ()) -> Json:
    """What the agent has said, as ``chat`` events show it.

    :param why: it ended. :param calls: what the client of another channel is to do.
    """
    content: list[JsonValue] = [{"type": "text", "text": text}, *map(called, calls)]
    shown: Json = {"role": "assistant", "content": content, "timestamp": now}
    return shown | ({"stopReason": why} if why else {})


def _content(text: str) -> JsonValue:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return {"content": [{"type": "text", "text": shown}]}
