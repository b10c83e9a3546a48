"""What WSGI servers load: ``gunicorn wsgi:app``."""

import sys
from collections.abc import Callable
from typing import TypeVar

from app import GatewayError, create_app

T = TypeVar("T")


# Real threads that take blocking calls. A thread takes the next call when its last result has reached the
# event loop, which is in the loop's next round: with one thread, a busy loop would begin one run per round.
_THREADS = 16


def native_threads() -> Callable[[Callable[[], T]], T] | None:
    """Where green threads send blocking calls, so that nobody else waits: real threads, one call at a time.

    None where the server did not patch the standard library: blocking is harmless there.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    from gevent.threadpool import ThreadPool

    threads = ThreadPool(_THREADS)
    lock = monkey.get_original("threading", "Lock")()

    def offload(work: Callable[[], T]) -> T:
        def alone() -> T:
            with lock:
                return work()

        return threads.apply(alone)  # type: ignore[no-any-return]

    return offload


try:
    app = create_app(offload=native_threads())
except GatewayError as error:
    # 4 tells gunicorn that the application cannot be loaded: it stops instead of trying again.
    print(f"openclaw: {error}", file=sys.stderr)
    sys.exit(4)
