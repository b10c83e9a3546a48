"""The child process and the lines between it and the gateway."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...wire import InvalidJson, dumps, loads

_PROGRAM = Path(__file__).with_name("child.py")
_MIB = 1 << 20
_LONGEST_LINE = 8 * _MIB
_MOST_SILENT_TICKS = 4
_MOST_TICKS_TO_START = 20  # importing the SDK takes a while on a busy host
_EXIT_PATIENCE = 5.0


class Link:
    """One child process and the socket to it.

    Any thread may send and kill; one thread reads :meth:`events` and buries the child.

    :param tick: seconds between two looks at a silent child, and the longest a send may take.
    """

    def __init__(self, environment: Mapping[str, str], tick: float) -> None:
        """Start the child.

        :raises OSError: no process or socket is to be had.
        """
        self.last_words: deque[str] = deque(maxlen=8)
        self._sending = threading.Lock()  # one line at a time
        self._groups: set[int] = set()  # process groups of servers; only the reading thread's
        self._tick = tick
        self._next_ping = time.monotonic() + tick
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(tick)
        try:
            self._process = _run_child(theirs, environment)
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        :raises OSError: the child is gone, or does not listen; then it is killed.
        """
        try:
            with self._sending:
                self._socket.sendall(dumps(message) + b"\n")
        except OSError:
            self.kill()  # half a line may have been sent
            raise

    def events(self) -> Iterator[dict[str, Any]]:
        """What the child reports; ends with the child, or once it shows no life."""
        unread, silent, patience = bytearray(), 0, _MOST_TICKS_TO_START
        while silent < patience and len(unread) <= _LONGEST_LINE:
            try:
                self._ping_if_due()
                data = self._socket.recv(65536)
            except TimeoutError:
                silent += 1
                continue
            except OSError:
                return
            if not data:
                return
            silent, patience = 0, _MOST_SILENT_TICKS
            *lines, rest = data.split(b"\n")
            for line in lines:
                unread += line
                yield from self._event_in(bytes(unread))
                unread.clear()
            unread += rest
        self.kill()

    def hang_up(self) -> None:
        """Tell the child to end its servers and itself. Any thread; does not wait."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()

    def bury(self) -> int:
        """Let the child end its servers, or end all of them; returns the exit code."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_PATIENCE)
        self._process.kill()
        for group in self._groups:
            with suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        return self._process.wait()

    def _ping_if_due(self) -> None:
        """The child ends itself unless it hears from us; whatever it sends shows that it lives."""
        if time.monotonic() >= self._next_ping:
            self._next_ping = time.monotonic() + self._tick
            self.send({"op": "ping"})

    def _event_in(self, line: bytes) -> Iterator[dict[str, Any]]:
        """The event in a line; anything else is the log of somebody in the child."""
        event: object = None
        with suppress(InvalidJson):
            event = loads(line)
        if not isinstance(event, dict) or "event" not in event:
            self.last_words.append(line.decode(errors="replace")[:500])
        elif event["event"] == "started":
            self._groups.add(event["pid"])
        elif event["event"] == "ended":
            self._groups.discard(event["pid"])
        else:
            yield event


def _run_child(stdio: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        # -P: what lies beside the program must not shadow the standard library
        [sys.executable, "-P", str(_PROGRAM)],
        stdin=stdio.fileno(),
        stdout=stdio.fileno(),
        stderr=stdio.fileno(),
        env=dict(environment),
        start_new_session=True,  # a Ctrl-C in the terminal is for the gateway
    )
