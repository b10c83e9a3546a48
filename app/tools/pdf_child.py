"""The text of a PDF, in a process of its own: a JSON job on standard input, a JSON answer on output.

Run by :func:`.child.run_child`; nobody imports it.
"""

from __future__ import annotations

import base64
import io
import json
import sys

from pypdf import PdfReader


def main() -> None:
    """Answer with ``text``; it is null for a file that is damaged or encrypted."""
    job = json.load(sys.stdin.buffer)
    json.dump({"text": _text(base64.b64decode(job["pdf"]), job["limit"])}, sys.stdout)


def _text(pdf: bytes, limit: int) -> str | None:
    """The pages' text up to about ``limit`` characters, a blank line between them."""
    pages: list[str] = []
    try:
        reader = PdfReader(io.BytesIO(pdf))
        if reader.is_encrypted and not reader.decrypt(""):
            return None
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            limit -= len(pages[-1])
            if limit < 0:
                break
    except Exception:  # hostile files raise whatever there is
        return None
    text = "\n\n".join(page for page in pages if page)
    return text.encode(errors="replace").decode()  # half characters are no JSON


if __name__ == "__main__":
    main()
