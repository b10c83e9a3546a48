"""What tests of agents that use tools have in common."""

from __future__ import annotations

import uuid
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.http_client import send
from tests.scripted_provider import Received, Reply, call


def asking(*calls: tuple[str, Any], text: str = "") -> Reply:
    """One message of the model that asks for these calls (name, arguments)."""
    made = [call(name, arguments, f"call_{uuid.uuid4().hex[:8]}") for name, arguments in calls]
    return Reply(text, tool_calls=made)


def results(received: Received) -> list[str]:
    """The tool results at the end of a model call, in the order of the calls they belong to."""
    messages = received.body["messages"]
    last = max(number for number, message in enumerate(messages) if message.get("tool_calls"))
    asked = [one["id"] for one in messages[last]["tool_calls"]]
    answers = [message for message in messages[last + 1 :] if message["role"] == "tool"]
    assert [answer["tool_call_id"] for answer in answers] == asked
    return [answer["content"] for answer in answers]


def tool_names(received: Received) -> set[str]:
    """The tools that a model call offers."""
    return {tool["function"]["name"] for tool in received.body.get("tools", ())}


def system_prompt(received: Received) -> str:
    text: str = received.body["messages"][0]["content"]
    assert received.body["messages"][0]["role"] == "system"
    return text


def user_texts(received: Received) -> str:
    """Everything that was said to the model in the role of the user."""
    return "\n".join(str(m["content"]) for m in received.body["messages"] if m["role"] == "user")


def user_session(name: str, agent: str = "main") -> str:
    """The key of the session of an HTTP request with this ``user``."""
    return f"agent:{agent}:openai-user:{name}"


def transcript(gateway: GatewayProcess, key: str) -> list[Any]:
    """All messages of a session, as the operator's channel shows them."""
    answer = send(gateway, method="GET", path=f"/api/sessions/{quote(key)}")
    assert answer.status == 200, answer
    return [row["message"] for row in answer.json["transcript"]]


def new_mark() -> str:
    """A text that no other process has in its environment."""
    return f"mark-{uuid.uuid4().hex}"


def marked(mark: str) -> list[int]:
    """All processes of this machine with ``mark`` in their environment or command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if mark.encode() in (path / "environ").read_bytes() + (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def descendants(pid: int) -> set[int]:
    """The living children of a process, and theirs."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, *_ = (path / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(path.name)] = int(parent)
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {pid}


def endings(gateway: GatewayProcess, key: str) -> list[str]:
    """How the runs of a session ended, newest first."""
    with closing(gateway.store()) as store:
        return [run.status for run in store.list_runs(key, 20)]
