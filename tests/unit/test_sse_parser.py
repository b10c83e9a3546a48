"""The event stream parser: what an event is, and that cuts between reads don't matter."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ProviderError, ProviderReason
from app.providers.sse import SseParser


def parse(*reads: bytes) -> list[bytes]:
    parser = SseParser("p")
    return [event for data in reads for event in parser.feed(data)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\r\r", [b"a"]),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"\n\n\n", []),
        (b"data\n\n", [b""]),
        (b"data\ndata\n\n", [b"\n"]),
        (b": comment\n\ndata: a\n\n", [b"a"]),
        (b": comment\ndata: a\n: more\n\n", [b"a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"event: x\n\ndata: a\n\n", [b"a"]),
        (b"datax: a\n\n", []),
        (b"database\n\n", []),
        (b" data: a\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b'data: {"a": "b:c"}\n\n', [b'{"a": "b:c"}']),
        ("data: grüße 🦞\n\n".encode(), ["grüße 🦞".encode()]),
    ],
)
def test_a_stream_means_the_same_in_one_read_and_byte_by_byte(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream) == events
    assert parse(*(stream[i : i + 1] for i in range(len(stream)))) == events


def test_an_event_is_given_out_with_the_read_that_ends_it() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\r") == [b"a"]
    assert parser.feed(b"\ndata: b\r\n\r") == [b"b"]
    assert parser.feed(b"\n") == []
    assert parser.feed(b"data: c\n\n") == [b"c"]


values = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=("Cs",)), max_size=20)
line_ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
noise = st.sampled_from([b"", b": ping", b":", b"event: x", b"id", b"retry: 1"])


@given(
    st.lists(st.tuples(noise, st.lists(values, min_size=1, max_size=3)), max_size=6),
    line_ends,
    st.booleans(),
    st.data(),
)
def test_any_cutting_of_any_stream_gives_the_events_that_were_written(
    written: list[tuple[bytes, list[str]]], end: bytes, bom: bool, data: st.DataObject
) -> None:
    stream = b"\xef\xbb\xbf" if bom else b""
    for before, texts in written:
        stream += before + end
        stream += b"".join(b"data: " + text.encode() + end for text in texts) + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    edges = [0, *cuts, len(stream)]
    reads = [stream[a:b] for a, b in pairwise(edges)]
    assert parse(*reads) == ["\n".join(texts).encode() for _, texts in written]


@given(st.binary(max_size=200), st.data())
def test_any_cutting_of_any_bytes_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    stream = stream.replace(b"\x00", b"\n").replace(b"\x01", b"data: ").replace(b"\x02", b"\r")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    edges = [0, *cuts, len(stream)]
    assert parse(*(stream[a:b] for a, b in pairwise(edges))) == parse(stream)


@pytest.mark.parametrize("piece", [b"x" * 40, b"data: " + b"x" * 10 + b"\n", b"data\n"])
def test_an_event_that_never_ends_is_refused(piece: bytes) -> None:
    parser = SseParser("p", limit=100)
    with pytest.raises(ProviderError) as caught:
        [parser.feed(piece) for _ in range(1000)]
    assert caught.value.reason is ProviderReason.PROTOCOL


def test_many_events_and_comments_together_may_be_larger_than_the_limit() -> None:
    parser = SseParser("p", limit=100)
    for _ in range(100):
        assert parser.feed(b": " + b"c" * 30 + b"\n") == []
        assert parser.feed(b"data: " + b"x" * 30) == []
        assert parser.feed(b"\n\n") == [b"x" * 30]
