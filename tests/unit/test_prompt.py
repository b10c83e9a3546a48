"""The system prompt."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from app.agents.prompt import PromptInput, PromptLimits, build_prompt
from app.agents.skills import Skill
from app.providers.base import ToolSpec

LIMITS = PromptLimits(20_000, 60_000)
READ = ToolSpec("read", "Read a text file.", {})
EXEC = ToolSpec("exec", "Run a command, e.g. a test. It may go on in the background.", {})


def prompt(
    workspace: Path,
    *,
    tools: tuple[ToolSpec, ...] = (),
    skills: tuple[Skill, ...] = (),
    caller: str = "",
    main: bool = False,
    small: bool = False,
    purpose: str = "",
    facts: tuple[str, ...] = (),
    limits: PromptLimits = LIMITS,
) -> str:
    return build_prompt(
        PromptInput(
            name="Ada",
            workspace=workspace,
            limits=limits,
            tools=tools,
            skills=skills,
            caller=caller,
            main_session=main,
            small=small,
            purpose=purpose,
            facts=facts,
        )
    )


def weather(workspace: Path) -> Skill:
    return Skill("weather", "Forecasts.", workspace / "skills" / "weather" / "SKILL.md")


def test_the_prompt_is_the_same_from_turn_to_turn(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text("Be kind.")

    assert prompt(tmp_path, tools=(READ,)) == prompt(tmp_path, tools=(READ,))


def test_what_is_stable_comes_first_then_the_caller_and_what_holds_for_now_last(tmp_path: Path) -> None:
    for name in ("USER.md", "SOUL.md", "AGENTS.md"):
        (tmp_path / name).write_text(f"the text of {name}")

    text = prompt(
        tmp_path,
        tools=(READ,),
        skills=(weather(tmp_path),),
        caller="Speak French.",
        facts=("The date is 2026-11-23.", "Command 7\nended."),
    )

    order = ["Ada", "- read: Read a text file.", "## How you work", "- weather: Forecasts.", "## Workspace",
             "the text of AGENTS.md", "the text of SOUL.md", "the text of USER.md", "Speak French.",
             "- The date is 2026-11-23.\n- Command 7 ended."]  # fmt: skip
    assert [text.index(piece) for piece in order] == sorted(text.index(piece) for piece in order)
    assert text.endswith("\n- Command 7 ended.")


def test_what_changes_from_run_to_run_changes_nothing_before_it(tmp_path: Path) -> None:
    plain = prompt(tmp_path, tools=(READ,), caller="Speak French.")

    assert prompt(tmp_path, tools=(READ,), caller="Speak French.", facts=("A",)).startswith(plain)


def test_a_tool_is_listed_with_the_first_sentence_about_it(tmp_path: Path) -> None:
    lines = prompt(tmp_path, tools=(READ, EXEC)).splitlines()

    assert "- read: Read a text file." in lines
    assert "- exec: Run a command, e.g. a test." in lines


def test_an_agent_without_tools_is_not_told_of_any(tmp_path: Path) -> None:
    text = prompt(tmp_path, skills=(weather(tmp_path),)).lower()

    assert "honest" in text
    for word in ("tool", "skill", "workspace", "memory_search", "weather"):
        assert word not in text


def test_only_an_agent_that_can_read_is_told_of_skills(tmp_path: Path) -> None:
    skills = (weather(tmp_path),)

    assert "- weather: Forecasts. (skills/weather/SKILL.md)" in prompt(tmp_path, tools=(READ,), skills=skills)
    assert "weather" not in prompt(tmp_path, tools=(EXEC,), skills=skills)
    assert "skill" not in prompt(tmp_path, tools=(READ,)).lower()


def test_untrusted_text_is_explained_by_its_marks(tmp_path: Path) -> None:
    text = prompt(tmp_path, tools=(READ,))

    assert "`<<<external`" in text
    assert "`external>>>`" in text


def test_an_agent_with_a_memory_is_told_to_look_there(tmp_path: Path) -> None:
    search = ToolSpec("memory_search", "Search your notes.", {})

    assert "look with `memory_search`" in prompt(tmp_path, tools=(search,))
    assert "memory_search" not in prompt(tmp_path, tools=(READ,))


def test_a_sub_agent_knows_its_task_and_only_the_rules_of_work(tmp_path: Path) -> None:
    for name in ("AGENTS.md", "SOUL.md", "IDENTITY.md", "USER.md", "TOOLS.md", "MEMORY.md"):
        (tmp_path / name).write_text(f"the text of {name}")

    text = prompt(tmp_path, tools=(READ,), purpose="count the\nwords", main=True)

    assert text.startswith("You are a sub-agent, at work for Ada, started for one task: count the words\n")
    assert "the text of AGENTS.md" in text
    assert "the text of TOOLS.md" in text
    for name in ("SOUL.md", "IDENTITY.md", "USER.md", "MEMORY.md"):
        assert name not in text


def test_missing_and_empty_files_leave_no_trace(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text(" \n")

    assert ".md" not in prompt(tmp_path)
    assert prompt(tmp_path / "nowhere") == prompt(tmp_path)


@pytest.mark.parametrize(("main", "seen"), [(True, True), (False, False)])
def test_only_the_owners_own_conversation_sees_the_memory(tmp_path: Path, main: bool, seen: bool) -> None:
    (tmp_path / "MEMORY.md").write_text("The safe's code is 1234.")

    assert ("1234" in prompt(tmp_path, main=main)) is seen


def test_a_small_model_gets_a_short_prompt(tmp_path: Path) -> None:
    for name in ("AGENTS.md", "SOUL.md", "MEMORY.md"):
        (tmp_path / name).write_text(name + " " + "x" * 5_000)

    text = prompt(tmp_path, main=True, small=True)

    assert len(text) < 1_000
    assert "SOUL.md" in text
    assert "AGENTS.md" not in text
    assert "MEMORY.md" not in text


def test_the_short_form_is_the_same_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text("Be kind.\n")
    (tmp_path / "IDENTITY.md").write_text("x" * 700)

    text = prompt(
        tmp_path,
        tools=(EXEC,),
        skills=(weather(tmp_path),),
        caller="Speak French.",
        small=True,
        facts=("The date is 2026-11-23.",),
    )

    notice = "[… IDENTITY.md is longer than shown here …]"
    assert text == (
        "You are a helpful AI assistant named Ada.\n\n"
        "## Tools\n- exec: Run a command, e.g. a test. It may go on in the background.\n\n"
        "## SOUL.md\nBe kind.\n\n"
        f"## IDENTITY.md\n{'x' * 425}\n{notice}\n{'x' * 122}\n\n"
        "Speak French."
    )


def test_an_agent_without_tools_for_files_is_told_of_none(tmp_path: Path) -> None:
    status = ToolSpec("session_status", "Tell which session this is.", {})
    (tmp_path / "AGENTS.md").write_text("x" * 2_000)

    text = prompt(tmp_path, tools=(status,), limits=PromptLimits(1_000, 60_000))

    assert "## Workspace" not in text
    assert "read the file" not in text
    assert "## Workspace" in prompt(tmp_path, tools=(status, EXEC))


@pytest.mark.parametrize("middle", [5_000, 50_000_000])
def test_a_long_file_loses_its_middle_and_says_so(tmp_path: Path, middle: int) -> None:
    with (tmp_path / "AGENTS.md").open("wb") as file:
        file.write(b"BEGIN\n" + "é".encode() * 2_000)
        file.seek(middle)
        file.write("é".encode() * 2_000 + b"\nEND\n")

    text = prompt(tmp_path, limits=PromptLimits(1_000, 60_000))

    section = text.partition("## AGENTS.md\n")[2]
    assert len(section) <= 1_000
    assert section.startswith("BEGIN\né")
    assert "é\n[… AGENTS.md is longer than shown here" in section
    assert section.endswith("é\nEND")
    assert "\ufffd" not in section


def test_all_files_together_keep_to_the_total(tmp_path: Path) -> None:
    names = ("AGENTS.md", "SOUL.md", "IDENTITY.md", "USER.md", "TOOLS.md")
    for name in names:
        (tmp_path / name).write_text("x" * 900)

    text = prompt(tmp_path, limits=PromptLimits(1_000, 2_000))

    assert text.count("x" * 100) > 0
    assert text.count("x") <= 2_000
    assert "TOOLS.md" not in text


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_not_a_file_is_left_out(tmp_path: Path, make: object) -> None:
    make(tmp_path / "SOUL.md")  # type: ignore[operator]
    (tmp_path / "USER.md").write_text("Call me Sam.")

    text = prompt(tmp_path)

    assert "SOUL.md" not in text
    assert "Call me Sam." in text


def test_a_link_out_of_the_workspace_is_left_out(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (tmp_path / "secret").write_text("hush")
    (workspace / "SOUL.md").symlink_to(tmp_path / "secret")

    assert "hush" not in prompt(workspace)


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_bytes(b"\xff\xfe kind")

    assert "\ufffd\ufffd kind" in prompt(tmp_path)


def test_the_prompt_is_cheap_enough_for_every_model_call(tmp_path: Path) -> None:
    for name in ("AGENTS.md", "SOUL.md", "USER.md"):
        (tmp_path / name).write_text("word " * 2_000)
    skills = tuple(weather(tmp_path) for _ in range(300))
    prompt(tmp_path, tools=(READ, EXEC), skills=skills)

    start = time.thread_time()
    for _ in range(20):
        prompt(tmp_path, tools=(READ, EXEC), skills=skills)

    assert (time.thread_time() - start) / 20 < 0.02
