"""The schema, in terms that SQLite and PostgreSQL share, and the way to it from its earlier versions."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text

SCHEMA_VERSION = 3

metadata = MetaData()

# Columns added by a later version come last and have a default: a new database and an upgraded
# one are the same.
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
    Column("active_at", BigInteger, nullable=False, server_default="0"),
    Column("context_tokens", Integer, nullable=False, server_default="0"),
    Column("kept_from", Integer, nullable=False, server_default="1"),
    Column("compactions", Integer, nullable=False, server_default="0"),
    Column("cost", Float, nullable=False, server_default="0"),
    Column("settings", Text),  # JSON
    Column("parent_key", Text),
    Column("archived_at", BigInteger),
    Column("summary", Text),  # the longest, so the last: what comes before it is read without it
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
    Column("cache_write_tokens", Integer, nullable=False, server_default="0"),
    Column("cost", Float),
    Column("calls", Text),  # JSON; NULL if there was one call and it went well
    Column("request", Text),  # JSON; what a run that waits was asked, NULL once its messages are stored
    Column("fingerprint", Text),  # of what was asked, if the asker may ask again under a key of its own
)

# A stored response has the id of its run.
responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("agent_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", Text, nullable=False),  # open, closed
    Column("parent_id", Text),
    Column("continued_by", Text),  # the one response that goes on in the same session
    Column("session_id", Text, ForeignKey(sessions.c.id, ondelete="CASCADE")),
    Column("last_seq", Integer),  # where in the session it ends
    Column("request", Text, nullable=False),  # JSON
    Column("body", Text),  # JSON
)

is_open = runs.c.ended_at.is_(None)
is_queued = runs.c.status == "queued"
is_open_response = responses.c.status == "open"
is_live = sessions.c.archived_at.is_(None)
_is_child = sessions.c.parent_key.is_not(None)

Index("ix_sessions_live", sessions.c.updated_at, sqlite_where=is_live, postgresql_where=is_live)
Index("ix_sessions_parent", sessions.c.parent_key, sqlite_where=_is_child, postgresql_where=_is_child)
Index("ix_runs_created_at", runs.c.created_at)
Index("ix_runs_open", runs.c.ended_at, sqlite_where=is_open, postgresql_where=is_open)
Index("ix_responses_open", responses.c.id, sqlite_where=is_open_response, postgresql_where=is_open_response)
Index("ix_responses_session", responses.c.session_id)
Index("ix_responses_continued", responses.c.continued_by)

# What leads to each version from the one before it. This is text because it stays as it is
# when the tables above go on changing.
UPGRADES: dict[int, tuple[str, ...]] = {
    2: (
        "ALTER TABLE sessions ADD COLUMN active_at BIGINT DEFAULT '0' NOT NULL",
        "ALTER TABLE sessions ADD COLUMN context_tokens INTEGER DEFAULT '0' NOT NULL",
        "ALTER TABLE sessions ADD COLUMN kept_from INTEGER DEFAULT '1' NOT NULL",
        "ALTER TABLE sessions ADD COLUMN compactions INTEGER DEFAULT '0' NOT NULL",
        "ALTER TABLE sessions ADD COLUMN cost FLOAT DEFAULT '0' NOT NULL",
        "ALTER TABLE sessions ADD COLUMN settings TEXT",
        "ALTER TABLE sessions ADD COLUMN parent_key TEXT",
        "ALTER TABLE sessions ADD COLUMN archived_at BIGINT",
        "ALTER TABLE sessions ADD COLUMN summary TEXT",
        "UPDATE sessions SET active_at = updated_at",
        "DROP INDEX ix_sessions_updated_at",
        "CREATE INDEX ix_sessions_live ON sessions (updated_at) WHERE archived_at IS NULL",
        "CREATE INDEX ix_sessions_parent ON sessions (parent_key) WHERE parent_key IS NOT NULL",
        "ALTER TABLE runs ADD COLUMN cache_write_tokens INTEGER DEFAULT '0' NOT NULL",
        "ALTER TABLE runs ADD COLUMN cost FLOAT",
        "ALTER TABLE runs ADD COLUMN calls TEXT",
        "ALTER TABLE runs ADD COLUMN request TEXT",
    ),
    3: (
        "ALTER TABLE runs ADD COLUMN fingerprint TEXT",
        (
            "CREATE TABLE responses (id TEXT NOT NULL, agent_id TEXT NOT NULL, created_at BIGINT NOT NULL,"
            " status TEXT NOT NULL, parent_id TEXT, continued_by TEXT, session_id TEXT, last_seq INTEGER,"
            " request TEXT NOT NULL, body TEXT, PRIMARY KEY (id),"
            " FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE)"
        ),
        "CREATE INDEX ix_responses_open ON responses (id) WHERE status = 'open'",
        "CREATE INDEX ix_responses_session ON responses (session_id)",
        "CREATE INDEX ix_responses_continued ON responses (continued_by)",
    ),
}
