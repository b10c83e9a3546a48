"""gunicorn's settings. Whoever embeds the gateway keeps their own and imports what they need."""

from gevent import monkey

monkey.patch_all()

import ctypes  # noqa: E402 - everything is imported after patching
import gc  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
from contextlib import suppress  # noqa: E402

import gevent  # noqa: E402

bind = f"{os.environ.get('OPENCLAW_GATEWAY_HOST') or '127.0.0.1'}:{os.environ.get('PORT') or '18789'}"
worker_class = "gevent"
# Session lanes live in one process. WEB_CONCURRENCY, which platforms set by themselves, must not break them.
workers = 1
# Above the gateway's own limit of runs, so that it answers 503 and health checks always get through.
worker_connections = 5_000
timeout = 60
# How long runs may go on after SIGTERM.
DRAIN_SECONDS = float(os.environ.get("OPENCLAW_DRAIN_SECONDS") or 15)
# Its end is a SIGKILL. After the drain, those runs that are left are stopped (up to 5 seconds), the last
# events go out (1), WebSocket clients leave (4); the rest is for commands, child processes and the database.
graceful_timeout = math.ceil(DRAIN_SECONDS) + 5 + 1 + 4 + 5
# Shorter than graceful_timeout: an idle connection must not hold up a restart.
keepalive = 5
preload_app = False
control_socket_disable = True

_PR_SET_DUMPABLE = 4


def on_starting(server):
    """What holds for the master and, by inheritance, for its worker."""
    _hide_environment()
    _raise_file_limit()


def _hide_environment():
    """Commands of agents run as the same user: /proc must not show them our keys. Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _raise_file_limit():
    """A stream takes two sockets: its client's and its provider's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * worker_connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def on_reload(server):
    """The state has room for one worker: on SIGHUP the old one goes before the new one comes."""
    server.kill_workers(signal.SIGTERM)
    deadline = time.monotonic() + graceful_timeout
    while server.WORKERS and time.monotonic() < deadline:
        time.sleep(0.1)
        server.reap_workers()
    server.kill_workers(signal.SIGKILL)


def _rarely_collect():
    """A thousand streams are many objects, and Python would look through all of them all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def post_worker_init(worker):
    """Close the gateway before the worker goes: SIGTERM lets runs end first, Ctrl-C does not."""
    _rarely_collect()
    stop = signal.getsignal(signal.SIGTERM)

    def close(drain_seconds):
        worker.wsgi.extensions["openclaw"].close(drain_seconds)
        stop(signal.SIGTERM, None)

    def on_signal(signum, frame):
        # gevent may call this in its event loop, where nothing may wait, not even for a thread's start.
        signal.signal(signum, signal.SIG_IGN)
        gevent.spawn(close, DRAIN_SECONDS if signum == signal.SIGTERM else 0)

    # A terminal sends SIGINT to all of us, and gunicorn's master then SIGQUIT to the worker.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, on_signal)
