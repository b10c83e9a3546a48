"""A gateway's place in an application. The gateway itself comes with the first request.

Applications are imported by much that serves nobody: a reloader's parent, a server's master before it
forks, ``flask shell``. None of them may take the state.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from flask import has_request_context, request

from ..config import Config
from ..errors import ConfigError, GatewayDraining, GatewayError, Unavailable
from ..log import get_logger
from ..runtime import Runtime
from ..sessions.store import Offload
from .auth import Authenticate, Guard

T = TypeVar("T")
# Makes the runtime and opens the state; gets what runs blocking calls of the database.
Build: TypeAlias = Callable[[Offload | None], Runtime]

# Seconds after which opening what could not be opened is tried again.
_PAUSE = 1.0

_FORKED = (
    "The gateway was opened before the server started its worker processes; open it in the worker, or let"
    " the first request do it."
)
_MANY = (
    "This server runs several processes, and the gateway keeps its state in one: run one worker process,"
    " or give it a database and Redis (OPENCLAW_DATABASE_URL and OPENCLAW_REDIS_URL)."
)

_MISCONFIGURED = "The gateway's configuration cannot be used; its log says why."

_log = get_logger("gateway")


class Mount:
    """One gateway of one application. Any thread may call any method.

    :ivar config: what the gateway is made from.
    :ivar url_prefix: what all its paths begin with, maybe nothing.
    :ivar offload: where blocking calls of the database run; to be set before the gateway is opened.
    """

    def __init__(
        self,
        config: Config,
        url_prefix: str,
        build: Build,
        authenticate: Authenticate | None = None,
        offload: Offload | None = None,
    ) -> None:
        self.config = config
        self.url_prefix = url_prefix
        self.offload = offload
        self._build = build
        self._authenticate = authenticate
        self._parts: list[Callable[[Runtime, Guard], None]] = []
        self._lock = threading.RLock()  # guards everything below
        self._runtime: Runtime | None = None
        self._process = 0
        self._closed = False
        self._failure: tuple[float, GatewayError] | None = None

    def part(self, make: Callable[[Runtime, Guard], T]) -> Callable[[], T]:
        """Have a part of the gateway made when it is opened, after those that were announced before.

        Returns what gives the part, and opens the gateway if it is not open; see :meth:`open`.
        """
        made: list[T] = []

        def get() -> T:
            if self._process != os.getpid():
                self.open()
            return made[0]

        def set_up(runtime: Runtime, guard: Guard) -> None:
            made[:] = [make(runtime, guard)]

        self._parts.append(set_up)
        return get

    @property
    def runtime(self) -> Runtime:
        """The open gateway; see :meth:`open`."""
        return self.open()

    @property
    def is_open(self) -> bool:
        """True once the gateway has been opened, also after it was closed."""
        return self._runtime is not None

    def open(self) -> Runtime:
        """Open the gateway, unless it is open; everybody else waits meanwhile.

        :raises ConfigError: a setting cannot be used, which could not be seen before.
        :raises StoreError: the state cannot be opened.
        :raises Unavailable: this is one process of several, or the gateway was closed.
        """
        with self._lock:
            if self._runtime is None:
                self._runtime = self._opened()
                self._process = os.getpid()
                atexit.register(self.close)
            if self._process != os.getpid():
                raise Unavailable(_FORKED)
            return self._runtime

    def try_open(self, processes: int = 1) -> str | None:
        """Open the gateway before the first request, for a server; what is wrong, if it does not open.

        :param processes: how many of the server's load the application.
        """
        if processes > 1 and not _is_shared(self):
            return _MANY
        try:
            with self._lock:
                self._failure = None  # of a request, perhaps, which has to do with other processes
                self.open()
        except GatewayError as error:
            return str(error)
        return None

    def reload(self) -> None:
        """Read the configuration again, if the gateway is open; the log says what has come of it."""
        if self._runtime is not None and not self._closed:
            self._runtime.reloader.try_reload()

    def close(self, drain_seconds: float = 0.0, notice_seconds: float = 0.0) -> None:
        """See :meth:`Runtime.close`. What was never opened stays closed. Safe to repeat."""
        with self._lock:
            self._closed = True
            runtime = self._runtime if self._process == os.getpid() else None
        if runtime is not None:
            runtime.close(drain_seconds, notice_seconds)
            atexit.unregister(self.close)

    def _opened(self) -> Runtime:
        if self._closed:
            raise GatewayDraining
        if self._failure is not None and time.monotonic() - self._failure[0] < _PAUSE:
            raise self._failure[1]
        try:
            if not self._may_be_one_of_many():
                raise Unavailable(_MANY)
            return self._assembled()
        except GatewayError as error:
            _log.error("the gateway cannot be opened: %s", error)
            told = _for_clients(error) if has_request_context() else error
            self._failure = (time.monotonic(), told)
            raise told from None

    def _assembled(self) -> Runtime:
        runtime = self._build(self.offload)
        try:
            gateway = self.config.gateway
            guard = Guard(
                gateway.auth,
                gateway.trusted_proxies,
                authenticate=self._authenticate,
                bus=runtime.state.bus,
            )
            for make in self._parts:
                make(runtime, guard)
        except BaseException:
            runtime.close()
            raise
        return runtime

    def _may_be_one_of_many(self) -> bool:
        """True unless the server is known to have processes beside this one that cannot work together."""
        return not (has_request_context() and request.environ.get("wsgi.multiprocess")) or _is_shared(self)


def _is_shared(mount: Mount) -> bool:
    return bool(mount.config.state.database and mount.config.state.redis)


def _for_clients(error: GatewayError) -> GatewayError:
    """What is wrong with the configuration may name files, and is for the operator."""
    return Unavailable(_MISCONFIGURED) if isinstance(error, ConfigError) else error
