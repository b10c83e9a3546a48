"""The schema, in terms that SQLite and PostgreSQL share, and the way to it from its earlier versions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

SCHEMA_VERSION = 4

metadata = MetaData()


class Words(TypeDecorator[str]):
    """Text that is the same in every database: NUL, which not all of them take, becomes U+FFFD.

    It is ordered by code points, and not as a machine's language has it.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Postgres sorts by a language unless it is told not to."""
        return dialect.type_descriptor(Text(collation="C" if dialect.name == "postgresql" else None))

    def process_bind_param(self, value: str | None, _: Dialect) -> str | None:
        """What is stored, and looked for."""
        return value and value.replace("\0", "\ufffd")


# Columns added by a later version come last and have a default: a new database and an upgraded
# one are the same.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Words, primary_key=True),
    Column("key", Words, nullable=False, unique=True),
    Column("agent_id", Words, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("message_count", Integer, nullable=False),  # also the seq of the last message
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("model", Words, nullable=False),
    Column("active_at", BigInteger, nullable=False, server_default="0"),
    Column("context_tokens", Integer, nullable=False, server_default="0"),
    Column("kept_from", Integer, nullable=False, server_default="1"),
    Column("compactions", Integer, nullable=False, server_default="0"),
    Column("cost", Float, nullable=False, server_default="0"),
    Column("settings", Words),  # JSON
    Column("parent_key", Words),
    Column("archived_at", BigInteger),
    Column("summary", Words),  # the longest, so the last: what comes before it is read without it
)

messages = Table(
    "messages",
    metadata,
    Column("session_id", Words, ForeignKey(sessions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("run_id", Words, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("stop", Words),
    Column("body", Words, nullable=False),
)

# A run outlives its session, so session_id is no foreign key.
runs = Table(
    "runs",
    metadata,
    Column("id", Words, primary_key=True),
    Column("session_key", Words, nullable=False),
    Column("session_id", Words),
    Column("agent_id", Words, nullable=False),
    Column("channel", Words, nullable=False),
    Column("model", Words, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", Words, nullable=False),
    Column("finish_reason", Words),
    Column("input_tokens", Integer, nullable=False, server_default="0"),
    Column("output_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("reasoning_tokens", Integer, nullable=False, server_default="0"),
    Column("error_code", Words),
    Column("error_message", Words),
    Column("ended_at", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("cache_write_tokens", Integer, nullable=False, server_default="0"),
    Column("cost", Float),
    Column("calls", Words),  # JSON; NULL if there was one call and it went well
    Column("request", Words),  # JSON; what a run that waits was asked, NULL once its messages are stored
    Column("fingerprint", Words),  # of what was asked, if the asker may ask again under a key of its own
    Column("worker", Words, nullable=False, server_default=""),  # who has queued or begun it
    Column("cancel", Words),  # why somebody wants it to end, while it is not over
)

# A stored response has the id of its run.
responses = Table(
    "responses",
    metadata,
    Column("id", Words, primary_key=True),
    Column("agent_id", Words, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", Words, nullable=False),  # open, closed
    Column("parent_id", Words),
    Column("continued_by", Words),  # the one response that goes on in the same session
    Column("session_id", Words, ForeignKey(sessions.c.id, ondelete="CASCADE")),
    Column("last_seq", Integer),  # where in the session it ends
    Column("request", Words, nullable=False),  # JSON
    Column("body", Words),  # JSON
    Column("worker", Words, nullable=False, server_default=""),  # who makes it
)

# The processes that live: one whose time is up is dead, whatever it does.
workers = Table(
    "workers",
    metadata,
    Column("id", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("expires_at", BigInteger, nullable=False),  # by the database's clock
)

# Runs that want to go on in a session, in the order of their numbers, and the one that does.
places = Table(
    "places",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("session_key", Words, nullable=False),
    Column("run_id", Words, nullable=False, unique=True),
    Column("worker", Words, ForeignKey(workers.c.id, ondelete="CASCADE"), nullable=False),
    Column("held", Boolean, nullable=False, server_default=false()),
)

is_open = runs.c.ended_at.is_(None)
is_queued = runs.c.status == "queued"
is_open_response = responses.c.status == "open"
is_live = sessions.c.archived_at.is_(None)
is_held = places.c.held
_is_child = sessions.c.parent_key.is_not(None)

Index("ix_sessions_live", sessions.c.updated_at, sqlite_where=is_live, postgresql_where=is_live)
Index("ix_sessions_parent", sessions.c.parent_key, sqlite_where=_is_child, postgresql_where=_is_child)
Index("ix_runs_created_at", runs.c.created_at)
Index("ix_runs_open", runs.c.ended_at, sqlite_where=is_open, postgresql_where=is_open)
Index("ix_responses_open", responses.c.id, sqlite_where=is_open_response, postgresql_where=is_open_response)
Index("ix_responses_session", responses.c.session_id)
Index("ix_responses_continued", responses.c.continued_by)
Index("ix_places_line", places.c.session_key, places.c.seq)
Index("ix_places_held", places.c.session_key, unique=True, sqlite_where=is_held, postgresql_where=is_held)

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
    4: (
        "ALTER TABLE runs ADD COLUMN worker TEXT DEFAULT '' NOT NULL",
        "ALTER TABLE runs ADD COLUMN cancel TEXT",
        "ALTER TABLE responses ADD COLUMN worker TEXT DEFAULT '' NOT NULL",
        (
            "CREATE TABLE workers (id TEXT NOT NULL, name TEXT NOT NULL, expires_at BIGINT NOT NULL,"
            " PRIMARY KEY (id))"
        ),
        (
            "CREATE TABLE places (seq INTEGER NOT NULL, session_key TEXT NOT NULL, run_id TEXT NOT NULL,"
            " worker TEXT NOT NULL, held BOOLEAN DEFAULT 0 NOT NULL, PRIMARY KEY (seq), UNIQUE (run_id),"
            " FOREIGN KEY(worker) REFERENCES workers (id) ON DELETE CASCADE)"
        ),
        "CREATE INDEX ix_places_line ON places (session_key, seq)",
        "CREATE UNIQUE INDEX ix_places_held ON places (session_key) WHERE held",
    ),
}


def steps_from(version: int) -> Iterator[str]:
    """The statements that lead from ``version`` to this one."""
    return chain.from_iterable(UPGRADES[number] for number in range(version + 1, SCHEMA_VERSION + 1))
