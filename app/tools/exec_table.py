"""Which commands run, and which of them the agents can come back to."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .exec_process import Process
from .registry import ToolError

_FIRST = "amber bold brisk calm clever deft early gentle keen kind lucky quiet".split()  # noqa: SIM905
_SECOND = "badger comet ember falcon grove harbor island lark meadow otter pine".split()  # noqa: SIM905


@dataclass(eq=False, slots=True)
class Command:
    """A command, and whose it is.

    :ivar text: the line as the agent wrote it.
    :ivar position: of the output that the agent has seen.
    :ivar told: the agent knows of its end.
    """

    name: str
    text: str
    session_key: str
    run_id: str
    process: Process
    position: int = 0
    told: bool = False
    forget_cancel: Callable[[], None] = field(default=lambda: None)


class CommandTable:
    """The commands of one gateway by name. Any thread may call any method.

    :param concurrent: at most so many run at the same time.
    :param listed: at most so many are listed for one session key.
    :param keep_seconds: how long one stays listed after its end.
    """

    def __init__(self, *, concurrent: int, listed: int, keep_seconds: float) -> None:
        self._most_running = concurrent
        self._most_listed = listed
        self._keep_seconds = keep_seconds
        self._changed = threading.Condition()  # guards everything below
        self._starting: set[str] = set()
        self._running: set[Command] = set()
        self._listed: dict[str, Command] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once nothing may be started any more."""
        return self._closed

    def reserve(self, session_key: str) -> str:
        """The name of a command that is about to start; :meth:`add` or :meth:`release` follows.

        :raises ToolError: there are too many, or the gateway is going away.
        """
        with self._changed:
            if self._closed:
                raise ToolError("The gateway is shutting down.")
            if len(self._running) + len(self._starting) >= self._most_running:
                raise ToolError("Too many commands are running. End one, or try again later.")
            listed = self._of(session_key)
            if len(listed) >= self._most_listed:
                self._drop_oldest(listed)
            name = _new_name({*self._listed, *self._starting, *(c.name for c in self._running)})
            self._starting.add(name)
            return name

    def release(self, name: str) -> None:
        """It could not be started."""
        with self._changed:
            self._starting.discard(name)
            self._changed.notify_all()

    def add(self, command: Command) -> None:
        """It has started."""
        with self._changed:
            self._starting.discard(command.name)
            self._running.add(command)

    def remove(self, command: Command) -> None:
        """It has ended. If it is listed it stays so."""
        with self._changed:
            self._running.discard(command)
            self._changed.notify_all()

    def enlist(self, command: Command) -> None:
        """From now on the agent can come back to it."""
        with self._changed:
            self._listed[command.name] = command

    def drop(self, command: Command) -> None:
        """Nobody comes back to it."""
        with self._changed:
            self._listed.pop(command.name, None)

    def of(self, session_key: str) -> list[Command]:
        """The listed commands of a session, the oldest first."""
        with self._changed:
            return self._of(session_key)

    def news(self, session_key: str) -> list[Command]:
        """Those that have ended without the agent's knowledge, each of them once."""
        with self._changed:
            ended = [c for c in self._of(session_key) if c.process.ending is not None and not c.told]
            for command in ended:
                command.told = True
            return ended

    def forget(self, chosen: Callable[[Command], bool]) -> list[Command]:
        """Drop these; returns those of them that still run."""
        with self._changed:
            self._listed = {name: c for name, c in self._listed.items() if not chosen(c)}
            return [command for command in self._running if chosen(command)]

    def close(self) -> None:
        """Nothing may be started any more."""
        with self._changed:
            self._closed = True

    def wait_empty(self, seconds: float) -> None:
        """Until nothing runs, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running and not self._starting, seconds)

    def _of(self, session_key: str) -> list[Command]:
        cutoff = time.monotonic() - self._keep_seconds
        self._listed = {n: c for n, c in self._listed.items() if (c.process.ended or cutoff) >= cutoff}
        return [command for command in self._listed.values() if command.session_key == session_key]

    def _drop_oldest(self, listed: list[Command]) -> None:
        oldest = next((command for command in listed if command.process.ending is not None), None)
        if oldest is None:
            raise ToolError("Too many background commands are running. End one with process (kill).")
        del self._listed[oldest.name]


def _new_name(taken: set[str]) -> str:
    while True:
        name = f"{secrets.choice(_FIRST)}-{secrets.choice(_SECOND)}"
        if name in taken:
            name = f"{name}-{secrets.randbelow(1000)}"
        if name not in taken:
            return name
