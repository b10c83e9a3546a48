"""gunicorn's settings for a gateway of its own. Whoever embeds it imports openclaw_gunicorn, as this does."""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402 - everything is imported after patching
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))  # wherever gunicorn was started

import openclaw_gunicorn  # noqa: E402
from openclaw_gunicorn import (  # noqa: E402, F401 - gunicorn finds its settings here
    DRAIN_SECONDS,
    LAME_DUCK_SECONDS,
    child_exit,
    graceful_timeout,
    logger_class,
    on_exit,
    on_reload,
    on_starting,
    worker_count,
)

bind = f"{os.environ.get('OPENCLAW_GATEWAY_HOST') or '127.0.0.1'}:{os.environ.get('PORT') or '18789'}"
worker_class = "gevent"
workers = worker_count(os.environ)
# Above the gateway's own limit of runs, so that it answers 503 and health checks always get through.
worker_connections = 5_000
timeout = 60
# Longer than proxies keep an idle connection (nginx and AWS 60 seconds, Heroku 90): whoever closes it first
# may cut off a request that is on its way. A worker that stops waits for none of them.
keepalive = 95
preload_app = False
control_socket_disable = True


def _rarely_collect():
    """A thousand streams are many objects, and Python would look through all of them all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _announce(worker):
    """Whatever port it was given, the `openclaw` command finds the gateway by its state directory."""
    addresses = [sock.getsockname() for sock in worker.sockets]
    host, port = next((address[:2] for address in addresses if isinstance(address, tuple)), (None, None))
    if port is not None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - looked up, not listened on
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "https" if worker.cfg.is_ssl else "http"
        for gateway in openclaw_gunicorn.gateways_in(worker.wsgi):
            gateway.runtime.announce(f"{scheme}://{place}", worker.ppid)


def post_worker_init(worker):
    """What holds for the worker, once it has loaded the application."""
    _rarely_collect()
    openclaw_gunicorn.post_worker_init(worker)
    _announce(worker)
