"""The store's statements, the same for every database. They are built once, with named parameters."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from .keys import ARCHIVED
from .records import INTERRUPTED, UsageQuery
from .tables import Words, is_live, is_open, is_queued, messages, runs, sessions

SESSION = select(sessions).where(sessions.c.key == bindparam("this_key"))
HISTORY = (
    select(messages.c.seq, messages.c.body, messages.c.stop, messages.c.created_at, messages.c.run_id)
    .where(messages.c.session_id == bindparam("this_session"), messages.c.seq >= bindparam("first"))
    .order_by(messages.c.seq)
)
OF_RUN = HISTORY.where(messages.c.run_id == bindparam("this_run"))
NEWEST = HISTORY.order_by(None).order_by(messages.c.seq.desc()).limit(bindparam("at_most"))
ENDS = (
    select(messages)
    .join(sessions, sessions.c.id == messages.c.session_id)
    .where(
        messages.c.session_id.in_(bindparam("these", expanding=True)),
        or_(messages.c.seq == 1, messages.c.seq == sessions.c.message_count),
    )
    .order_by(messages.c.session_id, messages.c.seq)
)
LOCK_SESSION = select(sessions.c.id).where(sessions.c.id == bindparam("this_session")).with_for_update()
NEW_SESSION = insert(sessions)
# The same unless there is one of its id or key: then no row comes back. For each database's dialect.
UNUSED_SESSION: dict[str, ReturningInsert[Any]] = {
    "sqlite": sqlite.insert(sessions).on_conflict_do_nothing().returning(sessions.c.id),
    "postgresql": postgresql.insert(sessions).on_conflict_do_nothing().returning(sessions.c.id),
}
NEW_RUN = insert(runs)
NEW_MESSAGES = insert(messages)
EXTEND = (  # also takes the row lock that keeps two writers from giving out one seq twice
    update(sessions)
    .where(sessions.c.id == bindparam("this_session"))
    .values(updated_at=bindparam("now"), message_count=sessions.c.message_count + bindparam("added"))
    .returning(sessions.c.message_count, sessions.c.key, sessions.c.agent_id)
)
# Of one run: nothing unless it is open, and until the transaction ends nobody else can close it.
_IS_THEIRS = or_(bindparam("this_worker", type_=Words()) == "", runs.c.worker == bindparam("this_worker"))
_HELD_OPEN = exists(
    select(runs.c.id)
    .where(runs.c.id == bindparam("this_run"), is_open, _IS_THEIRS)
    .with_for_update(key_share=True)
)
OPEN_RUN = select(_HELD_OPEN)
APPEND = EXTEND.where(_HELD_OPEN)
CONTINUE = EXTEND.where(sessions.c.key == bindparam("this_key"), is_live).values(active_at=bindparam("now"))
SETTLE = EXTEND.values(
    input_tokens=sessions.c.input_tokens + bindparam("more_input"),
    output_tokens=sessions.c.output_tokens + bindparam("more_output"),
    cost=sessions.c.cost + bindparam("more_cost"),
    context_tokens=func.coalesce(bindparam("last_context"), sessions.c.context_tokens),
    model=bindparam("last_model"),
    active_at=bindparam("now"),
)
CLOSE_RUN = (
    update(runs)
    .where(runs.c.id == bindparam("this_run"), is_open, _IS_THEIRS)
    .values(
        {"request": None, "cancel": None}
        | {
            name: bindparam(f"new_{name}")
            for name in (
                *("status", "finish_reason", "model", "error_code", "error_message", "ended_at", "attempts"),
                *("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cache_write_tokens"),
                *("cost", "calls"),
            )
        }
    )
    .returning(runs.c.session_id)
)
_AGAIN = {"finish_reason": None, "error_code": None, "error_message": None, "ended_at": None}
_WAS_INTERRUPTED = and_(runs.c.status == "failed", runs.c.error_code.in_(INTERRUPTED))
TAKE_OVER = (
    update(runs)
    .where(runs.c.id == bindparam("this_run"), or_(is_queued, _WAS_INTERRUPTED))
    .values(
        _AGAIN
        | {"status": "in_progress", "request": None}
        | {name: bindparam(f"new_{name}") for name in ("session_id", "channel", "model", "worker")}
    )
)
QUEUE_AGAIN = (
    update(runs)
    .where(runs.c.id == bindparam("this_run"), or_(is_open, _WAS_INTERRUPTED))
    .values(
        _AGAIN | {"status": "queued", "request": bindparam("new_request"), "worker": bindparam("new_worker")}
    )
)
QUEUED = select(runs.c.id, runs.c.request).where(is_open, is_queued).order_by(runs.c.created_at, runs.c.id)
INTERRUPT = (
    update(runs)
    .where(is_open, ~is_queued)
    .values(
        status="failed",
        error_code="interrupted",
        error_message="The gateway stopped before the run was over.",
        ended_at=bindparam("now"),
        cancel=None,
    )
)
RECORD = [column for column in runs.c if column.name not in ("request", "cancel")]
_RECORD = select(*RECORD)
RUN = _RECORD.where(runs.c.id == bindparam("this_run"))
RUNS = _RECORD.order_by(runs.c.created_at.desc(), runs.c.id).limit(bindparam("at_most"))
RUNS_OF_KEY = RUNS.where(runs.c.session_key == bindparam("this_key"))
OPEN_RUNS = _RECORD.where(is_open).order_by(runs.c.created_at, runs.c.id)
OPEN_RUNS_OF_KEY = OPEN_RUNS.where(runs.c.session_key == bindparam("this_key"))
_SESSIONS = (
    select(sessions)
    .order_by(sessions.c.updated_at.desc(), sessions.c.id)
    .limit(bindparam("at_most"))
    .offset(bindparam("skip"))
)
COMPACT = (
    update(sessions)
    .where(
        sessions.c.id == bindparam("this_session"),
        sessions.c.kept_from < bindparam("first"),
        sessions.c.message_count + 1 >= bindparam("first"),
    )
    .values(
        updated_at=bindparam("now"),
        summary=bindparam("new_summary"),
        kept_from=bindparam("first"),
        compactions=sessions.c.compactions + 1,
        context_tokens=0,  # of a prompt that there will not be again
    )
)
COMPACT_IN_RUN = COMPACT.where(_HELD_OPEN)
CONFIGURE = (
    update(sessions)
    .where(sessions.c.key == bindparam("this_key"))
    .values(updated_at=bindparam("now"), settings=bindparam("new_settings"))
)
ARCHIVE = (
    update(sessions)
    .where(sessions.c.key == bindparam("this_key"), is_live)
    .values(archived_at=bindparam("now"), key=ARCHIVED + sessions.c.id + ":" + sessions.c.key)
)
DELETE_SESSION = delete(sessions).where(sessions.c.key == bindparam("this_key"))

# The day is counted from 1970 in UTC. A literal, because a parameter would make two expressions
# of one, and some databases then refuse the grouping.
_GROUPS: dict[str, ColumnElement[Any]] = {
    "day": runs.c.created_at // literal_column("86400000", BigInteger),
    "agent": runs.c.agent_id,
    "model": runs.c.model,
    "session": runs.c.session_key,
}
_IS_UNPRICED = and_(runs.c.cost.is_(None), runs.c.input_tokens + runs.c.output_tokens > 0)
_SUMS = (
    func.count().label("runs"),
    *(
        func.sum(column).label(column.name)
        for column in (
            *(runs.c.input_tokens, runs.c.output_tokens, runs.c.cached_tokens),
            *(runs.c.reasoning_tokens, runs.c.cache_write_tokens, runs.c.cost),
        )
    ),
    func.sum(case((_IS_UNPRICED, 1), else_=0)).label("unpriced"),
)


def list_of_sessions(
    agent_id: str | None, parent_key: str | None, namespace: str | None, *, archived: bool
) -> Select[Any]:
    """Sessions, the last touched first, ``at_most`` so many after the first ``skip``."""
    statement = _SESSIONS if archived else _SESSIONS.where(is_live)
    if agent_id is not None:
        statement = statement.where(sessions.c.agent_id == agent_id)
    if parent_key is not None:
        statement = statement.where(sessions.c.parent_key == parent_key)
    if namespace is not None:
        own = "agent:" + sessions.c.agent_id + f":caller:{namespace}:"
        put_away = ARCHIVED + sessions.c.id + ":" + own
        statement = statement.where(or_(_begins(sessions.c.key, own), _begins(sessions.c.key, put_away)))
    return statement


def _begins(text: ColumnElement[str], beginning: ColumnElement[str]) -> ColumnElement[bool]:
    """To the letter: neither case nor wildcards, which LIKE would see in it."""
    return func.substr(text, 1, func.length(beginning)) == beginning


def sums_of_runs(query: UsageQuery) -> Select[Any]:
    """Numbers, tokens and cost of the runs that are over, by what the query groups them."""
    groups = [_GROUPS[name].label(name) for name in query.by]
    statement = select(*groups, *_SUMS).where(~is_open, runs.c.created_at >= query.since)
    if query.until is not None:
        statement = statement.where(runs.c.created_at < query.until)
    if query.agent_id is not None:
        statement = statement.where(runs.c.agent_id == query.agent_id)
    if query.session_key is not None:
        statement = statement.where(runs.c.session_key == query.session_key)
    return statement.group_by(*groups).order_by(*groups)
