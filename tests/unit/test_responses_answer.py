"""An answer as the Responses API shows it: the events, folded, are the body."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cancel import CancelReason
from app.channels.openai.responses.answer import Answer
from app.channels.openai.responses.events import EventWriter
from app.channels.openai.responses.paging import page_of
from app.channels.openai.responses.schema import parse_response_request
from app.errors import GatewayError, InvalidRequest, ProviderError, ProviderReason, RunTimeout
from app.events import (
    ReasoningDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from app.messages import FinishReason, ToolCall, Usage
from tests.e2e.published_schemas import check

RESPONSE = "resp_" + "0123456789abcdef" * 2
ECHO = parse_response_request({"input": "hi"}, lambda _: None).echo
USAGE = Usage(11, 7, 3, 2, 1)
DONE = RunCompleted("", "stop", USAGE)


def answer(*, reasoning: bool = False, background: bool = False) -> Answer:
    echo = {**ECHO, "background": background}
    return Answer(RESPONSE, 1_000, echo, lambda: 1_002, reasoning=reasoning)


def fed(events: Sequence[RunEvent], *, reasoning: bool = False) -> dict[str, Any]:
    grown = answer(reasoning=reasoning)
    for event in events:
        list(grown.feed(event))
    return grown.body()


def written(events: Sequence[RunEvent], after: int = -1, **options: bool) -> list[Any]:
    """What a reader of the stream gets, checked to be server-sent events that name their types."""
    writer = EventWriter(answer(**options), after)
    data = writer.opening() + b"".join(writer.encode([event]) for event in events)
    assert data.endswith(b"data: [DONE]\n\n")
    shown = []
    for frame in data.decode().removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
        name, payload = frame.split("\n")
        event = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        shown.append(event)
    return shown


def folded(events: Sequence[Any]) -> list[dict[str, Any]]:
    """The output that a client puts together out of nothing but additions and deltas."""
    items: list[dict[str, Any]] = []
    for event in events:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(items)
                items.append(event["item"])
            case "content_part.added":
                items[event["output_index"]]["content"].append(event["part"])
            case "reasoning_summary_part.added":
                items[event["output_index"]]["summary"].append(event["part"])
            case "output_text.delta":
                items[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
            case "reasoning_summary_text.delta":
                items[event["output_index"]]["summary"][event["summary_index"]]["text"] += event["delta"]
            case "function_call_arguments.delta":
                items[event["output_index"]]["arguments"] += event["delta"]
            case "output_item.done":
                items[event["output_index"]]["status"] = event["item"]["status"]
    return items


def test_a_text_comes_in_the_order_of_the_vendor() -> None:
    events = written([TextDelta("Hel"), TextDelta("lo"), RunCompleted("Hello", "stop", USAGE)])
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert events[6]["text"] == "Hello"


def test_a_finished_response_has_all_that_the_vendor_promises() -> None:
    body = fed([TextDelta("Hello"), RunCompleted("Hello", "stop", USAGE)])
    check("Response", body)
    assert (body["status"], body["created_at"], body["completed_at"]) == ("completed", 1_000, 1_002)
    assert body["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 18,
    }
    (item,) = body["output"]
    assert item["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_off_is_incomplete(reason: Any, told: str) -> None:
    events: list[RunEvent] = [TextDelta("Hel"), RunCompleted("Hel", reason, USAGE)]
    body = fed(events)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": told})
    assert body["output"][0]["status"] == "incomplete"
    assert body["completed_at"] is None
    assert written(events)[-1]["type"] == "response.incomplete"


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    (item,) = fed([DONE])["output"]
    assert item["content"][0]["text"] == ""


def test_calls_for_the_client_come_after_the_text() -> None:
    calls = (ToolCall("c1", "weather", '{"city": "Bonn"}'), ToolCall("c2", "time", "{}"))
    body = fed([TextDelta("Well."), RunCompleted("Well.", "tool_calls", USAGE, calls)])
    assert body["status"] == "completed"
    assert [item["type"] for item in body["output"]] == ["message", "function_call", "function_call"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in body["output"][1:]] == [
        ("c1", "weather", '{"city": "Bonn"}'),
        ("c2", "time", "{}"),
    ]
    assert len({item["id"] for item in body["output"]}) == 3


def test_tools_of_the_agent_are_its_own_business() -> None:
    events: list[RunEvent] = [ToolStarted("t", "read", "{}"), ToolFinished("t", "read", False, "x"), DONE]
    assert [event["type"] for event in written(events) if "call" in event["type"]] == []


def test_reasoning_is_shown_to_those_who_ask() -> None:
    events: list[RunEvent] = [
        ReasoningDelta("Hm"),
        ReasoningDelta("m."),
        TextDelta("Yes"),
        RunCompleted("Yes", "stop", USAGE),
    ]
    assert [item["type"] for item in fed(events)["output"]] == ["message"]
    body = fed(events, reasoning=True)
    assert [item["type"] for item in body["output"]] == ["reasoning", "message"]
    assert body["output"][0]["summary"] == [{"type": "summary_text", "text": "Hmm."}]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GatewayError("broken"), "server_error"),
        (RunTimeout(3), "server_error"),
        (ProviderError(ProviderReason.RATE_LIMIT, "slow down"), "rate_limit_exceeded"),
        (InvalidRequest("no"), "invalid_prompt"),
    ],
)
def test_a_run_that_fails_keeps_what_was_said(error: GatewayError, code: str) -> None:
    events: list[RunEvent] = [TextDelta("Hel"), RunFailed(error)]
    body = fed(events)
    check("Response", body)
    assert (body["status"], body["error"]) == ("failed", {"code": code, "message": error.message})
    assert body["output"][0]["content"][0]["text"] == "Hel"
    assert body["output"][0]["status"] == "incomplete"
    assert written(events)[-1]["type"] == "response.failed"


def test_a_run_that_was_cancelled_says_so() -> None:
    body = fed([RunCancelled(CancelReason.USER)])
    assert (body["status"], body["error"], body["output"]) == ("cancelled", None, [])


def test_a_background_response_waits_until_its_run_begins() -> None:
    events = written([RunStarted(5), TextDelta("x"), RunCompleted("x", "stop", USAGE)], background=True)
    assert [event["type"] for event in events[:4]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
    ]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]


texts = st.text(max_size=5)
progress = st.lists(
    st.one_of(
        st.builds(TextDelta, texts),
        st.builds(ReasoningDelta, texts),
        st.just(RunStarted(1)),
        st.just(ToolStarted("t", "read", "{}")),
    ),
    max_size=12,
)
calls = st.lists(st.builds(ToolCall, st.just("c"), st.just("f"), st.text(max_size=600)), max_size=3)


@st.composite
def runs(draw: st.DrawFn) -> list[RunEvent]:
    events: list[RunEvent] = list(draw(progress))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    theirs = tuple(draw(calls))
    reasons: list[FinishReason] = ["tool_calls"] if theirs else ["stop", "length", "content_filter"]
    ends: list[RunEvent] = [RunCompleted(text, reason, USAGE, theirs) for reason in reasons]
    ends += [RunFailed(GatewayError("x")), RunCancelled(CancelReason.USER)]
    return [*events, draw(st.sampled_from(ends))]


@given(runs(), st.booleans(), st.booleans())
def test_the_stream_folded_is_the_body(run: list[RunEvent], reasoning: bool, background: bool) -> None:
    events = written(run, reasoning=reasoning, background=background)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    body = events[-1]["response"]
    assert {**body, "background": False} == fed(run, reasoning=reasoning)
    output = folded(events)
    if isinstance(run[-1], RunCompleted):
        assert output == body["output"]
        said = [item["content"][0]["text"] for item in output if item["type"] == "message"]
        assert "".join(said) == run[-1].text
    else:
        assert [{**item, "status": ""} for item in output] == [{**i, "status": ""} for i in body["output"]]


@given(runs(), st.integers(-1, 40))
def test_whoever_comes_back_gets_the_rest(run: list[RunEvent], after: int) -> None:
    assert written(run, after) == written(run)[after + 1 :]


@pytest.mark.parametrize("background", [False, True])
def test_every_event_is_as_published(background: bool) -> None:
    theirs = (ToolCall("c1", "weather", "{}" * 300),)
    run: list[RunEvent] = [
        RunStarted(1),
        ReasoningDelta("Hm"),
        TextDelta("x"),
        RunCompleted("x", "tool_calls", USAGE, theirs),
    ]
    events = written(run, reasoning=True, background=background)
    events += written([TextDelta("x"), RunFailed(GatewayError("x"))])
    events += written([TextDelta("x"), RunCompleted("x", "length", USAGE)])
    for event in events:
        check("ResponseStreamEvent", event)
    assert len({event["type"] for event in events}) >= 16


# pages


ITEMS = [{"id": str(number)} for number in range(45)]


def test_the_newest_come_first_twenty_at_a_time() -> None:
    page = page_of(ITEMS, {})
    assert [item["id"] for item in page["data"]] == [str(number) for number in range(44, 24, -1)]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("44", "25", True)


@given(st.integers(1, 100), st.sampled_from(["asc", "desc"]))
def test_all_pages_together_are_the_list(limit: int, order: str) -> None:
    seen: list[Any] = []
    query = {"limit": str(limit), "order": order}
    while (page := page_of(ITEMS, query))["data"]:
        seen += page["data"]
        query["after"] = page["last_id"]
        assert page["has_more"] == (len(seen) < len(ITEMS))
    assert seen == (ITEMS if order == "asc" else ITEMS[::-1])


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "x"}, {"limit": "101"}, {"order": "up"}, {"after": "x"}]
)
def test_a_page_that_cannot_be_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        page_of(ITEMS, query)
    assert caught.value.param == next(iter(query))
