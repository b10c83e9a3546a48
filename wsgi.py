"""What WSGI servers load: ``gunicorn wsgi:app``."""

import sys
from collections.abc import Callable
from typing import TypeVar

from app import GatewayError, create_app

T = TypeVar("T")


def native_thread() -> Callable[[Callable[[], T]], T] | None:
    """Where green threads send blocking calls: one real thread, so that nobody else waits.

    None where the server did not patch the standard library: blocking is harmless there.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    from gevent.threadpool import ThreadPool

    return ThreadPool(1).apply  # type: ignore[no-any-return]


try:
    app = create_app(offload=native_thread())
except GatewayError as error:
    # 4 tells gunicorn that the application cannot be loaded: it stops instead of trying again.
    print(f"openclaw: {error}", file=sys.stderr)
    sys.exit(4)
