"""What tools may do with sessions: see some, ask in some, start sub-agents."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from ..agents.models import THINKING, effort_of
from ..cancel import CancelReason, CancelToken
from ..errors import GatewayError, StoreError
from ..events import TERMINAL, RunCompleted, RunFailed, TerminalEvent
from ..messages import AssistantMessage, Message, SamplingParams, ToolMessage, UserMessage
from ..sessions.keys import namespace_of, namespaced, sub_agent_key
from ..sessions.records import Session
from ..sessions.store import Store
from ..tools.registry import ToolContext, ToolError
from ..tools.untrusted import fenced
from .executor import Executor
from .news import NewsBoard
from .run import Run, RunRequest
from .service import RunService

_SHOWN = 4_000
_PURPOSE = 300
_TOLD = 1_000


class Desk:
    """:class:`~app.tools.sessions.SessionDesk` on a gateway's runs and store.

    :param main_key: the session key of an agent's own conversation.
    :param children: sub-agents of one run that may be at work at the same time.
    :param default_model: what sub-agents use instead of their agent's model.
    """

    def __init__(
        self,
        *,
        store: Store,
        executor: Executor,
        news: NewsBoard,
        main_key: Callable[[str], str],
        children: int,
        default_model: str | None,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._executor = executor
        self._news = news
        self._main_key = main_key
        self._children = children
        self._default_model = default_model
        self._clock = clock
        self._runs: RunService | None = None
        self._end_commands: Callable[[str], None] = lambda _: None
        self._lock = threading.Lock()  # guards _working
        self._working: dict[str, int] = {}

    def open(self, runs: RunService, end_commands: Callable[[str], None]) -> None:
        """Start business: runs use tools, and some tools start runs.

        :param end_commands: ends the background commands of the session with this key.
        """
        self._runs = runs
        self._end_commands = end_commands

    def sessions(
        self, context: ToolContext, *, limit: int, active_minutes: int | None
    ) -> list[dict[str, Any]]:
        """See :meth:`SessionDesk.sessions`."""
        since = 0 if active_minutes is None else self._clock() - active_minutes * 60_000
        return [_row(session) for session in self._visible(context)[:limit] if session.active_at >= since]

    def history(
        self, context: ToolContext, key: str, *, limit: int, include_tools: bool
    ) -> list[dict[str, Any]]:
        """See :meth:`SessionDesk.history`."""
        there, asked = self._check(context, key).message_count, limit
        while True:  # some messages may not be shown; whoever asks for few reads few all the same
            entries = self._store.newest(key, asked).history
            shown = [row for entry in entries if (row := _shown(entry.message, include_tools))]
            if len(shown) >= limit or asked >= there:
                return shown[-limit:]
            asked *= 4

    def send(self, context: ToolContext, key: str, message: str, *, wait: float) -> dict[str, Any]:
        """See :meth:`SessionDesk.send`."""
        if key == context.session_key:
            raise ToolError("That is this session itself.")
        session = self._check(context, key)
        request = self._request(context, session.agent_id, key, message)
        return self._ask(context, replace(request, purpose="Answer what another session asks."), wait)

    def spawn(
        self,
        context: ToolContext,
        task: str,
        *,
        label: str,
        agent_id: str | None,
        model: str | None,
        thinking: str | None,
        run_seconds: float | None,
        wait: float,
        keep: bool,
    ) -> dict[str, Any]:
        """See :meth:`SessionDesk.spawn`."""
        if agent_id is not None and agent_id.lower() != context.agent_id:
            raise ToolError("A sub-agent is always of the same agent as this conversation.")
        key = sub_agent_key(context.agent_id, str(uuid.uuid4()))
        if namespace := namespace_of(context.session_key):  # what belongs to the parent's caller stays theirs
            key = namespaced(key, namespace)
        request = replace(
            self._request(context, context.agent_id, key, task),
            params=SamplingParams(reasoning_effort=effort_of(_level(thinking))),
            model=model or self._default_model,
            timeout=run_seconds,
            purpose=" ".join((label or task).split())[:_PURPOSE],
        )
        return {**self._ask(context, request, wait, keep=keep), "label": label, "sessionKey": key}

    def _request(self, context: ToolContext, agent_id: str, key: str, message: str) -> RunRequest:
        parent = self._service.get(context.run_id)
        return RunRequest(
            run_id=f"run-{uuid.uuid4()}",
            agent_id=agent_id,
            session_key=key,
            ephemeral=False,
            channel=context.channel,
            message_channel=parent.request.message_channel if parent else "",
            messages=(UserMessage.of(message),),
            created_at=self._clock(),
            depth=1 + (parent.request.depth if parent else 0),
            parent_key=context.session_key,
        )

    def _ask(
        self, context: ToolContext, request: RunRequest, wait: float, *, keep: bool = True
    ) -> dict[str, Any]:
        self._take_place(context.run_id)
        try:
            run = self._service.start(request)
        except GatewayError as error:
            self._give_place(context.run_id)
            raise ToolError(str(error)) from None
        outcome = _Outcome()
        # Whoever stops the parent stops its children; a parent that ends well lets them go on.
        forget = context.cancel.on_cancel(partial(_stop, run))
        self._executor.spawn(
            f"follow-{run.id}", lambda: self._follow(context, run, outcome, forget, keep=keep)
        )
        ending = outcome.wait(wait, context.cancel) if wait else None
        if ending is None:
            return {"status": "accepted", "runId": run.id, "sessionKey": request.session_key}
        if isinstance(ending, RunCompleted):
            return {"status": "ok", "runId": run.id, "reply": ending.text}
        return {"status": "error", "runId": run.id, "error": _reason(ending)}

    def _follow(
        self, context: ToolContext, run: Run, outcome: _Outcome, forget: Callable[[], None], *, keep: bool
    ) -> None:
        """Drain a child's stream to its end, in a thread of its own."""
        ending = _last_event(run)
        forget()
        run.cancel(CancelReason.USER)  # if it failed, nobody waits for those that it has started
        self._give_place(context.run_id)
        if not outcome.set(ending):
            self._news.post(context.session_key, _news_of(run.request, ending))
        if not keep:
            self._delete(run.request.session_key)

    def _delete(self, key: str) -> None:
        self._end_commands(key)
        with suppress(StoreError):  # a gateway that is closing; then it stays
            self._store.delete_session(key)

    def _take_place(self, run_id: str) -> None:
        with self._lock:
            working = self._working.get(run_id, 0)
            if working >= self._children:
                raise ToolError(f"{working} sub-agents are at work already; wait for one of them.")
            self._working[run_id] = working + 1

    def _give_place(self, run_id: str) -> None:
        with self._lock:
            left = self._working.pop(run_id, 1) - 1
            if left > 0:
                self._working[run_id] = left

    def _visible(self, context: ToolContext) -> list[Session]:
        if context.session_key == self._main_key(context.agent_id):
            return self._store.list_sessions(context.agent_id, 1_000)
        own = self._store.session(context.session_key)
        children = self._store.list_sessions(None, 1_000, parent_key=context.session_key)
        return [*([own] if own else []), *children]

    def _check(self, context: ToolContext, key: str) -> Session:
        session = self._store.session(key)
        if session is None or session.archived_at is not None or not self._sees(context, session):
            raise ToolError(f"There is no session {key!r} that this conversation can see.")
        return session

    def _sees(self, context: ToolContext, session: Session) -> bool:
        if context.session_key == self._main_key(context.agent_id):
            return session.agent_id == context.agent_id
        return context.session_key in (session.key, session.parent_key)

    @property
    def _service(self) -> RunService:
        assert self._runs is not None, "the runtime opens the desk before any run starts"
        return self._runs


class _Outcome:
    """A child's terminal event, on its way to a parent that may not be waiting for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._ready = threading.Event()
        self._ending: TerminalEvent | None = None
        self._waiting = False

    def wait(self, seconds: float, cancel: CancelToken) -> TerminalEvent | None:
        """The terminal event, or None if it has not come in time."""
        with self._lock:
            self._waiting = True
        forget = cancel.on_cancel(self._ready.set)
        self._ready.wait(seconds)
        forget()
        with self._lock:  # whoever comes later is told that nobody waits
            self._waiting = False
            ending = self._ending
        cancel.raise_if_cancelled()
        return ending

    def set(self, ending: TerminalEvent) -> bool:
        """Hand over the event; True if somebody was waiting for it."""
        with self._lock:
            self._ending = ending
            self._ready.set()
            return self._waiting


def _stop(run: Run) -> None:
    run.cancel(CancelReason.USER)


def _last_event(run: Run) -> TerminalEvent:
    while True:
        for event in run.stream.get(timeout=60):
            if isinstance(event, TERMINAL):
                return event


def _reason(ending: TerminalEvent) -> str:
    return str(ending.error) if isinstance(ending, RunFailed) else "The run was cancelled."


def _news_of(request: RunRequest, ending: TerminalEvent) -> str:
    name = f"Sub-agent {request.purpose!r} (session {request.session_key})"
    if isinstance(ending, RunCompleted):
        # It may have read what strangers wrote, and news are part of the system prompt.
        return f"{name} has finished: {fenced(ending.text[:_TOLD], 'its answer')}"
    return f"{name} has failed: {_reason(ending)}"


def _level(thinking: str | None) -> str | None:
    if thinking is not None and thinking not in THINKING:
        raise ToolError(f"There is no level of thinking {thinking!r}. It is one of {', '.join(THINKING)}.")
    return thinking


def _row(session: Session) -> dict[str, Any]:
    return {
        "key": session.key,
        "agentId": session.agent_id,
        "model": session.model,
        "messages": session.message_count,
        "totalTokens": session.context_tokens,
        "lastActive": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.active_at / 1000)),
        "parent": session.parent_key,
    }


def _shown(message: Message, include_tools: bool) -> dict[str, Any] | None:
    match message:
        case UserMessage():
            return {"role": "user", "text": message.text[:_SHOWN]}
        case AssistantMessage(text, calls):
            names = [call.name for call in calls]
            shown = {"role": "assistant", "text": text[:_SHOWN]}
            if include_tools and names:
                return {**shown, "calls": names}
            return shown if text else None
        case ToolMessage():
            if not include_tools:
                return None
            return {"role": "tool", "name": message.name, "text": message.text[:_SHOWN]}
