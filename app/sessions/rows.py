"""Rows of the tables as records, and back. Pure."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta
from typing import Any, cast, get_args

from sqlalchemy import RowMapping

from ..log import get_logger
from ..messages import JsonValue, Usage
from ..wire import InvalidJson, clean, dumps, loads
from .entries import UnreadableEntry, decode, encode
from .records import (
    Entry,
    ModelCall,
    NewEntry,
    Run,
    RunEnd,
    RunStart,
    Session,
    SessionSettings,
    Stop,
    UsageRow,
)

_log = get_logger("store")

_STOPS = frozenset((None, *get_args(Stop)))
_NO_SETTINGS = SessionSettings()
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cache_write_tokens")
_FIRST_DAY = date(1970, 1, 1)


def message_row(session_id: str, run_id: str, now: int, seq: int, entry: NewEntry) -> dict[str, Any]:
    """A row of ``messages``."""
    return {
        "session_id": session_id,
        "seq": seq,
        "run_id": run_id,
        "created_at": now,
        "stop": entry.stop,
        "body": encode(entry.message),
    }


def session_row(run: RunStart, session_id: str, message_count: int) -> dict[str, Any]:
    """The row of ``sessions`` for a session that begins with this run."""
    row = empty_session_row(run.session_key, session_id, run.agent_id, run.created_at)
    return row | {"message_count": message_count, "model": run.model, "parent_key": run.parent_key}


def empty_session_row(key: str, session_id: str, agent_id: str, now: int) -> dict[str, Any]:
    """The row of ``sessions`` for a session in which nothing was said."""
    return {
        "id": session_id,
        "key": key,
        "agent_id": agent_id,
        "created_at": now,
        "updated_at": now,
        "active_at": now,
        "message_count": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "model": "",
        "parent_key": None,
    }


def run_row(run: RunStart) -> dict[str, Any]:
    """The row of ``runs`` for a run at its beginning."""
    return {
        "id": run.id,
        "session_key": run.session_key,
        "session_id": run.session_id,
        "agent_id": run.agent_id,
        "channel": run.channel,
        "model": run.model,
        "created_at": run.created_at,
        "status": "in_progress",
        "fingerprint": run.fingerprint,
        "worker": run.worker,
    }


def queued_row(run: RunStart, request: str) -> dict[str, Any]:
    """The row of ``runs`` for a run that has yet to begin."""
    return run_row(run) | {"status": "queued", "request": request}


def run_end(end: RunEnd) -> dict[str, Any]:
    """What the end of a run changes in its row."""
    return {
        "status": end.status,
        "finish_reason": end.finish_reason,
        "model": end.model,
        "error_code": end.error_code,
        "error_message": None if end.error_message is None else clean(end.error_message),
        "ended_at": end.ended_at,
        "attempts": end.attempts,
        "cost": end.cost,
        "calls": _calls_text(end.calls),
        **dict(zip(_TOKENS, _counts(end.usage), strict=True)),
    }


def session_of(row: RowMapping) -> Session:
    """The session; settings that cannot be read count as not made."""
    return Session(**{**row, "settings": _settings(row["settings"])})


def entry_of(
    session_id: str, seq: int, body: object, stop: str | None, created_at: int, run_id: str
) -> Entry | None:
    """The entry, or None and a log line: one bad row must not cost the conversation."""
    try:
        message = decode(body)
    except UnreadableEntry as error:
        _log.warning("session %s: message %s is unreadable and left out (%s)", session_id, seq, error)
        return None
    return Entry(seq, message, cast(Stop, stop) if stop in _STOPS else None, created_at, run_id)


def run_of(row: RowMapping) -> Run:
    """The run; calls that cannot be read are left out."""
    values = {name: value for name, value in row.items() if name not in _TOKENS}
    return Run(**{**values, "usage": _usage(row), "calls": _calls(row["calls"])})


def usage_row_of(row: RowMapping, by: tuple[str, ...]) -> UsageRow:
    """One group's sums; ``by`` names the columns that tell groups apart."""
    group = tuple(_day(row[name]) if name == "day" else row[name] for name in by)
    # A database may give sums of integers as decimals, and of no rows as NULL.
    return UsageRow(group, row["runs"], _usage(row), float(row["cost"] or 0), int(row["unpriced"] or 0))


def settings_text(settings: SessionSettings) -> str | None:
    """The settings as JSON, None if there are none."""
    made = {name: value for name, value in asdict(settings).items() if value is not None}
    return dumps(made).decode() if made else None


def _settings(text: object) -> SessionSettings:
    made = _json(text)
    if not isinstance(made, dict):
        return _NO_SETTINGS
    names = SessionSettings.__dataclass_fields__
    return SessionSettings(**{n: v for n, v in made.items() if n in names and isinstance(v, str)})


def _calls_text(calls: tuple[ModelCall, ...]) -> str | None:
    if not calls or [call.outcome for call in calls] == ["ok"]:
        return None
    return dumps([asdict(call) for call in calls]).decode()


def _calls(text: object) -> tuple[ModelCall, ...]:
    calls = _json(text)
    return tuple(filter(None, map(_call, calls))) if isinstance(calls, list) else ()


def _call(value: JsonValue) -> ModelCall | None:
    match value:
        case {
            "model": str(model),
            "credential": int(credential),
            "outcome": str(outcome),
            "status": None | int() as status,
            "milliseconds": int(milliseconds),
        }:
            return ModelCall(model, credential, outcome, status, milliseconds)
    return None


def _json(text: object) -> JsonValue:
    """The value, None for anything that is no JSON: a damaged column may hold anything."""
    if not isinstance(text, str):
        return None
    try:
        return loads(text.encode())
    except InvalidJson:
        return None


def _day(number: int) -> str:
    return (_FIRST_DAY + timedelta(days=int(number))).isoformat()


def _usage(row: RowMapping) -> Usage:
    return Usage(*(int(row[name] or 0) for name in _TOKENS))


def _counts(usage: Usage) -> tuple[int, ...]:
    return (usage.input, usage.output, usage.cached, usage.reasoning, usage.cache_write)
