"""Keeps the process of the built-in model alive and says where to reach it.

One thread supervises: it starts the child, listens to it on one socket (the child's standard
input, output and error), checks its health, reaps it and starts the next one. The child is
forked in that thread because Linux's parent-death signal follows the forking *thread*, and
this one always outlives its children. Everybody else only reads the state, under one lock.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from .embedded_child import CONFIG_VARIABLE

Spawn: TypeAlias = Callable[[str, Callable[[], None]], object]
Status: TypeAlias = Literal["cold", "loading", "ready", "failed"]

_PROVIDER = "embedded"
_CHILD_PROGRAM = Path(__file__).with_name("embedded_child.py")
_PASSED_ON = ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR")
_MIB = 1 << 20
_SOCKET_NAME = "model.sock"  # llama.cpp takes a host name for a path if it ends like this
# A unix socket's path has at most 103 bytes on macOS; "/model-xxxxxxxx/model.sock" is added to this.
_LONGEST_DIRECTORY = 75
_PREFIX = "model-"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the child loads and how much of the host it may take."""

    model_path: str
    alias: str
    context_size: int = 8192
    threads: int = 1
    slots: int = 2
    max_tokens: int = 2048

    @property
    def memory_limit(self) -> int:
        """Bytes of data the child may allocate: about three times what it should need."""
        weights = Path(self.model_path).stat().st_size
        return 3 * weights + self.context_size * 64 * 1024 + 256 * _MIB


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, and how often: how patient the supervisor is."""

    start: float = 180.0
    health_interval: float = 3.0
    health_timeout: float = 3.0
    health_misses: int = 3
    short_life: float = 10.0
    short_lives: int = 3
    restart_delay: float = 0.2
    back_off: float = 15.0
    longest_back_off: float = 300.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running child listens, and its key. Every child has its own."""

    socket_path: str
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Death:
    """Why a child is gone, for the caller; ``final`` if another one would fare no better."""

    text: str
    final: bool = False


class Supervisor:
    """Owns the child process. Starts it on first use, restarts it when it dies.

    :param runtime_dir: private directory for the child's socket; created when missing. What
        earlier supervisors left there is removed, so nobody else may use it meanwhile.
    :param spawn: starts a thread (name, function); the only source of threads.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        runtime_dir: Path,
        spawn: Spawn,
        log: logging.Logger,
        timings: Timings = Timings(),
    ) -> None:
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._spawn = spawn
        self._log = log
        self._timings = timings
        self._changed = threading.Condition()  # guards everything below
        self._status: Status = "cold"
        self._closed = False
        self._supervised = False
        self._child: _Child | None = None
        self._failure = ""
        self._failures = 0
        self._retry_at = 0.0

    @property
    def status(self) -> Status:
        """``loading`` until the model can answer, ``failed`` while it is left alone."""
        return self._status

    def ensure_ready(self, cancel: CancelToken, timeout: float) -> Endpoint:
        """Where the model answers; starts it and waits up to ``timeout`` seconds if need be.

        :raises ProviderError: UNAVAILABLE; ``retry_after`` says when to try again.
        :raises Cancelled: soon after ``cancel`` fires. The start goes on for others.
        """
        with self._changed:
            self._start_if_due()
        wait_until(self._changed, lambda: self._status != "loading", cancel, timeout)
        with self._changed:
            if self._status == "ready" and self._child is not None:
                return self._child.endpoint
            raise self._unavailable()

    def close(self) -> None:
        """Kill the child and wait until it is gone. Later calls of ``ensure_ready`` fail."""
        with self._changed:
            self._closed = True
            self._status = "cold"
            if self._child is not None:
                self._child.kill()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._supervised, timeout=10.0)

    def _start_if_due(self) -> None:
        if self._closed or self._supervised:
            return
        if self._status == "failed" and time.monotonic() < self._retry_at:
            return
        self._spawn("embedded-model", self._supervise)
        self._supervised = True
        self._status = "loading"

    def _unavailable(self) -> ProviderError:
        text, retry_after = "The built-in model is still loading. Please try again.", 2.0
        if self._closed:
            text, retry_after = "The built-in model is shut down.", 1.0
        elif self._status == "failed":
            text, retry_after = self._failure, max(1.0, self._retry_at - time.monotonic())
        return ProviderError(ProviderReason.UNAVAILABLE, text, provider=_PROVIDER, retry_after=retry_after)

    # From here on: the supervising thread.

    def _supervise(self) -> None:
        short_lives = 0
        death = _Death("The built-in model could not be started.", final=True)
        _sweep(self._runtime_dir)
        try:
            while not self._closed:
                born = time.monotonic()
                death = self._live()
                short_lives = short_lives + 1 if time.monotonic() - born < self._timings.short_life else 0
                if death.final or short_lives >= self._timings.short_lives:
                    break
                self._pause(self._timings.restart_delay * 2**short_lives)
        finally:
            self._give_up(death)

    def _live(self) -> _Death:
        """The life of one child, from its start until it has been reaped."""
        try:
            with _socket_directory(self._runtime_dir) as directory:
                endpoint = Endpoint(str(Path(directory, _SOCKET_NAME)), secrets.token_urlsafe(32))
                child = _Child(self._settings, endpoint)
                try:
                    death = self._attend(child) if self._adopt(child) else _Death("")
                finally:
                    self._disown()
                    child.bury()
        except OSError as error:
            self._log.error("%s could not be started: %s", self._settings.alias, error)
            return _Death("The built-in model could not be started; the gateway's log says why.")
        if not self._closed:
            self._log.error(
                "%s has ended: %s", self._settings.alias, " | ".join([death.text, *child.last_words])
            )
        return death

    def _attend(self, child: _Child) -> _Death:
        name, born, misses = self._settings.alias, time.monotonic(), 0
        self._log.info("loading %s …", name)
        for event in child.events(self._timings.health_interval):
            age = time.monotonic() - born
            if event == "ready":
                self._log.info("%s ready in %.1f s", name, age)
                self._announce()
            elif event == "failed":
                return _Death(
                    "The built-in model could not be loaded; the gateway's log says why.", final=True
                )
            elif self._status == "ready":
                misses = 0 if self._is_healthy(child.endpoint) else misses + 1
                if misses >= self._timings.health_misses:
                    return _Death("The built-in model stopped responding.")
            elif age > self._timings.start:
                text = f"The built-in model was not ready after {self._timings.start:g} seconds."
                return _Death(text, final=True)
            else:
                self._log.info("still loading %s (%.0f s)", name, age)
        return _explain(child.exit_code())

    def _is_healthy(self, endpoint: Endpoint) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(self._timings.health_timeout)
            sock.connect(endpoint.socket_path)
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in sock.recv(64)
        return False

    def _adopt(self, child: _Child) -> bool:
        with self._changed:
            self._child = child
            return not self._closed

    def _disown(self) -> None:
        with self._changed:
            self._child = None
            if not self._closed:
                self._status = "loading"

    def _announce(self) -> None:
        with self._changed:
            if not self._closed:
                self._status = "ready"
                self._failures = 0
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _give_up(self, death: _Death) -> None:
        with self._changed:
            self._supervised = False
            if not self._closed:
                self._status = "failed"
                self._failure = death.text
                back_off = min(self._timings.back_off * 2**self._failures, self._timings.longest_back_off)
                self._failures += 1
                self._retry_at = time.monotonic() + back_off
            self._changed.notify_all()


class _Child:
    """One child process and the socket to it."""

    def __init__(self, settings: ModelSettings, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.last_words: deque[str] = deque(maxlen=8)
        config = {
            **asdict(settings),
            **asdict(endpoint),
            "memory_limit": settings.memory_limit,
            "parent_pid": os.getpid(),
        }
        self._socket, theirs = socket.socketpair()
        try:
            self._process = _run_child(theirs, json.dumps(config))
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def events(self, tick: float) -> Iterator[str]:
        """What the child reports, and ``""`` every ``tick`` seconds; ends when the child does."""
        unread, next_tick = b"", time.monotonic() + tick
        while True:
            wait = next_tick - time.monotonic()
            if wait <= 0:
                next_tick = time.monotonic() + tick
                yield ""
                continue
            self._socket.settimeout(wait)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                return
            if not data:
                return
            *lines, unread = (unread + data).split(b"\n")
            yield from filter(None, map(self._event_in, lines))

    def kill(self) -> None:
        """End the child at once. Any thread."""
        self._process.kill()

    def exit_code(self) -> int:
        """Why it has ended, once :meth:`events` has: negative for a signal."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=5.0)
        return self.bury()

    def bury(self) -> int:
        """Kill and reap; returns the exit code."""
        self._process.kill()
        self._socket.close()
        return self._process.wait()

    def _event_in(self, line: bytes) -> str:
        """The event in a line that the child sent to us; llama.cpp's own lines are kept."""
        text = line.decode(errors="replace").strip()
        message = None
        with suppress(ValueError):
            message = json.loads(text)
        if isinstance(message, dict):
            text = str(message.get("reason", ""))
        if text:
            self.last_words.append(text)
        return str(message.get("event", "")) if isinstance(message, dict) else ""


def wait_until(
    changed: threading.Condition, done: Callable[[], bool], cancel: CancelToken, timeout: float
) -> bool:
    """Wait up to ``timeout`` seconds until ``done()``; False if it is not. ``changed`` guards it.

    :raises Cancelled: soon after ``cancel`` fires.
    """

    def wake() -> None:
        with changed:
            changed.notify_all()

    remove = cancel.on_cancel(wake)
    try:
        with changed:
            changed.wait_for(lambda: cancel.cancelled or done(), timeout)
            cancel.raise_if_cancelled()
            return done()
    finally:
        remove()


def _run_child(stdio: socket.socket, config: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        # -P: what lies beside the program must not shadow the standard library
        [sys.executable, "-P", str(_CHILD_PROGRAM)],
        stdin=stdio.fileno(),
        stdout=stdio.fileno(),
        stderr=stdio.fileno(),
        env=_environment(config),
        start_new_session=True,  # a Ctrl-C in the terminal is for the gateway
    )


def _environment(config: str) -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # Threads that spin while they wait make the model 20 times slower on a busy host.
    return {**passed_on, "OMP_WAIT_POLICY": "PASSIVE", CONFIG_VARIABLE: config}


def _socket_directory(runtime_dir: Path) -> tempfile.TemporaryDirectory[str]:
    runtime_dir = runtime_dir.absolute()
    if len(os.fsencode(runtime_dir)) > _LONGEST_DIRECTORY:
        return tempfile.TemporaryDirectory(prefix=_PREFIX)
    runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=_PREFIX, dir=runtime_dir)


def _sweep(runtime_dir: Path) -> None:
    """Remove the socket directories of gateways that were killed; no child is alive now."""
    for stale in runtime_dir.glob(f"{_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _explain(exit_code: int) -> _Death:
    if exit_code == -signal.SIGILL:
        return _Death(
            "The built-in model cannot run on this processor: it needs AVX2, FMA, F16C and BMI2.", final=True
        )
    if exit_code in (-signal.SIGKILL, -signal.SIGABRT):
        return _Death("The built-in model was stopped, perhaps for want of memory.")
    return _Death(f"The built-in model stopped unexpectedly (exit code {exit_code}).")
