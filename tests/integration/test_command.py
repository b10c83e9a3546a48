"""What the ``agent`` command and the list of sessions show of what is stored."""

from contextlib import closing
from dataclasses import replace

import pytest

from app.errors import NotFound
from app.events import RunCompleted
from app.messages import Usage, UserMessage
from app.runs.command import outcome, session_json, transcript_json
from app.sessions.records import ModelCall, RunEnd, RunStart
from app.sessions.sql import open_store

KEY = "agent:main:main"
END = RunEnd("r1", "completed", "stop", Usage(100, 20, 30, 5, 40), "acme/large", None, None, 2000, 1)


@pytest.fixture
def store(tmp_path):
    """One run that has begun."""
    with closing(open_store(tmp_path)) as store:
        start = RunStart("r1", KEY, "s1", "main", "cli", "acme/large", 1000, "parent")
        store.begin(start, [UserMessage.of("one"), UserMessage.of("two")])
        yield store


def meta_of(store, end):
    store.finish(end, [])
    shown = outcome(RunCompleted("hi", "stop", end.usage), "r1", store)
    return shown["result"]["meta"]


def test_cached_tokens_are_told_from_those_put_into_the_cache(store):
    usage = meta_of(store, END)["agentMeta"]["usage"]

    assert usage == {"input": 30, "cacheRead": 30, "cacheWrite": 40, "output": 20, "total": 120}


@pytest.mark.parametrize("cost", [0.0, 0.125])
def test_a_known_cost_is_told(store, cost):
    assert meta_of(store, replace(END, cost=cost))["agentMeta"]["usage"]["cost"] == {"total": cost}


def test_what_was_tried_is_told_if_it_was_more_than_one_success(store):
    refused = ModelCall("acme/large", 0, "rate_limit", 429, 12)
    lost = ModelCall("acme/large", 1, "connection", None, 5)
    fine = ModelCall("other/a/b", 0, "ok", None, 40)

    attempts = meta_of(store, replace(END, calls=(refused, lost, fine)))["executionTrace"]["attempts"]

    names = ("provider", "model", "credential", "result", "reason", "status", "durationMs")
    assert [tuple(attempt[name] for name in names) for attempt in attempts] == [
        ("acme", "large", 0, "error", "rate_limit", 429, 12),
        ("acme", "large", 1, "error", "connection", None, 5),
        ("other", "a/b", 0, "success", None, None, 40),
    ]


def test_a_run_that_went_well_at_once_has_no_trace(store):
    assert "executionTrace" not in meta_of(store, replace(END, calls=(ModelCall("a/b", 0, "ok", None, 1),)))


def test_a_session_tells_what_became_of_it(store):
    store.compact("s1", "They met.", 2, 3000)
    store.finish(replace(END, cost=0.5, context_tokens=77), [])
    store.archive(KEY, 4000)

    (session,) = store.list_sessions(None, 10, archived=True)
    shown = session_json(session)

    assert (shown["parentKey"], shown["cost"], shown["contextTokens"]) == ("parent", 0.5, 77)
    assert (shown["compactions"], shown["archivedAt"]) == (1, 4000)


def test_a_transcript_is_shown_whole_with_the_summary_the_model_sees(store):
    store.compact("s1", "They met.", 2, 3000)

    shown = transcript_json(KEY, store)

    assert (shown["session"]["summary"], shown["session"]["keptFrom"]) == ("They met.", 2)
    assert [(entry["seq"], entry["message"]["content"]) for entry in shown["transcript"]] == [
        (1, [{"type": "text", "text": "one"}]),
        (2, [{"type": "text", "text": "two"}]),
    ]


def test_a_transcript_of_nothing_is_not_found(store):
    with pytest.raises(NotFound, match="nobody"):
        transcript_json("nobody", store)
