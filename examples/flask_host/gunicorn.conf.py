from gevent import monkey

monkey.patch_all()

from openclaw_gunicorn import graceful_timeout, on_reload, on_starting, post_worker_init  # noqa: E402, F401

worker_class = "gevent"
wsgi_app = "shop:create_app()"
