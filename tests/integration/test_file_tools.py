"""The file tools: what they do in the workspace, and that they reach nothing else."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cancel import Cancelled, CancelReason, CancelToken
from app.messages import JsonValue
from app.tools import search
from app.tools.child import run_child
from app.tools.files import FILE_TOOLS
from app.tools.registry import ToolContext, ToolError

TOOLS = {tool.name: tool for tool in FILE_TOOLS}
WRITERS = {"write", "edit", "apply_patch"}
_FENCE = re.compile(r"\A<<<external content: [^\n]*\n(.*)\nexternal>>>(?:\n(.*))?\Z", re.DOTALL)

Call = Callable[..., str]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    (path / "notes").mkdir(parents=True)
    (path / "notes" / "a.txt").write_text("alpha\nbeta\n")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_text("hush\n")
    return path


@pytest.fixture
def call(workspace: Path) -> Call:
    def call(name: str, /, **arguments: Any) -> str:
        return TOOLS[name].function(context(workspace), arguments)

    return call


@pytest.fixture
def refusal(call: Call) -> Call:
    def refusal(name: str, /, **arguments: Any) -> str:
        with pytest.raises(ToolError) as caught:
            call(name, **arguments)
        return str(caught.value)

    return refusal


def context(workspace: Path, cancel: CancelToken | None = None, **facts: Any) -> ToolContext:
    return ToolContext("main", "k", "r", "p/m", workspace, 1, cancel or CancelToken(), **facts)


def inside(text: str) -> str:
    fenced = _FENCE.match(text)
    assert fenced, text
    return fenced[1]


def patch(*lines: str) -> dict[str, str]:
    return {"input": "\n".join(("*** Begin Patch", *lines, "*** End Patch"))}


def snapshot(root: Path) -> dict[str, object]:
    """Everything below ``root``: contents, modes and where links lead."""
    return {
        str(path.relative_to(root)): path.readlink()
        if path.is_symlink()
        else (path.stat().st_mode, content(path))
        for path in root.rglob("*")
    }


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


# Writing


def test_a_new_file_is_written_with_its_directories(workspace: Path, call: Call) -> None:
    assert call("write", path="new/deep/f.txt", content="é\n") == "Wrote 3 bytes to new/deep/f.txt."

    assert (workspace / "new" / "deep" / "f.txt").read_bytes() == "é\n".encode()
    assert [path.name for path in (workspace / "new" / "deep").iterdir()] == ["f.txt"]


def test_a_workspace_that_is_not_there_yet_is_created(tmp_path: Path) -> None:
    TOOLS["write"].function(context(tmp_path / "later"), {"path": "f", "content": "x"})

    assert (tmp_path / "later" / "f").read_text() == "x"


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o644])
def test_a_file_keeps_its_mode(workspace: Path, call: Call, mode: int) -> None:
    script = workspace / "script"
    script.write_text("one\n")
    script.chmod(mode)

    call("write", path="script", content="two\n")
    call("edit", path="script", oldText="two", newText="three")
    call("apply_patch", **patch("*** Update File: script", "*** Move to: moved", "-three", "+four"))

    assert (workspace / "moved").read_text() == "four\n"
    assert stat.S_IMODE((workspace / "moved").stat().st_mode) == mode


def test_a_new_file_gets_the_usual_mode(workspace: Path, call: Call) -> None:
    (workspace / "usual").touch()

    call("write", path="f", content="x")

    assert (workspace / "f").stat().st_mode == (workspace / "usual").stat().st_mode


def test_a_file_is_replaced_at_once_for_those_who_read_it(workspace: Path, call: Call) -> None:
    with (workspace / "notes" / "a.txt").open() as reader:
        call("write", path="notes/a.txt", content="new\n")

        assert reader.read() == "alpha\nbeta\n"


def test_a_link_that_stays_inside_is_written_through(workspace: Path, call: Call) -> None:
    (workspace / "link").symlink_to("notes/a.txt")

    call("write", path="link", content="new\n")

    assert (workspace / "link").is_symlink()
    assert (workspace / "notes" / "a.txt").read_text() == "new\n"


def test_the_other_names_of_arguments_work(workspace: Path, call: Call) -> None:
    call("write", file_path="f", content="one two")
    call("edit", file_path="f", old_string="one", new_string="1")

    assert (workspace / "f").read_text() == "1 two"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=200))
def test_what_was_written_is_read(call: Call, text: str) -> None:
    call("write", path="f", content=text)

    assert inside(call("read", path="f")) == text.replace("<<<external", "<< external")


def test_too_much_text_is_refused_and_nothing_written(workspace: Path, refusal: Call) -> None:
    assert refusal("write", path="f", content="x" * (10 * 2**20 + 1)) == "f: more than 10 MB of text"

    assert not (workspace / "f").exists()


# Editing


def test_an_edit_says_what_it_has_changed(workspace: Path, call: Call) -> None:
    (workspace / "f").write_text("one\ntwo\nthree\n")

    assert call("edit", path="f", oldText="two\nth", newText="2\nTH") == (
        "Edited f:\n@@ -2,2 +2,2 @@\n-two\n-three\n+2\n+THree"
    )
    assert (workspace / "f").read_text() == "one\n2\nTHree\n"


def test_an_edit_of_many_lines_is_quick(workspace: Path, call: Call) -> None:
    lines = "\n" * 400_000
    (workspace / "f").write_text(f"{lines}one")
    started = time.monotonic()

    assert call("edit", path="f", oldText=f"{lines}one", newText=f"{lines}two") == (
        "Edited f:\n@@ -400001,1 +400001,1 @@\n-one\n+two"
    )
    assert time.monotonic() - started < 2


def test_several_edits_are_all_made_or_none(workspace: Path, call: Call, refusal: Call) -> None:
    (workspace / "f").write_text("one two three")
    first = {"oldText": "one", "newText": "1"}

    assert "0 matches" in refusal("edit", path="f", edits=[first, {"oldText": "four", "newText": "4"}])
    assert (workspace / "f").read_text() == "one two three"
    call("edit", path="f", edits=[first, {"old_string": "1 two", "new_string": "2"}])
    assert (workspace / "f").read_text() == "2 three"


@pytest.mark.parametrize(("text", "count"), [("", 0), ("b", 0), ("aa", 2), ("a a a", 3)])
def test_text_must_be_there_exactly_once(workspace: Path, refusal: Call, text: str, count: int) -> None:
    (workspace / "f").write_text(text)

    assert refusal("edit", path="f", oldText="a", newText="x").startswith(f"f: {count} matches. ")
    assert (workspace / "f").read_text() == text


def test_matches_that_overlap_are_two(workspace: Path, refusal: Call) -> None:
    (workspace / "f").write_text("aaa")

    assert refusal("edit", path="f", oldText="aa", newText="x").startswith("f: 2 matches. ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "Nothing to do"),
        ({"oldText": "a"}, "belong together"),
        ({"newText": "a"}, "belong together"),
        ({"oldText": "", "newText": "a"}, "must not be empty"),
        ({"oldText": "a", "newText": "a"}, "are the same"),
        ({"edits": [{"oldText": "a"}]}, "The arguments are not right: edits.0.newText"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(
    refusal: Call, arguments: dict[str, Any], reason: str
) -> None:
    assert reason in refusal("edit", path="notes/a.txt", **arguments)


def test_line_ends_of_windows_are_met_and_kept(workspace: Path, call: Call) -> None:
    (workspace / "f").write_bytes(b"one\r\ntwo\r\nthree\r\n")

    call("edit", path="f", oldText="one\ntwo", newText="1\n2")

    assert (workspace / "f").read_bytes() == b"1\r\n2\r\nthree\r\n"


def test_a_long_change_is_shown_in_part(workspace: Path, call: Call) -> None:
    (workspace / "f").write_text("x")

    answer = call("edit", path="f", oldText="x", newText="line\n" * 10_000)

    assert answer.endswith("[… and so on]")
    assert len(answer) < 5_000


WORDS = st.lists(st.sampled_from(["a", "b", " ", "\n", "é"]), max_size=12).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(WORDS, WORDS, WORDS)
def test_an_edit_replaces_exactly_the_text_it_names(
    workspace: Path, call: Call, before: str, after: str, new: str
) -> None:
    (workspace / "f").write_text(f"{before}OLD{after}")

    call("edit", path="f", oldText="OLD", newText=new)

    assert (workspace / "f").read_text() == before + new + after


# Patches


def test_a_patch_adds_changes_moves_and_deletes(workspace: Path, call: Call) -> None:
    (workspace / "old.txt").write_text("x\n")

    answer = call(
        "apply_patch",
        **patch(
            "*** Add File: a/new.txt",
            "+new",
            "*** Update File: notes/a.txt",
            "*** Move to: notes/b.txt",
            " alpha",
            "-beta",
            "+gamma",
            "*** Delete File: old.txt",
        ),
    )

    assert answer == "Applied the patch:\nA a/new.txt\nR notes/a.txt -> notes/b.txt\nD old.txt"
    files = {
        str(path.relative_to(workspace)): content(path) for path in workspace.rglob("*") if path.is_file()
    }
    assert files == {"a/new.txt": b"new\n", "notes/b.txt": b"alpha\ngamma\n"}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("*** Update File: notes/a.txt", "-nowhere", "+x"), "notes/a.txt: Hunk 1: these lines are not in"),
        (("*** Update File: missing", "-a", "+x"), "missing: No such file"),
        (("*** Delete File: missing",), "missing: No such file"),
        (("*** Delete File: notes",), "notes: not a regular file"),
        (("*** Add File: notes/a.txt", "+x"), "notes/a.txt: exists already"),
        (("*** Update File: notes/a.txt", "*** Move to: b.txt", "-alpha", "+x"), "b.txt: exists already"),
        (("*** Add File: new.txt", "+again"), "new.txt: in the patch twice"),
        (("*** Add File: new.txt/below", "+x"), "new.txt/below: in the patch twice"),
        (("*** Update File: fixed", "-a", "+x"), "fixed: read-only"),
        (("*** Delete File: fixed",), "fixed: read-only"),
        (("*** Update File: latin", "-a", "+x"), "latin: not UTF-8 text"),
        (("*** Delete File: ../secret/key.txt",), "../secret/key.txt: outside the workspace"),
        (("*** Add File: notes/a.txt/b", "+x"), "notes/a.txt/b: Not a directory"),
        (("*** Update File: notes/a.txt", "*** Move to: ../out", "-alpha", "+x"), "../out: outside"),
    ],
)
def test_a_patch_that_fits_in_part_changes_nothing(
    workspace: Path, refusal: Call, lines: tuple[str, ...], reason: str
) -> None:
    (workspace / "b.txt").write_text("b")
    (workspace / "fixed").write_text("a\n")
    (workspace / "fixed").chmod(0o444)
    (workspace / "latin").write_bytes(b"a\xff\n")
    before = snapshot(workspace.parent)

    assert refusal("apply_patch", **patch("*** Add File: new.txt", "+new", *lines)).startswith(reason)

    assert snapshot(workspace.parent) == before


def test_a_file_too_large_for_a_patch_is_refused(workspace: Path, refusal: Call) -> None:
    (workspace / "big").write_bytes(b"x" * (2 * 2**20 + 1))

    assert refusal("apply_patch", **patch("*** Update File: big", "-x", "+y")).startswith(
        "big: larger than 2 MB"
    )


# Listing and searching


def test_a_directory_is_listed(workspace: Path, call: Call) -> None:
    (workspace / "b\nc").touch()
    (workspace / "link").symlink_to("notes")

    assert call("ls") == "b?c\nlink@\nnotes/"
    assert call("ls", path="notes") == "a.txt"
    (workspace / "notes" / "a.txt").unlink()
    assert call("ls", path="link") == "[The directory is empty.]"


@pytest.mark.parametrize(
    ("name", "arguments", "found"),
    [
        ("ls", {}, "[The directory is empty.]"),
        ("find", {"pattern": "*"}, "Nothing found."),
        ("grep", {"pattern": "x"}, "No matches."),
    ],
)
def test_a_workspace_that_is_not_there_yet_is_empty(
    tmp_path: Path, name: str, arguments: dict[str, Any], found: str
) -> None:
    assert found in TOOLS[name].function(context(tmp_path / "later"), arguments)


def test_a_long_listing_is_cut(workspace: Path, call: Call) -> None:
    for number in range(5):
        (workspace / "notes" / f"{number}").touch()

    assert call("ls", path="notes", limit=2) == "0\n1\n[4 more entries; ask with a higher limit or use find.]"


@pytest.fixture
def tree(workspace: Path) -> Path:
    for name, text in {
        "src/main.py": "import os\nprint('Hello')\n# end\n",
        "src/deep/util.py": "def hello():\n    pass\n",
        "src/app.ts": "hello();\n",
        "README.md": "Say hello.\r\nBye.\r\n",
        ".git/config": "hello",
        "node_modules/x/index.js": "hello",
        "binary": "hello\0",
    }.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_bytes(text.encode())
    return workspace


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            {"pattern": "hello"},
            ["README.md:1: Say hello.", "src/app.ts:1: hello();", "src/deep/util.py:1: def hello():"],
        ),
        (
            {"pattern": "hello", "ignoreCase": True, "glob": "*.py"},
            ["src/main.py:2: print('Hello')", "src/deep/util.py:1: def hello():"],
        ),
        ({"pattern": "hello", "glob": "src/**/*.{py,js}"}, ["src/deep/util.py:1: def hello():"]),
        ({"pattern": "o()", "literal": True}, ["src/app.ts:1: hello();", "src/deep/util.py:1: def hello():"]),
        ({"pattern": "^Bye.$"}, ["README.md:2: Bye."]),
        ({"pattern": "hello", "path": "src/deep"}, ["src/deep/util.py:1: def hello():"]),
        ({"pattern": "l", "path": "README.md"}, ["README.md:1: Say hello."]),
        (
            {"pattern": "Hello", "context": 1},
            ["src/main.py-1- import os", "src/main.py:2: print('Hello')", "src/main.py-3- # end"],
        ),
        ({"pattern": "^$"}, None),
    ],
)  # fmt: skip
def test_lines_are_found(tree: Path, call: Call, arguments: dict[str, Any], lines: list[str] | None) -> None:
    answer = call("grep", **arguments)

    assert answer == "No matches." if lines is None else inside(answer).split("\n") == lines


def test_matches_close_together_share_their_context(workspace: Path, call: Call) -> None:
    (workspace / "f").write_text("1\nx\n3\nx\n5\n6\n7\n8\nx\n")

    assert inside(call("grep", pattern="x", path="f", context=1)).split("\n") == [
        "f-1- 1", "f:2: x", "f-3- 3", "f:4: x", "f-5- 5", "--", "f-8- 8", "f:9: x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("*.py", ".", ["src/main.py", "src/deep/util.py"]),
        ("src/*.py", ".", ["src/main.py"]),
        ("./src/**/*.py", ".", ["src/main.py", "src/deep/util.py"]),
        ("**/deep", ".", ["src/deep/"]),
        ("*.{ts,md}", ".", ["README.md", "src/app.ts"]),
        ("[!a]?in.*", "src", ["src/main.py"]),
        ("util.py", "src/deep", ["src/deep/util.py"]),
        ("*", "src/deep", ["src/deep/util.py"]),
        ("config", ".", ["Nothing found."]),
        ("*.PY", ".", ["Nothing found."]),
        ("a,b}", ".", ["Nothing found."]),
    ],
)
def test_files_are_found_by_name(tree: Path, call: Call, pattern: str, path: str, found: list[str]) -> None:
    assert call("find", pattern=pattern, path=path).split("\n") == found


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("grep", {"pattern": "("}, "The pattern cannot be understood: missing )"),
        ("grep", {"pattern": "a", "glob": "{a"}, "The pattern cannot be understood: a brace is not closed"),
        ("find", {"pattern": "{a"}, "The pattern cannot be understood: a brace is not closed"),
        ("grep", {"pattern": ""}, "The arguments are not right: pattern"),
        ("grep", {"pattern": "a", "limit": 0}, "The arguments are not right: limit"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    refusal: Call, name: str, arguments: dict[str, Any], reason: str
) -> None:
    assert refusal(name, **arguments).startswith(reason)


def test_too_many_matches_are_cut(workspace: Path, call: Call) -> None:
    (workspace / "many").write_text("x\n" * 10_000)
    (workspace / "long").write_text(("x" * 2_000 + "\n") * 1_000)

    few = call("grep", pattern="x", path="many", limit=3)
    much = call("grep", pattern="x", path="long", limit=1_000)
    names = call("find", pattern="*", limit=1)

    assert inside(few.rpartition("\n")[0]).split("\n") == ["many:1: x", "many:2: x", "many:3: x"]
    assert few.endswith("[More matches were left out; narrow the search or raise the limit.]")
    assert len(much) < 60_000
    assert much.endswith("[More matches were left out, there is too much text; narrow the search.]")
    assert names.endswith("[More matches were left out; narrow the search or raise the limit.]")


def test_a_huge_file_is_left_out_and_said_to_be(workspace: Path, call: Call) -> None:
    with (workspace / "huge").open("wb") as file:
        file.truncate(11 * 2**20)

    assert call("grep", pattern="nothing") == "No matches.\n[1 files were too large to be searched.]"


def test_a_deep_tree_is_searched_to_some_depth(workspace: Path, call: Call) -> None:
    deep = workspace
    for number in range(130):
        deep /= "d"
        deep.mkdir()
        (deep / "f").write_text(f"x{number}")

    assert len(call("find", pattern="f").split("\n")) == 100


def test_a_search_that_runs_out_of_time_says_so_and_keeps_what_it_has(tree: Path) -> None:
    program = Path(search.__file__).with_name("search_child.py")
    job: dict[str, JsonValue] = {
        "kind": "find", "glob": "*", "limit": 9, "root": str(tree), "parts": [], "name": ".", "seconds": 0
    }  # fmt: skip

    answer = run_child(program, job, timeout=20, cancel=CancelToken())

    assert answer == {"lines": [], "stopped": "time", "huge": 0}


def test_cancelling_ends_a_search_that_is_stuck(workspace: Path) -> None:
    (workspace / "f").write_text("a" * 40 + "b")
    cancel = CancelToken()
    others = set(psutil.Process().children())

    def stop() -> None:
        wait_for(lambda: any(busy(child) for child in set(psutil.Process().children()) - others))
        cancel.cancel(CancelReason.USER)

    thread = threading.Thread(target=stop)
    thread.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        TOOLS["grep"].function(context(workspace, cancel), {"pattern": "(a+)+$"})
    thread.join()

    assert time.monotonic() - began < 10
    assert set(psutil.Process().children()) <= others


def busy(child: psutil.Process) -> bool:
    try:
        return child.cpu_times().user > 0.2
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


# Escapes


def attempts(name: str) -> list[tuple[str, dict[str, str]]]:
    """Every tool, aimed at the file or directory ``name``."""
    return [
        ("read", {"path": name}),
        ("write", {"path": name, "content": "owned"}),
        ("edit", {"path": name, "oldText": "hush", "newText": "owned"}),
        ("apply_patch", patch(f"*** Add File: {name}", "+owned")),
        ("apply_patch", patch(f"*** Update File: {name}", "-hush", "+owned")),
        ("apply_patch", patch(f"*** Delete File: {name}")),
        ("apply_patch", patch("*** Update File: notes/a.txt", f"*** Move to: {name}", "-alpha", "+owned")),
        ("ls", {"path": name}),
        ("grep", {"pattern": "hush", "path": name}),
        ("find", {"pattern": "*", "path": name}),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../secret/key.txt",
        "notes/../../secret/key.txt",
        "..",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "/dev/zero",
        "link",
        "folder/key.txt",
        "folder/new.txt",
        "far/../key.txt",
        "chain",
        "proc/environ",
        "proc/root/etc/passwd",
        "dangling",
    ],
)
def test_no_tool_leaves_the_workspace(workspace: Path, call: Call, refusal: Call, name: str) -> None:
    secret = workspace.parent / "secret"
    (workspace / "link").symlink_to(secret / "key.txt")
    (workspace / "folder").symlink_to("../secret")
    (secret / "sub").mkdir()
    (workspace / "far").symlink_to(secret / "sub")
    (workspace / "chain").symlink_to("link")
    (workspace / "proc").symlink_to("/proc/self")
    (workspace / "dangling").symlink_to(secret / "not-there-yet")
    before = snapshot(workspace.parent)

    texts = {refusal(tool, **arguments) for tool, arguments in attempts(name)}

    assert texts == {f"{name}: outside the workspace"}
    assert snapshot(workspace.parent) == before


def test_an_absolute_path_to_the_other_directories_is_for_readers_only(workspace: Path) -> None:
    other = workspace.parent / "secret"
    facts = context(workspace, readable=(other,))

    assert inside(TOOLS["read"].function(facts, {"path": str(other / "key.txt")})) == "hush\n"
    assert TOOLS["ls"].function(facts, {"path": str(other)}) == "key.txt"
    assert TOOLS["find"].function(facts, {"pattern": "*", "path": str(other)}) == str(other / "key.txt")
    assert "hush" in inside(TOOLS["grep"].function(facts, {"pattern": "h", "path": str(other)}))
    for tool, arguments in attempts(str(other / "key.txt")):
        if tool in WRITERS:
            with pytest.raises(ToolError, match="outside the workspace"):
                TOOLS[tool].function(facts, arguments)


def test_searches_do_not_follow_links_out(workspace: Path, call: Call) -> None:
    (workspace / "folder").symlink_to("../secret")
    (workspace / "link").symlink_to("../secret/key.txt")

    assert call("grep", pattern="hush") == "No matches."
    assert "key.txt" not in call("find", pattern="**")


@pytest.mark.parametrize("kind", ["fifo", "socket", "notes"])
def test_what_is_not_a_file_is_refused_without_waiting(
    workspace: Path, call: Call, refusal: Call, kind: str
) -> None:
    os.mkfifo(workspace / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(workspace / "socket"))
    with server:
        before = set(snapshot(workspace))

        for tool, arguments in attempts(kind):
            if tool in {"read", *WRITERS} or kind != "notes":
                assert refusal(tool, **arguments).startswith(f"{kind}: ")
        assert call("grep", pattern="alpha") == call("grep", pattern="alpha", path="notes").replace(
            "content: notes", "content: files of the workspace"
        )
        assert set(snapshot(workspace)) == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read", {}),
        ("edit", {"oldText": "a", "newText": "b"}),
        ("ls", {}),
        ("grep", {"pattern": "a"}),
        ("find", {"pattern": "a"}),
    ],
)
def test_a_missing_file_is_said_to_be_missing(refusal: Call, name: str, arguments: dict[str, str]) -> None:
    assert refusal(name, path="notes/missing", **arguments) == "notes/missing: No such file or directory"


@pytest.mark.parametrize("name", ["write", "edit"])
def test_a_read_only_file_stays_as_it_is(workspace: Path, refusal: Call, name: str) -> None:
    (workspace / "notes" / "a.txt").chmod(0o444)
    arguments = {"write": {"content": "x"}, "edit": {"oldText": "alpha", "newText": "x"}}[name]

    assert refusal(name, path="notes/a.txt", **arguments) == "notes/a.txt: read-only"
    assert (workspace / "notes" / "a.txt").read_text() == "alpha\nbeta\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a\xffalpha", "not UTF-8 text (byte 1)"),
        (b"x" * (10 * 2**20 + 1), "larger than 10 MB, too large for this tool"),
    ],
    ids=["not UTF-8", "too large"],
)
def test_a_file_that_cannot_be_edited_faithfully_is_left_alone(
    workspace: Path, refusal: Call, data: bytes, reason: str
) -> None:
    (workspace / "f").write_bytes(data)

    assert refusal("edit", path="f", oldText="alpha", newText="b") == f"f: {reason}"
    assert (workspace / "f").read_bytes() == data


def test_no_descriptor_is_left_open(workspace: Path, call: Call) -> None:
    before = psutil.Process().num_fds()

    for name in ("notes/a.txt", "notes", "missing", "notes/a.txt/b", "../secret/key.txt", "/dev/null"):
        for tool, arguments in attempts(name):
            try:
                call(tool, **arguments)
            except ToolError:
                continue

    assert psutil.Process().num_fds() == before


@contextmanager
def swapping(folder: Path, outside: Path) -> Iterator[Callable[[], int]]:
    """``folder`` is itself and a link to ``outside`` by turns; yields a count of the turns."""
    done, turns = threading.Event(), 0
    aside = folder.with_name("aside")

    def swap() -> None:
        nonlocal turns
        while not done.is_set():
            insist(lambda: folder.rename(aside))
            insist(lambda: folder.symlink_to(outside))
            folder.unlink()
            insist(lambda: aside.rename(folder))
            turns += 1

    def insist(change: Callable[[], object]) -> None:
        while True:
            try:
                change()
            except OSError:  # a writer has just created the directory that was away
                shutil.rmtree(folder, ignore_errors=True)
            else:
                return

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield lambda: turns
    finally:
        done.set()
        thread.join()


def test_a_link_swapped_in_between_check_and_use_is_no_way_out(workspace: Path, call: Call) -> None:
    """Directories are swapped as fast as a thread can while every tool works in them."""
    (workspace / "notes" / "key.txt").write_text("ours\n")
    secret = workspace.parent / "secret"
    before = snapshot(secret)
    outcomes: set[str] = set()
    deadline = time.monotonic() + 2.0

    with swapping(workspace / "notes", secret) as turns:
        while time.monotonic() < deadline:
            for tool, arguments in attempts("notes/key.txt")[:3]:
                try:
                    outcomes.add(call(tool, **arguments))
                except ToolError as error:
                    outcomes.add(str(error))
            try:
                outcomes.add(call("apply_patch", **patch("*** Add File: notes/new.txt", "+owned")))
                outcomes.add(call("apply_patch", **patch("*** Delete File: notes/new.txt")))
            except ToolError as error:
                outcomes.add(str(error))

    assert turns() > 100
    assert "Wrote 5 bytes to notes/key.txt." in outcomes  # it works in between
    assert "notes/key.txt: outside the workspace" in outcomes
    assert not [text for text in outcomes if "hush" in text]
    assert snapshot(secret) == before


def test_a_search_is_not_led_out_by_a_swapped_link(workspace: Path, call: Call) -> None:
    secret = workspace.parent / "secret"
    outcomes = set()

    with swapping(workspace / "notes", secret) as turns:
        for _ in range(12):
            try:
                outcomes.add(call("grep", pattern="hush|alpha", path="."))
                outcomes.add(call("find", pattern="key.txt", path="notes"))
            except ToolError as error:
                outcomes.add(str(error))

    assert turns() > 100
    assert not [text for text in outcomes if "hush" in text or "key.txt" in text]
