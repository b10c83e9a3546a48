"""The system prompt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.agents.prompt import PromptLimits, build_prompt
from app.providers.base import ToolSpec

LIMITS = PromptLimits(20_000, 60_000)
READ = ToolSpec("read", "Read a text file.", {})


def prompt(
    workspace: Path,
    *,
    tools: tuple[ToolSpec, ...] = (),
    caller: str = "",
    main: bool = False,
    small: bool = False,
    limits: PromptLimits = LIMITS,
) -> str:
    return build_prompt("Ada", workspace, tools, caller=caller, main_session=main, small=small, limits=limits)


def test_the_prompt_is_the_same_from_turn_to_turn(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text("Be kind.")

    assert prompt(tmp_path, tools=(READ,)) == prompt(tmp_path, tools=(READ,))


def test_what_is_stable_comes_first_and_the_caller_last(tmp_path: Path) -> None:
    for name in ("USER.md", "SOUL.md", "AGENTS.md"):
        (tmp_path / name).write_text(f"the text of {name}")

    text = prompt(tmp_path, tools=(READ,), caller="Speak French.")

    order = ["Ada", "- read: Read a text file.", "the text of AGENTS.md", "the text of SOUL.md",
             "the text of USER.md", "Speak French."]  # fmt: skip
    assert [text.index(piece) for piece in order] == sorted(text.index(piece) for piece in order)
    assert text.endswith("Speak French.")


def test_missing_and_empty_files_leave_no_trace(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text(" \n")

    assert "##" not in prompt(tmp_path)
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


def test_a_long_file_loses_its_middle_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text("BEGIN" + "é" * 5_000 + "END")

    text = prompt(tmp_path, limits=PromptLimits(1_000, 60_000))

    section = text.partition("## AGENTS.md\n")[2]
    assert len(section) <= 1_000
    assert section.startswith("BEGIN")
    assert "AGENTS.md is longer than shown" in section


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
