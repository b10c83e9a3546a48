"""Images in a request. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from ...messages import ImagePart, JsonValue, Message, UserMessage
from .fields import invalid, unserved

MAX_IMAGES = 8
MAX_IMAGE_BYTES = 10 * 2**20
_IMAGE_MAGIC = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}


def parse_image(value: JsonValue, where: str) -> ImagePart:
    """The image that an ``image_url`` holds inline."""
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise invalid(f"{where}.url", "must be a string")
    header, comma, data = url.partition(",")
    if not header.lower().startswith("data:"):
        raise unserved(f"{where}.url", "Only data: URIs are served for images; send the image inline.")
    mime, *options = header[5:].lower().split(";")
    if not comma or "base64" not in options:
        raise invalid(f"{where}.url", "must be a base64 data URI")
    if mime not in _IMAGE_MAGIC:
        raise invalid(f"{where}.url", f"must be one of {', '.join(_IMAGE_MAGIC)}")
    return ImagePart(mime, _checked_base64(data, mime, where))


def _checked_base64(data: str, mime: str, where: str) -> str:
    if len(data) // 4 * 3 - data.endswith("=") - data.endswith("==") > MAX_IMAGE_BYTES:
        raise invalid(f"{where}.url", f"is larger than {MAX_IMAGE_BYTES // 2**20} MiB")
    try:
        image = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{where}.url", "is not valid base64") from None
    if not image.startswith(_IMAGE_MAGIC[mime]) or (mime == "image/webp" and image[8:12] != b"WEBP"):
        raise invalid(f"{where}.url", f"does not hold a {mime} image")
    return data


def limit_images(messages: Sequence[Message]) -> None:
    """:raises InvalidRequest: there are too many images in all."""
    count = sum(len(m.images) for m in messages if isinstance(m, UserMessage))
    if count > MAX_IMAGES:
        raise invalid("messages", f"hold {count} images; at most {MAX_IMAGES} are served")
