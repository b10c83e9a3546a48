"""Images that are somewhere on the web, for requests that hold their addresses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ...cancel import CancelReason, CancelToken
from ...config import ImagesConfig
from ...runs.executor import Executor
from ...tools.registry import ToolError
from ...tools.web.client import WebClient
from ...tools.web.guard import Guard, bounded, system_resolver
from ..client import ClientWatch
from .attachments import Attachments
from .images import ImageRules

_LOOK = 0.25  # seconds between two looks whether the client is still there
_LOOKUP = 5.0  # seconds for the address of a name
_READERS = 2  # files that are read at the same time; a hostile one takes half a gigabyte


class ImageSource:
    """Makes :class:`Attachments` for requests, as the configuration permits. Any thread."""

    def __init__(self, settings: ImagesConfig, executor: Executor) -> None:
        self._settings = settings
        self._executor = executor
        mimes = frozenset(mime.lower() for mime in settings.allowed_mimes)
        self._rules = ImageRules(mimes & ImageRules().mimes, settings.max_bytes)
        self._seconds = settings.timeout_ms / 1000
        resolve = bounded(system_resolver, executor.spawn, min(_LOOKUP, self._seconds))
        guard = Guard(settings.url_allowlist, resolve, only=bool(settings.url_allowlist))
        self._readers = threading.Semaphore(_READERS)
        self._web = WebClient(guard, timeout=self._seconds, max_bytes=settings.max_bytes + 1)

    def attachments(self, client: ClientWatch) -> Attachments:
        """The reader for one request, whose client may leave."""
        return Attachments(
            self._rules,
            self._fetch if self._settings.allow_url else None,
            seconds=self._seconds,
            watched=partial(self._watched, client),
            reading=partial(self._reading, client),
        )

    def _fetch(self, url: str, cancel: CancelToken, seconds: float) -> bytes:
        """One byte more than permitted if it is longer than that."""
        response = self._web.request(
            "GET",
            url,
            cancel,
            headers={"Accept": ", ".join(sorted(self._rules.mimes))},
            redirects=self._settings.max_redirects,
            timeout=seconds,
        )
        if not 200 <= response.status < 300:
            raise ToolError(f"The server answered with status {response.status}.")
        return response.body

    @contextmanager
    def _watched(self, client: ClientWatch) -> Iterator[CancelToken]:
        cancel = CancelToken()
        over = False

        def look() -> None:
            if over:
                return
            if client.gone():
                cancel.cancel(CancelReason.DISCONNECT)
            else:
                self._executor.after(_LOOK, look)

        look()
        try:
            yield cancel
        finally:
            over = True

    @contextmanager
    def _reading(self, client: ClientWatch) -> Iterator[CancelToken]:
        """Waits until it is this client's turn."""
        with self._watched(client) as cancel:
            while not self._readers.acquire(timeout=_LOOK):
                cancel.raise_if_cancelled()
            try:
                yield cancel
            finally:
                self._readers.release()
