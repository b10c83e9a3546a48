"""What no process of this gateway can have said, because another program or version shares the Redis."""

from __future__ import annotations

import logging
from dataclasses import asdict

import pytest

from app.bus.local import LocalBus
from app.bus.names import to_bytes, to_text
from app.channels.ws.hub import Hub
from app.channels.ws.protocol import Limits
from app.events import TextDelta
from app.runs.executor import Executor
from app.runs.logbook import Logbook, Page
from app.runs.relay import TOPIC, Relay
from app.runs.shared_approvals import SharedApprovals
from app.tools.approvals import Approval, Approvals
from app.wire import dumps
from tests.unit.test_relay import Clock, Ear, a_run, two

NO_JSON = [b"", b"words", b"\xff\xfe", b"[" * 100_000, b'["x', b"\0" * 9]
NO_LISTS = [b"null", b"{}", b"[]", b"[1]", b'"' + b"x" * 2**20 + b'"']
ABOUT = ["them", "run", "r9", "chat", "main", False]


@pytest.mark.parametrize(
    "message",
    [
        *NO_JSON,
        *NO_LISTS,
        *map(
            dumps,
            (
                ["them", "run"],
                ["them", {"run": 1}],
                ["them", "run", ["r9"], "chat", "main", False, 0, None, None, []],
                ["them", "run", "r9", 5, "main", False, 0, None, None, []],
                [*ABOUT, "0", None, None, []],
                [*ABOUT, 0, ["said"], None, []],
                [*ABOUT, 0, None, "now", []],
                [*ABOUT, 0, None, None, 5],
                [*ABOUT, 0, None, None, [["t", 5]]],
                [*ABOUT, 0, None, None, [["ok", 1, 2, [], [], 3, 4]]],
                [*ABOUT, 0, None, None, [], "more"],
                ["them", "frame", 1, 2, 3],
                ["them", "frame", "chat", "readers", "no JSON"],
            ),
        ),
    ],
)
def test_what_is_said_of_no_run_is_passed_over_in_a_line(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    clock, bus = Clock(), LocalBus()
    here, there = two(bus, clock)
    ear = Ear(there)
    frames: list[bytes] = []
    there.on_frame(lambda *frame: frames.append(frame[2]))
    there.attend(lambda: True)

    bus.publish(TOPIC, message)
    here.observe(a_run())(TextDelta("a"))
    clock.pass_time()

    assert ear.events == {"r1": [TextDelta("a")]}
    assert frames == []
    assert [record.exc_info for record in caplog.records] == [None]


@pytest.mark.parametrize("message", [*NO_JSON, *NO_LISTS])
def test_whoever_asks_in_no_known_words_is_told_what_goes_on_and_nothing_else(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    clock, bus = Clock(), LocalBus()
    relay = Relay(bus, "one", clock.after, monotonic=clock)
    relay.observe(a_run())

    bus.publish("runs-wanted", message)
    clock.pass_time()

    assert caplog.text == ""


@pytest.mark.parametrize(
    "message", [*NO_JSON, *NO_LISTS, b"[1,[]]", b'["1",[["t","x"]]]', b"[1,[5]]", b'[1,[["t",5]]]']
)
def test_pages_that_cannot_be_read_are_left_out(message: bytes, caplog: pytest.LogCaptureFixture) -> None:
    bus = LocalBus()
    book = Logbook(bus, Clock().after, 60)
    followed: list[Page] = []
    book.follow("r1", followed.append)
    page = Page(1, (TextDelta("a"),))

    bus.record("log:r1", [message], 60)
    bus.publish("log:r1", message)
    book.write("r1", page)

    assert book.pages("r1") == followed == [page]
    assert {record.exc_info for record in caplog.records} == {None}


@pytest.mark.parametrize(
    "card", [*NO_JSON, *NO_LISTS, b'{"id":1}', b'{"id":"r1","agent":"a","created":"now"}']
)
def test_a_card_that_cannot_be_read_is_none(card: bytes, caplog: pytest.LogCaptureFixture) -> None:
    bus = LocalBus()
    bus.claim("log:r1", card, 60)

    assert Logbook(bus, Clock().after, 60).card("r1") is None
    assert [record.exc_info for record in caplog.records] == [None]


WAITS = Approval("a1", "main", "chat", "r1", "rm x", "/", 1, 2**60)


@pytest.mark.parametrize(
    "entry",
    [
        *NO_JSON,
        *NO_LISTS,
        dumps(asdict(WAITS) | {"id": 1}),
        dumps(asdict(WAITS) | {"created_at": "now"}),
        dumps(asdict(WAITS) | {"expires_at": "never"}),
    ],
)
def test_commands_that_cannot_be_read_wait_for_nobody(entry: bytes, caplog: pytest.LogCaptureFixture) -> None:
    bus = LocalBus()
    shared = SharedApprovals(bus, Approvals())
    shared.open()

    bus.announce("approvals", {"a1": dumps(asdict(WAITS)), "a2": entry}, 60)
    bus.publish("approvals", entry)

    assert shared.pending() == [WAITS]
    assert {record.exc_info for record in caplog.records} == {None}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("entry", [*NO_JSON, *NO_LISTS[:1], *NO_LISTS[2:]])
def test_clients_that_cannot_be_read_are_not_shown(entry: bytes, caplog: pytest.LogCaptureFixture) -> None:
    clock, bus = Clock(), LocalBus()
    hub = Hub(Executor(), lambda: 1, Limits(), "1")
    hub.join(Relay(bus, "one", clock.after, monotonic=clock), bus)

    bus.announce("presence", {"theirs": entry, "ours": b'{"host":"ann"}'}, 60)

    assert hub.presence()[1:] == [{"host": "ann"}]
    assert [record.exc_info for record in caplog.records] == [None]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"half \xed\xa0", b"\x80", b"a\xffb"])
def test_a_name_that_nobody_has_given_is_readable(name: bytes) -> None:
    assert "\ufffd" in to_text(name)


@pytest.mark.parametrize("name", ["", "plain", "\0", "ä\U0001f600", "half \ud800"])
def test_a_name_comes_back_as_it_was(name: str) -> None:
    assert to_text(to_bytes(name)) == name
