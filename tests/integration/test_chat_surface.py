"""Commands of chat surfaces on a whole runtime: a real store, real runs, a model API over HTTP."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.cancel import CancelReason
from app.config import load_config
from app.errors import InvalidRequest
from app.events import TERMINAL, ContextCompacted, RunCancelled, RunCompleted, RunEvent, TextDelta
from app.messages import ImagePart, Message, TextPart, UserMessage
from app.runs.chat import ChatReply
from app.runs.run import Run, RunRequest
from app.runtime import Runtime, build_runtime
from app.sessions.records import SessionSettings
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, call

PATIENCE = 10.0
KEY = "agent:main:chat"
LONG = "The ship is called Aurora and sails to Narvik. " * 40  # some 560 tokens
PRICE = {"input": 1, "output": 2}

numbers = itertools.count(1)
Start = Callable[..., Runtime]


@pytest.fixture
def model() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider
        assert provider.wait_until_idle(PATIENCE), "a model call was left running"


@pytest.fixture
def start(model: ScriptedProvider, tmp_path: Path) -> Iterator[Start]:
    """Builds a runtime; ``start(agents={...}, tools={...})`` replaces sections."""
    built: list[Runtime] = []
    models = [
        {"id": "m", "contextWindow": 50_000, "cost": PRICE},
        {"id": "deep", "reasoning": True},
    ]

    def build(**sections: Any) -> Runtime:
        scripted = {"baseUrl": model.base_url, "apiKey": "sk-test", "models": models}
        document = {
            "gateway": {"auth": {"token": "a-token-of-tests"}},
            "models": {"providers": {"scripted": scripted}},
            "agents": {"list": [{"id": "main"}, {"id": "beta"}]},
        } | sections
        env = {"OPENCLAW_STATE_DIR": str(tmp_path / "state"), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        built.append(build_runtime(load_config(document, env), env))
        return built[-1]

    yield build
    for runtime in built:
        runtime.close()
        assert runtime.runs.live == 0


@pytest.fixture
def runtime(start: Start) -> Runtime:
    return start()


def message(text: str, key: str = KEY, agent: str = "main") -> RunRequest:
    return request(UserMessage.of(text), key=key, agent_id=agent)


def request(*messages: Message, key: str = KEY, agent_id: str = "main") -> RunRequest:
    return RunRequest(
        run_id=f"r{next(numbers)}",
        agent_id=agent_id,
        session_key=key,
        ephemeral=False,
        channel="chat",
        messages=messages,
        created_at=int(time.time() * 1000),
    )


def events_of(run: Run) -> list[RunEvent]:
    """All events of a run to its end."""
    seen: list[RunEvent] = []
    deadline = time.monotonic() + PATIENCE
    while not (seen and isinstance(seen[-1], TERMINAL)):
        assert time.monotonic() < deadline, seen
        seen += run.stream.get(0.1)
    return seen


def obey(runtime: Runtime, text: str, key: str = KEY) -> ChatReply:
    """The reply to a command; fails the test if it is none."""
    reply = runtime.chat.command(message(text, key))
    assert reply is not None, text
    return reply


def say(runtime: Runtime, text: str, key: str = KEY) -> str:
    """Everything that a person reads after saying ``text``."""
    asked = message(text, key)
    reply = runtime.chat.command(asked) or ChatReply(request=asked)
    if reply.request is None:
        return reply.text
    events = events_of(runtime.runs.start(reply.request))
    assert isinstance(events[-1], RunCompleted), events[-1]
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert shown == events[-1].text
    return "\n".join(filter(None, (reply.text, shown)))


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def contents(body: Mapping[str, Any]) -> list[Any]:
    """The texts of a model call but for the system prompt."""
    return [m["content"] for m in body["messages"] if m["role"] != "system"]


# beginning anew


def test_a_new_conversation_remembers_nothing_of_the_old_one_which_is_kept(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    say(runtime, "my name is Ada")
    say(runtime, "/model scripted/deep")
    assert say(runtime, "/new") == "New session started."
    say(runtime, "who am I?")
    assert contents(model.requests[-1].body) == ["who am I?"]
    assert model.requests[-1].body["model"] == "m"
    (old,) = (s for s in runtime.store.list_sessions(None, 10, archived=True) if s.archived_at)
    assert [e.message.text for e in runtime.store.transcript(old.key).history] == [
        "my name is Ada",
        "echo: my name is Ada",
    ]


@pytest.mark.parametrize("command", ["new", "reset"])
def test_a_new_conversation_may_begin_with_a_model_and_a_message(
    runtime: Runtime, model: ScriptedProvider, command: str
) -> None:
    text = "first line\n    second  line\n"
    shown = say(runtime, f"/{command} scripted/deep {text}")
    assert shown.startswith("New session started. Model: scripted/deep.\necho: first line")
    assert model.requests[-1].body["model"] == "deep"
    assert contents(model.requests[-1].body) == [text]
    say(runtime, "go on")
    assert model.requests[-1].body["model"] == "deep"


def test_a_word_with_a_slash_that_names_no_model_is_text(runtime: Runtime, model: ScriptedProvider) -> None:
    say(runtime, "/new and/or what?")
    assert contents(model.requests[-1].body) == ["and/or what?"]
    assert model.requests[-1].body["model"] == "m"


def test_a_new_conversation_stops_what_was_going_on_in_the_old_one(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Hang())
    running = runtime.runs.start(message("hello"))
    waiting = runtime.runs.start(message("are you there?"))
    assert model.wait_for_requests(1, PATIENCE)
    assert say(runtime, "/new hello again").endswith("echo: hello again")
    for run in (running, waiting):
        assert events_of(run)[-1] == RunCancelled(CancelReason.USER)
    assert contents(model.requests[-1].body) == ["hello again"]


# stopping


def test_stop_ends_the_answer_and_those_that_wait_but_no_other_session(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    gate = threading.Event()
    model.on("other", Reply("fine", gate=gate))
    model.on("hello", Hang())
    other = runtime.runs.start(message("other", "agent:main:other"))
    runs = [runtime.runs.start(message("hello")) for _ in range(3)]
    assert model.wait_for_requests(2, PATIENCE)
    assert say(runtime, "/stop") == "Stopped 3 runs."
    assert [events_of(run)[-1] for run in runs] == [RunCancelled(CancelReason.USER)] * 3
    gate.set()
    assert isinstance(events_of(other)[-1], RunCompleted)
    assert say(runtime, "/stop") == "Nothing is running."


def test_a_bare_word_stops_a_run_and_is_a_message_when_nothing_runs(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Hang())
    run = runtime.runs.start(message("hello"))
    assert model.wait_for_requests(1, PATIENCE)
    assert say(runtime, "Stop!") == "Stopped 1 run."
    events_of(run)
    wait_until(lambda: not runtime.runs.of_session(KEY), "the end of the run")
    assert say(runtime, "Stop!") == "echo: Stop!"


def test_stop_ends_background_commands_too(start: Start, model: ScriptedProvider) -> None:
    runtime = start(tools={"profile": "full"})
    model.script(
        Reply(tool_calls=[call("exec", {"command": "sleep 60", "background": True})]), Reply("on it")
    )
    say(runtime, "sleep in the background")
    assert "Background commands: sleep 60" in say(runtime, "/status")
    assert say(runtime, "/stop") == "Stopped 1 background command."
    assert "Background commands: none" in say(runtime, "/status")


def test_stop_ends_sub_agents_that_go_on_after_the_answer(start: Start, model: ScriptedProvider) -> None:
    runtime = start(tools={"profile": "full"})
    model.on("dig deep", Hang())
    model.script(Reply(tool_calls=[call("sessions_spawn", {"task": "dig deep"})]))
    assert say(runtime, "split it") == "echo: split it"
    assert model.wait_for_requests(3, PATIENCE)
    assert runtime.runs.live == 1
    say(runtime, "/stop")
    wait_until(lambda: runtime.runs.live == 0, "the end of the sub-agent")


# the model


def test_a_chosen_model_answers_from_then_on_even_if_nothing_was_said_before(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    assert say(runtime, "/model SCRIPTED/deep") == "Model set to scripted/deep."
    say(runtime, "hello")
    say(runtime, "hello", "agent:main:elsewhere")
    assert [received.body["model"] for received in model.requests] == ["deep", "m"]
    assert "scripted/deep (chosen for this conversation)" in say(runtime, "/model")
    assert say(runtime, "/model list") == "* scripted/deep\n- scripted/m"
    assert say(runtime, "/model default") == "Model set to the agent's own, scripted/m."
    say(runtime, "hello")
    assert model.requests[-1].body["model"] == "m"
    assert "scripted/m (the agent's own)" in say(runtime, "/model")


def test_a_model_that_does_not_exist_changes_nothing(runtime: Runtime, model: ScriptedProvider) -> None:
    say(runtime, "/model scripted/deep")
    told = say(runtime, "/model nope/x")
    assert told.startswith('The model "nope/x" names no known provider')
    say(runtime, "hello")
    assert model.requests[-1].body["model"] == "deep"


def test_a_chosen_model_that_was_taken_away_is_told_and_the_agent_s_own_answers(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    say(runtime, "hello")
    runtime.store.configure(KEY, SessionSettings(model="gone/x"), 1)
    assert "Model: scripted/m (the agent's own; gone/x is no longer known)" in say(runtime, "/status")
    assert say(runtime, "hello again") == "echo: hello again"


# thinking


def test_a_level_of_thinking_reaches_the_model_until_it_is_taken_back(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(agents={"defaults": {"model": "scripted/deep", "thinkingDefault": "low"}})
    for command in ("/think high", "/think default", "/think OFF"):
        say(runtime, command)
        say(runtime, "hello")
    efforts = [received.body.get("reasoning_effort") for received in model.requests]
    assert efforts == ["high", "low", None]
    assert say(runtime, "/think").startswith("Thinking: off (chosen for this conversation). Choose off, ")


def test_a_level_that_does_not_exist_changes_nothing(runtime: Runtime) -> None:
    assert say(runtime, "/think") == (
        "Thinking: up to the model. Choose off, minimal, low, medium, high, xhigh, max or default."
    )
    assert "no such level" in say(runtime, "/think much")
    assert runtime.store.session(KEY) is None


# compaction


def test_compact_puts_a_summary_in_place_of_the_older_part(runtime: Runtime, model: ScriptedProvider) -> None:
    say(runtime, LONG)
    say(runtime, "remember the port")
    model.script(Reply("The ship Aurora sails to Narvik, and the port matters."))
    reply = obey(runtime, "/compact names of ships")
    assert reply.request is not None
    events = events_of(runtime.runs.start(reply.request))
    (event,) = (event for event in events if isinstance(event, ContextCompacted))
    assert event.tokens_after < event.tokens_before / 5
    assert isinstance(events[-1], RunCompleted)
    assert events[-1].text == f"Compacted ({event.tokens_before:,} → {event.tokens_after:,} tokens)."
    assert "names of ships" in model.requests[-1].body["messages"][0]["content"]
    before = runtime.store.transcript(KEY).history
    say(runtime, "where to?")
    summary, *rest = contents(model.requests[-1].body)
    assert "The ship Aurora sails to Narvik" in summary
    assert rest == ["remember the port", "echo: remember the port", "where to?"]
    assert len(before) == 4, "the report is no part of the conversation"


def test_a_compaction_is_counted_and_makes_the_context_smaller(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Reply("long", usage=(9_000, 10, 9_010)))
    say(runtime, LONG)
    say(runtime, "and on")
    runs = len(runtime.store.list_runs(KEY, 10))
    model.script(Reply("A summary of what was said.", usage=(500, 100, 600)))
    say(runtime, "/compact")
    session = runtime.store.session(KEY)
    assert session is not None
    assert (session.compactions, session.input_tokens) == (1, 9_000 + 11 + 500)
    assert 0 < session.context_tokens < 9_000
    assert len(runtime.store.list_runs(KEY, 10)) == runs + 1


def test_there_is_nothing_to_compact_in_a_short_conversation_or_in_none(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    assert say(runtime, "/compact") == "Nothing to compact."
    assert runtime.store.session(KEY) is None
    say(runtime, "hello")
    say(runtime, "hello again")
    assert say(runtime, "/compact") == "Nothing to compact."
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    ("reply", "reason"), [(Reply("no"), "no usable summary"), (Status(400, {"error": {"message": "no"}}), "")]
)
def test_a_compaction_that_fails_says_so_and_changes_nothing(
    runtime: Runtime, model: ScriptedProvider, reply: Reply | Status, reason: str
) -> None:
    say(runtime, LONG)
    say(runtime, "and on")
    model.script(reply)
    told = say(runtime, "/compact")
    assert told.startswith("The conversation stays as it is: ")
    assert reason in told
    say(runtime, "well?")
    assert contents(model.requests[-1].body)[0] == LONG


def test_a_compaction_waits_for_the_answer_that_is_being_written(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    say(runtime, LONG)
    gate = threading.Event()
    model.script(Reply("at last", gate=gate), Reply("A summary of everything so far."))
    answering = runtime.runs.start(message("and on"))
    assert model.wait_for_requests(2, PATIENCE)
    asked = obey(runtime, "/compact").request
    assert asked is not None
    compacting = runtime.runs.start(asked)
    assert len(runtime.runs.of_session(KEY)) == 2
    gate.set()
    assert isinstance(events_of(answering)[-1], RunCompleted)
    assert any(isinstance(event, ContextCompacted) for event in events_of(compacting))
    say(runtime, "well?")
    assert contents(model.requests[-1].body)[1:] == ["and on", "at last", "well?"]


def test_a_compaction_can_be_stopped(runtime: Runtime, model: ScriptedProvider) -> None:
    say(runtime, LONG)
    say(runtime, "and on")
    model.script(Hang())
    asked = obey(runtime, "/compact").request
    assert asked is not None
    run = runtime.runs.start(asked)
    assert model.wait_for_requests(3, PATIENCE)
    assert say(runtime, "/stop") == "Stopped 1 run."
    assert events_of(run)[-1] == RunCancelled(CancelReason.USER)
    say(runtime, "well?")
    assert contents(model.requests[-1].body)[0] == LONG


def test_a_compaction_keeps_the_news_for_the_agent(start: Start, model: ScriptedProvider) -> None:
    runtime = start(tools={"profile": "full"})
    model.script(Reply(tool_calls=[call("exec", {"command": "true", "background": True})]), Reply("on it"))
    say(runtime, LONG)
    say(runtime, "and on")
    wait_until(lambda: not runtime.tools.commands.running(KEY), "the end of the command")
    model.script(Reply("A summary of everything so far."))
    say(runtime, "/compact")
    say(runtime, "well?")
    assert "has ended" in model.requests[-1].body["messages"][0]["content"]


# what is told


def test_the_status_card_tells_what_this_conversation_is_and_took(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Reply("hello", usage=(4_000, 1_000, 5_000)))
    say(runtime, "hi")
    gate = threading.Event()
    model.script(Reply("slow", gate=gate))
    runs = [runtime.runs.start(message(text)) for text in ("one", "two", "three")]
    assert model.wait_for_requests(2, PATIENCE)
    assert say(runtime, "/status").splitlines() == [
        "Agent: main",
        "Model: scripted/m (the agent's own)",
        "Thinking: up to the model",
        "Context: 5,000 of 50,000 tokens (10 %)",
        "Compactions: 0",
        f"Session: {KEY}, 3 messages",
        "Tokens: 4,000 in, 1,000 out · $0.0060",
        "Runs: 1 running, 2 waiting",
        "Background commands: none",
    ]
    gate.set()
    for run in runs:
        events_of(run)


def test_the_status_of_a_conversation_that_has_not_begun_is_told_without_beginning_it(
    runtime: Runtime,
) -> None:
    card = say(runtime, "/status")
    assert "Context: 0 of 50,000 tokens (0 %)" in card
    assert "0 messages" in card
    assert runtime.store.list_sessions(None, 10) == []


def test_usage_is_told_after_each_answer_if_somebody_wants_it(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    def line_after(text: str) -> str | None:
        asked = message(text)
        events_of(runtime.runs.start(asked))
        return runtime.chat.usage_line(asked.run_id)

    assert line_after("hello") is None
    assert "off" in say(runtime, "/usage")
    say(runtime, "/usage tokens")
    assert line_after("hello") == "11 in, 7 out"
    model.script(Reply("hello", usage=(4_000, 1_000, 5_000)))
    say(runtime, "/usage full")
    assert line_after("hello") == "4,000 in, 1,000 out · $0.0060 · 5,000 of 50,000 tokens (10 %) · scripted/m"
    say(runtime, "/usage off")
    assert line_after("hello") is None
    assert runtime.chat.usage_line("no such run") is None


def test_help_names_every_command(runtime: Runtime) -> None:
    told = say(runtime, "/help")
    assert say(runtime, "/commands") == told
    for name in ("new", "reset", "stop", "status", "model", "think", "compact", "usage", "whoami", "help"):
        assert f"/{name}" in told


def test_whoami_tells_agent_session_and_channel(runtime: Runtime) -> None:
    assert say(runtime, "/whoami") == f"Agent: main\nSession: {KEY}\nChannel: chat"


# what is no command


def test_no_command_is_stored_or_seen_by_a_model(runtime: Runtime, model: ScriptedProvider) -> None:
    say(runtime, "hello")
    for text in (
        "/status",
        "/model",
        "/think high",
        "/usage full",
        "/help",
        "/whoami",
        "/stop",
        "/model nope/x",
    ):
        say(runtime, text)
    say(runtime, "still there?")
    assert contents(model.requests[-1].body) == ["hello", "echo: hello", "still there?"]
    assert len(runtime.store.transcript(KEY).history) == 4


@pytest.mark.parametrize("text", ["/foo bar", "/status now", "what does /status do?", "stop", "/tmp/x"])
def test_everything_else_goes_to_the_agent_as_it_is(
    runtime: Runtime, model: ScriptedProvider, text: str
) -> None:
    say(runtime, text)
    assert contents(model.requests[-1].body) == [text]


def test_a_message_with_an_image_is_no_command(runtime: Runtime) -> None:
    picture = UserMessage((TextPart("/status"), ImagePart("image/png", "iVBORw0KGgo=")))
    assert runtime.chat.command(request(picture)) is None


def test_a_command_in_the_session_of_another_agent_is_refused(runtime: Runtime) -> None:
    say(runtime, "hello", "shared")
    with pytest.raises(InvalidRequest, match="belongs to agent 'main'"):
        runtime.chat.command(message("/new", "shared", agent="beta"))
    assert runtime.store.session("shared") is not None


# the store


def test_an_empty_session_is_created_once_and_gone_on_with(runtime: Runtime, model: ScriptedProvider) -> None:
    store = runtime.store
    assert store.session(KEY) is None
    assert store.create(KEY, "s1", "main", 5)
    assert not store.create(KEY, "s2", "beta", 6)
    session = store.session(KEY)
    assert session is not None
    assert (session.id, session.agent_id, session.message_count, session.model) == ("s1", "main", 0, "")
    assert (session.created_at, session.active_at) == (5, 5)
    say(runtime, "hello")
    again = store.session(KEY)
    assert again is not None
    assert (again.id, again.message_count, again.model) == ("s1", 2, "scripted/m")
    assert store.archive(KEY, 7)
    assert store.create(KEY, "s3", "main", 8)
