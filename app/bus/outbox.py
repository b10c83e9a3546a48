"""Commands on their way to the engine: bounded, in order, and nobody waits for them."""

from __future__ import annotations

import threading
from collections import deque
from typing import TypeAlias

Command: TypeAlias = tuple[str | bytes | int, ...]

_MOST_COMMANDS = 10_000
_MOST_BYTES = 16 * 2**20
_BATCH_COMMANDS = 256
_BATCH_BYTES = 2**20


class Outbox:
    """Commands that one thread sends for all others. Any thread may put, one takes.

    :ivar dropped: how many were lost because they came faster than they went, or did not arrive.
    """

    def __init__(self) -> None:
        # Guards everything below; reentrant for the condition's sake, as in RunService.
        self._changed = threading.Condition(threading.RLock())
        self._commands: deque[tuple[Command, int]] = deque()
        self._size = 0
        self._put = self._done = 0
        self._woken = False
        self.dropped = 0

    @property
    def accepted(self) -> int:
        """How many were put so far, those included that were lost later."""
        return self._put

    def put(self, command: Command, size: int = 0) -> None:
        """Add a command of about ``size`` bytes. The oldest make room."""
        with self._changed:
            self._commands.append((command, size))
            self._size += size
            self._put += 1
            while len(self._commands) > _MOST_COMMANDS or self._size > _MOST_BYTES:
                self._pop()
                self.dropped += 1
                self._done += 1
            if len(self._commands) == 1:
                self._changed.notify_all()

    def take(self, seconds: float) -> list[Command]:
        """The next commands, as many as go well together; none after ``seconds``, or when woken."""
        with self._changed:
            self._changed.wait_for(lambda: self._commands or self._woken, seconds)
            self._woken = False
            batch: list[Command] = []
            size = 0
            while self._commands and len(batch) < _BATCH_COMMANDS and size < _BATCH_BYTES:
                size += self._commands[0][1]
                batch.append(self._pop())
            return batch

    def done(self, commands: int) -> None:
        """Called by who takes: so many of what it has taken are sent, or will never be."""
        with self._changed:
            self._done += commands
            self._changed.notify_all()

    def lose(self, commands: int) -> None:
        """So many commands are lost that are not in here."""
        with self._changed:
            self.dropped += commands

    def settle(self, seconds: float) -> None:
        """Wait until what was put before this is done."""
        with self._changed:
            until = self._put
            self._changed.wait_for(lambda: self._done >= until, seconds)

    def wake(self) -> None:
        """Let :meth:`take` return at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop everything."""
        with self._changed:
            self.dropped += len(self._commands)
            self._done += len(self._commands)
            self._commands.clear()
            self._size = 0
            self._changed.notify_all()

    def _pop(self) -> Command:
        command, size = self._commands.popleft()
        self._size -= size
        return command
