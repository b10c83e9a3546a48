"""A model API that decides by what it is asked, and what a prompt has to look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from app.agents.compaction import INSTRUCTIONS
from tests.scripted_provider import Received, ScriptedProvider, ScriptedReply

Choose: TypeAlias = Callable[[Received], ScriptedReply | None]


class ModelApi(ScriptedProvider):
    """A scripted provider that asks ``choose`` first; where that returns None, the script holds."""

    def __init__(self, choose: Choose, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._choose = choose

    def begin(self, received: Received) -> ScriptedReply:
        usual = super().begin(received)
        return self._choose(received) or usual


def is_summary(received: Received) -> bool:
    """True for a request for the summary of a conversation."""
    return bool(received.body["messages"][0]["content"] == INSTRUCTIONS)


def prompt_tokens(received: Received) -> int:
    """What a simple tokenizer makes of a prompt: four characters are a token."""
    prompt = [received.body["messages"], received.body.get("tools", [])]
    return len(json.dumps(prompt, ensure_ascii=False)) // 4


def spoken(received: Received) -> list[tuple[str, Any]]:
    """Roles and contents of a model call, without the system prompt."""
    return [(m["role"], m["content"]) for m in received.body["messages"] if m["role"] != "system"]


def check_pairing(received: Received) -> None:
    """Fail the test unless every vendor would take the tool calls of this prompt.

    Each call has exactly one result, directly after the message that made it and in the order of
    its calls; no result is without a call.
    """
    waiting: list[str] = []
    for message in received.body["messages"]:
        if message["role"] == "tool":
            assert waiting, f"a result without a call: {message}"
            assert message["tool_call_id"] == waiting.pop(0)
            continue
        assert not waiting, f"calls without results: {waiting}"
        waiting = [call["id"] for call in message.get("tool_calls", ())]
    assert not waiting, f"calls without results: {waiting}"
