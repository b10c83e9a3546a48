"""A gateway under gunicorn, its own or in somebody's application. For a ``gunicorn.conf.py`` to import::

    from openclaw_gunicorn import child_exit, graceful_timeout, on_exit
    from openclaw_gunicorn import on_reload, on_starting, post_worker_init

Above that, for the gevent worker: ``from gevent import monkey; monkey.patch_all()``. A hook of your own
calls the one from here.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

T = TypeVar("T")

# How long runs may go on after SIGTERM.
DRAIN_SECONDS = float(os.environ.get("OPENCLAW_DRAIN_SECONDS") or 15)
# How long runs are still taken after SIGTERM, while /readyz says no: for load balancers that ask it.
LAME_DUCK_SECONDS = float(os.environ.get("OPENCLAW_LAME_DUCK_SECONDS") or 0)
# Its end is a SIGKILL. After the drain, those runs that are left are stopped (up to 5 seconds), the last
# events go out (1), WebSocket clients leave (4); the rest is for commands, child processes and the database.
graceful_timeout = math.ceil(LAME_DUCK_SECONDS + DRAIN_SECONDS) + 5 + 1 + 4 + 5

_CANNOT_LOAD = (
    4  # tells gunicorn's master that the application cannot be loaded: it stops instead of trying again
)
_PR_SET_DUMPABLE = 4
# prometheus-client looks here when it is loaded.
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
_OWN_DIRECTORY = "openclaw-metrics-"

# Seconds for the head of a connection's first request: whoever only connects holds a place as long.
_FIRST_WORD = 5
# Seconds from the end of all runs until idle connections are closed: whoever is about to use one does.
_LAST_WORD = 1

_MANY = "several workers need a database and a Redis (DATABASE_URL and REDIS_URL)"
_ONE_BY_ONE = (
    "the sync worker serves one request at a time and no WebSockets; use worker_class = 'gthread' or 'gevent'"
)


def on_starting(server: Any) -> None:
    """What holds for the master and, by inheritance, for its workers."""
    wished = os.environ.get("WEB_CONCURRENCY", "1")
    if wished != "1" and not shares_state(os.environ):
        server.log.info("openclaw: WEB_CONCURRENCY=%s is ignored: %s", wished, _MANY)
    _hide_environment()
    _raise_file_limit(server.cfg.worker_connections)
    if server.cfg.workers > 1:
        _share_metrics(os.environ)


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn calls hooks by position
    """A worker that is gone has no runs and connections any more; what it has counted stays."""
    for file in Path(os.environ.get(_METRICS) or os.devnull).glob(f"gauge_live*_{worker.pid}.db"):
        file.unlink(missing_ok=True)


def on_exit(server: Any) -> None:  # noqa: ARG001
    """Leave nothing behind."""
    directory = Path(os.environ.get(_METRICS) or os.devnull)
    if directory.name.startswith(f"{_OWN_DIRECTORY}{os.getpid()}-"):
        shutil.rmtree(directory, ignore_errors=True)


def shares_state(env: Mapping[str, str]) -> bool:
    """True if the environment names a database and a Redis, so that any number of workers are one gateway."""
    return all(env.get(f"OPENCLAW_{name}") or env.get(name) for name in ("DATABASE_URL", "REDIS_URL"))


def worker_count(env: Mapping[str, str]) -> int:
    """How many workers ``WEB_CONCURRENCY`` asks for; one where more could not work together.

    Platforms set the variable by themselves, so this is no reason not to start.
    """
    wished = env.get("WEB_CONCURRENCY", "")
    return max(1, int(wished)) if shares_state(env) and wished.isdigit() else 1


def on_reload(server: Any) -> None:
    """On SIGHUP. A state may have room for one worker only: the old one goes before the new one comes."""
    if server.cfg.workers > 1:  # then it has room for any number
        return
    server.kill_workers(signal.SIGTERM)
    deadline = time.monotonic() + server.cfg.graceful_timeout
    while server.WORKERS and time.monotonic() < deadline:
        time.sleep(0.1)
        server.reap_workers()
    server.kill_workers(signal.SIGKILL)


def logger_class() -> type:
    """gunicorn's logger, whose lines look like the gateway's: ``OPENCLAW_LOG_FORMAT`` decides."""
    plain: type = import_module("gunicorn.glogging").Logger
    if os.environ.get("OPENCLAW_LOG_FORMAT", "").strip().lower() != "json":
        return plain

    def setup(self: Any, cfg: Any) -> None:
        plain.setup(self, cfg)  # type: ignore[attr-defined]
        for handler in self.error_log.handlers:
            handler.setFormatter(_JsonLines())

    return type("JsonLogger", (plain,), {"setup": setup})


class _JsonLines(logging.Formatter):
    """The gateway's JSON lines, for a master process that has not loaded the gateway."""

    def format(self, record: logging.LogRecord) -> str:
        """An object a line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        shown: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "logger": record.name}
        shown |= {"message": record.getMessage(), "pid": record.process}
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown, default=str)


def post_worker_init(worker: Any) -> None:
    """Open all gateways of the application, or stop the server; have them closed before the worker goes."""
    mounts = list(gateways_in(worker.wsgi))
    for mount in mounts:
        mount.offload = mount.offload or native_thread()
        if (problem := mount.try_open(worker.cfg.workers)) is not None:
            print(f"openclaw: {problem}", file=sys.stderr)
            sys.exit(_CANNOT_LOAD)
    if mounts and worker.cfg.worker_class_str == "sync":
        worker.log.warning("openclaw: %s", _ONE_BY_ONE)
    signal.signal(signal.SIGHUP, lambda *_: _begin(lambda: _reload(mounts)))
    _close_before_the_end(worker, mounts)


def gateways_in(application: Any) -> Iterator[Any]:
    """The gateways of a Flask application, also of one that middleware is wrapped around."""
    extensions = getattr(application, "extensions", None)
    if isinstance(extensions, dict):
        yield from (value for key, value in extensions.items() if f"{key}:".startswith("openclaw:"))
        return
    mounted = getattr(application, "mounts", None)
    inner = [*mounted.values()] if isinstance(mounted, dict) else []
    inner += [getattr(application, name, None) for name in ("app", "wsgi_app", "application", "__self__")]
    for one in inner:
        if one is not None:
            yield from gateways_in(one)


def native_thread() -> Callable[[Callable[[], T]], T] | None:
    """Where green threads send blocking calls, so that nobody else waits: a real thread, one by one.

    None where nobody patched the standard library: blocking is harmless there.
    """
    if _monkey() is None:
        return None
    return _NativeThread().call


class _NativeThread:
    """One real thread that does what green threads ask for, in the order in which they ask.

    gevent's pool hands a thread its next call when the last one's result has reached the event loop, which
    is in the loop's next round: a busy loop would do one call per round.
    """

    def __init__(self) -> None:
        self._new_waiter = import_module("gevent.hub").Waiter
        self._process = 0  # in which it was started; a fork leaves it behind

    def call(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises; the calling green thread waits."""
        if self._process != os.getpid():
            self._start()
        waiter = self._new_waiter()
        self._asked.put((work, waiter))
        return waiter.get()  # type: ignore[no-any-return]

    def _start(self) -> None:
        self._process = os.getpid()
        self._asked = import_module("_queue").SimpleQueue()  # the one that nobody has patched
        self._done: deque[tuple[Callable[[Any], object], object]] = deque()
        self._bell = import_module("gevent").get_hub().loop.async_()
        self._bell.start(self._hand_over)
        _monkey().get_original("_thread", "start_new_thread")(self._work, ())

    def _work(self) -> None:
        """The body of the real thread."""
        while True:
            work, waiter = self._asked.get()
            try:
                self._done.append((waiter.switch, work()))
            except BaseException as error:
                self._done.append((waiter.throw, error))
            del work, waiter
            self._bell.send()

    def _hand_over(self) -> None:
        """Called by the event loop."""
        while self._done:
            wake, outcome = self._done.popleft()
            wake(outcome)


def _close_before_the_end(worker: Any, mounts: list[Any]) -> None:
    """SIGTERM lets runs end first, Ctrl-C does not. Whoever signals twice gains nothing."""
    stop: Any = signal.getsignal(signal.SIGTERM)
    before_request = worker.cfg.pre_request
    begun: set[int] = set()
    closed = threading.Event()
    # Only gevent's worker knows the attribute; where it is set already, connections are not gunicorn's.
    connections = _Connections(worker) if getattr(worker, "server_class", worker) is None else None

    def last_request(worker: Any, request: Any) -> None:
        request.must_close = True
        before_request(worker, request)

    def close(*seconds: float) -> None:
        # To close a connection that was to be kept might cut off the next request: it is told first.
        worker.cfg.set("pre_request", last_request)
        _together([partial(mount.close, *seconds) for mount in mounts])
        closed.set()
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread may be asleep
        if connections is not None:
            connections.hang_up()

    def on_signal(signum: int, frame: Any) -> None:
        if closed.is_set():
            stop(signal.SIGTERM, frame)
        elif signum not in begun:
            begun.add(signum)
            seconds = (DRAIN_SECONDS, LAME_DUCK_SECONDS) if signum == signal.SIGTERM else (0, 0)
            _begin(partial(close, *seconds))

    # A terminal sends SIGINT to all of us, and gunicorn's master then SIGQUIT to the worker.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, on_signal)


class _Connections:
    """The connections of a gevent worker, all of which get an answer, the last ones too.

    The worker itself closes its listeners first: then the system resets those that have connected and were
    not accepted yet, and the worker fails on those that it has accepted and not begun with. A proxy that has
    sent a request on one cannot know whether it was taken, so it does not ask another gateway, as it does
    when a connection is refused.
    """

    def __init__(self, worker: Any) -> None:
        self._cfg = worker.cfg
        self._handle, self._answer = worker.handle, worker.handle_request
        self._idle: set[Any] = set()
        self._asked = threading.local()  # by the connection that a green thread serves
        worker.handle_request = self.answer
        worker.timeout_ctx = self.patience
        worker.server_class = self.listen

    def listen(self, listener: Any, spawn: Any, **options: Any) -> Any:
        """The server for a listener; the worker's own, were it not for how it closes."""
        address = listener.getsockname()
        door = SimpleNamespace(getsockname=lambda: address)  # also when it is closed
        tls = {name: options[name] for name in ("ssl_context",) if name in options}
        StreamServer = import_module("gevent.server").StreamServer  # noqa: N806 - it is a class
        server = StreamServer(listener, handle=partial(self.handle, door), spawn=spawn, **tls)
        server.close = partial(_close_door, server, server.close)
        if self._cfg.workers > 1:
            server.max_accept = 1
        return server

    def handle(self, door: Any, connection: Any, address: Any) -> None:
        """Serve a connection."""
        self._idle.add(connection)
        try:
            self._handle(door, connection, address)
        finally:
            self._idle.discard(connection)

    def patience(self) -> Any:
        """What ends the wait for a connection's next request, which ``keepalive`` is meant for."""
        seconds = self._cfg.keepalive
        if not hasattr(self._asked, "once"):
            seconds = min(seconds, _FIRST_WORD)
        return import_module("gevent").Timeout(seconds, False)

    def answer(self, name: Any, request: Any, connection: Any, address: Any) -> Any:
        """Answer one request of a connection."""
        self._asked.once = True
        self._idle.discard(connection)
        try:
            return self._answer(name, request, connection, address)
        finally:
            self._idle.add(connection)

    def hang_up(self) -> None:
        """End those on which nothing is asked for ``_LAST_WORD``, now and from now on."""
        self._cfg.set("keepalive", _LAST_WORD)  # for those that begin to wait
        waiting = set(self._idle)
        time.sleep(_LAST_WORD)
        system_socket = _monkey().get_original("socket", "socket")  # gevent's reader would fail, not end
        for number in [connection.fileno() for connection in waiting & self._idle]:
            if number >= 0:
                same = system_socket(fileno=number)
                with suppress(OSError):  # it has just ended by itself
                    same.shutdown(socket.SHUT_RD)
                same.detach()


def _close_door(server: Any, close: Callable[[], None]) -> None:
    """Let in who has connected already; whoever comes afterwards is refused, or taken by another worker."""
    if not server.closed:
        with suppress(OSError):
            while not server.full() and (connected := server.do_read()):
                server.do_handle(*connected)
    close()


def _reload(mounts: list[Any]) -> None:
    for mount in mounts:
        mount.reload()


def _begin(work: Callable[[], object]) -> None:
    """Start ``work`` from a signal's handler.

    gevent may call that in its event loop, where nothing may wait, not even for a thread's start.
    """
    if _monkey() is None:
        threading.Thread(target=work, name="openclaw-closing", daemon=True).start()
    else:
        import_module("gevent").spawn(work)


def _together(works: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _monkey() -> Any:
    """gevent's, if it has patched threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey if monkey is not None and monkey.is_module_patched("threading") else None


def _share_metrics(env: MutableMapping[str, str]) -> None:
    """Each scrape reaches one worker and has to see the sum of all: they count in files of one directory."""
    for left in Path(tempfile.gettempdir()).glob(f"{_OWN_DIRECTORY}*"):
        owner = left.name.removeprefix(_OWN_DIRECTORY).partition("-")[0]
        if Path("/proc/self").exists() and not Path("/proc", owner).exists():  # it was killed
            shutil.rmtree(left, ignore_errors=True)
    env[_METRICS] = env.get(_METRICS) or tempfile.mkdtemp(prefix=f"{_OWN_DIRECTORY}{os.getpid()}-")
    directory = Path(env[_METRICS])
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.db"):  # of workers of an earlier life
        file.unlink(missing_ok=True)


def _hide_environment() -> None:
    """Commands of agents run as the same user: /proc must not show them our keys. Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _raise_file_limit(connections: int) -> None:
    """A stream takes two sockets: its client's and its provider's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
