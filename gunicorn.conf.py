"""gunicorn's settings. Whoever embeds the gateway keeps their own and imports what they need."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402 - everything is imported after patching
import resource  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402

bind = f"{os.environ.get('OPENCLAW_GATEWAY_HOST', '127.0.0.1')}:{os.environ.get('PORT', '18789')}"
worker_class = "gevent"
# Session lanes live in one process. WEB_CONCURRENCY, which platforms set by themselves, must not break them.
workers = 1
# Above the gateway's own limit of runs, so that it answers 503 and health checks always get through.
worker_connections = 5_000
timeout = 60
graceful_timeout = 25
# Shorter than graceful_timeout: an idle connection must not hold up a restart.
keepalive = 5
preload_app = False
control_socket_disable = True

DRAIN_SECONDS = 15.0


def on_starting(server):
    """A stream takes two sockets: its client's and its provider's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * worker_connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def post_worker_init(worker):
    """End open streams properly before the worker goes: SIGTERM drains, then stops."""
    stop = signal.getsignal(signal.SIGTERM)
    draining = threading.Event()

    def drain(signum, frame):
        runtime = worker.wsgi.extensions["openclaw"]
        runtime.close(DRAIN_SECONDS)
        stop(signum, frame)

    def on_term(signum, frame):
        if not draining.is_set():
            draining.set()
            threading.Thread(target=drain, args=(signum, frame), name="openclaw-drain").start()

    signal.signal(signal.SIGTERM, on_term)
