"""The thread that sends what nobody waits for, and that finds out when Redis is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import redis

from ..log import get_logger
from .engine import TROUBLE, Engine, Line
from .outbox import Command, Outbox

_log = get_logger("bus")

Send: TypeAlias = Callable[[Sequence[Command]], list[Any]]

CHORE_SECONDS = 1.0  # between two rounds of chores

_RETRY_SECONDS = 1.0
_ANSWER_SECONDS = 1.0  # nobody waits for it, and a busy worker must not take Redis for dead


class Sender:
    """Empties the outbox over a connection of its own."""

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        *,
        before_return: Callable[[Send], None],
        after_return: Callable[[Send], None],
        chores: Callable[[Send], None],
    ) -> None:
        """All three are called in the sender's thread, with what sends commands and returns their answers.

        :param before_return: Redis is there again and may have lost everything; others do not ask it yet.
        :param after_return: they do now, and what they put into the outbox goes after this.
        :param chores: called every :data:`CHORE_SECONDS`.
        """
        self._engine = engine
        self._outbox = outbox
        self._before_return, self._after_return, self._chores = before_return, after_return, chores
        self._closing = threading.Event()
        self._line: Line | None = None
        self._chores_due = 0.0

    def run(self) -> None:
        """What the thread does until :meth:`close`."""
        while not self._closing.is_set():
            if self._engine.up or self._revive():
                self._work(self._chores_due - time.monotonic())
            else:
                self._outbox.clear()
                self._closing.wait(_RETRY_SECONDS)
        while self._engine.up and self._work(0):
            pass
        self._hang_up()

    def close(self) -> None:
        """Send what is left and end."""
        self._closing.set()
        self._outbox.wake()

    def _work(self, seconds: float) -> bool:
        """Send the next commands, if any come within so many seconds; False if none came."""
        batch = self._outbox.take(max(0.0, seconds))
        try:
            if batch:
                self._send(batch)
            if time.monotonic() >= self._chores_due:
                self._chores(self._send)
                self._chores_due = time.monotonic() + CHORE_SECONDS
        except Exception as error:  # this thread must not end
            self._outbox.lose(len(batch))
            self._engine.trip(error)
            if not isinstance(error, TROUBLE):
                _log.exception("telling other workers failed")
        finally:
            self._outbox.done(len(batch))
        return bool(batch)

    def _revive(self) -> bool:
        """Try to reach Redis; True if it is there."""
        self._hang_up()
        try:
            self._send([("PING",)])
            self._before_return(self._send)
            self._engine.restore()
            self._after_return(self._send)
        except Exception as error:
            self._engine.stay_away(error)
            if not isinstance(error, TROUBLE):
                _log.exception("telling other workers failed")
        return self._engine.up

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once; their answers, None for those that were refused."""
        if self._line is None:
            self._line = self._engine.connect(_ANSWER_SECONDS)
        line = self._line
        line.send_packed_command(line.pack_commands(commands))
        return [self._answer(line) for _ in commands]

    def _answer(self, line: Line) -> Any:
        try:
            return line.read_response()
        except redis.ReadOnlyError:
            raise
        except redis.ResponseError as error:
            self._engine.complain("Redis refuses a command", error)
            return None

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.disconnect()
        self._line = None
