from openclaw_gunicorn import graceful_timeout, on_reload, on_starting, post_worker_init  # noqa: F401
