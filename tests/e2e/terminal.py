"""A program in a terminal, as a person sees it and types."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from typing import Self

import pyte


class Terminal:
    """A program in a terminal of 100 by 40 characters: what is typed, and what the screen shows."""

    _COLUMNS, _LINES = 100, 40

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        self._command = command
        self._env = env
        self._screen = pyte.Screen(self._COLUMNS, self._LINES)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Self:
        self._master, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", self._LINES, self._COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            self._command,
            env=dict(self._env),
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        os.close(self._master)

    @property
    def screen(self) -> str:
        """What is to be seen now."""
        return "\n".join(line.rstrip() for line in self._screen.display).strip()

    def type(self, text: str) -> None:
        """Press the keys one by one."""
        for key in text:
            os.write(self._master, key.encode())

    def wait_for(self, *texts: str, without: str | None = None, timeout: float = 60.0) -> str:
        """The screen once it shows all of ``texts``, and nothing of ``without``; fails the test after
        ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not all(text in self.screen for text in texts) or (without and without in self.screen):
            assert time.monotonic() < deadline, f"the screen never showed {texts}\n{self.screen}"
            if select.select([self._master], [], [], 0.1)[0]:
                self._stream.feed(os.read(self._master, 65536))
        return self.screen
