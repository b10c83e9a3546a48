"""Runs whose caller brings tools along, on a real runtime."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.agents.client_tools import ClientTools
from app.errors import InvalidAnswer, InvalidRequest, ProviderError
from app.events import RunCompleted, TextDelta, ToolFinished
from app.messages import AssistantMessage, Message, SamplingParams, ToolCall, ToolMessage, UserMessage
from app.providers.base import ToolChoice, ToolSpec
from app.runs.run import Run
from app.runtime import Runtime
from app.sessions.records import SessionSettings
from app.tools.signature import tool
from tests.integration.runs import Start, answer, ask, failure, read, sent, shown, transcript
from tests.scripted_provider import Reply, ScriptedProvider, call

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolSpec("weather", "The weather.", CITY)
CLOCK = ToolSpec("clock", "The time.", {"type": "object", "properties": {}})
BOTH = ClientTools((WEATHER, CLOCK))
MUST = ClientTools((WEATHER, CLOCK), ToolChoice(required=True))
THIS = ClientTools((WEATHER, CLOCK), ToolChoice(required=True, name="clock"))
ULM = '{"city": "Ulm"}'


@tool
def own(text: str) -> str:
    """A tool of the agent's own."""
    return f"own: {text}"


def wanted(runtime: Runtime, *messages: Message | str, tools: ClientTools = BOTH, **fields: Any) -> Run:
    return ask(runtime, *messages, client_tools=tools, **fields)


def result(call_id: str, text: str, name: str = "") -> ToolMessage:
    return ToolMessage(call_id, name, text)


def offered(model: ScriptedProvider, number: int = -1) -> list[str]:
    return [tool["function"]["name"] for tool in model.requests[number].body.get("tools", [])]


def results_sent(model: ScriptedProvider, number: int = -1) -> list[tuple[str, str]]:
    """The ids and texts of all results that the model was sent."""
    messages = model.requests[number].body["messages"]
    return [(m["tool_call_id"], m["content"]) for m in messages if m["role"] == "tool"]


# calls


def test_a_call_ends_the_run_and_is_the_answer(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    model.script(Reply("Let me look.", tool_calls=[call("weather", ULM, "call_7")]))

    *events, end = read(wanted(runtime, "hi"))

    assert isinstance(end, RunCompleted)
    assert (end.text, end.finish_reason) == ("Let me look.", "tool_calls")
    assert end.tool_calls == (ToolCall("call_7", "weather", ULM),)
    assert shown(events) == "Let me look."
    assert not any(isinstance(event, ToolFinished) for event in events)
    assert transcript(runtime) == [("user", "hi", None), ("assistant", "Let me look.", "tool_calls")]
    assert {"weather", "clock"} <= set(offered(model))


def test_without_a_call_the_answer_is_as_ever(start: Start, model: ScriptedProvider) -> None:
    model.script(Reply("No need to."))

    end = answer(wanted(start(), "hi"))

    assert (end.text, end.finish_reason, end.tool_calls) == ("No need to.", "stop", ())
    assert model.requests[-1].body["tool_choice"] == "auto"


def test_the_agent_uses_its_own_tools_first(start: Start, model: ScriptedProvider) -> None:
    runtime = start(tools=[own])
    model.script(
        Reply("First mine.", tool_calls=[call("own", {"text": "a"}, "c1")]),
        Reply("Now yours.", tool_calls=[call("weather", ULM, "c2")]),
        Reply("Sunny."),
    )

    *events, end = read(wanted(runtime, "hi"))
    last = answer(wanted(runtime, result("c2", "sunny")))

    assert isinstance(end, RunCompleted)
    assert [one.id for one in end.tool_calls] == ["c2"]
    assert end.text == shown(events) == "First mine.\n\nNow yours."
    assert last.text == "Sunny."
    assert results_sent(model) == [("c1", "own: a"), ("c2", "sunny")]


def test_own_calls_beside_the_clients_are_run_and_not_shown(start: Start, model: ScriptedProvider) -> None:
    runtime = start(tools=[own])
    calls = [call("weather", ULM, "c1"), call("own", {"text": "a"}, "c2"), call("clock", {}, "c3")]
    model.script(Reply("Both.", tool_calls=calls), Reply("Done."))

    end = answer(wanted(runtime, "hi"))
    answer(wanted(runtime, result("c3", "noon"), result("c1", "sunny")))

    assert end.text == "Both."
    assert [one.id for one in end.tool_calls] == ["c1", "c3"]
    assert sorted(results_sent(model)) == [("c1", "sunny"), ("c2", "own: a"), ("c3", "noon")]
    assert len(sent(model)) == 5
    assert [role for role, _, _ in transcript(runtime)] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "tool",
        "assistant",
    ]


def test_a_tool_of_the_clients_stands_in_for_the_agents_own(start: Start, model: ScriptedProvider) -> None:
    runtime = start(tools=[own])
    mine = ClientTools((ToolSpec("own", "The client's.", CITY),))
    model.script(Reply(tool_calls=[call("own", ULM, "c1")]))

    end = answer(wanted(runtime, "hi", tools=mine))

    assert [one.name for one in end.tool_calls] == ["own"]
    assert offered(model).count("own") == 1
    [described] = [t for t in model.requests[-1].body["tools"] if t["function"]["name"] == "own"]
    assert described["function"]["description"] == "The client's."


def test_one_call_at_a_time_if_the_client_wants_that(start: Start, model: ScriptedProvider) -> None:
    model.script(Reply(tool_calls=[call("weather", ULM, "c1"), call("clock", {}, "c2")]))

    end = answer(wanted(start(), "hi", tools=ClientTools((WEATHER, CLOCK), parallel=False)))

    assert [one.id for one in end.tool_calls] == ["c1"]
    assert model.requests[-1].body["parallel_tool_calls"] is False


def test_ids_are_there_and_differ(start: Start, model: ScriptedProvider) -> None:
    calls = [call("weather", ULM, "same"), call("clock", {}, "same"), call("clock", {}, "")]
    model.script(Reply(tool_calls=calls))

    ids = [one.id for one in answer(wanted(start(), "hi")).tool_calls]

    assert len(set(ids)) == 3
    assert all(ids)


# what goes wrong


def test_malformed_arguments_go_back_to_the_model(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    model.script(
        Reply(tool_calls=[call("weather", '{"city": ', "c1"), call("clock", {}, "c2")]),
        Reply(tool_calls=[call("weather", ULM, "c3"), call("clock", {}, "c4")]),
    )

    end = answer(wanted(runtime, "hi"))

    assert [one.id for one in end.tool_calls] == ["c3", "c4"]
    told = dict(results_sent(model))
    assert "not valid JSON" in told["c1"]
    assert "another one beside it was malformed" in told["c2"]


def test_arguments_that_can_be_understood_are_put_right(start: Start, model: ScriptedProvider) -> None:
    model.script(Reply(tool_calls=[call("weather", "{'city': 'Ulm',}", "c1")]))

    [one] = answer(wanted(start(), "hi")).tool_calls

    assert json.loads(one.arguments) == {"city": "Ulm"}


def test_a_model_that_never_gets_it_right_is_not_asked_for_ever(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(agents={"defaults": {"maxRounds": 4}})
    model.script(*(Reply(tool_calls=[call("weather", "{" * n, f"c{n}")]) for n in range(1, 20)))

    error = failure(wanted(runtime, "hi"))

    assert isinstance(error, InvalidAnswer)
    assert (error.status, error.param) == (502, "tools")
    assert len(model.requests) <= 5


def test_a_model_with_one_word_left_may_still_call_the_clients_tools(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(tools=[own], agents={"defaults": {"maxRounds": 1}})
    model.script(
        Reply(tool_calls=[call("own", {"text": "a"}, "c1")]), Reply(tool_calls=[call("clock", {}, "c2")])
    )

    end = answer(wanted(runtime, "hi"))

    assert [one.id for one in end.tool_calls] == ["c2"]
    assert offered(model) == ["weather", "clock"]
    assert "Only these can still be called: weather, clock." in sent(model)[-1][1]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_was_cut_off_has_no_calls(start: Start, model: ScriptedProvider, reason: str) -> None:
    model.script(Reply("I", tool_calls=[call("weather", '{"ci', "c1")], finish_reason=reason))

    end = answer(wanted(start(), "hi", tools=MUST))

    assert (end.text, end.finish_reason, end.tool_calls) == ("I", reason, ())
    assert len(model.requests) == 1


STRICT = ClientTools((ToolSpec("weather", "The weather.", CITY, strict=True), CLOCK))


def test_a_strict_tool_gets_what_its_schema_says(start: Start, model: ScriptedProvider) -> None:
    model.script(
        Reply(tool_calls=[call("weather", {"town": "Ulm"}, "c1")]),
        Reply(tool_calls=[call("weather", ULM, "c2")]),
    )

    end = answer(wanted(start(), "hi", tools=STRICT))

    assert [one.id for one in end.tool_calls] == ["c2"]
    [(_, told)] = results_sent(model)
    assert told.startswith("The arguments are not what the tool takes: $")
    assert "'city' is a required property" in told or "'town' was unexpected" in told
    [_, calling, _] = [m for m in model.requests[-1].body["messages"] if m["role"] != "system"]
    assert json.loads(calling["tool_calls"][0]["function"]["arguments"]) == {"town": "Ulm"}


def test_any_other_tool_gets_what_the_model_says(start: Start, model: ScriptedProvider) -> None:
    model.script(Reply(tool_calls=[call("weather", {"town": "Ulm"}, "c1")]))

    assert [one.id for one in answer(wanted(start(), "hi")).tool_calls] == ["c1"]


def test_a_schema_that_nobody_can_judge_by_is_the_clients_mistake(
    start: Start, model: ScriptedProvider
) -> None:
    strange = ToolSpec(
        "weather", "", {"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}, strict=True
    )
    model.script(Reply(tool_calls=[call("weather", ULM, "c1")]))

    error = failure(wanted(start(), "hi", tools=ClientTools((strange,))))

    assert isinstance(error, InvalidRequest)
    assert error.param == "tools"
    assert "'weather'" in error.message


# demands


def test_a_demand_reaches_the_model_and_prose_is_held_back_until_it_is_met(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start()
    model.script(Reply("I would rather not."), Reply("Well.", tool_calls=[call("weather", ULM, "c1")]))

    *events, end = read(wanted(runtime, "hi", tools=MUST))

    assert isinstance(end, RunCompleted)
    assert end.text == shown(events) == "Well."
    assert [one.id for one in end.tool_calls] == ["c1"]
    assert [request.body["tool_choice"] for request in model.requests] == ["required", "required"]
    assert sent(model)[-2:] == [
        ("assistant", "I would rather not."),
        ("user", "The request demands a call of one of the caller's tools. Call it now."),
    ]
    assert [text for _, text, _ in transcript(runtime)] == ["hi", "Well."]


@pytest.mark.parametrize(
    ("tools", "named"), [(MUST, "one of the caller's tools"), (THIS, "the tool 'clock'")]
)
@pytest.mark.parametrize("reply", [Reply("No."), Reply("")])
def test_a_demand_that_is_not_met_twice_fails_the_run(
    start: Start, model: ScriptedProvider, tools: ClientTools, named: str, reply: Reply
) -> None:
    runtime = start()
    model.script(reply, reply)

    *events, end = read(wanted(runtime, "hi", tools=tools))

    error = getattr(end, "error", None)
    assert isinstance(error, InvalidAnswer)
    assert (error.status, error.code, error.param) == (502, "invalid_answer", "tool_choice")
    assert named in error.message
    assert not [event for event in events if isinstance(event, TextDelta)]
    assert transcript(runtime) == [("user", "hi", None)]
    assert len(model.requests) == 2


def test_another_tool_than_the_demanded_one_is_not_called(start: Start, model: ScriptedProvider) -> None:
    model.script(Reply(tool_calls=[call("weather", ULM, "c1")]), Reply(tool_calls=[call("clock", {}, "c2")]))

    end = answer(wanted(start(), "hi", tools=THIS))

    assert [one.name for one in end.tool_calls] == ["clock"]
    assert "weather" not in offered(model)
    assert "no tool named 'weather'" in results_sent(model)[0][1]


def test_own_tools_do_not_meet_a_demand(start: Start, model: ScriptedProvider) -> None:
    runtime = start(tools=[own])
    model.script(
        Reply(tool_calls=[call("own", {"text": "a"}, "c1")]),
        Reply("That is all."),
        Reply(tool_calls=[call("clock", {}, "c2")]),
    )

    assert [one.id for one in answer(wanted(runtime, "hi", tools=MUST)).tool_calls] == ["c2"]


def toolless(start: Start) -> Runtime:
    return start(provider={"compat": {"supportsTools": False}})


@pytest.mark.parametrize("tools", [MUST, THIS])
def test_nobody_demands_a_tool_of_a_model_that_calls_none(
    start: Start, model: ScriptedProvider, tools: ClientTools
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wanted(toolless(start), "hi", tools=tools)

    assert (caught.value.param, caught.value.code) == ("tool_choice", "tools_not_supported")
    assert not model.requests


def test_a_model_that_calls_no_tools_answers_without_and_the_caller_is_told(
    start: Start, model: ScriptedProvider
) -> None:
    model.script(Reply("Hello."))

    run = wanted(toolless(start), "hi")

    assert run.ignored == ("tools",)
    assert answer(run).text == "Hello."
    assert offered(model) == []


def two_models(start: Start, model: ScriptedProvider) -> Runtime:
    plain = {"baseUrl": model.base_url, "apiKey": "k", "models": [{"id": "m"}]}
    providers = {"able": plain, "plain": plain | {"compat": {"supportsTools": False}}}
    return start(
        models={"providers": providers},
        agents={"defaults": {"model": {"primary": "plain/m", "fallbacks": ["able/m"]}}},
    )


def test_a_demand_is_met_by_a_fallback_that_can(start: Start, model: ScriptedProvider) -> None:
    model.script(Reply(tool_calls=[call("clock", {}, "c1")]))

    end = answer(wanted(two_models(start, model), "hi", tools=MUST))

    assert [one.id for one in end.tool_calls] == ["c1"]


def test_the_model_that_will_answer_is_judged(start: Start, model: ScriptedProvider) -> None:
    runtime = two_models(start, model)
    model.script(Reply("hello"), Reply(tool_calls=[call("clock", {}, "c1")]))

    with pytest.raises(InvalidRequest):
        wanted(runtime, "hi", tools=MUST, model="plain/m")
    answer(ask(runtime, "hi"))
    runtime.store.configure("chat", SessionSettings(model="plain/m"), 1_000)
    with pytest.raises(InvalidRequest):
        wanted(runtime, "hi", tools=MUST)
    assert answer(wanted(runtime, "hi", tools=MUST, model="able/m")).tool_calls


# results, in kept sessions


def begun(runtime: Runtime, model: ScriptedProvider, *ids: str) -> None:
    """A session that waits for the results of these calls."""
    model.script(Reply("Let me look.", tool_calls=[call("weather", ULM, one) for one in ids]))
    answer(wanted(runtime, "hi"))


ASKED = AssistantMessage("Let me look.", (ToolCall("c1", "weather", ULM),))


@pytest.mark.parametrize("everything", [True, False], ids=["all is sent again", "only the result is sent"])
def test_a_result_goes_on_where_the_call_left_off(
    start: Start, model: ScriptedProvider, everything: bool
) -> None:
    runtime = start()
    begun(runtime, model, "c1")
    model.script(Reply("Sunny."))
    before: list[Message] = [UserMessage.of("hi"), ASKED] if everything else []

    assert answer(wanted(runtime, *before, result("c1", "sun"))).text == "Sunny."

    assert sent(model) == [("user", "hi"), ("assistant", "Let me look."), ("tool", "sun")]
    assert transcript(runtime) == [
        ("user", "hi", None),
        ("assistant", "Let me look.", "tool_calls"),
        ("tool", "sun", None),
        ("assistant", "Sunny.", "stop"),
    ]
    [stored] = [e.message for e in runtime.store.load("chat").history if isinstance(e.message, ToolMessage)]
    assert stored == ToolMessage("c1", "weather", "sun")


def test_results_come_in_any_order_and_one_may_be_missing(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    begun(runtime, model, "c1", "c2", "c3")

    answer(wanted(runtime, result("c3", "three"), result("c1", "one")))

    (first, one), (second, missing), (third, three) = results_sent(model)
    assert (first, second, third) == ("c1", "c2", "c3")
    assert (one, three) == ("one", "three")
    assert "interrupted" in missing


def test_a_result_that_nobody_waits_for_is_refused(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    begun(runtime, model, "c1")

    error = failure(wanted(runtime, result("c9", "sun")))

    assert isinstance(error, InvalidRequest)
    assert error.code == "unknown_tool_call"
    assert len(transcript(runtime)) == 2


def test_in_a_request_that_is_the_conversation_it_is_refused_at_once(start: Start) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wanted(start(), result("c1", "sun"), ephemeral=True)

    assert caught.value.code == "unknown_tool_call"


def test_a_result_is_taken_after_a_restart(start: Start, model: ScriptedProvider) -> None:
    first = start()
    begun(first, model, "c1")
    first.close()
    model.script(Reply("Sunny."))

    assert answer(wanted(start(), result("c1", "sun"))).text == "Sunny."
    assert results_sent(model) == [("c1", "sun")]


def test_a_result_is_stored_once_however_often_it_is_sent(start: Start, model: ScriptedProvider) -> None:
    runtime = start(agents={"defaults": {"model": {"primary": "scripted/m", "fallbacks": []}}})
    begun(runtime, model, "c1")
    model.script(Reply("half an ans", cut_after=2), Reply("Sunny."), Reply("Sunny, as I said."))

    assert isinstance(failure(wanted(runtime, result("c1", "sun"))), ProviderError)
    assert answer(wanted(runtime, result("c1", "sun"))).text == "Sunny."
    assert answer(wanted(runtime, UserMessage.of("hi"), ASKED, result("c1", "sun"))).text.startswith(
        "Sunny, "
    )

    assert [role for role, _, _ in transcript(runtime)].count("tool") == 1
    assert sent(model) == [("user", "hi"), ("assistant", "Let me look."), ("tool", "sun")]


def test_who_says_something_else_instead_is_answered(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    begun(runtime, model, "c1")
    model.script(Reply("As you like."))

    assert answer(wanted(runtime, "never mind")).text == "As you like."

    assert [role for role, _ in sent(model)] == ["user", "assistant", "tool", "assistant", "user"]


def test_a_conversation_that_the_session_has_not_seen_comes_whole(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start()
    answer(ask(runtime, "before"))

    answer(wanted(runtime, "hi", ASKED, result("c1", "sun")))

    assert sent(model)[-3:] == [("user", "hi"), ("assistant", "Let me look."), ("tool", "sun")]


def test_a_summary_leaves_a_pending_call_as_it_is(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    model.script(Reply("word " * 800))
    answer(ask(runtime, "tell me " * 400))
    begun(runtime, model, "c1")
    model.script(Reply("They talked at length about words, and then the client was asked for the weather."))
    answer(ask(runtime, compact=""))
    model.script(Reply("Sunny."))

    assert answer(wanted(runtime, result("c1", "sun"))).text == "Sunny."

    assert results_sent(model) == [("c1", "sun")]
    assert "They talked at length" in sent(model)[0][1]


def test_json_is_wanted_but_a_call_comes_first(start: Start, model: ScriptedProvider) -> None:
    runtime = start()
    params = SamplingParams(response_format={"type": "json_object"})
    model.script(Reply("Looking.", tool_calls=[call("clock", {}, "c1")]), Reply('{"a": 1}'))

    asked = answer(wanted(runtime, "hi", params=params))
    told = answer(wanted(runtime, result("c1", "noon"), params=params))

    assert (asked.text, len(asked.tool_calls)) == ("", 1)
    assert told.text == '{"a": 1}'
