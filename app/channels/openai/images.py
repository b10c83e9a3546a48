"""Images in a request: what their bytes say they are. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...errors import InvalidRequest
from ...messages import ImagePart
from .fields import invalid

MAX_IMAGES = 8
MAX_IMAGE_BYTES = 10 * 2**20
MAX_TOTAL_BYTES = 20 * 2**20
_MAGIC: Mapping[str, tuple[bytes, ...]] = MappingProxyType(
    {
        "image/jpeg": (b"\xff\xd8\xff",),
        "image/png": (b"\x89PNG\r\n\x1a\n",),
        "image/gif": (b"GIF87a", b"GIF89a"),
        "image/webp": (b"RIFF",),
    }
)


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Which images are taken: their MIME types, and the most bytes of one."""

    mimes: frozenset[str] = frozenset(_MAGIC)
    max_bytes: int = MAX_IMAGE_BYTES

    @property
    def names(self) -> str:
        """The types in words."""
        return ", ".join(mime for mime in _MAGIC if mime in self.mimes) or "none"


def is_inline(url: str) -> bool:
    """True for a ``data:`` URI."""
    return url[:5].lower() == "data:"


def inline_image(url: str, rules: ImageRules, where: str, detail: str | None = None) -> ImagePart:
    """The image that a ``data:`` URI holds.

    :raises InvalidRequest: it is not in base64, too large, or not what it says.
    """
    header, comma, data = url.partition(",")
    mime, *options = header[5:].lower().split(";")
    if not comma or "base64" not in options:
        raise invalid(where, "must be a base64 data URI")
    if mime not in rules.mimes:
        raise invalid(where, f"must be one of {rules.names}")
    if len(data) // 4 * 3 - data.endswith("=") - data.endswith("==") > rules.max_bytes:
        raise too_large(where, rules.max_bytes)
    try:
        image = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(where, "is not valid base64") from None
    if _type_of(image) != mime:
        raise invalid(where, f"does not hold a {mime} image")
    return ImagePart(mime, data, detail)


def fetched_image(image: bytes, rules: ImageRules, where: str, detail: str | None = None) -> ImagePart:
    """The image that these bytes are, whatever the server that sent them called it.

    :raises InvalidRequest: it is of another type, or none.
    """
    mime = _type_of(image)
    if mime is None or mime not in rules.mimes:
        raise invalid(where, f"leads to something that is not one of {rules.names}")
    return ImagePart(mime, base64.b64encode(image).decode(), detail)


def too_large(where: str, limit: int) -> InvalidRequest:
    """The refusal of what has more bytes than ``limit``."""
    size = f"{limit / 2**20:g} MiB" if limit >= 2**20 else f"{limit} bytes"
    return invalid(where, f"is larger than {size}")


def _type_of(image: bytes) -> str | None:
    found = next((mime for mime, magic in _MAGIC.items() if image.startswith(magic)), None)
    return None if found == "image/webp" and image[8:12] != b"WEBP" else found
