"""Files in a request: text is inlined, with its name, and everything else is refused. Pure but for PDFs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from ...cancel import CancelToken
from ...messages import JsonObject, JsonValue, TextPart
from ...tools.child import run_child
from ...tools.registry import ToolError
from ...tools.untrusted import fenced
from .fields import invalid, string, unserved
from .images import too_large

MAX_FILES = 8
MAX_FILE_BYTES = 5 * 2**20
MAX_FILE_CHARS = 200_000
_LONGEST_NAME = 255
_PDF_SECONDS = 20.0
_PDF_READER = Path(__file__).parents[2] / "tools" / "pdf_child.py"


def file_text(
    value: JsonValue, where: str, watched: Callable[[], AbstractContextManager[CancelToken]]
) -> TextPart:
    """The text of a ``file``, between marks that say where it comes from.

    :param watched: held while a child process reads a PDF.
    :raises InvalidRequest: it is no text, or not readable.
    :raises Cancelled: soon after the token fires.
    """
    if not isinstance(value, dict):
        raise invalid(where, "must be an object")
    for name in ("file_id", "file_url"):
        if value.get(name) is not None:
            raise unserved(f"{where}.{name}", "Only inline files are served; send its file_data.")
    name, data = _name(value, where), _bytes(value, where)
    if data.startswith(b"%PDF-"):
        with watched() as cancel:
            text = _pdf_text(data, where, cancel)
    else:
        text = _plain_text(data, where)
    if len(text) > MAX_FILE_CHARS:
        text = f"{text[:MAX_FILE_CHARS]}\n\n[Cut: {MAX_FILE_CHARS} of {len(text)} characters.]"
    return TextPart(fenced(text, f"file {name}"))


def _name(value: JsonObject, where: str) -> str:
    name = string(value, "filename", f"{where}.filename") or "unnamed"
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise invalid(f"{where}.filename", f"must be at most {_LONGEST_NAME} printable characters")
    return name


def _bytes(value: JsonObject, where: str) -> bytes:
    where = f"{where}.file_data"
    data = value.get("file_data")
    if not isinstance(data, str):
        raise invalid(where, "must be the file in base64, or a data: URI")
    if data[:5].lower() == "data:":
        header, comma, data = data.partition(",")
        if not comma or ";base64" not in header.lower():
            raise invalid(where, "must be a base64 data URI")
    if len(data) // 4 * 3 > MAX_FILE_BYTES + 2:
        raise too_large(where, MAX_FILE_BYTES)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(where, "is not valid base64") from None


def _plain_text(data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise unserved(f"{where}.file_data", "Only text in UTF-8 and PDF files with text are served.")
    return text


def _pdf_text(data: bytes, where: str, cancel: CancelToken) -> str:
    job: JsonValue = {"pdf": base64.b64encode(data).decode(), "limit": MAX_FILE_CHARS + 1}
    try:
        answer = run_child(_PDF_READER, job, timeout=_PDF_SECONDS, cancel=cancel)
    except ToolError as error:
        raise invalid(f"{where}.file_data", f"is a PDF that could not be read: {error}") from None
    text = answer.get("text") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise invalid(f"{where}.file_data", "is a PDF that is damaged or encrypted")
    if not text.strip():
        raise unserved(f"{where}.file_data", "This PDF holds no text; send its pages as images.")
    return text
