"""Patches: read as models write them, and applied exactly or not at all."""

from __future__ import annotations

from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tools.patch import AddFile, DeleteFile, Hunk, UpdateFile, apply_hunks, parse_patch
from app.tools.registry import ToolError


def patch(*lines: str) -> str:
    return "\n".join(("*** Begin Patch", *lines, "*** End Patch"))


def apply(text: str, *lines: str) -> str:
    [change] = parse_patch(patch("*** Update File: f", *lines))
    assert isinstance(change, UpdateFile)
    return apply_hunks(text, change.hunks)


def refusal(text: str, *lines: str) -> str:
    with pytest.raises(ToolError) as caught:
        apply(text, *lines)
    return str(caught.value)


def test_every_part_of_the_form_is_understood() -> None:
    text = patch(
        "*** Add File: a dir/new.txt",
        "+one",
        "+",
        "++two",
        "",
        "*** Update File: old.py",
        "*** Move to: new.py",
        "@@ class A:",
        "@@   def f():",
        " kept",
        "",
        "-out",
        "+in",
        "@@",
        "-last",
        "*** End of File",
        "*** Delete File: gone",
        "*** Update File: moved",
        "*** Move to: away",
    )

    assert parse_patch(f"\n{text}\n\n") == (
        AddFile("a dir/new.txt", "one\n\n+two\n"),
        UpdateFile(
            "old.py",
            (
                Hunk(("class A:", "  def f():"), ((" ", "kept"), (" ", ""), ("-", "out"), ("+", "in"))),
                Hunk((), (("-", "last"),), at_end=True),
            ),
            "new.py",
        ),
        DeleteFile("gone"),
        UpdateFile("moved", (), "away"),
    )


def test_line_numbers_of_other_formats_are_not_looked_for() -> None:
    assert apply("a\nb\n", "@@ -7,2 +7,2 @@", "-b", "+c") == "a\nc\n"
    assert apply("b\ndef f():\nb\n", "@@ -7 +7 @@ def f():", "-b", "+c") == "b\ndef f():\nc\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with the line"),
        ("*** Begin Patch", "begins with the line"),
        ("--- a\n+++ b\n", "begins with the line"),
        (patch(), "changes nothing"),
        (patch("nonsense"), "near its line 2: expected a line with"),
        (patch("*** Delete File: "), "near its line 2: expected a line with"),
        (patch("*** Update File: f"), "expected changes of f"),
        (patch("*** Update File: f", "@@", " only context"), 'lines that begin with "-" or "[+]"'),
        (patch("*** Update File: f", "no sign"), 'lines that begin with "-" or "[+]"'),
        (patch("*** Add File: f", "no plus"), "expected a line with"),
        (patch("*** Delete File: f", "-x"), "expected a line with"),
    ],
)
def test_what_is_no_patch_is_refused_in_words(text: str, reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        parse_patch(text)


def test_hunks_are_applied_from_top_to_bottom() -> None:
    assert apply("a\nb\nc\nd\n", "@@", " a", "-b", "+B", "@@", "-d", "+D", "+E") == "a\nB\nc\nD\nE\n"
    assert "Hunk 2: these lines are not in the file" in refusal("a\nb\n", "-b", "+B", "@@", "-a", "+A")


def test_an_anchor_says_which_of_several_places() -> None:
    text = "class A:\n    def f():\n        x\nclass B:\n    def f():\n        x\n        x\n"

    changed = apply(text, "@@ class B:", "@@ def f():", "-        x", "+        y")

    assert changed == "class A:\n    def f():\n        x\nclass B:\n    def f():\n        y\n        x\n"


def test_an_ambiguous_place_is_refused() -> None:
    assert "more than once" in refusal("x\ny\nx\n", "-x", "+z")


def test_a_missing_place_is_refused_and_shown() -> None:
    assert refusal("a\n", " a", "-b") == (
        "Hunk 1: these lines are not in the file (or not below the @@ line or the hunk before):\na\nb"
    )
    assert refusal("a\n", "@@ nowhere", "-a").startswith('Hunk 1: no line is "nowhere"')


def test_lines_without_a_place_go_to_the_end_or_below_the_anchor() -> None:
    assert apply("a\nb\n", "+c") == "a\nb\nc\n"
    assert apply("a\nb\n", "@@ a", "+c") == "a\nc\nb\n"
    assert apply("", "+c") == "c\n"


def test_the_end_of_the_file_is_meant_where_it_is_named() -> None:
    assert apply("x\ny\nx\n", "-x", "+z", "*** End of File") == "x\ny\nz\n"
    assert "does not end with" in refusal("x\ny\n", "-x", "+z", "*** End of File")


def test_white_space_at_line_ends_is_overlooked_only_where_nothing_fits_exactly() -> None:
    assert apply("a  \nb\t\n", " a", "-b", "+c") == "a  \nc\n"
    assert apply("a \nb\na\nb\n", " a", "-b", "+c") == "a \nb\na\nc\n"
    assert "not in the file" in refusal("  a\n", "-a", "+b")


def test_line_ends_stay_what_they_are() -> None:
    assert apply("a\r\nb\r\n", " a", "-b", "+c") == "a\r\nc\r\n"
    assert apply("a\nb", "-b", "+c") == "a\nc"
    assert apply("a\r\nb\n", " a", "-b", "+c") == "a\r\nc\n"


def test_a_patch_with_other_line_ends_is_the_same_patch() -> None:
    text = patch("*** Update File: f", " a", "-b", "+c")

    assert parse_patch(text.replace("\n", "\r\n")) == parse_patch(text)


def test_a_file_may_lose_all_its_lines() -> None:
    assert apply("a\nb\n", "-a", "-b") == ""
    assert apply("a", "-a") == ""


TRICKY = [
    "",
    " ",
    "a",
    "a ",
    "\ta",
    "+a",
    "-a",
    "@@",
    "@@ a",
    "*** End Patch",
    "*** End of File",
    "\x0c",
    "b\u2028c",
]
LINES = st.lists(
    st.sampled_from(TRICKY) | st.text(st.characters(exclude_characters="\r\n"), max_size=4), max_size=14
)


def hunks_of(old: list[str], new: list[str], context: int) -> list[str]:
    """What turns ``old`` into ``new``, with so many unchanged lines around each change."""
    lines: list[str] = []
    for group in SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(context):
        lines.append("@@")
        for kind, i, j, k, l in group:  # noqa: E741
            lines += [f" {line}" for line in old[i:j]] if kind == "equal" else []
            if kind != "equal":
                lines += [f"-{line}" for line in old[i:j]]
                lines += [f"+{line}" for line in new[k:l]]
    return lines


def joined(lines: list[str], closed: bool) -> str:
    return "".join(f"{line}\n" for line in lines) if closed else "\n".join(lines)


@settings(deadline=None)
@given(LINES, LINES)
def test_a_patch_with_the_whole_file_as_context_gives_exactly_the_new_file(
    old: list[str], new: list[str]
) -> None:
    if old != new:
        assert apply(joined(old, True), *hunks_of(old, new, 100)) == joined(new, True)


@settings(deadline=None)
@given(LINES, LINES, st.integers(1, 3), st.booleans())
def test_a_patch_gives_exactly_the_new_file_where_its_places_are_clear(
    old: list[str], new: list[str], context: int, closed: bool
) -> None:
    # A line that says which one it is, as most lines of a real file do; the last one is not empty.
    old = [f"{line}{number}" for number, line in enumerate(old)] + ["end"]
    new = [line if number % 3 else f"{line}new" for number, line in enumerate(old[:-1] + new)] + ["end"]
    if old != new:
        assert apply(joined(old, closed), *hunks_of(old, new, context)) == joined(new, closed)


@settings(deadline=None)
@given(LINES, LINES, st.integers(1, 3))
def test_a_patch_never_changes_another_place_than_the_one_meant(
    old: list[str], new: list[str], context: int
) -> None:
    if old != new:
        changed = outcome(joined(old, True), hunks_of(old, new, context))

        assert "more than once" in changed or changed == joined(new, True)


def outcome(text: str, hunks: list[str]) -> str:
    try:
        return apply(text, *hunks)
    except ToolError as error:
        return str(error)


def test_a_hostile_file_is_searched_in_no_time() -> None:
    text = "x\n" * 500_000
    block = [" x"] * 5_000

    assert "not in the file" in refusal(text, *block, "-y")
