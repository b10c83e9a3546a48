"""One HTTP request, one agent run with tools: files, commands, pages, sub-agents, skills, memory."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import Connection, chat, chat_body, open_stream, request_bytes
from tests.e2e.tool_runs import (
    asking,
    descendants,
    marked,
    new_mark,
    results,
    system_prompt,
    tool_names,
    transcript,
    user_session,
    user_texts,
)
from tests.scripted_provider import Reply, ScriptedProvider
from tests.web_site import Site

CODING: dict[str, Any] = {
    "tools": {"profile": "coding", "web": {"fetch": {"allowPrivate": ["127.0.0.1"]}}},
    "agents": {"defaults": {"maxRounds": 8, "subagents": {"maxChildrenPerAgent": 2}}},
}


@pytest.fixture(scope="module")
def coder(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """A gateway whose agents may do everything, for eight rounds."""
    gateway = start_gateway(**CODING)
    yield gateway
    gateway.stop()


@pytest.fixture
def workspace(coder: GatewayProcess) -> Path:
    """Where ``main`` works."""
    path = coder.state_dir / "workspace"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture
def mark() -> Iterator[str]:
    """In the environment of a test's commands; nothing that has it outlives the test."""
    mark = new_mark()
    yield mark
    wait_until(lambda: not marked(mark), 15, "the end of all commands")


def session_name(text: str) -> str:
    match = re.search(r"\(session ([\w-]+), pid \d+\)", text)
    assert match, text
    return match[1]


def sleeper(mark: str, **arguments: Any) -> tuple[str, Any]:
    """A command with a tree of processes that nobody would miss."""
    command = "(setsid sleep 1000 &); sleep 1000 & sleep 1000; echo never"
    return "exec", {"command": command, "env": {"MARK": mark}, **arguments}


# --- read, edit, run ---


def edit_and_run(provider: ScriptedProvider, workspace: Path) -> None:
    (workspace / "greet.sh").write_text("echo hello $((6 * 7))\n")
    change = {"path": "greet.sh", "oldText": "hello", "newText": "goodbye"}
    provider.script(
        asking(("read", {"path": "greet.sh"}), text="Let me look."),
        asking(("edit", change)),
        asking(("exec", {"command": "sh greet.sh"}), text="Changed; I try it."),
        Reply("It prints: goodbye 42"),
    )


def test_one_request_makes_the_agent_read_edit_and_run_a_file(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path
) -> None:
    edit_and_run(provider, workspace)
    answer = chat(coder, "make it say goodbye", user="worker")
    assert answer.text == "Let me look.\n\nChanged; I try it.\n\nIt prints: goodbye 42"
    assert (workspace / "greet.sh").read_text() == "echo goodbye $((6 * 7))\n"
    assert len(provider.requests) == 4
    read, edited, ran = (results(request)[0] for request in provider.requests[1:])
    assert "echo hello" in read
    assert "greet.sh" in edited
    assert "goodbye 42" in ran
    assert answer.json["usage"] == {
        **answer.json["usage"],
        "prompt_tokens": 4 * 11,
        "completion_tokens": 4 * 7,
        "total_tokens": 4 * 18,
    }


def test_the_streamed_text_is_the_text_that_is_not_streamed(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path
) -> None:
    edit_and_run(provider, workspace)
    whole = chat(coder, "make it say goodbye")
    edit_and_run(provider, workspace)
    streamed = chat(coder, "make it say goodbye", stream=True, stream_options={"include_usage": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text == whole.text
    assert whole.text.endswith("It prints: goodbye 42")
    assert len(provider.requests) == 8
    for first, second in zip(provider.requests[:4], provider.requests[4:], strict=True):
        assert [m["role"] for m in first.body["messages"]] == [m["role"] for m in second.body["messages"]]
    usage = [line for line in streamed.body.decode().splitlines() if '"total_tokens":72' in line]
    assert len(usage) == 1


def test_the_transcript_shows_every_call_and_every_result(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path
) -> None:
    edit_and_run(provider, workspace)
    chat(coder, "make it say goodbye", user="witness")
    key = user_session("witness")
    messages = transcript(coder, key)
    roles = ["user", *["assistant", "tool"] * 3, "assistant"]
    assert [message["role"] for message in messages] == roles
    for asked, answered in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        (one,) = asked["tool_calls"]
        assert (answered["call_id"], answered["name"]) == (one["id"], one["name"])
        assert not answered["is_error"]
    shown = coder.command("sessions", "show", key)
    assert shown.returncode == 0, shown.stderr
    for text in ("make it say goodbye", "→ read(", "→ edit(", "→ exec(", "sh greet.sh", "goodbye 42"):
        assert text in shown.stdout


def test_calls_side_by_side_come_back_in_their_order(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path
) -> None:
    (workspace / "one.txt").write_text("the first file")
    (workspace / "two.txt").write_text("the second file")
    release = threading.Event()
    with Site() as site:

        def slow(handler: Any) -> None:
            release.wait(10)
            handler.answer(b"<html><body><p>a page of the web</p></body></html>")

        url = site.at("/page", slow)
        provider.script(
            asking(("web_fetch", {"url": url}), ("read", {"path": "one.txt"}), ("read", {"path": "two.txt"})),
            Reply("all read"),
        )
        with open_stream(coder, "compare them") as stream:
            wait_until(lambda: site.seen, 10, "the request of the page")
            release.set()
            assert list(stream.events())[-1] == "[DONE]"
    page, one, two = results(provider.requests[1])
    assert "a page of the web" in page
    assert "the first file" in one
    assert "the second file" in two


# --- what goes wrong ---


def test_the_model_repairs_arguments_that_are_not_json(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path
) -> None:
    provider.script(
        asking(("write", '{"path": "note.txt", "content": "cut off')),
        asking(("write", {"path": "note.txt", "content": "complete"})),
        Reply("written"),
    )
    assert chat(coder, "write a note", user="repairer").text == "written"
    (problem,), (done,) = results(provider.requests[1]), results(provider.requests[2])
    assert "not valid JSON" in problem
    assert "note.txt" in done
    assert (workspace / "note.txt").read_text() == "complete"
    errors = [m["is_error"] for m in transcript(coder, user_session("repairer")) if m["role"] == "tool"]
    assert errors == [True, False]


def test_a_tool_that_fails_is_an_answer_for_the_model(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(
        asking(("exec", {"command": "echo so far; exit 3"}), ("read", {"path": "nowhere.txt"})),
        Reply("Neither worked."),
    )
    assert chat(coder, "try").text == "Neither worked."
    ran, read = results(provider.requests[1])
    assert "so far" in ran
    assert "exited with code 3" in ran
    assert "nowhere.txt" in read


def test_at_the_cap_of_rounds_the_agent_answers_without_tools(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    steps = [asking(("exec", {"command": f"echo step {number}"})) for number in range(8)]
    provider.script(*steps, Reply("I got as far as step 7."))
    assert chat(coder, "count").text == "I got as far as step 7."
    assert len(provider.requests) == 9
    assert all(tool_names(request) for request in provider.requests[:-1])
    last = provider.requests[-1]
    assert tool_names(last) == set()
    assert "No more tool calls" in str(last.body["messages"][-1])


def test_the_same_call_again_and_again_ends_in_an_answer_without_tools(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(*[asking(("ls", {"path": "missing"}))] * 5, Reply("There is no such directory."))
    assert chat(coder, "look").text == "There is no such directory."
    assert len(provider.requests) == 6
    assert tool_names(provider.requests[4])
    assert "[This call has now given the same result" in results(provider.requests[3])[0]
    assert tool_names(provider.requests[5]) == set()


# --- commands ---


def test_the_first_deed_of_a_new_agent_may_be_a_command(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(asking(("exec", {"command": "pwd"})), Reply("Here I am."))
    assert chat(coder, "where are you?", model="openclaw:beta").text == "Here I am."
    assert results(provider.requests[1]) == [f"{coder.state_dir / 'workspace-beta'}\n"]


def test_a_command_in_the_background_is_polled_in_the_next_turn(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path, mark: str
) -> None:
    line = f"echo begun; until [ -e go-{mark} ]; do sleep 0.05; done; echo fresh output"
    command = {"command": line, "env": {"MARK": mark}, "background": True}
    provider.script(asking(("exec", command)), Reply("It runs."))
    assert chat(coder, "start it", user="poller").text == "It runs."
    session = session_name(results(provider.requests[1])[0])
    (workspace / f"go-{mark}").touch()
    poll = {"action": "poll", "sessionId": session, "timeout": 10_000}
    polls = [asking(("process", poll)) for _ in range(3)]  # each comes back with the next that happens
    provider.script(*polls, Reply("It is done."))
    assert chat(coder, "and now?", user="poller").text == "It is done."
    seen = "".join(results(request)[0] for request in provider.requests[-3:])
    assert "begun" in seen
    assert "fresh output" in seen
    assert "exited with code 0" in seen


def test_the_end_of_a_background_command_is_news_in_the_next_turn(
    coder: GatewayProcess, provider: ScriptedProvider, mark: str
) -> None:
    command = {"command": "exit 5", "env": {"MARK": mark}, "background": True}
    provider.script(asking(("exec", command)), Reply("It runs."))
    chat(coder, "start it", user="reader")
    session = session_name(results(provider.requests[1])[0])
    wait_until(lambda: not marked(mark) and not descendants(coder.worker_pid), 10, "the command's end")
    chat(coder, "what happened?", user="reader")
    line = f"(session {session}) has ended: it exited with code 5"
    assert line in user_texts(provider.requests[-1])
    assert "what happened?" in provider.requests[-1].user_text
    chat(coder, "anything else?", user="reader")
    assert line not in user_texts(provider.requests[-1])


def test_a_background_command_lives_on_only_for_who_can_come_back(
    coder: GatewayProcess, provider: ScriptedProvider, mark: str
) -> None:
    provider.script(asking(sleeper(mark, background=True)), Reply("It runs."))
    chat(coder, "start it")
    assert "still running" in results(provider.requests[1])[0]
    wait_until(lambda: not descendants(coder.worker_pid), 10, "the end of the command")
    provider.script(asking(sleeper(mark, background=True)), Reply("It runs."))
    chat(coder, "start it", user="keeper")
    session = session_name(results(provider.requests[-1])[0])
    wait_until(lambda: len(marked(mark)) >= 4, 10, "the command's tree")
    provider.script(asking(("process", {"action": "kill", "sessionId": session})), Reply("Ended."))
    chat(coder, "stop it", user="keeper")
    assert "was ended on request" in results(provider.requests[-1])[0]
    assert not marked(mark)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_client_that_leaves_takes_the_command_with_it(
    coder: GatewayProcess, provider: ScriptedProvider, mark: str, streamed: bool
) -> None:
    provider.script(asking(sleeper(mark)))
    with Connection(coder) as connection:
        connection.send(request_bytes(chat_body("work", stream=streamed)))
        wait_until(lambda: len(marked(mark)) >= 4, 10, "the command's tree")
    wait_until(lambda: not marked(mark), 8, "the end of the command")
    wait_until(lambda: not descendants(coder.worker_pid), 5, "the end of its warden")
    assert len(provider.requests) == 1
    assert chat(coder, "still there?").text == "echo: still there?"


def test_a_killed_gateway_takes_its_commands_with_it(
    start_gateway: StartGateway, provider: ScriptedProvider, mark: str
) -> None:
    gateway = start_gateway(**CODING)
    provider.script(asking(sleeper(mark, background=True)), asking(sleeper(mark)))
    with Connection(gateway) as connection:
        connection.send(request_bytes(chat_body("work", user="unlucky")))
        wait_until(lambda: len(marked(mark)) >= 8, 10, "the trees of both commands")
        worker, family = gateway.worker_pid, descendants(gateway.worker_pid)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not marked(mark), 8, "the end of the commands")
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), 5, "the wardens' end")
    gateway.wait_until_ready()
    assert chat(gateway, "again", user="unlucky").text == "echo: again"
    gateway.stop()


def test_a_gateway_told_to_stop_leaves_no_command(
    start_gateway: StartGateway, provider: ScriptedProvider, mark: str
) -> None:
    gateway = start_gateway(**CODING)
    gate = threading.Event()
    provider.script(asking(sleeper(mark, background=True)), Reply("It runs.", gate=gate))
    with open_stream(gateway, "work", user="last") as stream:
        assert provider.wait_for_requests(2)
        wait_until(lambda: len(marked(mark)) >= 4, 10, "the command's tree")
        gateway.terminate()
        gate.set()
        said = [event for event in stream.events() if isinstance(event, dict)]
    assert "It runs." in "".join(e["choices"][0]["delta"].get("content", "") for e in said if e["choices"])
    assert gateway.wait() == 0
    assert not marked(mark)
    gateway.stop()


# --- sub-agents ---


def calls_about(provider: ScriptedProvider, word: str) -> list[Any]:
    """The model calls for conversations whose first message holds ``word``."""
    return [r for r in provider.requests if word in str(r.body["messages"][1]["content"])]


def test_a_sub_agents_answer_is_the_result_of_the_call(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.on("count the apples", Reply("There are 17 apples."))
    provider.script(asking(("sessions_spawn", {"task": "count the apples", "waitSeconds": 20})))
    provider.on("parent asks", Reply("17, says my helper."))
    assert chat(coder, "parent asks", user="parent").text == "17, says my helper."
    assert "There are 17 apples." in results(provider.requests[-1])[0]
    (child,) = calls_about(provider, "count the apples")
    assert "sub-agent" in system_prompt(child)
    assert "parent asks" not in str(child.body["messages"])
    assert "sessions_spawn" in tool_names(provider.requests[0])
    assert "sessions_spawn" not in tool_names(child)


def test_two_sub_agents_work_side_by_side_and_a_third_has_no_place(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.on("task", Reply("done by a child", gate=gate))
    tasks = [("sessions_spawn", {"task": f"task {n}", "waitSeconds": 20}) for n in range(2)]
    too_many = ("sessions_spawn", {"task": "task 2", "waitSeconds": 0})
    provider.script(asking(*tasks, too_many))
    provider.on("split up", Reply("all collected"))
    with open_stream(coder, "split up") as stream:
        assert provider.wait_for_requests(3)
        wait_until(lambda: provider.active == 2, 5, "both children at work")
        gate.set()
        assert list(stream.events())[-1] == "[DONE]"
    answers = results(provider.requests[-1])
    assert sorted("done by a child" in answer for answer in answers) == [False, True, True]
    (refused,) = (answer for answer in answers if "done by a child" not in answer)
    assert "at work already" in refused


def test_a_child_cannot_have_children(coder: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(
        asking(("sessions_spawn", {"task": "delegate further", "waitSeconds": 20})),
        asking(("sessions_spawn", {"task": "deeper"})),
    )
    provider.on("delegate further", Reply("I did it myself."))
    provider.on("hand it on", Reply("handed on"))
    assert chat(coder, "hand it on").text == "handed on"
    child = calls_about(provider, "delegate further")
    assert len(child) == 2
    assert "no tool named 'sessions_spawn'" in results(child[1])[0]
    assert not calls_about(provider, "deeper")


def test_a_parent_that_is_stopped_stops_its_children(
    coder: GatewayProcess, provider: ScriptedProvider, mark: str
) -> None:
    provider.script(
        asking(("sessions_spawn", {"task": "never ends", "waitSeconds": 60})), asking(sleeper(mark))
    )
    with open_stream(coder, "parent waits"):
        wait_until(lambda: len(marked(mark)) >= 4, 10, "the child's command")
    wait_until(lambda: not marked(mark), 8, "the end of the child's command")
    assert len(provider.requests) == 2


def test_a_child_nobody_waited_for_is_news_in_the_parents_next_turn(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.on("count the pears", Reply("There are 23 pears.", gate=gate))
    provider.on("in the meantime", Reply("It is at work."))
    provider.script(asking(("sessions_spawn", {"task": "count the pears", "label": "pears"})))
    assert chat(coder, "in the meantime", user="busy").text == "It is at work."
    assert '"accepted"' in results(calls_about(provider, "in the meantime")[1])[0]
    gate.set()

    def told() -> bool:
        chat(coder, "any news?", user="busy")
        return "There are 23 pears." in user_texts(provider.requests[-1])

    wait_until(told, 10, "the news")
    assert "'pears'" in user_texts(provider.requests[-1])


def test_a_child_of_a_conversation_that_is_over_is_stopped(
    coder: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.on("count the plums", Reply("Never said.", gate=threading.Event()))
    provider.on("in the meantime", Reply("It is at work."))
    provider.script(asking(("sessions_spawn", {"task": "count the plums"})))
    with open_stream(coder, "in the meantime") as stream:
        assert list(stream.events())[-1] == "[DONE]"
    wait_until(lambda: provider.active == 0, 5, "the end of the child")


# --- skills and memory ---


def test_a_skill_of_the_workspace_is_listed_and_can_be_read(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path
) -> None:
    folder = workspace / "skills" / "brewing"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(
        "---\nname: brewing\ndescription: How tea is made here.\n---\nBoil the water to 80 degrees.\n"
    )
    provider.script(asking(("read", {"path": "skills/brewing/SKILL.md"})), Reply("80 degrees it is."))
    assert chat(coder, "make tea").text == "80 degrees it is."
    prompt = system_prompt(provider.requests[0])
    assert "- brewing: How tea is made here. (skills/brewing/SKILL.md)" in prompt
    assert "80 degrees" not in prompt
    assert "Boil the water to 80 degrees." in results(provider.requests[1])[0]


def test_memory_is_searched_for_a_line(
    coder: GatewayProcess, provider: ScriptedProvider, workspace: Path
) -> None:
    (workspace / "MEMORY.md").write_text("# Facts\n\nThe cat is called Schroedinger.\n\nThe dog is not.\n")
    provider.script(asking(("memory_search", {"query": "cat"})), Reply("Schroedinger."))
    assert chat(coder, "what is the cat called?").text == "Schroedinger."
    found = results(provider.requests[1])[0]
    assert "The cat is called Schroedinger." in found
    assert "MEMORY.md" in found
    assert "Schroedinger" not in system_prompt(provider.requests[0])
