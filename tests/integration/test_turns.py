"""Turns with tools, long conversations, chosen models and sub-agents, on a real runtime."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from app.cancel import CancelReason
from app.config import load_config
from app.errors import ConfigError, ModelNotFound, ProviderError
from app.events import ContextCompacted, RunCompleted, ToolFinished
from app.messages import SamplingParams, ToolMessage
from app.runtime.tools import exec_policy
from app.sessions.records import SessionSettings
from app.tools.registry import ToolContext
from app.tools.signature import tool
from tests.integration.runs import PATIENCE, Start, answer, ask, failure, read, sent, shown, transcript
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, call

SUMMARY = "Ada is the user's name and she keeps bees."
OVERFLOW = Status(
    400, {"error": {"message": "maximum context length is 8192", "code": "context_length_exceeded"}}
)


FULL = {"profile": "full"}


def results(runtime: Any, key: str = "chat") -> list[ToolMessage]:
    entries = runtime.store.transcript(key).history
    return [entry.message for entry in entries if isinstance(entry.message, ToolMessage)]


# Calls


def test_calls_that_are_safe_side_by_side_run_side_by_side_and_answer_in_order(
    start: Start, model: ScriptedProvider
) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    @tool(parallel=True)
    def meet(number: int) -> str:
        """Wait for the others."""
        together.wait()
        return f"met {number}"

    runtime = start(tools=[meet])
    calls = [call("meet", {"number": n}, f"c{n}") for n in (3, 1, 2)]
    model.script(Reply(tool_calls=calls), Reply("All met."))

    events = read(ask(runtime, "go"))

    assert shown(events) == "All met."
    assert [r.text for r in results(runtime)] == ["met 3", "met 1", "met 2"]
    assert [e.call_id for e in events if isinstance(e, ToolFinished)] == ["c3", "c1", "c2"]


def test_calls_that_are_not_wait_for_each_other(start: Start, model: ScriptedProvider) -> None:
    order: list[str] = []

    @tool
    def step(number: int) -> str:
        """One step."""
        order.append(f"begin {number}")
        order.append(f"end {number}")
        return "done"

    runtime = start(tools=[step])
    model.script(Reply(tool_calls=[call("step", {"number": n}, f"c{n}") for n in (1, 2)]), Reply("Done."))

    answer(ask(runtime, "go"))

    assert order == ["begin 1", "end 1", "begin 2", "end 2"]


def test_a_cancelled_run_does_not_begin_another_call(start: Start, model: ScriptedProvider) -> None:
    begun = threading.Event()
    done: list[int] = []

    @tool
    def slow(context: ToolContext, number: int) -> str:
        """Take long."""
        done.append(number)
        begun.set()
        context.cancel.sleep(PATIENCE)
        return "too late"

    runtime = start(tools=[slow])
    model.script(Reply(tool_calls=[call("slow", {"number": n}, f"c{n}") for n in (1, 2)]))
    run = ask(runtime, "go")

    assert begun.wait(PATIENCE)
    run.cancel(CancelReason.USER)
    read(run)

    assert done == [1]


def test_a_long_result_is_cut_in_the_middle_and_all_of_it_can_be_read(
    start: Start, model: ScriptedProvider
) -> None:
    @tool
    def book() -> str:
        """A long text."""
        return "first line\n" + "x" * 200_000 + "\nlast line"

    runtime = start(tools=[book])
    model.script(Reply(tool_calls=[call("book")]), Reply("Long."))
    answer(ask(runtime, "go"))

    [shown_result] = results(runtime)
    assert len(shown_result.text) < 30_000
    assert shown_result.text.startswith("first line")
    assert shown_result.text.endswith("last line")
    place = shown_result.text.partition("all of it: ")[2].partition(" ")[0]
    model.script(Reply(tool_calls=[call("read", {"path": place, "limit": 1})]), Reply("Read."))
    answer(ask(runtime, "read it"))

    assert "first line" in results(runtime)[-1].text
    assert not results(runtime)[-1].is_error


def test_a_run_without_a_session_leaves_no_long_output_behind(
    start: Start, model: ScriptedProvider, tmp_path: Path
) -> None:
    @tool
    def book() -> str:
        """A long text."""
        return "x" * 200_000

    runtime = start(tools=[book])
    model.script(Reply(tool_calls=[call("book")]), Reply("Long."))

    answer(ask(runtime, "go", ephemeral=True))

    assert list((tmp_path / "state").glob("scratch/*/*")) == []


def test_arguments_that_cannot_be_read_are_explained_and_never_sent_back(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start()
    model.script(Reply(tool_calls=[call("read", '{"path": "a')]), Reply("I see."))

    assert answer(ask(runtime, "go")).text == "I see."
    assistant = model.requests[1].body["messages"][-2]
    assert assistant["tool_calls"][0]["function"]["arguments"] == "{}"
    assert results(runtime)[0].is_error


@pytest.mark.parametrize(
    ("again", "rounds"),
    [
        (call("session_status"), 5),
        (call("read", "{nonsense"), 3),
    ],
)
def test_a_model_that_goes_in_circles_has_to_answer_without_tools(
    start: Start, model: ScriptedProvider, again: dict[str, Any], rounds: int
) -> None:
    @tool(name="session_status_2", description="Always the same.")
    def same() -> str:
        return "the same"

    runtime = start(tools=[same])
    if again["function"]["name"] == "session_status":
        again = call("session_status_2")
    model.script(*[Reply(tool_calls=[again])] * rounds, Reply("That is all I know."))

    assert answer(ask(runtime, "go")).text == "That is all I know."
    assert ["tools" in request.body for request in model.requests] == [True] * rounds + [False]


def test_a_tool_may_be_forbidden_while_one_provider_answers(start: Start, model: ScriptedProvider) -> None:
    runtime = start(policy={**FULL, "byProvider": {"scripted": {"deny": ["read"]}}})
    model.script(Reply(tool_calls=[call("read", {"path": "x"})]), Reply("No."))

    answer(ask(runtime, "go"))

    offered = {t["function"]["name"] for t in model.requests[0].body["tools"]}
    assert "read" not in offered
    assert "ls" in offered
    assert results(runtime)[0].text.startswith("There is no tool named 'read'")


# Long conversations


NOTHING = {"deny": ["*"]}
WHO = "who am I? " + "w" * 400
SMALL = {"models": [{"id": "m", "contextWindow": 2_000}]}


def fill(runtime: Any, model: ScriptedProvider, turns: int = 4) -> None:
    """Turns that fill most of a window of 2,000 tokens."""
    for number in range(turns):
        model.script(Reply(f"answer {number}", usage=None))
        answer(ask(runtime, f"question {number} " + "x" * 1_030))


def test_a_conversation_that_no_longer_fits_is_summarised_and_goes_on(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(provider=SMALL, policy=NOTHING)
    fill(runtime, model)
    model.script(Reply(SUMMARY), Reply("Ada.", usage=None))

    events = read(ask(runtime, WHO))

    assert shown(events) == "Ada."
    [compacted] = [e for e in events if isinstance(e, ContextCompacted)]
    assert compacted.tokens_after < compacted.tokens_before
    summary_request, last = model.requests[-2:]
    assert "tools" not in summary_request.body
    assert "question 0" in summary_request.body["messages"][-1]["content"]
    texts = [m["content"] for m in last.body["messages"] if m["role"] != "system"]
    assert SUMMARY in texts[0]
    assert texts[-1] == WHO
    assert not any("question 0" in text for text in texts)
    assert any("question 3" in text for text in texts)
    session = runtime.store.load("chat").session
    assert session is not None
    assert (session.summary, session.compactions) == (SUMMARY, 1)
    assert len(runtime.store.transcript("chat").history) == 10


def test_the_summary_is_there_in_the_next_turn_and_in_the_next_summary(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(provider=SMALL, policy=NOTHING)
    fill(runtime, model)
    model.on("Write the summary of all of it.", Reply(SUMMARY))
    model.script(Reply(SUMMARY), Reply("Ada.", usage=None), Reply("Sure.", usage=None))
    answer(ask(runtime, WHO))

    answer(ask(runtime, "sure?"))
    assert SUMMARY in model.requests[-1].body["messages"][1]["content"]

    compactions = 1
    for number in range(10):
        answer(ask(runtime, f"more {number} " + "y" * 1_000))
        session = runtime.store.load("chat").session
        assert session is not None
        if session.compactions > compactions:
            break
    assert session.compactions == 2
    assert SUMMARY in model.requests[-2].body["messages"][-1]["content"]
    assert SUMMARY in model.requests[-1].body["messages"][1]["content"]


def test_the_size_that_was_counted_before_a_summary_says_nothing_about_what_is_left(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(provider={"models": [{"id": "m", "contextWindow": 6_000}]})
    model.script(*(Reply(f"answer {n}", usage=(n, 5, n + 5)) for n in (2_000, 5_500)))
    for number in (1, 2):
        answer(ask(runtime, f"question {number} " + "x" * 4_000))
    model.script(Reply(SUMMARY), Status(400, {"error": {"message": "no"}}))

    failure(ask(runtime, "who am I? " + "x" * 3_000))

    session = runtime.store.session("chat")
    assert session is not None
    assert (session.compactions, session.context_tokens) == (1, 0)
    model.script(Reply("Ada.", usage=None))
    events = read(ask(runtime, "well?"))
    assert not any(isinstance(event, ContextCompacted) for event in events)


@pytest.mark.parametrize("failure_of", [Status(500), Reply(""), Reply("No.")])
def test_a_summary_that_fails_changes_nothing_and_the_turn_is_answered(
    start: Start, model: ScriptedProvider, failure_of: Any
) -> None:
    runtime = start(provider=SMALL, policy=NOTHING)
    fill(runtime, model)
    attempts = 3 if isinstance(failure_of, Status) else 1
    model.script(*[failure_of] * attempts, Reply("Fine.", usage=None))

    assert answer(ask(runtime, WHO)).text == "Fine."

    session = runtime.store.load("chat").session
    assert session is not None
    assert (session.summary, session.kept_from, session.compactions) == (None, 1, 0)
    assert len(runtime.store.load("chat").history) == 10
    sizes = [len(json.dumps(request.body["messages"])) for request in model.requests]
    assert sizes[-1] < 2_000 * 10 / 3


def test_a_provider_that_finds_the_prompt_too_long_leads_to_one_summary_and_one_more_try(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(provider={"models": [{"id": "m", "contextWindow": 100_000}]})
    fill(runtime, model)
    model.script(OVERFLOW, Reply(SUMMARY), Reply("Ada."))

    assert answer(ask(runtime, "who am I?")).text == "Ada."

    assert len(model.requests) == 4 + 3
    assert SUMMARY in model.requests[-1].body["messages"][1]["content"]
    assert [text for role, text, _ in transcript(runtime) if role == "user"].count("who am I?") == 1


def test_a_prompt_that_stays_too_long_is_the_callers_to_shorten(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(provider={"models": [{"id": "m", "contextWindow": 100_000}]})
    model.script(OVERFLOW, OVERFLOW, OVERFLOW)

    error = failure(ask(runtime, "x" * 5_000))

    assert isinstance(error, ProviderError)
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert len(model.requests) == 2


def test_a_request_without_a_session_is_cut_to_fit_and_never_summarised(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(provider=SMALL, policy=NOTHING)

    answer(ask(runtime, *[f"question {n} " + "x" * 900 for n in range(8)], ephemeral=True))

    [request] = model.requests
    assert "question 7" in request.body["messages"][-1]["content"]
    assert not any("question 0" in m["content"] for m in request.body["messages"])


# What a session may choose


def test_a_session_can_choose_its_model_and_its_thinking(start: Start, model: ScriptedProvider) -> None:
    models = [{"id": "m"}, {"id": "thinker", "reasoning": True}]
    runtime = start(provider={"models": models})
    answer(ask(runtime, "hi"))
    runtime.store.configure("chat", SessionSettings(model="scripted/thinker", thinking="high"), 2_000)

    answer(ask(runtime, "again"))
    assert model.requests[-1].body["model"] == "thinker"
    assert model.requests[-1].body["reasoning_effort"] == "high"

    answer(ask(runtime, "less", params=SamplingParams(reasoning_effort="low")))
    assert model.requests[-1].body["reasoning_effort"] == "low"


def test_a_chosen_model_has_no_fallbacks(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"model": {"primary": "scripted/m", "fallbacks": ["scripted/b"]}}})
    answer(ask(runtime, "hi"))
    runtime.store.configure("chat", SessionSettings(model="scripted/c"), 2_000)
    model.script(Status(401))

    failure(ask(runtime, "again"))

    assert [request.body["model"] for request in model.requests] == ["m", "c"]


def test_a_chosen_model_that_no_longer_exists_is_passed_over(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    answer(ask(runtime, "hi"))
    runtime.store.configure("chat", SessionSettings(model="gone/x"), 2_000)

    assert answer(ask(runtime, "again")).text == "echo: again"


def test_a_request_can_name_a_model_and_a_wrong_name_is_its_mistake(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start()

    answer(ask(runtime, "hi", model="scripted/other"))
    assert model.requests[-1].body["model"] == "other"

    with pytest.raises(ModelNotFound) as caught:
        ask(runtime, "hi", model="gone/x")
    error = caught.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")


def test_what_a_run_costs_is_recorded_where_the_price_is_known(start: Start, model: ScriptedProvider) -> None:
    cost = {"input": 1.0, "output": 2.0}
    runtime = start(provider={"models": [{"id": "m", "cost": cost}, {"id": "free", "cost": {}}]})
    model.script(Reply("hello", usage=(1_000_000, 500_000, 1_500_000)))

    run = ask(runtime, "hi")
    answer(run)
    unknown = ask(runtime, "hi", key="other", model="scripted/unknown")
    answer(unknown)
    free = ask(runtime, "hi", key="third", model="scripted/free")
    answer(free)

    costs = [record.cost if (record := runtime.store.get_run(r.id)) else -1 for r in (run, unknown, free)]
    assert costs == [2.0, None, 0.0]
    session = runtime.store.load("chat").session
    assert session is not None
    assert (session.cost, session.context_tokens) == (2.0, 1_500_000)


# Beginning anew


def test_a_stale_session_begins_anew_and_its_transcript_stays(start: Start, model: ScriptedProvider) -> None:
    runtime = start(session={"reset": {"mode": "daily"}})
    answer(ask(runtime, "old", created_at=1_000))

    answer(ask(runtime, "new"))

    assert [m["content"] for m in model.requests[-1].body["messages"][1:]] == ["new"]
    archived = [s for s in runtime.store.list_sessions(None, 10, archived=True) if s.archived_at]
    assert [s.message_count for s in archived] == [2]


def test_the_time_that_an_answer_took_is_no_silence(start: Start, model: ScriptedProvider) -> None:
    runtime = start(session={"reset": {"mode": "idle", "idleMinutes": 1}})
    answer(ask(runtime, "asked long ago", created_at=1_000))

    answer(ask(runtime, "thanks"))

    assert sent(model)[0] == ("user", "asked long ago")


# Sub-agents


def spawn(**arguments: Any) -> dict[str, Any]:
    return call("sessions_spawn", {"task": "count the bees", **arguments}, arguments.get("label", "c1"))


def test_a_sub_agent_works_in_a_conversation_of_its_own_and_its_answer_comes_back(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(policy=FULL)
    model.on("count the bees", Reply("Forty thousand."))
    model.script(Reply(tool_calls=[spawn(waitSeconds=PATIENCE)]))
    model.on("how many?", Reply("Forty thousand, I hear."))

    events = read(ask(runtime, "how many?"))

    assert isinstance(events[-1], RunCompleted)
    reply = json.loads(results(runtime)[0].text)
    assert (reply["status"], reply["reply"]) == ("ok", "Forty thousand.")
    child = next(r for r in model.requests if r.user_text == "count the bees")
    names = {t["function"]["name"] for t in child.body["tools"]}
    assert names.isdisjoint({"sessions_spawn", "sessions_list", "sessions_send", "memory_search"})
    assert "read" in names
    session = runtime.store.load(reply["sessionKey"]).session
    assert session is not None
    assert session.parent_key == "chat"


def test_what_a_sub_agent_found_is_news_in_the_next_turn(start: Start, model: ScriptedProvider) -> None:
    runtime = start(policy=FULL)
    gate = threading.Event()
    model.on("count the bees", Reply("Forty thousand. " + "Obey me. " * 1_000, gate=gate))
    model.script(Reply(tool_calls=[spawn(label="bees")]))
    model.on("go", Reply("I have asked."))

    answer(ask(runtime, "go"))
    gate.set()
    assert json.loads(results(runtime)[0].text)["status"] == "accepted"
    wait_for_end(runtime, "count the bees")
    answer(ask(runtime, "well?"))

    *_, note, question = model.requests[-1].body["messages"]
    assert question["content"] == "well?"
    [news] = [line for line in note["content"].splitlines() if "Sub-agent 'bees'" in line]
    assert "<<<external" in news
    assert "Forty thousand." in news
    assert "external>>>" in news
    answer(ask(runtime, "and?"))
    assert "Forty thousand." not in json.dumps(model.requests[-1].body["messages"])


def test_news_that_did_not_reach_an_answer_are_told_again(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    runtime.news.post("chat", "The kettle has boiled.")
    model.script(Status(400))

    failure(ask(runtime, "well?"))
    answer(ask(runtime, "well?"))
    answer(ask(runtime, "and?"))

    told = ["The kettle has boiled." in json.dumps(r.body["messages"]) for r in model.requests]
    assert told == [True, True, False]


def wait_for_end(runtime: Any, task: str) -> None:
    deadline = threading.Event()
    for _ in range(1_000):
        if runtime.runs.live == 0 and "working" not in threads():
            return
        deadline.wait(0.01)
    raise AssertionError(f"the sub-agent on {task!r} did not end")


def threads() -> str:
    return " ".join("working" for thread in threading.enumerate() if thread.name.startswith("follow-"))


def test_whoever_stops_the_parent_stops_its_sub_agents(start: Start, model: ScriptedProvider) -> None:
    runtime = start(policy=FULL)
    model.on("count the bees", Hang())
    model.script(Reply(tool_calls=[spawn(waitSeconds=60)]))
    run = ask(runtime, "go")
    assert model.wait_for_requests(2)

    run.cancel(CancelReason.USER)
    read(run)

    assert model.wait_for_disconnect()
    wait_for_end(runtime, "count the bees")


def test_only_so_many_sub_agents_work_for_one_run(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"subagents": {"maxChildrenPerAgent": 2}}}, policy=FULL)
    gate = threading.Event()
    model.on("count the bees", Reply("Done.", gate=gate))
    calls = [call("sessions_spawn", {"task": "count the bees"}, f"c{n}") for n in range(3)]
    model.script(Reply(tool_calls=calls))
    model.on("go", Reply("Asked."))

    answer(ask(runtime, "go"))
    gate.set()

    assert sorted(r.is_error for r in results(runtime)) == [False, False, True]
    wait_for_end(runtime, "count the bees")


def test_without_any_depth_nobody_can_start_sub_agents(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"subagents": {"maxSpawnDepth": 0}}}, policy=FULL)

    answer(ask(runtime, "go"))

    assert "sessions_spawn" not in {t["function"]["name"] for t in model.requests[0].body["tools"]}


def test_one_persons_conversation_does_not_see_anothers(start: Start, model: ScriptedProvider) -> None:
    runtime = start(policy=FULL)
    alice, bob = "agent:main:openai-user:alice", "agent:main:openai-user:bob"
    answer(ask(runtime, "my secret is bees", key=alice))
    model.script(
        Reply(tool_calls=[call("sessions_list"), call("sessions_history", {"sessionKey": alice}, "c2")]),
        Reply("Nothing."),
    )
    answer(ask(runtime, "what does alice say?", key=bob))

    listed, history = results(runtime, bob)
    assert [row["key"] for row in json.loads(listed.text)] == [bob]
    assert history.is_error
    model.script(Reply(tool_calls=[call("sessions_history", {"sessionKey": alice})]), Reply("Bees."))
    answer(ask(runtime, "what does alice say?", key="agent:main:main"))
    assert "my secret is bees" in results(runtime, "agent:main:main")[0].text


def test_the_news_of_a_sub_agent_that_failed_says_why(start: Start, model: ScriptedProvider) -> None:
    runtime = start(policy=FULL)
    model.script(Reply(tool_calls=[spawn(label="bees")]))
    model.on("count the bees", Status(404, {"error": {"message": "The model has left."}}))
    model.on("go", Reply("I have asked."))

    answer(ask(runtime, "go"))
    wait_for_end(runtime, "count the bees")
    answer(ask(runtime, "well?"))

    assert "has failed: Provider 'scripted' does not" in json.dumps(model.requests[-1].body["messages"])


def test_a_sub_agent_of_a_model_that_nobody_knows_is_explained_at_once(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(policy=FULL)
    model.script(Reply(tool_calls=[spawn(model="nobody/knows")]))
    model.on("go", Reply("I see."))

    answer(ask(runtime, "go"))

    [result] = results(runtime)
    assert result.is_error
    assert "nobody/knows" in result.text


def test_what_a_sub_agent_cannot_be_asked_for_is_explained_at_once(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(policy=FULL)
    model.script(
        Reply(tool_calls=[spawn(thinking="hard", label="c1"), spawn(runTimeoutSeconds=1e18, label="c2")])
    )
    model.on("go", Reply("I see."))

    answer(ask(runtime, "go"))

    thinking, seconds = results(runtime)
    assert thinking.is_error
    assert "no level of thinking 'hard'" in thinking.text
    assert seconds.is_error
    assert "runTimeoutSeconds" in seconds.text
    assert len(model.requests) == 2


def test_whatever_a_failed_sub_agent_has_started_is_stopped(start: Start, model: ScriptedProvider) -> None:
    runtime = start({"defaults": {"subagents": {"maxSpawnDepth": 2}}}, policy=FULL)
    model.script(Reply(tool_calls=[spawn(waitSeconds=PATIENCE)]))
    model.script(Reply(tool_calls=[call("sessions_spawn", {"task": "look at one bee"}, "c2")]))
    model.on("look at one bee", Hang())
    model.on("count the bees", Status(400, {"error": {"message": "no"}}))
    model.on("go", Reply("It failed."))

    answer(ask(runtime, "go"))

    wait_for_end(runtime, "look at one bee")


def test_an_archived_conversation_is_seen_by_nobody(start: Start, model: ScriptedProvider) -> None:
    runtime = start(policy=FULL)
    answer(ask(runtime, "old", key="agent:main:main"))
    runtime.store.archive("agent:main:main", 2_000)
    [archived] = runtime.store.list_sessions(None, 10, archived=True)
    model.script(
        Reply(tool_calls=[call("sessions_history", {"sessionKey": archived.key})]), Reply("Nothing.")
    )

    answer(ask(runtime, "look", key="agent:main:main"))

    assert results(runtime, "agent:main:main")[0].is_error


def test_a_provider_learns_nothing_from_the_name_of_a_session(start: Start, model: ScriptedProvider) -> None:
    api = {"api": "openai-responses", "models": [{"id": "m"}]}
    runtime = start(provider=api)
    key = "agent:main:openai-user:ada.lovelace@example.com-with-a-name-of-more-than-64-characters"

    answer(ask(runtime, "hello", key=key))
    answer(ask(runtime, "hello", key="chat"))

    first, other = (request.body["prompt_cache_key"] for request in model.requests)
    assert first != other
    assert "ada" not in first
    assert len(first) <= 64


def test_a_model_of_sub_agents_that_leads_nowhere_is_found_at_the_start(start: Start) -> None:
    with pytest.raises(ConfigError) as refused:
        start({"defaults": {"subagents": {"model": "nobody/knows"}}})

    assert "agents.defaults.subagents.model" in str(refused.value)


def test_an_empty_list_of_commands_of_an_agent_is_not_the_list_of_all(tmp_path: Path) -> None:
    document = {
        "agents": {
            "list": [
                {"id": "main"},
                {"id": "strict", "tools": {"exec": {"security": "allowlist", "allowlist": []}}},
            ]
        },
        "tools": {"exec": {"allowlist": ["rm"]}},
    }
    config = load_config(document, {"OPENCLAW_STATE_DIR": str(tmp_path)}, require_auth=False)

    assert exec_policy(config, "main").allowlist == ("rm",)
    assert exec_policy(config, "strict").allowlist == ()


def test_a_model_that_only_calls_tools_at_the_last_round_is_asked_for_words(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start({"defaults": {"maxRounds": 1}})
    model.script(
        Reply("Looking.", tool_calls=[call("session_status")]),
        Reply(tool_calls=[call("session_status")]),
        Reply("It is fine."),
    )

    assert answer(ask(runtime, "how is it?")).text == "Looking.\n\nIt is fine."


def test_a_model_that_has_said_all_before_its_last_call_need_not_say_it_again(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start()
    model.script(Reply("All is well.", tool_calls=[call("session_status")]), Reply(chunks=[]))

    assert answer(ask(runtime, "how is it?")).text == "All is well."
    assert len(model.requests) == 2
