"""Bytes of the web to text. Never fails: what makes no sense becomes U+FFFD."""

from __future__ import annotations

import codecs
import re

# Only codecs that browsers have too: some of Python's (punycode, utf-7, unicode_escape) are slow or unsafe.
_KNOWN = re.compile(
    r"utf-8|utf-16(-[lb]e)?|cp(125[0-8]|866|874|932|949)|iso8859-\d+|koi8-[ru]|mac-(roman|cyrillic)"
    r"|gb(k|2312|18030)|big5(hkscs)?|euc_(jp|kr)|iso2022_jp|shift_jis"
)
# Labels that in practice mean a larger set, as in the Encoding Standard.
_WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_META_BYTES = 1024


def decode(data: bytes, declared: str | None, *, html: bool = False) -> str:
    """Text of a body: by its byte-order mark, its declared charset, its ``<meta>``, or by trying.

    :param declared: the ``charset`` of the Content-Type header.
    :param html: look for a ``<meta charset>``.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    known = _known(declared) or (_from_meta(data) if html else None)
    if known is not None:
        return data.decode(known, "replace")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # Only its last character is incomplete: a body that was cut.
        cut = error.reason == "unexpected end of data"
        return data.decode("utf-8" if cut else "cp1252", "replace")


def _from_meta(data: bytes) -> str | None:
    found = _META.search(data[:_META_BYTES])
    encoding = _known(found[1].decode()) if found else None
    # It was read as ASCII, so it cannot be UTF-16.
    return "utf-8" if encoding and encoding.startswith("utf-16") else encoding


def _known(label: str | None) -> str | None:
    try:
        name = codecs.lookup((label or "").strip().strip("\"'")).name
    except (LookupError, ValueError):
        return None
    name = _WIDER.get(name, name)
    return name if _KNOWN.fullmatch(name) else None
