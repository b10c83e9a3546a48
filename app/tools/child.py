"""Heavy or hostile work in a process of its own.

Under gevent a regular expression that never ends, or a large page to be parsed, would stop
every user's stream, and no time limit could reach it. In a child process it only stops
itself, and ends with the child.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from math import ceil
from pathlib import Path

from ..cancel import CancelToken
from ..messages import JsonValue
from ..wire import InvalidJson, dumps, loads
from .registry import ToolError

_MIB = 1 << 20
_MAX_ANSWER = 8 * _MIB
_CHUNK = 1 << 16
_LAST_WORDS = 1.0  # seconds that a child which has hung up gets to end by itself
_NICENESS = 15  # ten of them on two cores leave the gateway most of one


def run_child(
    program: Path,
    job: JsonValue,
    *,
    timeout: float,
    cancel: CancelToken,
    memory: int = 512 * _MIB,
) -> JsonValue:
    """Run a Python program of ours: ``job`` is JSON on its standard input, its output the answer.

    The program reads its input to the end before it writes. It sees site-packages, but neither
    this package nor the gateway's environment, and what it says on standard error is lost. Its
    process group is gone when this returns. Any thread; no thread is started.

    :param timeout: seconds, for everything from start to answer.
    :param memory: bytes of address space.
    :raises ToolError: out of time, died, or its answer cannot be read.
    :raises Cancelled: soon after ``cancel`` fires.
    """
    cancel.raise_if_cancelled()
    deadline = time.monotonic() + timeout
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            child = _start(program, theirs)
        # Hanging up wakes whoever is reading or writing below, in whatever thread.
        forget = cancel.on_cancel(lambda: _hang_up(ours))
        try:
            _be_modest(child.pid, memory, timeout)
            answer = _converse(ours, dumps(job), deadline)
            cancel.raise_if_cancelled()
            if not answer:
                raise ToolError(f"The helper process ended without an answer ({_ending(child)}).")
        except TimeoutError:
            raise ToolError(f"This took longer than {timeout:g} seconds and was stopped.") from None
        finally:
            forget()
            _end(child)
    return _parsed(answer)


def _start(program: Path, link: socket.socket) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - a program of ours
            [sys.executable, "-I", str(program)],
            stdin=link.fileno(),
            stdout=link.fileno(),
            stderr=subprocess.DEVNULL,
            cwd="/",
            # Where Python is a shared library it may only be found by this.
            env={"LANG": "C.UTF-8", "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"},
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"The helper process cannot be started: {error.strerror}.") from None


def _be_modest(pid: int, memory: int, timeout: float) -> None:
    """Limit a child that still waits for its job."""
    if sys.platform == "linux":
        import resource  # has no `prlimit` elsewhere

        with suppress(ProcessLookupError):  # it has died already; its silence will say so
            os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
            resource.prlimit(pid, resource.RLIMIT_AS, (memory, memory))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            # Should the gateway be killed, nobody is left to look at the clock.
            processor = ceil(timeout) + 1
            resource.prlimit(pid, resource.RLIMIT_CPU, (processor, processor))


def _converse(link: socket.socket, question: bytes, deadline: float) -> bytes:
    """What the child answers; nothing if one of the two sides hung up before that."""
    answer = bytearray()
    try:
        _set_timeout(link, deadline)
        link.sendall(question)
        link.shutdown(socket.SHUT_WR)
        while len(answer) <= _MAX_ANSWER:
            _set_timeout(link, deadline)
            chunk = link.recv(_CHUNK)
            if not chunk:
                return bytes(answer)
            answer += chunk
    except TimeoutError:
        raise
    except OSError:
        return b""
    raise ToolError("The helper process had too much to say.")


def _set_timeout(link: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    link.settimeout(left)


def _hang_up(link: socket.socket) -> None:
    with suppress(OSError):  # the other side was quicker
        link.shutdown(socket.SHUT_RDWR)


def _ending(child: subprocess.Popen[bytes]) -> str:
    try:
        code = child.wait(_LAST_WORDS)
    except subprocess.TimeoutExpired:
        return "it hung"
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # everybody has left
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _parsed(answer: bytes) -> JsonValue:
    try:
        return loads(answer)
    except InvalidJson:
        raise ToolError("The helper process gave an answer that cannot be read.") from None
