"""From what a model writes to what people read, however the text is cut into deltas."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.agents.text import ReplyFilter
from app.events import ReasoningDelta, TextDelta

# What http-surface 12.1 wants, then the neighbours of each row.
TABLE = [
    ("hello", "hello", ""),
    ("", "", ""),
    (" \n ", "", ""),
    ("  padded \n", "padded", ""),
    ("a\n\n b", "a\n\n b", ""),
    ("NO_REPLY", "", ""),
    (" NO_REPLY\n", "", ""),
    ("NO_REPLY now", "NO_REPLY now", ""),
    ("NO_REPL", "NO_REPL", ""),
    ("no_reply", "no_reply", ""),
    ("a\n\nNO_REPLY", "a\n\nNO_REPLY", ""),
    ("HEARTBEAT_OK", "HEARTBEAT_OK", ""),
    ("<think>secret</think>visible", "visible", "secret"),
    ("<thinking>secret</thinking>\n\nvisible", "visible", "secret"),
    ("<think>a</think> <think>b</think>c", "c", "ab"),
    ("<think>never ends", "", "never ends"),
    ("<think>a</thi", "", "a</thi"),
    ("<think>a</thinking>b", "", "a</thinking>b"),
    ("<think></think>", "", ""),
    ("<think>x</think>NO_REPLY", "", "x"),
    ("<thin", "<thin", ""),
    ("<thick>", "<thick>", ""),
    ("<final>done</final>", "done", ""),
    ("<final>done", "done", ""),
    ("<final> done </final>\n", "done", ""),
    ("<final>a</final> b", "a</final> b", ""),
    ("<final>a</fin", "a</fin", ""),
    ("done</final>", "done</final>", ""),
    ("<think>why</think><final>done</final>", "done", "why"),
    ("[[reply_to_current]] hi there", "hi there", ""),
    ("[[reply_to:42]] hi", "hi", ""),
    ("[[reply_to:]] hi", "[[reply_to:]] hi", ""),
    ("[[reply_to_other]] hi", "[[reply_to_other]] hi", ""),
    ("[[reply_to_current] hi", "[[reply_to_current] hi", ""),
    ("[[reply_to_current]]", "", ""),
    ("[[reply_to:" + "x" * 200 + "]]hi", "hi", ""),
    ("[[reply_to:" + "x" * 201 + "]]hi", "[[reply_to:" + "x" * 201 + "]]hi", ""),
    ("[[link]]", "[[link]]", ""),
    ("in <think>the</think> middle", "in <think>the</think> middle", ""),
    ("in [[reply_to_current]] the middle", "in [[reply_to_current]] the middle", ""),
    ("see <final>this</final>", "see <final>this</final>", ""),
    ("a < b", "a < b", ""),
]
PIECES = [
    "<think>", "</think>", "<thinking>", "</thinking>", "<final>", "</final>", "[[reply_to_current]]",
    "[[reply_to:1]]", "NO_REPLY", "<", "<th", "<thin", "</", "</fin", "[", "[[", "[[reply_to", "]]", ":",
    "NO_", "REPLY", " ", "\n", "a", "é", "👍", "\u2028",
]  # fmt: skip


def read(deltas: Iterable[str]) -> tuple[str, str]:
    """The visible text and the reasoning."""
    reply, text, reasoning = ReplyFilter(), "", ""
    events = [event for delta in deltas for event in list(reply.feed(delta))]
    for event in [*events, *reply.finish()]:
        assert event.text, "a delta is never empty"
        if isinstance(event, TextDelta):
            text += event.text
        else:
            assert isinstance(event, ReasoningDelta)
            reasoning += event.text
    return text, reasoning


@pytest.mark.parametrize(("written", "visible", "reasoning"), TABLE)
def test_people_read(written: str, visible: str, reasoning: str) -> None:
    assert read([written]) == (visible, reasoning)


@pytest.mark.parametrize("written", [row[0] for row in TABLE])
def test_one_character_at_a_time_reads_the_same(written: str) -> None:
    assert read(written) == read([written])


@pytest.mark.parametrize("written", [row[0] for row in TABLE])
def test_every_cut_in_two_reads_the_same(written: str) -> None:
    whole = read([written])

    for cut in range(len(written) + 1):
        assert read([written[:cut], written[cut:]]) == whole, f"cut at {cut}"


@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.data())
@example("[[reply_to_current]] hi", None)
def test_any_splitting_reads_the_same(written: str, data: st.DataObject | None) -> None:
    whole = read([written])
    assert read(written) == whole
    if data is None:
        return
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)))))

    deltas = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]

    assert read(deltas) == whole


@given(st.text(max_size=40))
def test_ordinary_text_is_only_trimmed(text: str) -> None:
    if not text.lstrip().startswith(("<", "[", "N")):
        assert read([text]) == (text.strip(), "")


def test_ordinary_text_is_not_held_back() -> None:
    reply = ReplyFilter()

    shown = [[event.text for event in reply.feed(delta)] for delta in ("Hel", "lo ", "wor", "ld")]

    assert shown == [["Hel"], ["lo"], [" wor"], ["ld"]]


def test_reasoning_is_not_held_back_until_it_ends() -> None:
    reply = ReplyFilter()

    shown = [list(reply.feed(delta)) for delta in ("<thi", "nk>one", " two</th", "ink>Hi")]

    assert shown == [
        [],
        [ReasoningDelta("one")],
        [ReasoningDelta(" two")],
        [TextDelta("Hi")],
    ]
