"""Runs from admission to their terminal event: real threads, a real store, a model API over HTTP."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cancel import CancelReason
from app.errors import (
    AgentNotFound,
    GatewayBusy,
    GatewayDraining,
    InvalidRequest,
    ProviderError,
    RunTimeout,
    SessionBusy,
)
from app.events import (
    ReasoningDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    ToolFinished,
    ToolStarted,
)
from app.messages import (
    AssistantMessage,
    ImagePart,
    SamplingParams,
    TextPart,
    Usage,
    UserMessage,
)
from app.runs.executor import Executor
from app.runs.run import Run
from app.runs.service import RunLimits, RunService
from app.runtime import Runtime
from app.sessions.records import NewEntry, RunEnd
from app.sessions.store import Store
from app.tools.registry import Tool
from app.tools.untrusted import fenced
from tests.integration.runs import (
    PATIENCE,
    Start,
    answer,
    ask,
    failure,
    numbers,
    read,
    request,
    sent,
    shown,
    transcript,
    wait_until,
)
from tests.scripted_provider import Garbage, Hang, Raw, Reply, ScriptedProvider, ScriptedReply, Status, call

PNG = "iVBORw0KGgoAAAAA"

# a run that works out


def test_a_run_that_is_over_is_gone_at_once(runtime: Runtime, model: ScriptedProvider) -> None:
    """What it was asked may be megabytes, and the garbage collector comes seldom."""
    model.script(Reply(tool_calls=[call("read", {"path": "x"})]), Reply("done"))
    run = ask(runtime, "hi")
    gone = weakref.ref(run)
    gc.collect()
    gc.disable()
    try:
        answer(run)
        del run
        wait_until(lambda: gone() is None)
    finally:
        gc.enable()


def test_an_answer_is_streamed_stored_and_counted(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply("Hello there, friend", usage=(11, 7, 18)))

    run = ask(runtime, "hi")
    events = read(run)

    assert events[-1] == RunCompleted("Hello there, friend", "stop", Usage(11, 7))
    assert shown(events) == "Hello there, friend"
    assert transcript(runtime) == [("user", "hi", None), ("assistant", "Hello there, friend", "stop")]
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert (record.status, record.finish_reason, record.usage) == ("completed", "stop", Usage(11, 7))
    assert (record.model, record.attempts, record.error_code) == ("scripted/m", 1, None)
    assert runtime.runs.live == 0


def test_when_the_terminal_event_comes_everything_is_stored_and_given_back(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start({"defaults": {"maxPendingPerSession": 1, "maxPending": 1}})

    for number in range(20):
        assert answer(ask(runtime, f"question {number}")).text == f"echo: question {number}"
        assert len(runtime.store.load("chat").history) == 2 * (number + 1)


def test_the_question_is_stored_before_the_model_is_called(runtime: Runtime, model: ScriptedProvider) -> None:
    gate = threading.Event()
    model.script(Reply("later", gate=gate))
    run = ask(runtime, "hi")

    assert model.wait_for_requests(1)
    record = runtime.store.get_run(run.id)

    assert transcript(runtime) == [("user", "hi", None)]
    assert record is not None
    assert record.status == "in_progress"
    gate.set()
    answer(run)


def test_a_session_goes_on_where_it_was(runtime: Runtime, model: ScriptedProvider) -> None:
    answer(ask(runtime, "one"))

    answer(ask(runtime, "two"))

    expected = [("user", "one"), ("assistant", "echo: one"), ("user", "two")]
    assert sent(model) == expected


def test_a_client_that_resends_everything_doubles_nothing(runtime: Runtime, model: ScriptedProvider) -> None:
    answer(ask(runtime, "one"))

    answer(ask(runtime, "one", AssistantMessage("echo: one"), "two"))

    assert sent(model) == [("user", "one"), ("assistant", "echo: one"), ("user", "two")]
    assert [text for _, text, _ in transcript(runtime)] == ["one", "echo: one", "two", "echo: two"]


def test_an_ephemeral_run_is_recorded_and_keeps_no_transcript(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    run = ask(runtime, "one", AssistantMessage("1"), "two", ephemeral=True)

    assert answer(run).text == "echo: two"

    assert sent(model) == [("user", "one"), ("assistant", "1"), ("user", "two")]
    assert runtime.store.load("chat").session is None
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert (record.status, record.session_id) == ("completed", None)


def test_reasoning_is_shown_beside_the_answer_and_is_no_part_of_it(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Reply(chunks=["<thi", "nk>two", "</think>", "ans", "wer"], reasoning="one"))

    events = read(ask(runtime, "hi"))

    assert [e.text for e in events if isinstance(e, ReasoningDelta)] == ["one", "two"]
    assert shown(events) == "answer"
    assert transcript(runtime)[-1] == ("assistant", "answer", "stop")


def test_the_callers_parameters_and_system_text_reach_the_model(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    params = SamplingParams(temperature=0.25, max_tokens=9, stop=("x",))

    answer(ask(runtime, "hi", params=params, system="Speak French."))

    [received] = model.requests
    assert (received.body["temperature"], received.body["max_tokens"]) == (0.25, 9)
    assert "Speak French." in received.body["messages"][0]["content"]


def test_a_conversation_of_only_system_text_runs(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply("Hello."))

    assert answer(ask(runtime, system="Say hello.", ephemeral=True)).text == "Hello."


def test_an_answer_cut_at_its_limit_says_so(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply("Once upon", finish_reason="length"))

    assert answer(ask(runtime, "hi")).finish_reason == "length"
    assert transcript(runtime)[-1] == ("assistant", "Once upon", "length")


# tools


def test_tools_are_run_and_their_results_go_back_to_the_model(
    start: Start, model: ScriptedProvider, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("alpha\n")
    runtime = start({"defaults": {"workspace": str(tmp_path)}})
    calls = [call("read", {"path": "a.txt"}), call("session_status", {}, "call_2")]
    model.script(Reply("Let me look.", tool_calls=calls), Reply("It says alpha."))

    run = ask(runtime, "What is in a.txt?")
    events = read(run)

    assert events[-1] == RunCompleted("Let me look.\n\nIt says alpha.", "stop", Usage(22, 14))
    assert shown(events) == "Let me look.\n\nIt says alpha."
    alpha, status = transcript(runtime)[2][1], transcript(runtime)[3][1]
    assert [e for e in events if isinstance(e, ToolStarted | ToolFinished)] == [
        ToolStarted("call_1", "read", '{"path": "a.txt"}'),
        ToolFinished("call_1", "read", False, alpha),
        ToolStarted("call_2", "session_status", "{}"),
        ToolFinished("call_2", "session_status", False, status),
    ]
    assert alpha == fenced("alpha\n", "a.txt")
    assert f"run: {run.id}" in status
    assert "session: chat" in status
    assert transcript(runtime) == [
        ("user", "What is in a.txt?", None),
        ("assistant", "Let me look.", "tool_calls"),
        ("tool", alpha, "tool_calls"),
        ("tool", status, "tool_calls"),
        ("assistant", "It says alpha.", "stop"),
    ]
    assert [m.get("tool_call_id") for m in model.requests[1].body["messages"][-2:]] == ["call_1", "call_2"]
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert (record.usage, record.attempts) == (Usage(22, 14), 2)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (call("read", "{not json"), "The arguments are not valid JSON"),
        (call("read", "[1]"), "The arguments must be one JSON object."),
        (call("read", {"path": "../x"}), "outside the workspace"),
        (call("read", {}), "path: field required"),
        (call("exec", {"command": "ls"}), "There is no tool named 'exec'. Available: session_status, read, "),
        (call("broken", {}), "There is no tool named 'broken'"),
    ],
)
def test_a_call_that_cannot_be_carried_out_is_explained_to_the_model(
    runtime: Runtime, model: ScriptedProvider, wanted: dict[str, Any], words: str
) -> None:
    model.script(Reply(tool_calls=[wanted]), Reply("Sorry."))

    events = read(ask(runtime, "hi"))

    assert shown(events) == "Sorry."
    assert [e.is_error for e in events if isinstance(e, ToolFinished)] == [True]
    assert words in transcript(runtime)[2][1]


def _broken(*_: object) -> str:
    raise LookupError("a detail nobody should see")


BROKEN = Tool("broken", "Breaks.", {"type": "object", "properties": {}}, _broken)


def test_a_tool_that_breaks_does_not_break_the_run_and_tells_no_details(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start({"list": [{"id": "main", "tools": {"alsoAllow": ["broken"]}}]}, tools=[BROKEN])
    model.script(Reply(tool_calls=[call("broken")]), Reply("Sorry."))

    assert answer(ask(runtime, "hi")).text == "Sorry."
    assert transcript(runtime)[2][1] == "The tool failed with an internal error."


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"profile": "minimal"},
        {"profile": "full"},
        {"profile": "full", "deny": ["read"]},
        {"profile": "full", "allow": ["*_status"]},
        {"allow": ["broken"]},
        {"deny": ["*"]},
    ],
)
def test_the_tools_that_are_offered_are_those_that_run(
    start: Start, model: ScriptedProvider, policy: dict[str, Any]
) -> None:
    runtime = start({"list": [{"id": "main", "tools": policy}]}, tools=[BROKEN])
    names = ["session_status", "read", "broken"]
    calls = [call(name, {}, f"call_{name}") for name in names]
    model.script(Reply(tool_calls=calls), Reply("Done."))

    answer(ask(runtime, "hi"))

    offered = {tool["function"]["name"] for tool in model.requests[0].body.get("tools", [])} & set(names)
    results = {e.message.name: e.message.text for e in runtime.store.load("chat").history[2:5]}  # type: ignore[union-attr]
    assert {name for name in names if "There is no tool" not in results[name]} == offered


def test_the_last_round_offers_no_tools(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxRounds": 2}})
    again = Reply(tool_calls=[call("session_status")])
    model.script(again, again, Reply("Enough."))

    assert answer(ask(runtime, "hi")).text == "Enough."
    assert ["tools" in received.body for received in model.requests] == [True, True, False]


def test_calls_in_the_last_round_are_not_carried_out(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxRounds": 1}})
    model.script(
        Reply(tool_calls=[call("session_status")]), Reply("Well.", tool_calls=[call("session_status")])
    )

    events = read(ask(runtime, "hi"))

    assert events[-1] == RunCompleted("Well.", "stop", Usage(22, 14))
    assert sum(isinstance(e, ToolStarted) for e in events) == 1
    assert [(role, stop) for role, _, stop in transcript(runtime)] == [
        ("user", None), ("assistant", "tool_calls"), ("tool", "tool_calls"), ("assistant", "stop"),
    ]  # fmt: skip


def test_the_answer_streamed_is_the_answer_given_over_several_rounds(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    status = [call("session_status")]
    model.script(
        Reply(tool_calls=status),
        Reply("  One.  ", tool_calls=status),
        Reply(tool_calls=status),
        Reply("\nTwo.\n"),
    )

    events = read(ask(runtime, "hi"))

    assert shown(events) == "One.\n\nTwo."
    assert isinstance(events[-1], RunCompleted)
    assert events[-1].text == "One.\n\nTwo."


# answers that are none


@pytest.mark.parametrize("blank", ["", " \n", "NO_REPLY", "<think>hm</think>"])
def test_a_blank_answer_is_asked_for_once_more(runtime: Runtime, model: ScriptedProvider, blank: str) -> None:
    model.script(Reply(chunks=[blank] if blank else []), Reply("Here I am."))

    assert answer(ask(runtime, "hi")) == RunCompleted("Here I am.", "stop", Usage(22, 14))
    assert len(model.requests) == 2
    assert len(sent(model)) == len(sent(model, 0)) + 1
    assert [text for _, text, _ in transcript(runtime)] == ["hi", "Here I am."]


def test_a_second_blank_answer_is_a_failure(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply(chunks=[]), Reply(chunks=["NO_REPLY"]), Reply("too late"))

    error = failure(ask(runtime, "hi"))

    assert (error.status, error.code) == (502, "empty_response")
    assert len(model.requests) == 2


FAULTS: list[tuple[str, ScriptedReply, str]] = [
    ("a rejected key", Status(401, {"error": {"message": "bad key sk-test"}}), "provider_auth"),
    ("a rejected request", Status(400, {"error": {"message": "no"}}), "provider_rejected_request"),
    ("an unknown model", Status(404, {"error": {"message": "no such model"}}), "model_not_found"),
    ("an empty account", Status(402, {"error": {"message": "pay"}}), "insufficient_quota"),
    ("an answer that breaks off", Reply("one two three", cut_after=2), "provider_truncated"),
    ("an error inside the stream", Reply("one two", error_after=1), "provider_error"),
    ("a body that is no stream", Raw(b"data: {not json\n\n"), "provider_protocol"),
]


@pytest.mark.parametrize(
    ("fault", "code"), [(f, c) for _, f, c in FAULTS], ids=[name for name, _, _ in FAULTS]
)
def test_whatever_the_model_api_does_the_run_ends_once_and_is_recorded(
    runtime: Runtime, model: ScriptedProvider, fault: ScriptedReply, code: str
) -> None:
    model.on("fault", fault)

    run = ask(runtime, "fault")
    error = failure(run)

    assert isinstance(error, ProviderError)
    assert error.code == code
    assert "sk-test" not in str(error)
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert (record.status, record.error_code, record.attempts) == ("failed", code, len(model.requests))
    assert runtime.runs.live == 0
    assert answer(ask(runtime, "And now?")).text == "echo: And now?"


def test_a_server_that_never_speaks_http_is_tried_again_and_then_given_up(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.on("fault", Garbage(b""))

    error = failure(ask(runtime, "fault"))

    assert error.status == 502
    assert 1 < len(model.requests) <= 4


def test_text_of_a_run_that_failed_is_kept_as_aborted(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply("one two three", cut_after=2))

    failure(ask(runtime, "hi"))

    assert transcript(runtime) == [("user", "hi", None), ("assistant", "one two", "aborted")]


def test_asking_again_after_a_failure_stores_the_question_once(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Status(400))
    failure(ask(runtime, "hi"))

    answer(ask(runtime, "hi"))

    assert transcript(runtime) == [("user", "hi", None), ("assistant", "echo: hi", "stop")]


def test_another_question_after_a_failure_follows_a_note(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Status(400))
    failure(ask(runtime, "hi"))

    answer(ask(runtime, "hello?"))

    assert [role for role, _ in sent(model)] == ["user", "assistant", "user"]


def test_the_next_model_answers_when_the_first_cannot(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"model": {"primary": "scripted/a", "fallbacks": ["scripted/b"]}}})
    model.script(Status(401), Reply("From b."))

    run = ask(runtime, "hi")

    assert answer(run).text == "From b."
    assert [received.body["model"] for received in model.requests] == ["a", "b"]
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert (record.model, record.attempts) == ("scripted/b", 2)


# stopping


def test_cancelling_keeps_what_was_written_and_closes_the_call(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Reply(chunks=["one ", "two ", "three"], hang_after=2))
    run = ask(runtime, "hi")
    seen = ""
    deadline = time.monotonic() + PATIENCE
    while "two" not in seen and time.monotonic() < deadline:
        seen += shown(run.stream.get(0.1))

    assert runtime.runs.cancel(run.id, CancelReason.USER)
    events = read(run)

    assert events == [RunCancelled(CancelReason.USER)]
    assert transcript(runtime) == [("user", "hi", None), ("assistant", "one two", "aborted")]
    assert model.wait_for_disconnect()
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert (record.status, record.error_code) == ("cancelled", "run_cancelled")
    assert not runtime.runs.cancel(run.id, CancelReason.USER)


@pytest.mark.parametrize("silence", [Hang(before_headers=True), Hang(before_headers=False)])
def test_cancelling_breaks_any_silence(
    runtime: Runtime, model: ScriptedProvider, silence: ScriptedReply
) -> None:
    model.script(silence)
    run = ask(runtime, "hi")
    assert model.wait_for_requests(1)

    before = time.monotonic()
    run.cancel(CancelReason.DISCONNECT)

    assert read(run) == [RunCancelled(CancelReason.DISCONNECT)]
    assert time.monotonic() - before < 1
    assert model.wait_for_disconnect()


def test_cancelling_during_the_pause_before_another_try_ends_the_run(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Status(429, headers={"Retry-After": "15"}))
    run = ask(runtime, "hi")
    assert model.wait_for_requests(1)
    assert model.wait_until_idle()

    before = time.monotonic()
    run.cancel(CancelReason.USER)

    assert read(run) == [RunCancelled(CancelReason.USER)]
    assert time.monotonic() - before < 1
    assert len(model.requests) == 1


def test_a_run_that_takes_too_long_fails_with_a_timeout(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply(chunks=["one ", "two"], hang_after=1))

    run = ask(runtime, "hi", timeout=0.2)
    error = failure(run)

    assert isinstance(error, RunTimeout)
    assert (error.status, str(error)) == (504, "The run did not finish within 0.2 seconds.")
    assert transcript(runtime)[-1] == ("assistant", "one", "aborted")
    record = runtime.store.get_run(run.id)
    assert record is not None
    assert (record.status, record.error_code) == ("failed", "run_timeout")
    assert model.wait_for_disconnect()


def test_an_agent_has_a_time_limit_of_its_own(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"timeoutSeconds": 0.2}})
    model.script(Hang())

    assert isinstance(failure(ask(runtime, "hi")), RunTimeout)


def test_a_silent_model_is_given_up_before_the_run_is(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"firstTokenTimeoutSeconds": 0.2}})
    model.script(Hang(before_headers=False))

    error = failure(ask(runtime, "hi"))

    assert (error.status, error.code) == (504, "provider_timeout")


def test_waiting_for_ones_turn_in_a_session_takes_nothing_off_the_time_limit(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Reply("slow", delay=0.6))
    first = ask(runtime, "one")
    second = ask(runtime, "two", timeout=0.4)

    assert answer(first).text == "slow"
    assert answer(second).text == "echo: two"


def test_waiting_for_a_free_slot_counts_as_running(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxConcurrent": 1}})
    gate = threading.Event()
    model.script(Reply("slow", gate=gate))
    first = ask(runtime, "one", key="a")
    assert model.wait_for_requests(1)

    error = failure(ask(runtime, "two", key="b", timeout=0.2))

    assert isinstance(error, RunTimeout)
    gate.set()
    answer(first)
    assert len(model.requests) == 1


def test_a_reader_who_stopped_reading_holds_up_nobody_and_can_still_cancel(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Reply(chunks=["x"] * 5_000))
    stuck = ask(runtime, "a lot", key="a")
    assert model.wait_for_requests(1)

    for _ in range(5):
        assert answer(ask(runtime, "hi", key="b")).text == "echo: hi"
    assert runtime.runs.live == 1
    stuck.cancel(CancelReason.DISCONNECT)

    events = read(stuck)
    assert events[-1] == RunCancelled(CancelReason.DISCONNECT)
    assert 0 < len(events) - 1 <= 256


# turns


def test_runs_of_one_session_are_answered_in_order_of_arrival(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    gate = threading.Event()
    model.script(Reply("first", gate=gate))
    runs = [ask(runtime, f"question {number}") for number in range(15)]
    gate.set()

    texts = [answer(run).text for run in runs]

    assert texts == ["first", *(f"echo: question {number}" for number in range(1, 15))]
    assert [r.user_text for r in model.requests] == [f"question {number}" for number in range(15)]
    assert model.max_active == 1
    assert [text for role, text, _ in transcript(runtime) if role == "user"] == [
        f"question {number}" for number in range(15)
    ]


def test_sessions_do_not_wait_for_each_other(runtime: Runtime, model: ScriptedProvider) -> None:
    gate = threading.Event()
    model.script(Reply("late", gate=gate))
    slow = ask(runtime, "one", key="a")
    assert model.wait_for_requests(1)

    assert answer(ask(runtime, "two", key="b")).text == "echo: two"

    gate.set()
    assert answer(slow).text == "late"


def test_no_more_runs_talk_to_models_than_allowed(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxConcurrent": 3}})
    model.on("hi", Reply("there", delay=0.03))

    runs = [ask(runtime, "hi", key=f"session {number}") for number in range(12)]

    assert [answer(run).text for run in runs] == ["there"] * 12
    assert model.max_active == 3


def test_a_busy_session_takes_no_slot_from_the_others(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxConcurrent": 2}})
    gate = threading.Event()
    model.on("slow", Reply("late", gate=gate))
    busy = [ask(runtime, "slow", key="busy") for _ in range(5)]
    assert model.wait_for_requests(1)

    assert answer(ask(runtime, "hi", key="other")).text == "echo: hi"

    gate.set()
    assert [answer(run).text for run in busy] == ["late"] * 5


def test_a_run_cancelled_while_it_waits_never_reaches_the_model(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    gate = threading.Event()
    model.script(Reply("first", gate=gate))
    first, second, third = (ask(runtime, text) for text in ("one", "two", "three"))
    assert model.wait_for_requests(1)

    second.cancel(CancelReason.USER)
    assert read(second) == [RunCancelled(CancelReason.USER)]
    gate.set()

    assert [answer(first).text, answer(third).text] == ["first", "echo: three"]
    assert [r.user_text for r in model.requests] == ["one", "three"]
    assert [text for role, text, _ in transcript(runtime) if role == "user"] == ["one", "three"]
    record = runtime.store.get_run(second.id)
    assert record is not None
    assert record.status == "cancelled"


# thinking


@pytest.mark.parametrize(
    ("level", "told"),
    [("low", "low"), ("max", "high"), ("ultra", "high"), ("off", None), ("adaptive", None)],
)
def test_the_default_level_of_thinking_reaches_the_model(
    start: Start, model: ScriptedProvider, level: str, told: str | None
) -> None:
    answer(ask(start({"defaults": {"thinkingDefault": level}}), "hi"))

    assert model.requests[-1].body.get("reasoning_effort") == told


@pytest.mark.parametrize("place", ["defaults", "agent", "request"])
def test_a_stated_effort_wins_over_the_default_level_of_thinking(
    start: Start, model: ScriptedProvider, place: str
) -> None:
    stated = {"reasoningEffort": "low"}
    agents: dict[str, Any] = {
        "defaults": {"thinkingDefault": "high", "params": stated if place == "defaults" else {}},
        "list": [{"id": "main", "params": stated if place == "agent" else {}}],
    }
    params = SamplingParams(reasoning_effort="low" if place == "request" else None)

    answer(ask(start(agents), "hi", params=params))

    assert model.requests[-1].body["reasoning_effort"] == "low"


# admission


def test_a_full_gateway_refuses_and_admits_again_later(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxPending": 1}})
    gate = threading.Event()
    model.script(Reply("late", gate=gate))
    first = ask(runtime, "one", key="a")

    with pytest.raises(GatewayBusy):
        ask(runtime, "two", key="b")

    gate.set()
    answer(first)
    assert answer(ask(runtime, "two", key="b")).text == "echo: two"


def test_a_full_session_refuses_and_others_are_admitted(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxPendingPerSession": 2}})
    gate = threading.Event()
    model.script(Reply("late", gate=gate))
    runs = [ask(runtime, "one"), ask(runtime, "two")]
    assert model.wait_for_requests(1)

    with pytest.raises(SessionBusy):
        ask(runtime, "three")

    assert answer(ask(runtime, "three", key="other")).text == "echo: three"
    gate.set()
    assert [answer(run).text for run in runs] == ["late", "echo: two"]


def test_an_unknown_agent_is_refused(runtime: Runtime) -> None:
    with pytest.raises(AgentNotFound):
        ask(runtime, "hi", agent_id="nobody")


def test_a_session_of_another_agent_is_refused(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"list": [{"id": "main"}, {"id": "beta"}]})
    answer(ask(runtime, "hi"))

    error = failure(ask(runtime, "hi", agent_id="beta"))

    assert isinstance(error, InvalidRequest)
    assert len(transcript(runtime)) == 2


def test_an_image_is_refused_by_name_if_the_model_cannot_see(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    picture = UserMessage((TextPart("look"), ImagePart("image/png", PNG)))

    with pytest.raises(InvalidRequest) as caught:
        ask(runtime, picture)

    assert (caught.value.status, caught.value.param, caught.value.code) == (
        400, "messages", "images_not_supported",
    )  # fmt: skip
    assert (runtime.runs.live, model.requests, runtime.store.list_runs(None, 10)) == (0, [], [])


def test_an_image_reaches_a_model_that_can_see(start: Start, model: ScriptedProvider) -> None:
    runtime = start(provider={"models": [{"id": "m", "input": ["text", "image"]}]})

    answer(ask(runtime, UserMessage((TextPart("look"), ImagePart("image/png", PNG)))))

    [(_, content)] = sent(model)
    assert content == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]


def test_an_old_image_is_no_reason_to_refuse_and_is_named(runtime: Runtime, model: ScriptedProvider) -> None:
    picture = UserMessage((TextPart("look"), ImagePart("image/png", PNG)))

    answer(ask(runtime, picture, AssistantMessage("A cat."), "What colour?"))

    assert "cannot see images" in sent(model)[0][1]


def test_the_beginning_of_an_answer_is_refused_by_name_if_the_model_cannot_go_on(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(runtime, "hi", AssistantMessage("It is"))

    assert (caught.value.param, caught.value.code) == ("messages", "prefill_not_supported")
    assert (runtime.runs.live, model.requests) == (0, [])


@pytest.mark.parametrize("ephemeral", [True, False])
def test_a_model_that_can_goes_on_where_the_answer_begins(
    start: Start, model: ScriptedProvider, ephemeral: bool
) -> None:
    runtime = start(provider={"compat": {"supportsPrefill": True}})
    model.script(Reply("earlier"), Reply(" blue."))
    answer(ask(runtime, "one", ephemeral=ephemeral))

    read(ask(runtime, "The sky?", AssistantMessage("It is"), ephemeral=ephemeral))

    assert sent(model)[-2:] == [("user", "The sky?"), ("assistant", "It is")]


# the end of the process


def test_a_draining_gateway_admits_nobody_and_waits_for_those_inside(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    gate = threading.Event()
    model.script(Reply("in time", gate=gate))
    run = ask(runtime, "hi")
    assert model.wait_for_requests(1)
    drain = threading.Thread(target=runtime.runs.drain, args=(PATIENCE,), daemon=True)
    drain.start()
    wait_until(lambda: runtime.runs.draining)

    with pytest.raises(GatewayDraining):
        ask(runtime, "too late", key="other")
    assert drain.is_alive()
    gate.set()

    assert answer(run).text == "in time"
    drain.join(PATIENCE)
    assert not drain.is_alive()


def test_whoever_is_still_there_when_the_time_is_up_is_told(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"maxConcurrent": 1}})
    model.script(Hang())
    talking, queued, waiting = ask(runtime, "a"), ask(runtime, "b", key="other"), ask(runtime, "c")
    assert model.wait_for_requests(1)

    before = time.monotonic()
    runtime.runs.drain(0.05)

    assert time.monotonic() - before < 3
    assert runtime.runs.live == 0
    for run in (talking, queued, waiting):
        assert isinstance(failure(run), GatewayDraining)
    assert {record.status for record in runtime.store.list_runs(None, 10)} == {"failed"}


def test_closing_twice_is_harmless(runtime: Runtime, model: ScriptedProvider) -> None:
    answer(ask(runtime, "hi"))

    runtime.close()
    runtime.close()


# state that cannot be written


def test_a_store_that_is_gone_fails_the_run_and_nothing_else(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    runtime.store.close()

    error = failure(ask(runtime, "hi"))

    assert (error.status, error.code) == (500, "store_error")
    assert (runtime.runs.live, model.requests) == (0, [])


def service(runtime: Runtime, store: Store, executor: Executor) -> RunService:
    parts = replace(runtime.runs._parts, store=store, new_id=lambda: f"s{next(numbers)}", clock=lambda: 2_000)
    return RunService(
        agents=runtime.agents,
        parts=parts,
        executor=executor,
        limits=RunLimits(1, 1, 1),
        tick=0.1,
        on_end=lambda request, ending: None,
    )


class ForgetfulStore:
    """A store whose end of a run goes wrong in a way nobody has thought of."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def finish(self, end: RunEnd, entries: Sequence[NewEntry]) -> None:
        raise LookupError("a detail nobody should see")


def test_even_a_store_that_breaks_in_an_unknown_way_ends_the_run_once(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    runs = service(runtime, ForgetfulStore(runtime.store), runtime.executor)  # type: ignore[arg-type]

    for _ in range(2):
        error = failure(runs.start(request("hi")))
        assert (error.status, str(error)) == (500, "internal error")
    assert runs.live == 0


class ExhaustedExecutor(Executor):
    """Refuses its first thread, as a system does that has no more of them."""

    refused = False

    def spawn(self, name: str, work: Callable[[], None]) -> threading.Thread:
        if not self.refused:
            self.refused = True
            raise RuntimeError("can't start new thread")
        return super().spawn(name, work)


def test_a_run_that_gets_no_thread_is_refused_and_leaves_nothing_behind(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    with closing(ExhaustedExecutor()) as executor:
        runs = service(runtime, runtime.store, executor)

        with pytest.raises(GatewayBusy):
            runs.start(request("hi"))

        assert runs.live == 0
        assert answer(runs.start(request("hi"))).text == "echo: hi"


def test_a_run_is_told_to_the_one_before_it_only_once_its_asker_knows_that_it_comes(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    gate = threading.Event()
    model.script(Reply("Let me see.", tool_calls=[call("ls", {"path": "."})], gate=gate))
    first = ask(runtime, "first")
    wait_until(lambda: len(model.requests) == 1)

    def admitted() -> None:
        gate.set()
        answer(first)

    second = runtime.runs.start(request("second", steer=True), admitted)

    assert answer(second).text == "echo: second"
    assert ("user", "second") not in sent(model, 1)


def test_a_run_ends_for_everybody_even_if_one_who_looks_on_fails(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    seen: list[str] = []

    def fail(looked_at: Run | RunEvent) -> None:
        raise LookupError("it looks where nothing is")

    runtime.runs.observe(fail)
    runtime.runs.observe(lambda run: fail)
    runtime.runs.observe(lambda run: lambda event: seen.append(type(event).__name__))

    assert answer(ask(runtime, "hi")).text == "echo: hi"
    assert seen[-1] == "RunCompleted"
