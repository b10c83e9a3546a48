"""Command lines are judged by what a shell would really run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from app.tools.commands import executables, judge, parse

NAMES = ("git", "rm", "wc", "env", "echo", "if", "time", "eval")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PATH of programs that only note down their name and their first argument."""
    directory = tmp_path_factory.mktemp("bin")
    for name in NAMES:
        program = directory / name
        program.write_text('#!/bin/sh\nprintf "%s\\n" "${0##*/}" >> "$LOG"\n')
        program.chmod(0o755)
    (directory / "data").write_text("not a program")
    return directory


def programs(command: str) -> list[str] | None:
    segments = parse(command)
    return None if segments is None else [segment.program for segment in segments]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("git status", ["git"]),
        ("git log|wc -l && git diff || echo no; echo done", ["git", "wc", "git", "echo", "echo"]),
        ("echo 'a; rm b' \"c && rm d\" e\\;f", ["echo"]),
        ("git commit -m 'two\nlines'", ["git"]),
        ("git add *.py {a,b} HEAD~1", ["git"]),
        ("'git' \"status\"", ["git"]),
        ("/usr/bin/git status", ["/usr/bin/git"]),
    ],
)
def test_simple_commands_are_understood(command: str, expected: list[str]) -> None:
    assert programs(command) == expected


@pytest.mark.parametrize(
    "command",
    [
        "",
        " ",
        "git $(rm x)",
        "git `rm x`",
        "git $HOME",
        'git "$(rm x)"',
        'git "`rm x`"',
        "git > file",
        "git < file",
        "git <<< text",
        "git << EOF\nEOF",
        "git <(rm x)",
        "git 2>&1",
        "git & rm x",
        "git&rm",
        "git |& rm",
        "git\nrm x",
        "git \\\nstatus",
        "git\rrm",
        "(git)",
        "git;; git",
        "git;",
        "git &&",
        "| git",
        "A=b git",
        "g* status",
        "{git,rm} x",
        "~/git",
        "git 'unbalanced",
        'git "unbalanced',
        "git \\",
        "git # rm",
        "git\0rm",
        "git\u00a0rm",
        "git() { rm; }",
        "$git",
        "git $'a\\nb'",
    ],
)
def test_what_is_doubtful_is_not_judged(command: str) -> None:
    assert parse(command) is None


@pytest.mark.parametrize(
    "command", ["git;rm -rf x", "git && rm", "./git", "rm", "gi", "gitx", "data", "missing", "g" * 300]
)
def test_nothing_passes_for_an_allowed_program_that_is_not_it(path: Path, command: str) -> None:
    assert judge(command, ["git"], str(path)) is None


def test_an_allowed_program_is_pinned_to_its_place(path: Path) -> None:
    assert judge("git log | git 'a b'", ["git"], str(path)) == f"{path}/git log | {path}/git 'a b'"


def test_another_file_of_the_same_name_is_not_allowed(path: Path, tmp_path: Path) -> None:
    shutil.copy(path / "git", tmp_path / "git")

    assert judge(f"{tmp_path}/git", ["git"], str(path)) is None
    assert judge(f"{path}/git", ["git"], str(path)) == f"{path}/git"


def test_one_file_under_many_names_is_not_one_program(path: Path, tmp_path: Path) -> None:
    for name in ("ls", "dd"):
        (tmp_path / name).symlink_to(path / "git")

    assert judge("ls", ["ls"], str(tmp_path)) is not None
    assert judge("dd", ["ls"], str(tmp_path)) is None
    assert judge("ls", [f"{tmp_path}/ls"], str(tmp_path)) is not None
    assert judge("dd", [f"{tmp_path}/ls"], str(tmp_path)) is None


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("{bin}/git", True),
        ("{bin}/GIT", True),
        ("{bin}/*", True),
        ("{bin}/g?t", True),
        ("/**/git", True),
        ("/*/git", False),
        ("{bin}/gi", False),
        ("{bin}", False),
        ("g*", True),
        ("*", True),
        ("r*", False),
        ("[g]it", False),
    ],
)
def test_patterns(path: Path, pattern: str, matches: bool) -> None:
    assert (judge("git x", [pattern.format(bin=path)], str(path)) is not None) is matches


def test_a_pattern_is_held_against_the_real_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").symlink_to(path / "git")

    assert judge("tool", [f"{path}/*"], str(tmp_path / "bin")) is not None
    assert judge("tool", [f"{tmp_path}/bin/*"], str(tmp_path / "bin")) is None


@pytest.mark.parametrize("before", ["", ".", "bin"])
def test_a_path_that_depends_on_the_directory_is_not_trusted(path: Path, before: str) -> None:
    assert judge("git", ["git"], f"{before}:{path}") is None


@pytest.mark.parametrize(
    ("command", "harmless"),
    [
        ("wc -l", True),
        ("wc -l | wc", True),
        ("wc file", False),
        ("wc --files0-from=x", False),
        ("wc -l *", False),
    ],
)
def test_a_filter_is_allowed_as_long_as_it_names_no_file(path: Path, command: str, harmless: bool) -> None:
    assert (judge(command, [], str(path)) is not None) is harmless


@pytest.mark.parametrize(
    ("command", "harmless"),
    [
        ("cut -d : -f 1,3-", True),
        ("cut -d' ' -f2", True),
        ("cut -f1 /etc/passwd", False),
        ("grep -in 'a.*b'", True),
        ("grep root /etc/passwd", False),
        ("grep -r x", False),
        ("grep -f /etc/passwd", False),
        ("head -5", True),
        ("head -n 5", True),
        ("head - 5", False),
        ("head 5", False),
        ("tail -n +2", True),
        ("tail -f x", False),
        ("sort -rn", True),
        ("sort -o out", False),
        ("sort -n file", False),
        ("sort --compress-program=sh", False),
        ("tr -d a-z", True),
        ("tr a b", True),
        ("uniq -c", True),
        ("uniq in out", False),
        ("sed s/a/b/", False),
        ("awk 1", False),
    ],
)
def test_the_filters_of_this_system(command: str, harmless: bool) -> None:
    assert (judge(command, [], "/usr/bin:/bin") is not None) is harmless


def test_the_programs_of_a_command_are_found(path: Path) -> None:
    found = executables("git a; rm b", str(path))

    assert found is not None
    assert [executable.location for executable in found] == [path / "git", path / "rm"]
    assert executables("git; missing", str(path)) is None


PIECES = st.sampled_from(
    [*NAMES, *" ;|&\n\t'\"\\$`(){}<>#!=*?[]~,-aé\u00a0\r", " ", "||", "&&", "./", "then ", "fi", "do ",
     "done", "$(rm)", "`rm`", "&rm", ";rm", "\nrm", "|rm", "env rm", "case ", "esac", "[["]
)  # fmt: skip
SNIPPETS = st.lists(PIECES, max_size=5).map("".join)
LINES = st.lists(
    st.tuples(st.sampled_from(["git ", "git;git ", "git|", "'git' ", ""]), SNIPPETS), max_size=3
).map(lambda parts: "".join(piece for part in parts for piece in part))


@settings(max_examples=250, deadline=None)
@given(command=LINES)
def test_no_line_that_passes_runs_anything_else(
    command: str, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pinned = judge(command, ["git"], str(path))
    event("passes" if pinned else "is not judged")
    if pinned is None:
        return
    segments = programs(command)
    assert segments is not None

    for shell in ("bash", "sh"):
        ran = run(shell, pinned, path, tmp_path_factory.mktemp("run"))

        assert set(ran) <= {"git", "wc"}
        assert len(ran) <= len(segments)
        assert len(ran) > 0


def run(shell: str, command: str, path: Path, directory: Path) -> list[str]:
    log = directory / "log"
    (directory / "cwd").mkdir()
    subprocess.run(
        [f"/bin/{shell}", "-c", command],
        cwd=directory / "cwd",
        env={
            "PATH": str(path),
            "LOG": str(log),
            "HOME": "/nowhere",
            "LANG": os.environ.get("LANG", "C.UTF-8"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
    )
    assert list((directory / "cwd").iterdir()) == []  # nothing was redirected into a file
    return log.read_text().split() if log.exists() else []
