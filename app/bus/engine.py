"""The way to one Redis, and whether it is worth taking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

import redis

from ..errors import ConfigError
from ..log import get_logger
from .outbox import Command

TROUBLE = (redis.RedisError, OSError)

# What a caller waits for at most, half a second in all: until it may ask, for a new connection, for
# the answer.
_SLOT_SECONDS, _CONNECT_SECONDS, _ANSWER_SECONDS = 0.1, 0.1, 0.3
_LINE_SECONDS = 1.0  # for a connection that no caller waits for
_CONNECTIONS = 8
_COMPLAINT_SECONDS = 60.0

_log = get_logger("bus")


class Away(Exception):
    """Redis does not answer; the caller does without it. Never leaves the bus."""


class Line(Protocol):
    """What is used of a connection of redis-py."""

    def connect(self) -> None:
        """Open it, unless it is open."""

    def disconnect(self) -> None:
        """Close it, whoever reads from it."""

    def send_command(self, *command: str | bytes | int) -> None:
        """Send one command."""

    def pack_commands(self, commands: Iterable[Command]) -> list[bytes]:
        """Commands as they go over the line."""

    def send_packed_command(self, command: list[bytes]) -> None:
        """Send what was packed."""

    def read_response(self) -> Any:
        """The next answer."""


class Engine:
    """Commands of any thread, and the breaker: while Redis is away nobody tries to reach it but one.

    :ivar up: commands are sent. Somebody calls :meth:`restore` to have it so again.
    :ivar database: the number that the URL names.
    """

    def __init__(self, url: str, on_trip: Callable[[], None]) -> None:
        """:param on_trip: called by whoever finds Redis away.

        :raises ConfigError: the URL cannot be used.
        """
        self.up = False
        self._on_trip = on_trip
        self._pool = _pool(url)
        # Not the pool's own limit: that many are asking is no sign that Redis is away.
        self._slots = threading.BoundedSemaphore(_CONNECTIONS)
        self.database = int(self._pool.connection_kwargs.get("db") or 0)
        self._trouble: Exception | None = None
        self._away_since: float | None = None  # what the log has been told
        self._complained_at = -_COMPLAINT_SECONDS

    def ask(self, *command: str | bytes | int) -> Any:
        """The answer to one command.

        :raises Away: there is none, within half a second at most.
        """
        if not self.up or not self._slots.acquire(timeout=_SLOT_SECONDS):
            raise Away
        try:
            return self._ask(command)
        except TROUBLE as error:
            self.trip(error)
            raise Away from None
        finally:
            self._slots.release()

    def ask_script(self, script: str, keys: list[bytes], *arguments: str | bytes | int) -> Any:
        """The answer to a script; see :meth:`ask`."""
        return self.ask(*script_command(script, keys, *arguments))

    def connect(self, seconds: float) -> Line:
        """A connection of its own for one thread, which waits ``seconds`` for an answer."""
        waits = {"socket_timeout": seconds, "socket_connect_timeout": _LINE_SECONDS}
        line = cast(Line, self._pool.connection_class(**self._pool.connection_kwargs | waits))
        line.connect()
        return line

    def trip(self, error: Exception) -> None:
        """Something failed: unless Redis has merely refused it, ask it nothing before :meth:`restore`."""
        if _refused(error):
            self.complain("Redis refuses a command", error)
        else:
            self.up, self._trouble = False, error
            self._on_trip()

    def restore(self) -> None:
        """Redis answers: commands are sent again."""
        if self._away_since is not None:
            _log.warning("Redis is back after %.1f s", time.monotonic() - self._away_since)
        elif self._trouble is not None:
            self.complain("Redis was out of reach for a moment", self._trouble)
        self._away_since = self._trouble = None
        self.up = True

    def stay_away(self, error: Exception) -> None:
        """Redis does not answer still."""
        self.up = False
        if self._away_since is None:
            self._away_since = time.monotonic()
            _log.warning("Redis is away, this worker goes on alone meanwhile: %s", error)

    def complain(self, what: str, error: Exception) -> None:
        """Write a warning, unless there was one lately."""
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = now
            _log.warning("%s: %s", what, error)

    def close(self) -> None:
        """Give the pool's connections back."""
        self.up = False
        self._pool.disconnect()

    def _ask(self, command: Command) -> Any:
        connection = self._pool.get_connection()
        line = cast(Line, connection)
        try:
            line.send_command(*command)
            return line.read_response()
        finally:
            # One whose answer did not come is closed by now.
            self._pool.release(connection)


def script_command(script: str, keys: list[bytes], *arguments: str | bytes | int) -> Command:
    """The command that runs a script.

    With its text each time: Redis finds it by its digest all the same, and whether it has been
    restarted or failed over since is no question.
    """
    return ("EVAL", script, len(keys), *keys, *arguments)


def _refused(error: Exception) -> bool:
    """True for an answer that is an error. A replica that takes no writes is as good as away."""
    return isinstance(error, redis.ResponseError) and not isinstance(error, redis.ReadOnlyError)


def _pool(url: str) -> redis.ConnectionPool:
    try:
        pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_CONNECT_SECONDS,
            protocol=2,  # what every server and every proxy speaks, and a round trip less
            driver_info=None,
        )
        pool.connection_class(**pool.connection_kwargs)  # finds out about its options
    except (ValueError, TypeError, redis.RedisError):
        # Not the error's words: it may tell what stands in the URL.
        raise ConfigError(
            "the Redis URL cannot be used: it has to be like redis://[[user]:password@]host[:port][/number],"
            " or rediss:// for TLS"
        ) from None
    return pool
