"""Sessions, models and agents as clients of the protocol see them. Absent is never null."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from ...agents.models import Candidate, resolve_candidate
from ...agents.registry import Agent
from ...errors import ConfigError
from ...messages import AssistantMessage, JsonValue, Message, ToolMessage, UserMessage
from ...providers.base import CallTimeouts
from ...runtime import Runtime
from ...sessions.keys import main_key
from ...sessions.records import Entry, Session

Json: TypeAlias = dict[str, JsonValue]

STORE_NAME = "gateway.sqlite3"  # stands where clients show the path of a session file
_TITLE = 60
_PREVIEW = 120


def present(values: Mapping[str, JsonValue]) -> Json:
    """``values`` without those that are None: clients drop frames that say null."""
    return {name: value for name, value in values.items() if value is not None}


def candidate_of(ref: str, runtime: Runtime) -> Candidate | None:
    """The model that ``provider/model`` stands for; None if its provider is unknown."""
    try:
        return resolve_candidate(ref, runtime.providers, CallTimeouts())
    except ConfigError:
        return None


def session_model(session: Session, runtime: Runtime) -> Candidate:
    """The model that answers next: the one chosen for the session, else its agent's."""
    chosen = session.settings.model
    return (candidate_of(chosen, runtime) if chosen else None) or _agent_of(session, runtime).candidates[0]


def model_names(candidate: Candidate) -> Json:
    """A model by its provider and its own name."""
    return {"modelProvider": candidate.provider.id, "model": candidate.model}


def session_row(session: Session, runtime: Runtime, now: int, live: Sequence[str] | None = None) -> Json:
    """A session as a row of a list.

    :param now: Unix milliseconds.
    :param live: the ids of its live runs; None looks for them.
    """
    candidate = session_model(session, runtime)
    active: list[JsonValue] = [*(runtime.runs.active([session.key])[session.key] if live is None else live)]
    return {
        "key": session.key,
        "agentId": session.agent_id,
        "kind": "direct",
        "chatType": "direct",
        "isMain": session.key == main_key(session.agent_id, runtime.agents.main_key),
        "createdAt": session.created_at,
        **session_entry(session),
        "systemSent": session.message_count > 0,
        "abortedLastRun": False,
        "inputTokens": session.input_tokens,
        "outputTokens": session.output_tokens,
        "totalTokens": session.context_tokens,
        "contextTokens": candidate.info.context_window,
        **model_names(candidate),
        "hasActiveRun": bool(active),
        "activeRunIds": active,
        "snapshotAt": now,
    }


def session_entry(session: Session) -> Json:
    """What is settled about a session."""
    settings = session.settings
    provider, _, model = (settings.model or "").partition("/")
    return present(
        {
            "sessionId": session.id,
            "updatedAt": session.updated_at,
            "label": settings.label,
            "displayName": settings.label,
            "thinkingLevel": settings.thinking,
            "verboseLevel": settings.verbose,
            "reasoningLevel": settings.reasoning,
            "responseUsage": settings.usage,
            "providerOverride": provider or None,
            "modelOverride": model or None,
            "spawnedBy": session.parent_key,
            "compactionCount": session.compactions,
        }
    )


def _agent_of(session: Session, runtime: Runtime) -> Agent:
    """The session's agent; the default one if it is no longer configured."""
    agents = runtime.agents
    return agents.get(session.agent_id if session.agent_id in agents else agents.default_id)


def titles(ends: Iterable[Entry], *, title: bool, preview: bool) -> Json:
    """How a conversation began, and what was said last, in a few words each.

    :param ends: its first and its last message.
    """
    texts = [" ".join(text.split()) for entry in ends if (text := said(entry.message))]
    if not texts:
        return {}
    return present(
        {
            "derivedTitle": cut(texts[0], _TITLE) if title else None,
            "lastMessagePreview": cut(texts[-1], _PREVIEW) if preview else None,
        }
    )


def said(message: Message) -> str:
    """The text of a message, or what stands for it if there is none."""
    match message:
        case UserMessage():
            return message.text or "[image]"
        case AssistantMessage(text, calls):
            return text or ", ".join(f"call {call.name}" for call in calls)
        case ToolMessage():
            return message.text


def role(message: Message) -> str:
    """Who a message is from, in the words of a preview."""
    match message:
        case UserMessage():
            return "user"
        case AssistantMessage():
            return "assistant"
        case ToolMessage():
            return "tool"


def cut(text: str, length: int) -> str:
    """``text``, or its beginning and an ellipsis if it is longer than ``length``."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def models(runtime: Runtime) -> Iterator[Candidate]:
    """The models that agents use, and those that the configuration names, each once."""
    stated = (
        f"{name}/{model.id}"
        for name, provider in runtime.config.models.providers.items()
        for model in provider.models
    )
    used = (candidate.ref for agent in runtime.agents for candidate in agent.candidates)
    for ref in dict.fromkeys((*used, *stated)):
        if candidate := candidate_of(ref, runtime):
            yield candidate
