"""What ``agent`` and ``chat.send`` ask for, checked."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Iterator, Mapping

from ...agents.models import THINKING, effort_of
from ...messages import ImagePart, JsonValue, SamplingParams, TextPart, UserMessage
from ...runtime import Runtime
from .keys import agent_of, find
from .protocol import Refusal, text

IMAGE_BYTES = 5 * 2**20
_IMAGES = 8
_ID_LENGTH = 256
_NO_LIMIT = 31_536_000.0  # a year in seconds: a thread can wait for it
_LEVELS = (*THINKING, "adaptive", "ultra")
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)

Params = Mapping[str, JsonValue]


def run_id(params: Params, method: str) -> str:
    """The caller's own id of the run.

    :raises Refusal: it is missing, too long or holds control characters.
    """
    key = text(params, "idempotencyKey", method, required=True) or ""
    if len(key) > _ID_LENGTH or any(unicodedata.category(char) in ("Cc", "Cs") for char in key):
        raise Refusal(f"invalid {method} params: at /idempotencyKey: must be at most {_ID_LENGTH} characters")
    return key


def place(raw: str, runtime: Runtime) -> tuple[str, str]:
    """The key that a session is kept under, and its agent.

    :raises Refusal: see :func:`~.keys.canonical`.
    """
    key = find(raw, runtime.agents, runtime.store)
    session = runtime.store.session(key)
    if session is not None and session.agent_id in runtime.agents:
        return key, session.agent_id
    return key, agent_of(key, runtime.agents)


def question(params: Params, method: str) -> UserMessage:
    """The message with its attachments.

    :raises Refusal: there is neither, or an attachment is no image that is served.
    """
    value = params.get("message")
    if value is not None and not isinstance(value, str):
        raise Refusal(f"invalid {method} params: at /message: must be string")
    images = _images(params.get("attachments"), method)
    parts = (*((TextPart(value),) if value and value.strip() else ()), *images)
    if not parts:
        raise Refusal("message or attachment required")
    return UserMessage(parts)


def thinking(params: Params, method: str) -> SamplingParams:
    """How hard the model is to think.

    :raises Refusal: there is no such level.
    """
    level = text(params, "thinking", method)
    if level is not None and level.lower() not in _LEVELS:
        raise Refusal(f"invalid {method} params: at /thinking: must be one of {', '.join(_LEVELS)}")
    return SamplingParams(reasoning_effort=effort_of(level and level.lower()))


def seconds(params: Params, name: str, method: str, unit: float = 1.0) -> float | None:
    """How long a run may take; None if that is not said.

    :param unit: of the parameter, in seconds. 0 of it is no limit.
    :raises Refusal: no number, or less than nothing.
    """
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise Refusal(f"invalid {method} params: at /{name}: must be >= 0")
    return min(value, _NO_LIMIT / unit) * unit or _NO_LIMIT


def _images(value: JsonValue, method: str) -> Iterator[ImagePart]:
    if value is None:
        return
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Refusal(f"invalid {method} params: at /attachments: must be array of objects")
    if len(value) > _IMAGES:
        raise Refusal(f"attachments: at most {_IMAGES} are served")
    for number, item in enumerate(value, 1):
        if isinstance(item, dict):
            name = item.get("fileName")
            yield _image(item.get("content"), name if isinstance(name, str) and name else f"#{number}")


def _image(content: JsonValue, name: str) -> ImagePart:
    """An image by what its bytes say, whatever type its sender gives it."""
    if not isinstance(content, str):
        raise Refusal(f"attachment {name:.80}: content must be base64 or a data: URL")
    data = content.partition(",")[2] if content.startswith("data:") else content
    if len(data) // 4 * 3 > IMAGE_BYTES + 2:
        raise Refusal(f"attachment {name:.80}: larger than {IMAGE_BYTES // 2**20} MiB")
    try:
        mime = _mime(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        raise Refusal(f"attachment {name:.80}: not valid base64") from None
    if mime is None:
        raise Refusal(f"attachment {name:.80}: only JPEG, PNG, GIF and WebP images are served")
    return ImagePart(mime, data)


def _mime(image: bytes) -> str | None:
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _MAGIC if image.startswith(magic)), None)
