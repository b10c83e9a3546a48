from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.messages import Usage
from app.runs.usage import parse_usage_query, usage_json
from app.sessions.records import UsageQuery

HOUR = 3_600_000
NOW = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)


def test_the_last_thirty_days_are_counted_by_day_unless_told_otherwise():
    assert parse_usage_query({}, NOW) == UsageQuery(since=NOW - 30 * 24 * HOUR)


def test_everything_can_be_asked_for():
    asked = {
        "since": "2026-11-01",
        "until": "2026-11-02",
        "by": "model, day,model",
        "agent": "a",
        "session": "k",
    }
    first = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)

    assert parse_usage_query(asked, NOW) == UsageQuery(first, first + 24 * HOUR, "a", "k", ("model", "day"))


@pytest.mark.parametrize(
    ("text", "hours_ago"),
    [
        ("0h", 0),
        ("12h", 12),
        ("1d", 24),
        ("2w", 336),
        ("2026-11-23", 12),
        ("2026-11-23T11:00", 1),
        ("2026-11-23T11:00Z", 1),
        ("2026-11-23T11:00+03:00", 4),
        ("2026-11-23T13:00", -1),
    ],
)
def test_a_time_is_a_span_that_ends_now_or_a_date(text, hours_ago):
    query = parse_usage_query({"since": text, "until": text}, NOW)

    assert query.since == query.until == NOW - hours_ago * HOUR


@pytest.mark.parametrize("param", ["since", "until"])
@pytest.mark.parametrize(
    "text", ["", "7", "d", "7y", "-7d", "7 d", "٧d", "yesterday", "2026-13-01", "1.5d", "7d\n"]
)
def test_a_time_that_is_neither_is_refused_by_name(param, text):
    with pytest.raises(InvalidRequest, match="7d") as refused:
        parse_usage_query({param: text}, NOW)

    assert refused.value.param == param


@given(st.text() | st.from_regex(r"[0-9]{1,8}[hdwmy]", fullmatch=True) | st.datetimes().map(str))
def test_any_text_is_a_time_or_refused(text):
    try:
        query = parse_usage_query({"since": text}, NOW)
    except InvalidRequest:
        return

    assert isinstance(query.since, int)


@pytest.mark.parametrize(("by", "groups"), [("", ()), (" , ", ()), ("session", ("session",))])
def test_what_is_told_apart_may_be_nothing(by, groups):
    assert parse_usage_query({"by": by}, NOW).by == groups


def test_an_unknown_group_is_refused_with_those_there_are():
    with pytest.raises(InvalidRequest, match="'week'; it can have day, agent, model, session") as refused:
        parse_usage_query({"by": "day,week"}, NOW)

    assert refused.value.param == "by"


@given(st.builds(Usage, *[st.integers(0, 10**6)] * 5))
def test_the_parts_of_a_prompt_add_up(usage):
    shown = usage_json(usage)

    assert shown["input"] + shown["cacheRead"] + shown["cacheWrite"] == usage.input
    assert shown["total"] == usage.input + usage.output
