"""The schema, in terms that SQLite and PostgreSQL share."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, Table, Text

SCHEMA_VERSION = 1

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("agent_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("message_count", Integer, nullable=False),  # also the seq of the last message
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
)

messages = Table(
    "messages",
    metadata,
    Column("session_id", Text, ForeignKey(sessions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("stop", Text),
    Column("body", Text, nullable=False),
)

# A run outlives its session, so session_id is no foreign key.
runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session_key", Text, nullable=False),
    Column("session_id", Text),
    Column("agent_id", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("finish_reason", Text),
    Column("input_tokens", Integer, nullable=False, server_default="0"),
    Column("output_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("reasoning_tokens", Integer, nullable=False, server_default="0"),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("ended_at", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
)

is_open = runs.c.ended_at.is_(None)

Index("ix_sessions_updated_at", sessions.c.updated_at)
Index("ix_runs_created_at", runs.c.created_at)
Index("ix_runs_open", runs.c.ended_at, sqlite_where=is_open, postgresql_where=is_open)
