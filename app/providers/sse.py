"""Server-sent events, as a client reads them (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from ..errors import ProviderError, ProviderReason

_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Turns the bytes of a stream, however they were cut, into the data of its events.

    Event names, ids and comments are skipped. One object reads one stream.

    :param provider: id of the provider, for error texts.
    :param limit: bytes of one event, or of one line, that are accepted.
    """

    def __init__(self, provider: str = "", *, limit: int = 16 * 1024 * 1024) -> None:
        self._provider = provider
        self._limit = limit
        self._first_line = True
        self._after_cr = False
        self._line: list[bytes] = []  # the pieces of a line whose end has not come
        self._data: list[bytes] = []  # the data lines of an event whose end has not come
        self._size = 0  # bytes in both

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that ``data`` completes, several lines joined by LF.

        :raises ProviderError: PROTOCOL, an event over the limit.
        """
        if self._is_one_event(data):
            self._first_line = False
            return [data[6:-2]]
        *ends, rest = self._with_lf(data).split(b"\n")
        events: list[bytes] = []
        for end in ends:
            self._end_line(end, events)
        if rest:
            self._line.append(rest)
            self._grow(len(rest))
        return events

    def _is_one_event(self, data: bytes) -> bool:
        """True in the usual case: a read is one event of one line, and nothing waits."""
        return (
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and data.count(b"\n") == 2
            and b"\r" not in data
            and not (self._size or self._data or self._after_cr)
        )

    def _with_lf(self, data: bytes) -> bytes:
        """``data`` with every line end as LF; a CRLF may be cut between two reads."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _end_line(self, end: bytes, events: list[bytes]) -> None:
        line = self._take_line(end)
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data = []
            self._size = 0
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._grow(len(value) + 1)

    def _take_line(self, end: bytes) -> bytes:
        line = end
        if self._line:
            line = b"".join((*self._line, end))
            self._size -= len(line) - len(end)
            self._line = []
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        return line

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            raise ProviderError(
                ProviderReason.PROTOCOL,
                f"Provider {self._provider!r} sent an event that is too large.",
                provider=self._provider,
            )
