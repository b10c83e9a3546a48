"""A journaled run as a stream of numbered chunks, which can be left and come back to.

Chunk 0 says who speaks. A later chunk has the number of the event it ends with. The last event may
make several chunks: they count on from its number, for no event follows it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import groupby

from ...events import RunEvent, TextDelta
from ...runs.journal import KeptRun
from ..client import ClientWatch
from ..drain import stream_events
from .activity import Encode
from .chunks import DONE, FRAGMENT

# Without an empty line behind it: once there was an id, some clients take every empty line for the end of
# an event, even of one without data.
_KEEP_ALIVE = b": keepalive\n"
_END = b"\n\n"


def stream_numbered(
    run: KeptRun, role: bytes, encode: Encode, client: ClientWatch, keep_alive: float, after: int = -1
) -> Generator[bytes]:
    """What follows chunk ``after``, -1 for everything, always ending in ``[DONE]``.

    :param role: the first chunk.
    :param encode: makes at most one chunk of events of one kind, the last one aside, if they have
        no more text than a chunk holds.
    :raises GatewayError: see :meth:`JournaledRun.read`.
    """
    reader = run.read(max(0, after))
    first = b"id: 0\n" + role if after < 0 else _KEEP_ALIVE

    def numbered(events: Sequence[RunEvent]) -> bytes:
        return number_chunks(events, reader.position - len(events), encode, after)

    return stream_events(reader, first, numbered, client, keep_alive, _KEEP_ALIVE)


def number_chunks(events: Sequence[RunEvent], number: int, encode: Encode, after: int) -> bytes:
    """The chunks of the events that follow event ``number``, but for those up to chunk ``after``."""
    chunks: list[bytes] = []
    for alike in _for_one_chunk(events):
        number += len(alike)
        at = number
        for frame in encode(alike).split(_END)[:-1]:
            if frame.startswith(b":"):
                chunks.append(frame + b"\n")
                continue
            if at > after or frame + _END == DONE:
                chunks.append(b"id: %d\n%s\n\n" % (at, frame))
            at += 1
    return b"".join(chunks)


def _for_one_chunk(events: Sequence[RunEvent]) -> Iterator[Sequence[RunEvent]]:
    for kind, group in groupby(events, type):
        alike = list(group)
        yield from _texts(alike) if kind is TextDelta else (alike,)


def _texts(events: Iterable[RunEvent]) -> Iterator[Sequence[RunEvent]]:
    """Texts, as many together as a chunk holds; the journal keeps none that is longer."""
    some: list[RunEvent] = []
    size = 0
    for event in events:
        assert isinstance(event, TextDelta)
        size += len(event.text)
        if some and size > FRAGMENT:
            yield some
            some, size = [], len(event.text)
        some.append(event)
    yield some
