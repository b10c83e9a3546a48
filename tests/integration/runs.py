"""Asking runs of a real runtime and looking at what became of them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from app.errors import GatewayError
from app.events import TERMINAL, RunCompleted, RunEvent, RunFailed, RunStarted, TextDelta
from app.messages import AssistantMessage, Message, ToolMessage, UserMessage
from app.runs.run import Run, RunRequest
from app.runtime import Runtime
from tests.scripted_provider import ScriptedProvider

PATIENCE = 10.0

Start = Callable[..., Runtime]

numbers = itertools.count(1)


def request(*messages: Message | str, key: str = "chat", **fields: Any) -> RunRequest:
    turns = tuple(UserMessage.of(m) if isinstance(m, str) else m for m in messages)
    values = {"agent_id": "main", "ephemeral": False, "channel": "tests", "created_at": 1_000} | fields
    return RunRequest(run_id=f"r{next(numbers)}", session_key=key, messages=turns, **values)


def ask(runtime: Runtime, *messages: Message | str, **fields: Any) -> Run:
    return runtime.runs.start(request(*messages, **fields))


def read(run: Run) -> list[RunEvent]:
    """All events of a run after its start, of which the last and only the last is terminal."""
    events: list[RunEvent] = []
    deadline = time.monotonic() + PATIENCE
    while not (events and isinstance(events[-1], TERMINAL)):
        assert time.monotonic() < deadline, f"the run did not end: {events}"
        events += run.stream.get(0.5)
    assert sum(isinstance(event, TERMINAL) for event in events) == 1
    assert run.stream.get(0) == []
    return [event for event in events if not isinstance(event, RunStarted)]


def answer(run: Run) -> RunCompleted:
    end = read(run)[-1]
    assert isinstance(end, RunCompleted), end
    return end


def failure(run: Run) -> GatewayError:
    end = read(run)[-1]
    assert isinstance(end, RunFailed), end
    return end.error


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.005)


def shown(events: Sequence[RunEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def transcript(runtime: Runtime, key: str = "chat") -> list[tuple[str, str, str | None]]:
    """Role, text and stop of everything stored."""
    roles = {UserMessage: "user", AssistantMessage: "assistant", ToolMessage: "tool"}
    entries = runtime.store.load(key).history
    return [(roles[type(entry.message)], entry.message.text, entry.stop) for entry in entries]


def sent(model: ScriptedProvider, number: int = -1) -> list[tuple[str, Any]]:
    """Role and content of what the model was sent, without the system prompt."""
    messages = model.requests[number].body["messages"]
    return [(m["role"], m.get("content")) for m in messages if m["role"] != "system"]
