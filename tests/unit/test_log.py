"""The stand-alone host's log: what is masked in it, and which lines are kept."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.context import Context, carried, current, working_for
from app.log import LogRing, configure_logging, get_logger, kept_lines


def test_a_secret_is_masked_in_the_line_and_in_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(["s3cret-token"])
    try:
        raise ValueError("of s3cret-token")
    except ValueError:
        get_logger("tests").exception("with %s", "s3cret-token")

    written = capsys.readouterr().err
    assert "with ***" in written
    assert "ValueError: of ***" in written
    assert "s3cret" not in written


def test_of_a_secret_that_begins_like_another_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(["sk-abcdefgh", "sk-abcdefgh-ijkl"])
    get_logger("test").info("with sk-abcdefgh-ijkl and sk-abcdefgh")
    assert capsys.readouterr().err.endswith("openclaw.test: with *** and ***\n")


def test_nothing_that_is_said_looks_like_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(["first line\nsecond line"])
    forged = "2026-11-23 00:00:00,000 ERROR openclaw.run: all is lost"
    try:
        raise ValueError(f"x\n{forged}")
    except ValueError:
        get_logger("test").exception("said %s", f"x\n{forged}\x1b[2J\r\x9b\u2028first line\nsecond line")
    lines = capsys.readouterr().err.split("\n")
    assert [number for number, line in enumerate(lines) if line[:1] not in ("", " ")] == [0]
    assert lines[0].endswith("openclaw.test: said x")
    assert lines[1] == f"  {forged}\\x1b[2J\\x0d\\x9b\\u2028***"
    assert f"  {forged}" in lines[2:]


@pytest.mark.parametrize("secret", ["", "a", "gateway"])
def test_a_secret_that_is_a_word_or_less_leaves_the_lines_legible(
    capsys: pytest.CaptureFixture[str], secret: str
) -> None:
    configure_logging([secret, "12345678"])
    get_logger("gateway").warning("a gateway starts with 12345678")

    assert capsys.readouterr().err.endswith("openclaw.gateway: a gateway starts with ***\n")


def said(lines: Sequence[str]) -> list[str]:
    return [json.loads(line)["0"] for line in lines]


@pytest.fixture
def ring() -> LogRing:
    ring = LogRing(4_000)
    ring.setFormatter(logging.Formatter("%(message)s"))
    return ring


def write(ring: LogRing, *texts: str) -> None:
    for text in texts:
        ring.handle(logging.LogRecord("openclaw.run", logging.INFO, "", 1, text, None, None))


def test_the_newest_lines_are_kept_with_secrets_masked() -> None:
    configure_logging(["s3cret-token"])
    kept = kept_lines()
    assert kept is not None
    get_logger("store").warning("a %s\nin two lines", "s3cret-token")

    (line,) = kept.tail(None, lines=10, size=10_000).lines

    assert "s3cret" not in line
    parsed = json.loads(line)
    assert parsed["0"] == "a ***\nin two lines"
    assert parsed["_meta"]["logLevelName"] == "WARNING"
    assert json.loads(parsed["_meta"]["name"]) == {"subsystem": "store"}
    assert parsed["time"] == parsed["_meta"]["date"]


def test_an_application_with_its_own_logging_keeps_no_lines() -> None:
    logging.getLogger("openclaw").handlers[:] = [logging.NullHandler()]

    assert kept_lines() is None


def test_a_reader_goes_on_where_it_stopped(ring: LogRing) -> None:
    write(ring, "one", "two")
    first = ring.tail(None, lines=10, size=10_000)
    write(ring, "three")
    second = ring.tail(first.cursor, lines=10, size=10_000)
    third = ring.tail(second.cursor, lines=10, size=10_000)

    assert [said(tail.lines) for tail in (first, second, third)] == [["one", "two"], ["three"], []]
    assert not any(tail.truncated or tail.reset for tail in (first, second, third))


def test_the_newest_lines_are_told_if_there_are_more_than_asked_for(ring: LogRing) -> None:
    write(ring, "one", "two", "three")

    by_lines = ring.tail(None, lines=2, size=10_000)
    by_size = ring.tail(None, lines=10, size=len(by_lines.lines[1]) + 1)

    assert (said(by_lines.lines), by_lines.truncated, by_lines.reset) == (["two", "three"], True, False)
    assert (said(by_size.lines), by_size.truncated, by_size.reset) == (["three"], True, False)


@pytest.mark.parametrize("cursor", [0, 10**9])
def test_a_reader_that_has_missed_lines_is_told_so(ring: LogRing, cursor: int) -> None:
    write(ring, *(f"{number:04}" for number in range(100)))

    tail = ring.tail(cursor, lines=1_000, size=10_000)

    assert tail.reset
    assert 0 < len(tail.lines) < 100
    assert said(tail.lines)[-1] == "0099"


@given(st.lists(st.text(max_size=50), max_size=60), st.integers(1, 5), st.integers(200, 2_000))
def test_what_is_kept_is_bounded_and_the_newest(texts: list[str], lines: int, capacity: int) -> None:
    ring = LogRing(capacity)
    ring.setFormatter(logging.Formatter("%(message)s"))
    write(ring, *(text.replace("%", "") for text in texts))

    everything = ring.tail(None, lines=1_000, size=10**6)
    few = ring.tail(None, lines=lines, size=10**6)

    assert sum(len(line) + 1 for line in everything.lines) <= capacity
    assert few.lines == everything.lines[-lines:]


# Lines for programs


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_for_programs_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(as_json=True)
    with working_for(Context("req_1", "run-1", "main", {"traceparent": "00-1"})):
        get_logger("tests").warning("in %s\nlines", "two", extra={"fields": {"duration_ms": 7}})
    get_logger("tests").info("alone")

    line, alone = objects(capsys)
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "openclaw.tests",
        "message": "in two\nlines",
        "request_id": "req_1",
        "run_id": "run-1",
        "agent": "main",
        "duration_ms": 7,
    }
    assert set(alone) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize("secret", ["s3cret-token", 'quote"and\\slash', "schlüsselwort"])
def test_a_secret_is_masked_however_json_writes_it(capsys: pytest.CaptureFixture[str], secret: str) -> None:
    configure_logging([secret], as_json=True)
    try:
        raise ValueError(f"of {secret}")
    except ValueError:
        get_logger("tests").exception("with %s", secret, extra={"fields": {"said": secret}})

    (line,) = objects(capsys)
    assert (line["message"], line["said"]) == ("with ***", "***")
    assert str(line["exception"]).endswith("ValueError: of ***")


@given(text=st.text(), value=st.one_of(st.text(), st.integers(), st.floats(), st.binary()))
def test_whatever_is_said_is_one_line_of_json(text: str, value: object) -> None:
    configure_logging(as_json=True)
    (handler, _) = logging.getLogger("openclaw").handlers
    record = logging.LogRecord("openclaw.tests", logging.INFO, "", 1, "%s", (text,), None)
    record.fields = {"value": value}
    written = handler.format(record)
    assert "\n" not in written
    assert json.loads(written)["message"] == text


def test_a_line_for_people_says_for_whom_it_was_written_unless_it_does_anyway(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging()
    with working_for(Context("req_1", "run-1")):
        get_logger("tests").info("it rains")
        get_logger("tests").info("run run-1 is over")
    with working_for(Context("req_1")):
        get_logger("tests").info("it rains")
    get_logger("tests").info("it rains")

    ends = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert ends == ["it rains (run run-1)", "run run-1 is over", "it rains (request req_1)", "it rains"]


@pytest.mark.parametrize(
    ("level", "said"),
    [("debug", "abc"), ("trace", "abc"), ("info", "bc"), ("warn", "c"), ("error", ""), ("silent", "")],
)
def test_the_level_decides_what_is_written(capsys: pytest.CaptureFixture[str], level: str, said: str) -> None:
    configure_logging((), level, as_json=True)
    log = get_logger("tests")
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert "".join(str(line["message"]) for line in objects(capsys)) == said


def test_what_a_thread_works_for_is_handed_on_to_those_that_it_starts_for_the_same() -> None:
    seen: list[Context] = []
    look = lambda: seen.append(current())  # noqa: E731
    with working_for(Context(run_id="run-1")):
        threads = [threading.Thread(target=carried(look)), threading.Thread(target=look)]
        for thread in threads:
            thread.start()
            thread.join()
    look()
    assert [context.run_id for context in seen] == ["run-1", "", ""]
