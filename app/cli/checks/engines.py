"""Checks of the database and of Redis, where they are used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec

from sqlalchemy import Connection, extract, func, select

from ...errors import StoreError
from .finding import Finding, Site

_SLOW = 0.05  # seconds for an answer; a run asks some five times
_SKEW = 5.0
_SECONDS = 3.0


def database(site: Site) -> Iterator[Finding]:
    """Whether the database answers, how soon, with a schema that is known, by the same clock."""
    url = site.config.state.database if site.config else ""
    if not url:
        return
    if find_spec("psycopg") is None:
        yield Finding("problem", "The package psycopg is missing.", "pip install 'psycopg[binary]'")
        return
    from ...sessions.postgres import open_postgres  # needs the driver

    try:
        with closing(open_postgres(url, readonly=True)) as postgres:
            ahead = postgres.read(_ahead)
            started = time.monotonic()
            postgres.read(_ahead)
            took = time.monotonic() - started
    except StoreError as error:
        told = f"The database cannot be used. {error.message}"
        yield Finding("problem", told, "See state.databaseUrl or DATABASE_URL.")
        return
    yield _timed("The database", took)
    if abs(ahead) > _SKEW:
        told = f"The database's clock and this machine's differ by {abs(ahead):.0f} seconds."
        yield Finding("warning", told, "Set both by NTP.")


def redis(site: Site) -> Iterator[Finding]:
    """Whether Redis answers, and is of any use."""
    url = site.config.state.redis if site.config else ""
    if not url or site.config is None:
        return
    if not site.config.state.database:
        told = "A Redis is of no use without a database: it is ignored."
        yield Finding("warning", told, "Set DATABASE_URL as well.")
        return
    if find_spec("redis") is None:
        yield Finding("problem", "The package redis is missing.", "pip install 'redis[hiredis]'")
        return
    from redis import Redis
    from redis.exceptions import RedisError

    try:
        with closing(Redis.from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)) as client:
            client.ping()
            started = time.monotonic()
            client.ping()
            took = time.monotonic() - started
    except (RedisError, OSError, ValueError) as error:
        told = f"Redis cannot be used ({type(error).__name__})."
        yield Finding("problem", told, "See state.redisUrl or REDIS_URL.")
        return
    yield _timed("Redis", took)


def _timed(name: str, took: float) -> Finding:
    told = f"{name} answers in {took * 1000:.1f} ms"
    if took > _SLOW:
        return Finding(
            "warning", f"{told}: every run waits for that some times.", "Keep it near the gateway."
        )
    return Finding("ok", f"{told}.")


def _ahead(db: Connection) -> float:
    """Seconds by which the database's clock is ahead of ours."""
    there = db.execute(select(extract("epoch", func.clock_timestamp()))).scalar_one()
    return float(there) - time.time()
