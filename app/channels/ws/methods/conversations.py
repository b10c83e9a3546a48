"""Sessions: settled, stopped, begun anew, compacted, deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ....agents.models import THINKING
from ....cancel import CancelReason
from ....events import TERMINAL, RunCompleted, RunFailed, TerminalEvent
from ....messages import JsonValue
from ....runs.run import Run, RunRequest
from ....runtime import Runtime
from ....sessions.keys import main_key
from ....sessions.records import Session, SessionSettings
from ....wire import dumps
from ..audiences import SESSIONS
from ..context import Channel
from ..protocol import Call, Method, Methods, Refusal, text
from ..views import (
    STORE_NAME,
    Json,
    candidate_of,
    model_names,
    models,
    present,
    session_entry,
    session_model,
    session_row,
)
from .directory import Directory

_CHANNEL = "chat"  # what compactions are recorded under, as the chat command of that name

_SEARCHED = 1_000
_LONGEST_LABEL = 200
# Parameter of a patch -> setting, and what it may be.
_CHOICES: Mapping[str, tuple[str, Sequence[str]]] = MappingProxyType(
    {
        "thinkingLevel": ("thinking", THINKING),
        "verboseLevel": ("verbose", ("off", "on", "full")),
        "reasoningLevel": ("reasoning", ("off", "on", "stream")),
        "responseUsage": ("usage", ("off", "tokens", "full")),
    }
)


def methods(context: Channel) -> Methods:
    """Everything that changes sessions but what is said in them."""
    change = _Change(context, context.runtime, Directory(context.runtime.agents, context.runtime.store))
    return {
        "sessions.create": Method("operator.write", change.create),
        "sessions.patch": Method("operator.write", change.patch),
        "sessions.abort": Method("operator.write", change.abort),
        "sessions.delete": Method("operator.write", change.delete),
        "sessions.reset": Method("operator.admin", change.reset),
        "sessions.compact": Method("operator.admin", change.compact, waits=True),
    }


@dataclass(frozen=True)
class _Change:
    context: Channel
    runtime: Runtime
    directory: Directory

    def create(self, call: Call) -> Json:
        """Begin a session in which nothing is said yet; one that is there stays as it is."""
        key = self.directory.named_maybe(call) or self._fresh(call)
        owner = self.directory.owner(key)
        if self.directory.agent_id(call) not in (None, owner):
            raise Refusal(f'invalid sessions.create params: key belongs to agent "{owner}"')
        changed = self._changes(call, key)
        self.runtime.store.create(key, self.context.new_id(), owner, self.context.clock())
        session = self._settle(key, changed) if changed else self.directory.existing(key)
        self._announce(session, "create")
        return {
            "ok": True,
            "key": key,
            "sessionId": session.id,
            "entry": session_entry(session),
            "runStarted": False,
        }

    def patch(self, call: Call) -> Json:
        """Settle what a person has chosen for a session; null leaves it to the agent again."""
        key = self.directory.named(call)
        session = self._settle(key, self._changes(call, key))
        self._announce(session, "patch")
        return {
            "ok": True,
            "path": STORE_NAME,
            "key": key,
            "entry": session_entry(session),
            "resolved": model_names(session_model(session, self.runtime)),
        }

    def abort(self, call: Call) -> Json:
        """Stop a session's runs, or one of them."""
        run_id = text(call.params, "runId", call.method)
        if run_id is None:
            stopped: Sequence[str] = self.runtime.chat.stop(self.directory.named(call))
        else:
            stopped = self._stop_one(run_id, self.directory.named_maybe(call))
        ids: list[JsonValue] = [*stopped]
        return {
            "ok": True,
            "aborted": bool(stopped),
            "runIds": ids,
            "abortedRunId": stopped[0] if stopped else None,
            "status": "aborted" if stopped else "no-active-run",
        }

    def delete(self, call: Call) -> Json:
        """Delete a session, or with ``deleteTranscript: false`` put it away.

        An agent's main session only with ``evenMain: true``.
        """
        key = self.directory.named(call)
        main = main_key(self.directory.owner(key), self.runtime.agents.main_key)
        if key == main and call.params.get("evenMain") is not True:
            raise Refusal(f"Cannot delete the main session ({key}).")
        self.runtime.chat.stop(key)
        session = self.runtime.store.session(key)
        if call.params.get("deleteTranscript") is False:
            deleted = self.runtime.store.archive(key, self.context.clock())
        else:
            deleted = self.runtime.store.delete_session(key)
        if session is not None and deleted:
            self._announce(session, "delete", gone=True)
        return {"ok": True, "key": key, "deleted": deleted, "archived": []}

    def reset(self, call: Call) -> Json:
        """Begin a conversation anew under the same key; what was settled about it stays."""
        key, store, now = self.directory.named(call), self.runtime.store, self.context.clock()
        before, owner = store.session(key), self.directory.owner(key)
        self.runtime.chat.stop(key)
        store.archive(key, now)
        store.create(key, self.context.new_id(), owner, now)
        if before is not None:
            store.configure(key, before.settings, now)
        session = self.directory.existing(key)
        self._announce(session, "reset")
        return {"ok": True, "key": key, "entry": session_entry(session)}

    def compact(self, call: Call) -> Json:
        """Summarise the older part of a conversation. Waits for its turn, and for the model."""
        key = self.directory.named(call)
        before = self.runtime.store.session(key)
        if before is None:
            return {"ok": True, "key": key, "compacted": False, "kept": 0, "reason": "no session"}
        ending = _ending(self.runtime.runs.start(self._compaction(before)))
        if isinstance(ending, RunFailed):
            raise ending.error
        after = self.directory.existing(key)
        compacted = after.compactions > before.compactions
        reason = ending.text if isinstance(ending, RunCompleted) else "aborted"
        return {
            "ok": True,
            "key": key,
            "compacted": compacted,
            "kept": after.message_count - after.kept_from + 1,
            **({} if compacted else {"reason": reason}),
        }

    def _compaction(self, session: Session) -> RunRequest:
        return RunRequest(
            run_id=f"compact-{self.context.new_id()}",
            agent_id=session.agent_id,
            session_key=session.key,
            ephemeral=False,
            channel=_CHANNEL,
            messages=(),
            created_at=self.context.clock(),
            compact="",
        )

    def _fresh(self, call: Call) -> str:
        agent_id = self.directory.agent_id(call) or self.runtime.agents.default_id
        return main_key(agent_id, f"dashboard:{self.context.new_id()}")

    def _stop_one(self, run_id: str, key: str | None) -> Sequence[str]:
        owner = self.runtime.runs.session_of(run_id)
        if owner is None:
            return []
        if key not in (None, owner):
            raise Refusal("runId does not match sessionKey")
        return [run_id] if self.runtime.runs.cancel(run_id, CancelReason.USER) else []

    def _changes(self, call: Call, key: str) -> dict[str, str | None]:
        """The settings that the parameters state."""
        changed: dict[str, str | None] = {}
        for name, (setting, choices) in _CHOICES.items():
            if name in call.params:
                changed[setting] = _choice(call, name, choices)
        if "model" in call.params:
            changed["model"] = self._model(call)
        if "label" in call.params:
            changed["label"] = self._label(call, key)
        return changed

    def _model(self, call: Call) -> str | None:
        """The model that is meant, by ``provider/model`` or by its own name alone."""
        named = text(call.params, "model", call.method)
        if named is None:
            return None
        refs = [candidate.ref for candidate in models(self.runtime)]
        ref = next((ref for ref in refs if named in (ref, ref.partition("/")[2])), named)
        chosen = candidate_of(ref, self.runtime)
        if chosen is None:
            raise Refusal(f"model not allowed: {named}")
        return chosen.ref

    def _label(self, call: Call, key: str) -> str | None:
        label = " ".join((text(call.params, "label", call.method) or "").split())
        if not label:
            return None
        if len(label) > _LONGEST_LABEL:
            raise Refusal(f"invalid label: too long (max {_LONGEST_LABEL})")
        others = self.runtime.store.list_sessions(None, _SEARCHED)
        if any(other.settings.label == label and other.key != key for other in others):
            raise Refusal(f"label already in use: {label}")
        return label

    def _settle(self, key: str, changed: Mapping[str, Any]) -> Session:
        session = self.runtime.store.session(key)
        settings = replace(session.settings if session else SessionSettings(), **changed)
        self.runtime.chat.configure(self.directory.owner(key), key, settings)
        return self.directory.existing(key)

    def _announce(self, session: Session, reason: str, *, gone: bool = False) -> None:
        """Tell whoever follows the sessions."""
        now = self.context.clock()
        payload: Json = {
            "sessionKey": session.key,
            "agentId": session.agent_id,
            "reason": reason,
            "ts": now,
            "session": None if gone else session_row(session, self.runtime, now),
        }
        self.context.hub.announce("sessions.changed", SESSIONS, dumps(present(payload)))


def _choice(call: Call, name: str, choices: Sequence[str]) -> str | None:
    """One of ``choices``; None for null or nothing."""
    chosen = (text(call.params, name, call.method) or "").strip().lower()
    if chosen and chosen not in choices:
        raise Refusal(f"invalid {name} (use {'|'.join(choices)})")
    return chosen or None


def _ending(run: Run) -> TerminalEvent:
    """How a run ends; reads its stream to the end."""
    while True:
        for event in run.stream.get(timeout=60):
            if isinstance(event, TERMINAL):
                return event
