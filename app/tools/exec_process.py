"""One command from its start to its end: the gateway's side of the warden (:mod:`.exec_child`)."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..cancel import CancelToken
from ..messages import JsonObject, JsonValue
from ..wire import InvalidJson, dumps, loads
from .exec_output import Output
from .registry import ToolError

_WARDEN = Path(__file__).with_name("exec_child.py")
_CHUNK = 1 << 16
_PATIENCE = 8.0  # seconds that a warden has after the grace, before it is killed itself
_LEFTOVERS = 32  # chunks still in the pipe when the command is gone; a pipe holds 16 of them
_RETRY = 0.05
_TICK = 1.0  # seconds between two looks at the clock
_INPUT_TIMEOUT = 5.0


class StopReason(StrEnum):
    """Why the gateway has ended a command."""

    TIMEOUT = "timeout"
    KILLED = "killed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and how.

    :ivar command: a line for the shell.
    :ivar environment: all variables the command sees.
    :ivar timeout: seconds.
    :ivar grace: seconds between SIGTERM and SIGKILL.
    :ivar processes: at most this many at the same time, or the command is ended.
    :ivar isolate: in a PID namespace of its own, where the kernel allows it.
    :ivar interactive: standard input is a pipe to write to, else it is empty.
    :ivar hidden: files that are empty for the command, where it is isolated.
    :ivar sealed: a directory that is read-only for it, but for ``workspace``, where it is isolated.
    """

    command: str
    shell: str
    directory: Path
    environment: Mapping[str, str]
    timeout: float
    grace: float
    processes: int
    isolate: bool
    interactive: bool
    hidden: tuple[Path, ...] = ()
    sealed: Path | None = None
    workspace: Path = Path()

    def wire(self) -> bytes:
        """As the warden reads it."""
        order: JsonObject = {
            "command": self.command,
            "shell": self.shell,
            "directory": str(self.directory),
            "environment": dict(self.environment),
            "processes": self.processes,
            "isolate": self.isolate,
            "grace": self.grace,
            "hidden": [str(path) for path in self.hidden],
            "sealed": str(self.sealed) if self.sealed else None,
            "workspace": str(self.workspace),
        }
        return dumps(order) + b"\n"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command has ended.

    :ivar code: the exit code, negative for a signal; None if nobody can tell.
    :ivar stopped: why the gateway has ended it, if it has.
    :ivar crowded: it had too many processes and was ended.
    :ivar left: processes that it left behind, which were ended too.
    """

    code: int | None
    stopped: StopReason | None = None
    crowded: bool = False
    left: int = 0

    @property
    def succeeded(self) -> bool:
        """True for an end of its own with exit code 0."""
        return self.code == 0 and self.stopped is None and not self.crowded


class Process:
    """A command under way. Its processes are gone when :attr:`ending` is set.

    Any thread may call any method; :meth:`pump` needs a thread of its own.

    :param on_end: called once at the end, by the thread that pumps.
    :raises OSError: it cannot be started.
    """

    def __init__(self, order: Order, output: Output, on_end: Callable[[], None]) -> None:
        self._output = output
        self._on_end = on_end
        self._changed = threading.Condition()  # guards everything below, and _output
        self._stopped: StopReason | None = None
        self._ending: Ending | None = None
        self._input: int | None = None
        self.started = time.monotonic()
        self.ended: float | None = None
        self.timeout = order.timeout
        self._patience = order.grace + _PATIENCE
        self._deadline = self.started + order.timeout
        self._start(order)

    @property
    def pid(self) -> int:
        """Of the warden."""
        return self._warden.pid

    @property
    def ending(self) -> Ending | None:
        """None while it runs."""
        return self._ending

    @property
    def age(self) -> float:
        """Seconds that it runs, or ran."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def size(self) -> int:
        """Bytes of output so far."""
        return self._output.total

    def text(self) -> str:
        """The output, shortened in the middle."""
        with self._changed:
            return self._output.text()

    def tail(self, size: int) -> str:
        """The last bytes of the output."""
        with self._changed:
            return self._output.end(size)

    def since(self, position: int) -> tuple[str, int]:
        """Output after ``position``, and the position after that."""
        with self._changed:
            return self._output.since(position)

    def wait(self, seconds: float, cancel: CancelToken, position: int | None = None) -> bool:
        """Wait for the end, or for output after ``position``; True if it has ended.

        :raises Cancelled: soon after ``cancel`` fires.
        """

        def is_over() -> bool:
            news = position is not None and self._output.total > position
            return self._ending is not None or news or cancel.cancelled

        remove = cancel.on_cancel(self._wake)
        try:
            with self._changed:
                self._changed.wait_for(is_over, seconds)
        finally:
            remove()
        cancel.raise_if_cancelled()
        return self._ending is not None

    def stop(self, reason: StopReason) -> None:
        """End the command and everything it has started. Returns at once."""
        with self._changed:
            if self._ending is None and self._stopped is None:
                self._stopped = reason
                self._deadline = time.monotonic() + self._patience
                with suppress(OSError):  # it has just ended
                    self._link.shutdown(socket.SHUT_WR)
            self._changed.notify_all()

    def write(self, data: bytes, cancel: CancelToken, *, eof: bool) -> None:
        """Write to the command's standard input; ``eof`` closes it after that.

        :raises ToolError: it has none, or does not read it.
        """
        deadline = time.monotonic() + _INPUT_TIMEOUT
        rest = memoryview(data)
        while rest:
            cancel.raise_if_cancelled()
            with self._changed:
                written = self._write_some(rest)
                if not written:
                    self._changed.wait(_RETRY)
            rest = rest[written:]
            if rest and time.monotonic() > deadline:
                raise ToolError(f"The command does not read its input; {len(rest)} bytes were not written.")
        if eof:
            with self._changed:
                self._close_input()

    def _write_some(self, data: memoryview) -> int:
        if self._input is None:
            raise ToolError("The command's standard input is closed.")
        try:
            return os.write(self._input, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._close_input()
            raise ToolError("The command has closed its standard input.") from None

    def _close_input(self) -> None:
        if self._input is not None:
            os.close(self._input)
            self._input = None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _start(self, order: Order) -> None:
        with ExitStack() as ours, ExitStack() as theirs:
            self._link, link = socket.socketpair()
            ours.enter_context(self._link)
            theirs.enter_context(link)
            self._pipe, output = os.pipe()
            ours.callback(os.close, self._pipe)
            theirs.callback(os.close, output)
            os.set_blocking(self._pipe, False)
            source = subprocess.DEVNULL
            if order.interactive:
                source, self._input = os.pipe()
                ours.callback(self._close_input)
                theirs.callback(os.close, source)
                os.set_blocking(self._input, False)
            self._warden = _run_warden(link, source, output)
            with suppress(OSError):  # it has died already, as the pump will see
                self._link.sendall(order.wire())
            self._resources = ours.pop_all()

    # From here on: the thread that pumps.

    def pump(self) -> None:
        """Take in the output and watch the clock until the command has ended."""
        answer: JsonValue = None
        try:
            with suppress(InvalidJson):
                answer = loads(self._follow())
        finally:
            self._end(answer if isinstance(answer, dict) else {})

    def _follow(self) -> bytes:
        """Everything the warden says until it ends."""
        answer = b""
        poller = select.poll()
        poller.register(self._link, select.POLLIN)
        poller.register(self._pipe, select.POLLIN)
        while True:
            for fd, _ in poller.poll(self._check_clock() * 1000):
                if fd == self._pipe:
                    if not self._read_some():
                        poller.unregister(self._pipe)
                elif data := self._listen():
                    answer += data
                else:
                    return answer

    def _listen(self) -> bytes:
        try:
            return self._link.recv(4096)
        except OSError:  # it was killed with the order unread
            return b""

    def _read_some(self) -> bool:
        """Take a chunk of output; False if there will be no more."""
        try:
            data = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return True
        with self._changed:
            self._output.add(data)
            self._changed.notify_all()
        return data != b""

    def _check_clock(self) -> float:
        """Stop what is out of time; returns after how many seconds to look again."""
        with self._changed:
            left = self._deadline - time.monotonic()
            if left > 0:
                return min(left + 0.001, _TICK)
            if self._stopped is None:
                self.stop(StopReason.TIMEOUT)
            else:
                self._warden.kill()
            return _TICK

    def _end(self, answer: Mapping[str, JsonValue]) -> None:
        for _ in range(_LEFTOVERS):
            if not self._is_readable() or not self._read_some():
                break
        with self._changed:
            self._resources.close()
            self._output.close()
        self._warden.wait()
        with self._changed:
            code, left = answer.get("code"), answer.get("left")
            self._ending = Ending(
                code=code if isinstance(code, int) else None,
                stopped=self._stopped,
                crowded=answer.get("crowded") is True,
                left=left if isinstance(left, int) else 0,
            )
            self.ended = time.monotonic()
            self._changed.notify_all()
        self._on_end()

    def _is_readable(self) -> bool:
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        return bool(poller.poll(0))


def _run_warden(link: socket.socket, source: int, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-I", "-S", str(_WARDEN), str(link.fileno())],
        stdin=source,
        stdout=output,
        stderr=output,
        pass_fds=(link.fileno(),),
        cwd="/",
        # Where Python is a shared library it may only be found by this. Nothing else: what is
        # in here, the command could read.
        env={"LANG": "C.UTF-8", "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"},
        start_new_session=True,  # a Ctrl-C in the terminal is for the gateway
    )
