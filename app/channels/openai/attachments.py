"""The images and files of one request, inline or on the web."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from ...cancel import Cancelled, CancelToken
from ...errors import RunAborted
from ...messages import ImagePart, JsonValue, TextPart
from ...tools.registry import ToolError
from .fields import choice, invalid, unserved
from .files import MAX_FILES, file_text
from .images import (
    MAX_IMAGES,
    MAX_TOTAL_BYTES,
    ImageRules,
    fetched_image,
    inline_image,
    is_inline,
    too_large,
)

# Gets what is at an address within so many seconds. Raises ToolError, and Cancelled once the token fires.
Fetch: TypeAlias = Callable[[str, CancelToken, float], bytes]
# While it is held, somebody looks whether the client is still there, and else cancels.
Watched: TypeAlias = Callable[[], AbstractContextManager[CancelToken]]


class Attachments:
    """Reads the images and files of one request, in the request's thread, and counts them.

    :param fetch: asks the web for images; None if that is not permitted.
    :param seconds: for all that is fetched together.
    :param watched: held while something is fetched.
    :param reading: held while a child process reads a file; by default the same.
    """

    def __init__(
        self,
        rules: ImageRules = ImageRules(),  # noqa: B008 - it is frozen
        fetch: Fetch | None = None,
        *,
        seconds: float = 10.0,
        watched: Watched = lambda: nullcontext(CancelToken()),
        reading: Watched | None = None,
    ) -> None:
        self._rules = rules
        self._fetch = fetch
        self._seconds = seconds
        self._watched = watched
        self._reading = reading or watched
        self._images = 0
        self._files = 0
        self._bytes = 0

    def image(self, value: JsonValue, where: str, detail: JsonValue = None) -> ImagePart:
        """The image of an ``image_url``, or of an ``input_image``.

        :param value: its address, or an object that has it as ``url``.
        :param detail: how closely to look, if that is not in the object.
        :raises InvalidRequest: it cannot be had, or is none; says why.
        :raises RunAborted: the client has left meanwhile.
        """
        self._images += 1
        if self._images > MAX_IMAGES:
            raise invalid("messages", f"hold more than {MAX_IMAGES} images")
        if isinstance(value, dict):
            detail, value = value.get("detail"), value.get("url")
        if not isinstance(value, str):
            raise invalid(f"{where}.url", "must be a string")
        looked = choice({"detail": detail}, "detail", ("auto", "low", "high"), f"{where}.detail")
        image = self._read(value, f"{where}.url", looked)
        self._bytes += len(image.data) // 4 * 3
        if self._bytes > MAX_TOTAL_BYTES:
            raise invalid("messages", f"hold more than {MAX_TOTAL_BYTES // 2**20} MiB of images")
        return image

    def file(self, value: JsonValue, where: str) -> TextPart:
        """What the object of a ``file`` part holds, as text.

        :raises InvalidRequest: it is no text, or too long; says why.
        :raises RunAborted: the client has left meanwhile.
        """
        self._files += 1
        if self._files > MAX_FILES:
            raise invalid("messages", f"hold more than {MAX_FILES} files")
        try:
            return file_text(value, where, self._reading)
        except Cancelled as cancelled:
            raise RunAborted(cancelled.reason) from None

    def _read(self, url: str, where: str, detail: str | None) -> ImagePart:
        if is_inline(url):
            return inline_image(url, self._rules, where, detail)
        if self._fetch is None:
            raise unserved(where, "Only data: URIs are served for images here; send the image inline.")
        try:
            data = self._fetched(self._fetch, url)
        except ToolError as error:
            raise invalid(where, f"cannot be fetched: {str(error).rstrip('.')}") from None
        except Cancelled as cancelled:
            raise RunAborted(cancelled.reason) from None
        if len(data) > self._rules.max_bytes:
            raise too_large(where, self._rules.max_bytes)
        return fetched_image(data, self._rules, where, detail)

    def _fetched(self, fetch: Fetch, url: str) -> bytes:
        if self._seconds <= 0:
            raise ToolError("The images before it took all the time there is.")
        started = time.monotonic()
        try:
            with self._watched() as cancel:
                return fetch(url, cancel, self._seconds)
        finally:
            self._seconds -= time.monotonic() - started
