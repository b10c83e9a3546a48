"""gunicorn reads this by itself. The hooks drain the gateway when the platform restarts it."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402 - everything is imported after patching

from openclaw_gunicorn import (  # noqa: E402, F401 - gunicorn finds its settings here
    graceful_timeout,
    on_reload,
    on_starting,
    post_worker_init,
)

bind = f"0.0.0.0:{os.environ['PORT']}"
worker_class = "gevent"
worker_connections = 5_000
workers = 1
keepalive = 95  # the router uses an idle connection again for 90 seconds
timeout = 60
