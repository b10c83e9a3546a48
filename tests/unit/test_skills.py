"""Which skills an agent is offered, and what it is told about them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from app.agents.skills import Skill, SkillEntry, Skills, SkillSettings, prompt_section, skill_env

NEEDS_NOTHING = SkillSettings(platform="linux")


def add(root: Path, name: str, extra: str = "", *, description: str = "Does it.", folder: str = "") -> Path:
    return put(root, folder or name, f"---\nname: {name}\ndescription: {description}\n{extra}\n---\n# How\n")


def put(root: Path, folder: str, text: str) -> Path:
    file = root / folder / "SKILL.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def names(skills: Iterable[Skill]) -> list[str]:
    return [skill.name for skill in skills]


def offered(root: Path, settings: SkillSettings = NEEDS_NOTHING) -> list[str]:
    return names(Skills([root], settings).current())


def openclaw(**gates: object) -> str:
    return f"metadata: {json.dumps({'openclaw': gates})}"


def test_a_skill_is_a_folder_with_a_named_and_described_file(tmp_path: Path) -> None:
    file = add(tmp_path, "weather", description="Forecasts\n  for any place.")
    (tmp_path / "empty").mkdir()
    (tmp_path / "SKILL.md").write_text("---\nname: stray\ndescription: No folder.\n---\n")

    assert Skills([tmp_path], NEEDS_NOTHING).current() == (
        Skill("weather", "Forecasts for any place.", file, {}),
    )


def test_a_root_that_does_not_exist_has_no_skills(tmp_path: Path) -> None:
    assert offered(tmp_path / "nowhere") == []


def test_of_two_skills_of_one_name_the_one_of_the_later_root_counts(tmp_path: Path) -> None:
    low, middle, high = (tmp_path / name for name in ("extra", "state", "workspace"))
    for root in (low, middle, high):
        add(root, "shared", description=f"of {root.name}")
    add(low, "low", folder="zzz")
    add(middle, "zzz-in-middle")

    skills = Skills([low, middle, high], NEEDS_NOTHING).current()

    assert [(skill.name, skill.description) for skill in skills] == [
        ("low", "Does it."),
        ("shared", "of workspace"),
        ("zzz-in-middle", "Does it."),
    ]


def test_a_skill_that_may_not_be_offered_still_hides_the_one_below_it(tmp_path: Path) -> None:
    add(tmp_path / "low", "shared")
    add(tmp_path / "high", "shared", openclaw(os=["darwin"]))

    assert Skills([tmp_path / "low", tmp_path / "high"], NEEDS_NOTHING).current() == ()


@pytest.mark.parametrize(
    ("gates", "ready"),
    [
        ({"os": ["linux", "darwin"]}, True),
        ({"os": ["darwin"]}, False),
        ({"os": "linux"}, True),
        ({"requires": {"bins": ["tool"]}}, True),
        ({"requires": {"bins": ["tool", "missing"]}}, False),
        ({"requires": {"bins": ["not-executable"]}}, False),
        ({"requires": {"bins": ["/bin/sh"]}}, False),
        ({"requires": {"anyBins": ["missing", "tool"]}}, True),
        ({"requires": {"anyBins": ["missing"]}}, False),
        ({"requires": {"env": ["TOKEN"]}}, True),
        ({"requires": {"env": ["TOKEN", "MISSING"]}}, False),
        ({"requires": {"env": ["EMPTY"]}}, False),
        ({"requires": {"env": ["SET_FOR_IT"]}}, True),
        ({"requires": {"env": ["ITS_KEY"]}}, False),
        ({"requires": {"env": ["ITS_KEY"]}, "primaryEnv": "ITS_KEY"}, True),
        ({"requires": {"config": ["browser.enabled"]}}, True),
        ({"requires": {"config": ["browser.headless"]}}, False),
        ({"requires": {"config": ["browser.enabled.deeper"]}}, False),
        ({"requires": {"bins": ["missing"]}, "always": True}, True),
        ({"os": ["darwin"], "always": True}, False),
        ({"emoji": "🌤", "install": [{"kind": "brew"}], "requires": None}, True),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_skill_is_offered_if_everything_is_there_that_it_needs(
    tmp_path: Path, gates: dict[str, object], ready: bool, as_text: bool
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "tool").touch(mode=0o755)
    (programs / "not-executable").touch(mode=0o644)
    metadata = json.dumps({"openclaw": gates}, ensure_ascii=False)
    add(
        tmp_path / "skills",
        "skill",
        f"metadata: {json.dumps(metadata, ensure_ascii=False) if as_text else metadata}",
    )
    settings = SkillSettings(
        entries={"skill": SkillEntry(env={"SET_FOR_IT": "1"}, api_key="sk-1")},
        environment={"PATH": str(programs), "TOKEN": "t", "EMPTY": ""},
        config={"browser": {"enabled": True, "headless": False}},
        platform="linux",
    )

    assert offered(tmp_path / "skills", settings) == (["skill"] if ready else [])


def test_metadata_in_yaml_of_several_lines_and_under_an_older_name_counts(tmp_path: Path) -> None:
    add(tmp_path, "block", "metadata:\n  openclaw:\n    os:\n      - darwin")
    add(tmp_path, "flow", 'metadata:\n  {\n    "clawdbot":\n      { "os": ["darwin"], },\n  }')
    add(tmp_path, "foreign", 'metadata: {"another-program": {"os": ["darwin"]}}\nlicense: MIT')
    add(tmp_path, "blank", "metadata:\nallowed-tools:")

    assert offered(tmp_path) == ["blank", "foreign"]


def test_what_the_owner_switched_off_or_the_author_hid_is_not_offered(tmp_path: Path) -> None:
    for name in ("off", "on"):
        add(tmp_path, name)
    add(tmp_path, "by-key", openclaw(skillKey="key-of-it"))
    add(tmp_path, "hidden", "disable-model-invocation: true")
    entries = {"off": SkillEntry(enabled=False), "key-of-it": SkillEntry(enabled=False), "gone": SkillEntry()}

    assert offered(tmp_path, SkillSettings(entries=entries)) == ["on"]


def test_a_skill_brings_its_variables_and_never_shows_them(tmp_path: Path) -> None:
    add(tmp_path, "plain")
    add(tmp_path, "keyed", openclaw(primaryEnv="SERVICE_KEY"))
    entries = {
        "plain": SkillEntry(env={"REGION": "north"}, api_key="sk-nobody-asked"),
        "keyed": SkillEntry(env={"MODE": "fast"}, api_key="sk-secret"),
    }
    settings = SkillSettings(entries=entries, environment={"HOST_SECRET": "hush"})

    skills = Skills([tmp_path], settings).current()

    assert skill_env(skills) == {"REGION": "north", "SERVICE_KEY": "sk-secret", "MODE": "fast"}
    shown = repr(skills) + repr(settings) + prompt_section(skills, tmp_path)
    assert "sk-" not in shown
    assert "hush" not in shown


STEPS = zip("abcdefgh", "bcdefghi", strict=True)
ALIAS_BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in STEPS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# No front matter\n",
        "---\nname: a\ndescription: never ends\n",
        "---\n---\n",
        "---\njust text\n---\n",
        "---\n- a\n- list\n---\n",
        "---\nname: a\n---\n",
        "---\ndescription: nameless\n---\n",
        "---\nname:\ndescription: blank name\n---\n",
        "---\nname: a\ndescription: ''\n---\n",
        "---\nname: [a]\ndescription: list\n---\n",
        f"---\nname: {'a' * 65}\ndescription: long name\n---\n",
        '---\nname: "a\\nb"\ndescription: two lines\n---\n',
        "---\nname: a\ndescription: bad: colon\n---\n",
        "---\nname: a\n\tdescription: tab\n---\n",
        "---\nname: a\ndescription: d\nmetadata: '{not json'\n---\n",
        "---\nname: a\ndescription: d\nmetadata: [1]\n---\n",
        '---\nname: a\ndescription: d\nmetadata: {"openclaw": {"requires": {"bins": {"a": 1}}}}\n---\n',
        f"---\nname: a\ndescription: d\n{ALIAS_BOMB}---\n",
        "---\nname: &n a\ndescription: *n\n---\n",
        "---\nname: a\ndescription: d\nx: " + "[" * 50_000 + "\n---\n",
        "---\nname: a\ndescription: d\nx: " + "{a: " * 15_000 + "\n---\n",
        "---\n" + "- " * 30_000 + "\n---\n",
        "---\nname: a\ndescription: d\nx: [" + "a, " * 20_000 + "]\n---\n",
        "---\nname: a\ndescription: d\n#" + "x" * 70_000 + "\n---\n",
        "---\nname: !!python/object/apply:os.system [touch /tmp/x]\ndescription: d\n---\n",
    ],
)
def test_a_broken_skill_is_left_out_with_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    put(tmp_path, "broken", text)
    add(tmp_path, "good")
    skills = Skills([tmp_path], NEEDS_NOTHING)
    start = time.thread_time()

    with caplog.at_level(logging.WARNING, "openclaw.skills"):
        assert names(skills.current()) == ["good"]
        assert names(skills.current()) == ["good"]

    assert time.thread_time() - start < 1
    [record] = caplog.records
    assert "broken" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_tags_make_no_objects(tmp_path: Path) -> None:
    put(tmp_path, "tagged", "---\nname: !!python/name:os.system a\ndescription: !!int d\n---\n")

    assert [(s.name, s.description) for s in Skills([tmp_path], NEEDS_NOTHING).current()] == [("a", "d")]


@pytest.mark.parametrize("mark", ["\ufeff---\n", "---  \r\n"])
def test_files_of_other_systems_are_understood(tmp_path: Path, mark: str) -> None:
    put(tmp_path, "a", "")
    (tmp_path / "a" / "SKILL.md").write_bytes(f"{mark}name: a\r\ndescription: d\r\n---\r\n".encode())

    assert offered(tmp_path) == ["a"]


def test_links_that_leave_their_root_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    add(root, "inside", folder="real")
    outside = add(tmp_path / "elsewhere", "outside")
    (root / "folder").symlink_to(outside.parent)
    (root / "file").mkdir()
    (root / "file" / "SKILL.md").symlink_to(outside)
    (root / "stays").symlink_to("real")

    assert offered(root) == ["inside"]
    assert len(caplog.records) == 2


def test_what_is_no_regular_file_is_left_out_without_waiting(tmp_path: Path) -> None:
    for name in ("fifo", "folder", "circle", "device"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo" / "SKILL.md")
    (tmp_path / "folder" / "SKILL.md").mkdir()
    (tmp_path / "circle" / "SKILL.md").symlink_to("SKILL.md")
    (tmp_path / "device" / "SKILL.md").symlink_to("/dev/zero")
    (tmp_path / ".hidden").mkdir()
    add(tmp_path, "hidden", folder=".hidden")
    add(tmp_path, "odd", folder="a\nb")

    assert offered(tmp_path) == []


def test_changes_on_disk_are_seen(tmp_path: Path) -> None:
    skills = Skills([tmp_path], NEEDS_NOTHING)
    assert skills.current() == ()

    file = add(tmp_path, "a", description="old")
    assert [skill.description for skill in skills.current()] == ["old"]

    file.write_text("---\nname: a\ndescription: newer\n---\n")
    assert [skill.description for skill in skills.current()] == ["newer"]

    add(tmp_path, "b")
    assert names(skills.current()) == ["a", "b"]

    file.unlink()
    assert names(skills.current()) == ["b"]


def test_a_program_that_is_installed_later_is_seen(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    add(tmp_path / "skills", "a", openclaw(requires={"bins": ["tool"]}))
    skills = Skills([tmp_path / "skills"], SkillSettings(environment={"PATH": str(programs)}))
    assert skills.current() == ()

    (programs / "tool").touch(mode=0o755)

    assert names(skills.current()) == ["a"]


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path) -> None:
    file = add(tmp_path, "a", description="old")
    before = file.stat()
    skills = Skills([tmp_path], NEEDS_NOTHING)
    first = skills.current()

    # As long and as old as before: only somebody who reads it would notice.
    file.write_text(file.read_text().replace("old", "new"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert skills.current() is first

    add(tmp_path, "b")
    assert [skill.description for skill in skills.current()] == ["old", "Does it."]


def test_hundreds_of_skills_cost_a_run_almost_nothing(tmp_path: Path) -> None:
    for number in range(500):
        add(tmp_path, f"skill-{number:03}", openclaw(requires={"bins": ["sh"]}), description="word " * 100)
    skills = Skills([tmp_path], SkillSettings(environment={"PATH": os.defpath}))
    assert len(skills.current()) == 500

    start = time.thread_time()
    for _ in range(10):
        skills.current()

    assert (time.thread_time() - start) / 10 < 0.05


def test_a_long_list_is_cut_and_says_how_much_is_missing(tmp_path: Path) -> None:
    skills = [Skill(f"skill-{n:03}", "word " * 100, tmp_path / f"{n}" / "SKILL.md") for n in range(500)]

    section = prompt_section(skills, tmp_path)
    short = prompt_section([Skill(f"s{n}", "d", tmp_path / "SKILL.md") for n in range(500)], tmp_path)

    listed = section.count("\n- skill-")
    assert len(section) < 13_000
    assert 10 < listed < 100
    assert section.endswith(f"\n[{500 - listed} more are installed than fit into this list.]")
    assert max(len(line) for line in section.splitlines()[2:]) < 350
    assert short.count("\n- s") == 100
    assert "[400 more" in short


def test_a_skill_is_listed_by_name_description_and_place(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    skills = [
        Skill("own", "Of the workspace.", workspace / "skills" / "own" / "SKILL.md"),
        Skill("shared", "Of all agents.", tmp_path / "state" / "shared" / "SKILL.md"),
    ]

    lines = prompt_section(skills, workspace).splitlines()

    assert lines[0] == "## Skills"
    assert lines[2:] == [
        "- own: Of the workspace. (skills/own/SKILL.md)",
        f"- shared: Of all agents. ({tmp_path}/state/shared/SKILL.md)",
    ]
    assert prompt_section([], workspace) == ""


def test_a_skill_that_agents_can_write_themselves_gets_no_variables(tmp_path: Path) -> None:
    trusted, own = tmp_path / "state", tmp_path / "workspace"
    for root, name in ((trusted, "mail"), (own, "post")):
        (root / name).mkdir(parents=True)
        (root / name / "SKILL.md").write_text(f"---\nname: {name}\ndescription: Send.\n---\nSend.\n")
    secret = SkillEntry(env={"PASSWORD": "x"})
    settings = SkillSettings(entries={"mail": secret, "post": secret}, untrusted=frozenset({own}))

    skills = {skill.name: skill.env for skill in Skills((trusted, own), settings).current()}

    assert skills == {"mail": {"PASSWORD": "x"}, "post": {}}
