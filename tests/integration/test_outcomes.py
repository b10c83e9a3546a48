"""Runs under an id of their asker's own: acknowledged when they are safe, started once, told again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from app.agents.client_tools import ClientTools
from app.cancel import CancelReason
from app.errors import AgentNotFound, GatewayDraining, SessionBusy, StoreError
from app.events import RunCancelled, RunCompleted, RunFailed
from app.messages import (
    AssistantMessage,
    ImagePart,
    SamplingParams,
    TextPart,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from app.providers.base import ToolChoice, ToolSpec
from app.runs.outcomes import STARTED, UNDER_WAY, Outcome, Outcomes
from app.runs.packing import UnreadableRequest, pack, unpack
from app.runs.run import RunRequest
from app.runtime import Runtime
from app.sessions.records import NewEntry, RunEnd, RunStart
from app.sessions.sql import open_store
from app.wire import dumps, loads
from tests.integration.runs import PATIENCE, Start, request, sent, transcript, wait_until
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, call


def outcomes_of(runtime: Runtime) -> Outcomes:
    outcomes = Outcomes(runtime.runs, runtime.store, lambda: 5_000)
    runtime.runs.observe(outcomes.observe)
    return outcomes


def start_run(outcomes: Outcomes, asked: RunRequest, acknowledge: threading.Event | None = None) -> object:
    return outcomes.once(asked.run_id, lambda: outcomes.start(asked, (acknowledge or threading.Event()).set))


def ended(outcomes: Outcomes, run_id: str) -> Outcome:
    outcome = outcomes.wait(run_id, PATIENCE)
    assert outcome is not None, "the run did not end"
    return outcome


def text_of(outcome: Outcome) -> str:
    assert isinstance(outcome.ending, RunCompleted), outcome
    return outcome.ending.text


def test_a_run_is_stored_before_it_is_acknowledged_and_acknowledged_before_it_begins(
    runtime: Runtime,
) -> None:
    outcomes = outcomes_of(runtime)
    asked = request("hello")
    seen: list[object] = []
    runtime.runs.observe(lambda run: lambda event: seen.append(type(event).__name__))

    def acknowledge() -> None:
        seen.append([waiting.id for waiting in runtime.store.queued()])

    outcomes.once(asked.run_id, lambda: outcomes.start(asked, acknowledge))
    ended(outcomes, asked.run_id)

    assert seen[:2] == [[asked.run_id], "RunStarted"]
    assert runtime.store.queued() == []


def test_a_second_request_is_told_how_it_stands(runtime: Runtime, model: ScriptedProvider) -> None:
    gate = threading.Event()
    model.script(Reply("once", gate=gate))
    outcomes = outcomes_of(runtime)
    asked = request("hello")

    first = start_run(outcomes, asked)
    second = start_run(outcomes, asked)
    gate.set()
    outcome = ended(outcomes, asked.run_id)
    third = start_run(outcomes, asked)

    assert (first, second, third) == (STARTED, UNDER_WAY, outcome)
    assert text_of(outcome) == "once"
    assert len(model.requests) == 1


def test_requests_at_the_same_moment_are_one_run(runtime: Runtime, model: ScriptedProvider) -> None:
    outcomes = outcomes_of(runtime)
    asked = request("hello")
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(start_run(outcomes, asked))) for _ in range(12)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    ended(outcomes, asked.run_id)

    assert answers.count(STARTED) == 1
    assert len(answers) == 12
    assert len(model.requests) == 1


def test_what_needs_no_run_is_done_once_and_remembered(runtime: Runtime) -> None:
    outcomes = outcomes_of(runtime)
    done: list[int] = []

    def begin() -> RunCompleted:
        done.append(1)
        return RunCompleted("told", "stop", Usage())

    first, second = outcomes.once("k", begin), outcomes.once("k", begin)

    assert first is STARTED
    assert isinstance(second, Outcome)
    assert text_of(second) == "told"
    assert done == [1]


def test_a_refused_request_leaves_its_id_free_and_nothing_behind(runtime: Runtime) -> None:
    outcomes = outcomes_of(runtime)
    asked = request("hello")

    with pytest.raises(AgentNotFound):
        start_run(outcomes, request("hello", agent_id="nobody"))
    with pytest.raises(ZeroDivisionError):
        outcomes.once(asked.run_id, lambda: 1 // 0)  # type: ignore[arg-type,return-value]

    assert runtime.store.queued() == []
    assert start_run(outcomes, asked) is STARTED
    ended(outcomes, asked.run_id)


def test_whoever_follows_a_request_that_is_refused_hears_of_it(runtime: Runtime) -> None:
    outcomes = outcomes_of(runtime)
    heard: list[Outcome] = []

    def begin() -> None:
        outcomes.follow("k", heard.append)
        raise GatewayDraining

    with pytest.raises(GatewayDraining):
        outcomes.once("k", begin)

    assert [isinstance(one.ending, RunFailed) for one in heard] == [True]


def test_whoever_asks_while_another_is_being_refused_is_not_told_that_it_comes(runtime: Runtime) -> None:
    outcomes = outcomes_of(runtime)
    begun, refuse = threading.Event(), threading.Event()
    answers: list[object] = []

    def begin() -> None:
        begun.set()
        refuse.wait(PATIENCE)
        raise GatewayDraining

    def first() -> None:
        with pytest.raises(GatewayDraining):
            outcomes.once("k", begin)

    def second() -> None:
        answers.append(outcomes.once("k", lambda: RunCompleted("told", "stop", Usage())))

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert begun.wait(PATIENCE)
    threads[1].start()
    threads[1].join(0.05)
    refuse.set()
    for thread in threads:
        thread.join(PATIENCE)

    assert answers == [STARTED]


def test_the_outcome_is_the_same_after_a_restart(start: Start, model: ScriptedProvider) -> None:
    model.script(
        Reply("Let me see.", tool_calls=[call("ls", {"path": "."})]),
        Reply("Done."),
        Status(400, {"error": {"message": "no"}}),
        Hang(),
    )
    before = start()
    outcomes = outcomes_of(before)
    asked = [request("one"), request("two", key="b"), request("three", key="c")]
    first = []
    for one in asked[:2]:
        start_run(outcomes, one)
        first.append(ended(outcomes, one.run_id).ending)
    start_run(outcomes, asked[2])
    wait_until(lambda: len(model.requests) == 4)
    before.runs.cancel(asked[2].run_id, CancelReason.USER)
    first.append(ended(outcomes, asked[2].run_id).ending)
    before.close()

    later = outcomes_of(start())
    again = [start_run(later, one) for one in asked]

    endings = [one.ending for one in again if isinstance(one, Outcome)]
    assert endings[0] == first[0] == RunCompleted("Let me see.\n\nDone.", "stop", Usage(22, 14))
    assert isinstance(endings[1], RunFailed)
    assert isinstance(first[1], RunFailed)
    assert str(endings[1].error) == str(first[1].error)
    assert endings[2] == first[2] == RunCancelled(CancelReason.USER)
    assert len(model.requests) == 4


def test_what_was_acknowledged_and_not_begun_is_resumed_in_order(
    start: Start, model: ScriptedProvider, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "state")
    for number in range(3):
        asked = request(f"question {number}", created_at=1_000 + number, detached=True)
        begun = RunStart(asked.run_id, "chat", None, "main", "tests", "", asked.created_at)
        store.enqueue(begun, pack(asked))
    gone = request("hello", agent_id="nobody", detached=True)
    store.enqueue(RunStart(gone.run_id, "chat", None, "nobody", "tests", "", 1_010), pack(gone))
    store.enqueue(RunStart("odd", "chat", None, "main", "tests", "", 1_020), "no request")
    store.close()

    runtime = start()
    outcomes = outcomes_of(runtime)
    outcomes.resume()
    ended(outcomes, asked.run_id)

    assert [text for role, text, _ in transcript(runtime) if role == "user"] == [
        "question 0",
        "question 1",
        "question 2",
    ]
    assert runtime.store.queued() == []
    for lost in (gone.run_id, "odd"):
        record = runtime.store.get_run(lost)
        assert record is not None
        assert record.status == "failed"


def test_a_run_that_waits_when_the_gateway_stops_is_answered_by_the_next(
    start: Start, model: ScriptedProvider
) -> None:
    model.script(Hang(), Reply("second answer"), Reply("first answer"))
    before = start()
    outcomes = outcomes_of(before)
    first, second = request("first"), request("second")
    start_run(outcomes, first)
    wait_until(lambda: len(model.requests) == 1)
    start_run(outcomes, second)
    before.close()

    runtime = start()
    outcomes = outcomes_of(runtime)
    outcomes.resume()
    answer = text_of(ended(outcomes, second.run_id))
    again = start_run(outcomes, first)
    repeated = text_of(ended(outcomes, first.run_id))

    assert (answer, again, repeated) == ("second answer", STARTED, "first answer")


def test_what_waits_when_the_gateway_stops_neither_begins_nor_ends_before_the_next(
    start: Start, model: ScriptedProvider
) -> None:
    gate = threading.Event()
    model.script(Reply("first answer", gate=gate), Reply("second answer"))
    before = start()
    outcomes, events = outcomes_of(before), list[tuple[str, str]]()
    before.runs.observe(lambda run: lambda event: events.append((run.id, type(event).__name__)))
    first, second = request("first"), request("second")
    start_run(outcomes, first)
    wait_until(lambda: len(model.requests) == 1)
    start_run(outcomes, second)
    closing = threading.Thread(target=before.close, args=(PATIENCE,))
    closing.start()
    wait_until(lambda: before.runs.draining)
    gate.set()
    closing.join(PATIENCE)

    assert (first.run_id, "RunCompleted") in events
    assert second.run_id not in dict(events)
    assert len(model.requests) == 1

    later = outcomes_of(start())
    later.resume()
    assert text_of(ended(later, second.run_id)) == "second answer"


@pytest.mark.parametrize("a_place_is_free", [False, True])
def test_what_waits_for_a_model_when_the_gateway_stops_is_answered_by_the_next(
    start: Start, model: ScriptedProvider, *, a_place_is_free: bool
) -> None:
    """Its question is stored already: there is room for one run only, and another has it."""
    gate = threading.Event()
    model.script(Reply("first answer", gate=gate) if a_place_is_free else Hang(), Reply("second answer"))
    before = start(agents={"defaults": {"maxConcurrent": 1}})
    outcomes, events = outcomes_of(before), list[tuple[str, str]]()
    before.runs.observe(lambda run: lambda event: events.append((run.id, type(event).__name__)))
    first, second, third = request("first"), request("second", key="b"), request("third", key="b")
    start_run(outcomes, first)
    wait_until(lambda: len(model.requests) == 1)
    start_run(outcomes, second)
    start_run(outcomes, third)
    wait_until(lambda: transcript(before, "b"))
    closing = threading.Thread(target=before.close, args=(PATIENCE if a_place_is_free else 0,))
    closing.start()
    wait_until(lambda: before.runs.draining)
    gate.set()
    closing.join(PATIENCE)

    assert {run_id for run_id, _ in events} == {first.run_id}
    assert len(model.requests) == 1

    runtime = start()
    later = outcomes_of(runtime)
    later.resume()
    assert text_of(ended(later, second.run_id)) == "second answer"
    assert text_of(ended(later, third.run_id)) == "echo: third"
    assert [text for _, text, _ in transcript(runtime, "b")] == [
        "second",
        "second answer",
        "third",
        "echo: third",
    ]
    assert runtime.store.queued() == []


def test_a_run_that_a_crash_has_interrupted_goes_on_when_it_is_asked_for_again(
    start: Start, model: ScriptedProvider, tmp_path: Path
) -> None:
    asked = request("hello", detached=True)
    store = open_store(tmp_path / "state")
    begun = RunStart(asked.run_id, "chat", "s1", "main", "tests", "m", asked.created_at)
    store.enqueue(begun, pack(asked))
    store.begin(begun, asked.messages)
    store.close()

    runtime = start()
    outcomes = outcomes_of(runtime)
    outcomes.resume()
    assert runtime.runs.live == 0
    start_run(outcomes, asked)

    assert text_of(ended(outcomes, asked.run_id)) == "echo: hello"
    assert transcript(runtime) == [("user", "hello", None), ("assistant", "echo: hello", "stop")]


def test_a_question_that_a_crash_has_cut_off_is_stored_once_although_another_comes_first(
    start: Start, model: ScriptedProvider, tmp_path: Path
) -> None:
    """The first was asked and not answered, the second waited behind it; then the gateway was killed."""
    model.script(Reply("second answer"), Reply("first answer"))
    first, second = request("first", detached=True), request("second", created_at=2_000, detached=True)
    store = open_store(tmp_path / "state")
    begun = RunStart(first.run_id, "chat", "s1", "main", "tests", "m", first.created_at)
    store.enqueue(begun, pack(first))
    store.begin(begun, first.messages)
    store.enqueue(RunStart(second.run_id, "chat", None, "main", "tests", "", 2_000), pack(second))
    store.close()

    runtime = start()
    outcomes = outcomes_of(runtime)
    outcomes.resume()
    ended(outcomes, second.run_id)
    start_run(outcomes, first)

    assert text_of(ended(outcomes, first.run_id)) == "first answer"
    assert [text for role, text, _ in transcript(runtime) if role == "user"] == ["first", "second"]
    assert sent(model)[-1] == ("user", "first")


def test_a_turn_that_a_crash_has_cut_off_goes_on_with_what_its_tools_have_found(
    start: Start, model: ScriptedProvider, tmp_path: Path
) -> None:
    model.script(Reply("second answer"), Reply("found it"))
    asked, other = request("look", detached=True), request("second", detached=True)
    store = open_store(tmp_path / "state")
    begun = RunStart(asked.run_id, "chat", "s1", "main", "tests", "m", asked.created_at)
    store.enqueue(begun, pack(asked))
    store.begin(begun, asked.messages)
    looking = AssistantMessage("", (ToolCall("c1", "ls", "{}"),))
    found = ToolMessage("c1", "ls", "notes.md")
    store.append("s1", asked.run_id, [NewEntry(looking, "tool_calls"), NewEntry(found, "tool_calls")], 1_500)
    store.close()

    runtime = start()
    outcomes = outcomes_of(runtime)
    start_run(outcomes, other)
    ended(outcomes, other.run_id)
    start_run(outcomes, asked)

    assert text_of(ended(outcomes, asked.run_id)) == "found it"
    assert [role for role, _ in sent(model)[-3:]] == ["user", "assistant", "tool"]
    assert [text for role, text, _ in transcript(runtime) if role == "user"].count("look") == 1


def test_a_run_that_is_over_cannot_be_queued_again(runtime: Runtime) -> None:
    store = runtime.store
    begun = RunStart("r", "chat", None, "main", "tests", "m", 1_000)
    store.enqueue(begun, "{}")
    store.enqueue(begun, "{}")
    store.begin(begun, ())
    store.finish(RunEnd("r", "completed", "stop", Usage(), "m", None, None, 2_000, 1), ())

    with pytest.raises(StoreError):
        store.enqueue(begun, "{}")
    with pytest.raises(StoreError):
        store.begin(begun, ())


def test_a_session_takes_only_so_many(start: Start, model: ScriptedProvider) -> None:
    model.script(Hang())
    runtime = start(agents={"defaults": {"maxPendingPerSession": 2}})
    outcomes = outcomes_of(runtime)
    asked = [request(str(n)) for n in range(3)]
    start_run(outcomes, asked[0])
    start_run(outcomes, asked[1])

    with pytest.raises(SessionBusy):
        start_run(outcomes, asked[2])

    assert asked[2].run_id not in {waiting.id for waiting in runtime.store.queued()}
    runtime.runs.cancel_session("chat", CancelReason.USER)
    wait_until(lambda: not runtime.runs.live)
    assert runtime.store.queued() == []


def test_waiting_ends_in_time_and_leaves_nobody_behind(runtime: Runtime) -> None:
    outcomes = outcomes_of(runtime)

    assert outcomes.wait("nobody-knows", 0.01) is None
    assert outcomes.known("nobody-knows") is None


def test_a_request_is_the_same_after_it_was_stored() -> None:
    message = UserMessage((TextPart('say "ä😀"'), ImagePart("image/png", "AAAA")))
    params = SamplingParams(temperature=0.5, stop=("a", "b"), reasoning_effort="low")
    tools = ClientTools((ToolSpec("look", "Look.", {"type": "object"}),), ToolChoice(name="look"), False)
    asked = request(
        message, params=params, client_tools=tools, timeout=1.5, model="a/b", system="be brief", steer=True
    )

    assert unpack(pack(asked)) == asked


def test_a_request_that_an_older_gateway_has_stored_is_read() -> None:
    asked = request("hello")
    stored = loads(pack(asked).encode())
    assert isinstance(stored, dict)
    older = {name: value for name, value in stored.items() if name != "client_tools"}

    assert unpack(dumps(older).decode()) == asked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"messages": [], "params": {}, "more": 1}',
        '{"messages": ["x"], "params": {}}',
        '{"messages": [], "params": {}, "client_tools": {"specs": []}}',
        '{"messages": [], "params": {}, "client_tools": {"specs": [1], "choice": {}, "parallel": true}}',
    ],
)
def test_what_is_no_request_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableRequest):
        unpack(text)
