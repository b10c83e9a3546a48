"""Sessions: listed, looked into, followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ....messages import JsonValue
from ....runtime import Runtime
from ....sessions.records import Session
from ..context import Channel
from ..protocol import Call, Method, Methods, Refusal, count, text
from ..views import STORE_NAME, Json, cut, model_names, role, said, session_row, titles
from .directory import Directory

_LISTED, _MOST_LISTED = 100, 1_000
_SEARCHED = 1_000  # sessions that a search looks through, the newest
_PREVIEWED = 64


def methods(context: Channel) -> Methods:
    """Everything about sessions that changes none."""
    runtime = context.runtime
    look = _Look(runtime, Directory(runtime.agents, runtime.store), context.clock, context.limits.followed)
    return {
        "sessions.list": Method("operator.read", look.list_page),
        "sessions.describe": Method("operator.read", look.describe),
        "sessions.preview": Method("operator.read", look.preview),
        "sessions.resolve": Method("operator.read", look.resolve),
        "sessions.subscribe": Method("operator.read", look.subscribe),
        "sessions.unsubscribe": Method("operator.read", look.unsubscribe),
        "sessions.messages.subscribe": Method("operator.read", look.follow),
        "sessions.messages.unsubscribe": Method("operator.read", look.unfollow),
    }


@dataclass(frozen=True)
class _Look:
    runtime: Runtime
    directory: Directory
    clock: Callable[[], int]
    followed: int

    def list_page(self, call: Call) -> Json:
        """A page of the sessions, the newest first."""
        now = self.clock()
        limit = count(call.params, "limit", call.method, default=_LISTED, most=_MOST_LISTED, least=1)
        offset = count(call.params, "offset", call.method, default=0, most=10**9)
        sessions, total = self._page(call, limit, offset, now)
        rows: list[JsonValue] = [*self._rows(call, sessions, now)]
        end = offset + len(rows)
        return {
            "ts": now,
            "path": STORE_NAME,
            "count": len(rows),
            "totalCount": total,
            "limitApplied": limit,
            "nextOffset": end if end < total else None,
            "hasMore": end < total,
            "owners": [],
            "defaults": self._defaults(),
            "sessions": rows,
        }

    def describe(self, call: Call) -> Json:
        """One session's row, null if there is none."""
        session = self.runtime.store.session(self.directory.named(call))
        rows = self._rows(call, [session] if session else [], self.clock())
        return {"session": rows[0] if rows else None}

    def preview(self, call: Call) -> Json:
        """The newest messages of some sessions, in a few words each."""
        limit = count(call.params, "limit", call.method, default=12, most=50, least=1)
        length = count(call.params, "maxChars", call.method, default=240, most=2_000, least=20)
        previews: list[JsonValue] = [self._preview(key, limit, length) for key in _keys(call)[:_PREVIEWED]]
        return {"ts": self.clock(), "previews": previews}

    def resolve(self, call: Call) -> Json:
        """The full key of the session that a key, an id or a label names."""
        key = text(call.params, "key", call.method)
        if key is not None:
            named = self.runtime.store.session(self.directory.key(key))
            found: Sequence[Session] = [named] if named else []
        else:
            found = self._labelled(call)
        if len(found) != 1:
            raise Refusal("Several sessions match." if found else "No session found.")
        return {"ok": True, "key": found[0].key}

    def subscribe(self, call: Call) -> Json:
        """From now on the caller is told of changed sessions; with parameters also the list."""
        call.peer.subscriptions.add("sessions")
        return {"subscribed": True, **({"list": self.list_page(call)} if call.params else {})}

    def unsubscribe(self, call: Call) -> Json:
        """The caller is told of changed sessions no more."""
        call.peer.subscriptions.discard("sessions")
        return {"subscribed": False}

    def follow(self, call: Call) -> Json:
        """From now on the caller is told of new messages of a session."""
        key, subscriptions = self.directory.named(call), call.peer.subscriptions
        if f"messages:{key}" not in subscriptions and len(subscriptions - {"sessions"}) >= self.followed:
            raise Refusal(f"A connection follows at most {self.followed} sessions; unsubscribe from one.")
        subscriptions.add(f"messages:{key}")
        return {"subscribed": True, "key": key}

    def unfollow(self, call: Call) -> Json:
        """The caller is told of new messages of a session no more."""
        key = self.directory.named(call)
        call.peer.subscriptions.discard(f"messages:{key}")
        return {"subscribed": False, "key": key}

    def _page(self, call: Call, limit: int, offset: int, now: int) -> tuple[Sequence[Session], int]:
        """The sessions of a page, and how many there are on all pages."""
        store, agent_id = self.runtime.store, self.directory.agent_id(call)
        wanted = _filter(call, now)
        parent = text(call.params, "spawnedBy", call.method)
        if wanted is None and parent is None:
            return store.list_sessions(agent_id, limit, offset), store.count_sessions(agent_id)
        parent_key = self.directory.key(parent) if parent else None
        searched = store.list_sessions(agent_id, _SEARCHED, parent_key=parent_key)
        matching = [session for session in searched if wanted is None or wanted(session)]
        return matching[offset : offset + limit], len(matching)

    def _labelled(self, call: Call) -> Sequence[Session]:
        wanted = _filter(call, self.clock())
        if wanted is None:
            raise Refusal("invalid sessions.resolve params: give key, sessionId or label")
        searched = self.runtime.store.list_sessions(self.directory.agent_id(call), _SEARCHED)
        return [session for session in searched if wanted(session)]

    def _preview(self, named: str, limit: int, length: int) -> Json:
        loaded = self.runtime.store.newest(self.directory.key(named), limit)
        items: list[JsonValue] = [
            {"role": role(entry.message), "text": cut(said(entry.message), length)}
            for entry in loaded.history
        ]
        found = "ok" if items else "missing" if loaded.session is None else "empty"
        return {"key": named, "status": found, "items": items}

    def _rows(self, call: Call, sessions: Sequence[Session], now: int) -> Sequence[Json]:
        title = call.params.get("includeDerivedTitles") is True
        preview = call.params.get("includeLastMessage") is True
        wanted = {session.id for session in sessions} if title or preview else set()
        ends = self.runtime.store.ends(wanted)
        live = self.runtime.runs.active(session.key for session in sessions)
        return [
            {
                **session_row(session, self.runtime, now, live[session.key]),
                **titles(ends.get(session.id, ()), title=title, preview=preview),
            }
            for session in sessions
        ]

    def _defaults(self) -> Json:
        agents = self.runtime.agents
        default = agents.get(agents.default_id).candidates[0]
        return {**model_names(default), "contextTokens": default.info.context_window}


def _keys(call: Call) -> Sequence[str]:
    keys = call.params.get("keys")
    if keys is None:
        raise Refusal(f"invalid {call.method} params: must have required property 'keys'")
    if not isinstance(keys, list):
        raise Refusal(f"invalid {call.method} params: at /keys: must be array")
    named = [key for key in keys if isinstance(key, str)]
    if len(named) < len(keys):
        raise Refusal(f"invalid {call.method} params: at /keys: must be strings")
    return named


def _filter(call: Call, now: int) -> Callable[[Session], bool] | None:
    """Which sessions are meant; None if all of them are."""
    minutes = count(call.params, "activeMinutes", call.method, default=0, most=10**7)
    label = text(call.params, "label", call.method)
    session_id = text(call.params, "sessionId", call.method)
    search = (text(call.params, "search", call.method) or "").strip().lower()
    if not (minutes or label or session_id or search):
        return None
    since = now - minutes * 60_000 if minutes else 0

    def wanted(session: Session) -> bool:
        names = (session.key, session.settings.label or "", session.id)
        return (
            session.updated_at >= since
            and label in (None, session.settings.label)
            and session_id in (None, session.id)
            and any(search in name.lower() for name in names)
        )

    return wanted
