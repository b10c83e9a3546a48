"""The read tool: files of the workspace, and of no other place."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cancel import CancelToken
from app.tools.files import MAX_BYTES, MAX_LINES, READ, read_inside
from app.tools.registry import ToolContext, ToolError

_MORE = re.compile(r"\[(\d+) more lines; continue with offset=(\d+)\]\Z")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    (path / "notes").mkdir(parents=True)
    (path / "notes" / "a.txt").write_text("alpha\n")
    (tmp_path / "secret.txt").write_text("hush")
    return path


def read(workspace: Path, **arguments: Any) -> str:
    context = ToolContext("main", "agent:main:main", "run-1", "p/m", workspace, 1, CancelToken())
    return READ.function(context, arguments)


def refusal(workspace: Path, **arguments: Any) -> str:
    with pytest.raises(ToolError) as caught:
        read(workspace, **arguments)
    return str(caught.value)


@pytest.mark.parametrize("name", ["notes/a.txt", "notes/../notes/a.txt", "./notes//a.txt"])
def test_a_file_inside_is_read(workspace: Path, name: str) -> None:
    assert read(workspace, path=name) == "alpha\n"


def test_the_other_name_of_the_argument_works(workspace: Path) -> None:
    assert read(workspace, file_path="notes/a.txt") == "alpha\n"


def test_an_absolute_path_works_if_it_is_inside(workspace: Path) -> None:
    assert read(workspace, path=str(workspace / "notes" / "a.txt")) == "alpha\n"


@pytest.mark.parametrize(
    "name", ["../secret.txt", "notes/../../secret.txt", "/etc/passwd", "..", "/", "../workspace-2/a.txt"]
)
def test_a_path_that_leads_out_is_refused(workspace: Path, name: str) -> None:
    (workspace.parent / "workspace-2").mkdir()
    (workspace.parent / "workspace-2" / "a.txt").write_text("a neighbour's")

    assert refusal(workspace, path=name) == f"{name}: outside the workspace"


def test_a_link_that_leads_out_is_refused(workspace: Path) -> None:
    (workspace / "file").symlink_to(workspace.parent / "secret.txt")
    (workspace / "folder").symlink_to(workspace.parent)

    assert refusal(workspace, path="file") == "file: outside the workspace"
    assert refusal(workspace, path="folder/secret.txt") == "folder/secret.txt: outside the workspace"


def test_a_link_that_stays_inside_is_followed(workspace: Path) -> None:
    (workspace / "link").symlink_to("notes/a.txt")
    (workspace / "folder").symlink_to(workspace / "notes")

    assert read(workspace, path="link") == "alpha\n"
    assert read(workspace, path="folder/a.txt") == "alpha\n"


def test_a_workspace_may_itself_be_a_link(workspace: Path) -> None:
    (workspace.parent / "alias").symlink_to(workspace)

    assert read(workspace.parent / "alias", path="notes/a.txt") == "alpha\n"


def test_links_in_a_circle_are_refused(workspace: Path) -> None:
    (workspace / "circle").symlink_to("circle")

    assert refusal(workspace, path="circle").startswith("circle: ")


def test_what_is_not_a_regular_file_is_refused_without_waiting(workspace: Path) -> None:
    os.mkfifo(workspace / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(workspace / "socket"))

        assert refusal(workspace, path="fifo") == "fifo: not a regular file"
        assert refusal(workspace, path="notes") == "notes: not a regular file"
        assert refusal(workspace, path="socket").startswith("socket: ")


def test_a_device_is_refused(workspace: Path) -> None:
    (workspace / "zero").symlink_to("/dev/zero")

    assert refusal(workspace, path="zero") == "zero: outside the workspace"
    with pytest.raises(ToolError, match=r"^zero: not a regular file$"):
        read_inside(Path("/dev"), "zero", 10)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.txt", "No such file or directory"),
        ("notes/a.txt/b", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "not a usable file name"),
        ("\ud800", "not a usable file name"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_words(workspace: Path, name: str, reason: str) -> None:
    assert refusal(workspace, path=name) == f"{name}: {reason}"


def test_a_missing_workspace_is_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere", path="a.txt") == "a.txt: No such file or directory"


@pytest.mark.parametrize("arguments", [{}, {"path": ""}, {"path": 7}, {"path": None}])
def test_a_path_is_required(workspace: Path, arguments: dict[str, Any]) -> None:
    assert refusal(workspace, **arguments) == "path: a file name is required"


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, [], float("inf")])
@pytest.mark.parametrize("name", ["offset", "limit"])
def test_offset_and_limit_are_whole_numbers_from_one(workspace: Path, name: str, value: Any) -> None:
    arguments = {"path": "notes/a.txt", name: value}

    assert refusal(workspace, **arguments) == f"{name}: a whole number of at least 1 is required"


def test_a_refusal_never_tells_where_the_workspace_is(workspace: Path) -> None:
    (workspace / "circle").symlink_to("circle")

    texts = [refusal(workspace, path=name) for name in ("missing", "notes", "circle", "../x")]

    assert not any(str(workspace.parent) in text for text in texts)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(workspace: Path) -> None:
    os.mkfifo(workspace / "fifo")
    before = open_descriptors()

    for name in ("notes", "fifo", "notes/a.txt", "missing", "../secret.txt"):
        try:
            read(workspace, path=name)
        except ToolError:
            continue

    assert open_descriptors() == before


def test_bytes_that_are_not_utf_8_are_replaced(workspace: Path) -> None:
    (workspace / "b").write_bytes(b"a\xff\xc3b\n")

    assert read(workspace, path="b") == "a\ufffd\ufffdb\n"


def test_an_empty_file_is_empty(workspace: Path) -> None:
    (workspace / "empty").touch()

    assert read(workspace, path="empty") == ""


def test_a_part_of_a_file_says_how_to_go_on(workspace: Path) -> None:
    (workspace / "f").write_text("1\n2\n3\n4\n5\n")

    assert read(workspace, path="f", offset=2, limit=2) == "2\n3\n[2 more lines; continue with offset=4]"
    assert read(workspace, path="f", offset=4, limit=2) == "4\n5\n"
    assert read(workspace, path="f", offset=6) == ""


def test_a_huge_file_is_shown_up_to_the_limits(workspace: Path) -> None:
    (workspace / "wide").write_text(("x" * 99 + "\n") * 5_000)
    (workspace / "long").write_text("x\n" * 5_000)

    wide, long = read(workspace, path="wide"), read(workspace, path="long", limit=10**6)

    assert wide.count("\n") == MAX_BYTES // 100
    assert long.count("\n") == MAX_LINES
    assert long.endswith("[3000 more lines; continue with offset=2001]")


def test_a_single_huge_line_is_cut(workspace: Path) -> None:
    (workspace / "line").write_text("é" * MAX_BYTES)

    assert read(workspace, path="line") == "é" * (MAX_BYTES // 2)


LINES = st.text(alphabet=st.sampled_from("ab é\t\r\x0b\x0c\x1c\u2028\x85"), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(LINES, max_size=12), st.booleans(), st.integers(1, 5))
def test_going_on_where_it_says_reads_the_whole_file_exactly(
    workspace: Path, lines: list[str], ends: bool, limit: int
) -> None:
    text = "\n".join(lines) + ("\n" if ends else "")
    (workspace / "f").write_bytes(text.encode())

    seen, offset = "", 1
    for _ in range(len(lines) + 2):
        shown = read(workspace, path="f", offset=offset, limit=limit)
        more = _MORE.search(shown)
        seen += shown[: more.start()] if more else shown
        if more is None:
            break
        offset = int(more[2])

    assert seen == text


def test_paging_through_a_file_larger_than_one_answer_covers_it(workspace: Path) -> None:
    text = "".join(f"{number} {'é' * (number % 400)}\n" for number in range(3_000))
    (workspace / "f").write_text(text)

    seen, offset = "", 1
    while True:
        shown = read(workspace, path="f", offset=offset)
        more = _MORE.search(shown)
        seen += shown[: more.start()] if more else shown
        if more is None:
            break
        offset = int(more[2])

    assert seen == text
