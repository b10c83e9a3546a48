"""How much of which conversations is kept in memory."""

from app.messages import UserMessage
from app.sessions.recent import NOTHING, Known, Recent
from app.sessions.records import Entry

ENTRY = Entry(1, UserMessage.of("hi"), None, 1000, "r1")


def known(size, first=1):
    return Known(first, (ENTRY,), size)


def test_nothing_is_known_of_a_session_that_was_not_read():
    assert Recent().known("s1", 1) == NOTHING


def test_only_what_begins_where_it_is_asked_for_is_known():
    recent = Recent()
    recent.keep("s1", known(10, first=3))

    assert recent.known("s1", 3) == known(10, first=3)
    assert recent.known("s1", 1) == recent.known("s1", 5) == NOTHING


def test_those_read_longest_ago_make_room():
    recent = Recent(100)
    recent.keep("s1", known(40))
    recent.keep("s2", known(40))
    recent.keep("s1", known(50))
    recent.keep("s3", known(50))

    assert recent.known("s2", 1) == NOTHING
    assert recent.known("s1", 1) == recent.known("s3", 1) == known(50)


def test_a_conversation_that_is_too_long_by_itself_is_not_kept():
    recent = Recent(100)
    recent.keep("s1", known(60))
    recent.keep("s1", known(101))

    assert recent.known("s1", 1) == NOTHING
    recent.keep("s2", known(100))
    assert recent.known("s2", 1) == known(100)
