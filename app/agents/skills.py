"""Skills: folders whose ``SKILL.md`` tells an agent how a certain kind of task is done.

An agent is only told their names; it reads a file once a task calls for it. Whether a skill
is offered depends on what it needs (programs, variables, settings), which its front matter
says::

    ---
    name: weather
    description: Forecasts for any place. Use when somebody asks about the weather.
    metadata: {"openclaw": {"requires": {"bins": ["curl"]}}}
    ---

Front matter is written by strangers: it is read as plain text and lists, within limits, and
never as objects.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from shutil import which
from typing import Annotated, Any, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ..log import get_logger
from ..tools.files import read_inside
from ..tools.registry import ToolError
from ..wire import InvalidJson, loads

SKILL_FILE = "SKILL.md"

_MAX_FOLDERS = 1_000
_MAX_BYTES = 64 * 1024
_MAX_NODES = 2_000
# libyaml builds nested values by recursion in C: without a limit a few thousand brackets end the process.
_MAX_DEPTH = 16
_FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
# Skills name the program they were written for; the older names are still in use.
_OWNERS = ("openclaw", "clawdbot", "moltbot")

# As the base loader reads them, and as JSON says it.
_BLANK = ("", "null", "~", None)

_LISTED = 100
_LISTED_CHARS = 12_000
_DESCRIPTION_CHARS = 300
_HOW_TO = (
    "## Skills\n"
    "A skill is a folder with instructions for one kind of task. When a task matches one of these, read"
    " its file with `read` before you begin, and follow it; paths in it are relative to its folder."
    " Read no skill that the task does not need."
)

_log = get_logger("skills")


@dataclass(frozen=True, slots=True)
class SkillEntry:
    """What the owner has set for one skill.

    :ivar env: variables for the commands of an agent that has the skill.
    :ivar api_key: goes into the variable that the skill itself names for it.
    """

    enabled: bool = True
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SkillSettings:
    """What decides whether a skill is offered.

    :ivar entries: the owner's settings by the skill's name.
    :ivar untrusted: roots whose skills get no variables: agents can write there.
    :ivar environment: the variables that an agent's commands see, ``PATH`` among them.
    :ivar config: the configuration by its keys; a skill may want one of them to be set.
    """

    entries: Mapping[str, SkillEntry] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    config: Mapping[str, object] = field(default_factory=dict, repr=False)
    platform: str = sys.platform
    untrusted: frozenset[Path] = frozenset()


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill that an agent may use: ``path`` is its ``SKILL.md``, ``env`` is for commands."""

    name: str
    description: str
    path: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class Skills:
    """The skills of one agent, as they are on disk at the moment. Any thread may call any method."""

    def __init__(self, roots: Sequence[Path], settings: SkillSettings) -> None:
        """:param roots: directories of skill folders; of two skills of one name the later root's counts."""
        self.roots = tuple(roots)
        self._settings = settings
        self._programs = settings.environment.get("PATH", os.defpath)
        # Replaced as a whole and never changed, so that no lock is needed.
        self._snapshot = _Snapshot({}, (), {}, ())

    def current(self) -> tuple[Skill, ...]:
        """The skills on offer, by name.

        Looks at the directories each time, but reads only files that have changed. What is
        wrong with a file is logged once, and the skill left out.
        """
        stamps = {found: stamp for root in self.roots for found, stamp in _folders(root)}
        if not stamps:  # most agents have none: then nothing else matters
            return ()
        programs = tuple(_stamp(directory) for directory in self._programs.split(os.pathsep))
        before = self._snapshot
        if stamps == before.stamps and programs == before.programs:
            return before.skills
        manifests = {
            found: before.manifests[found] if before.stamps.get(found) == stamp else _read(*found)
            for found, stamp in stamps.items()
        }
        skills = tuple(_on_offer(manifests, self._settings, self._programs))
        self._snapshot = _Snapshot(stamps, programs, manifests, skills)
        return skills


def skill_env(skills: Iterable[Skill]) -> dict[str, str]:
    """The variables that all these skills bring along for commands."""
    return {name: value for skill in skills for name, value in skill.env.items()}


def prompt_section(skills: Sequence[Skill], workspace: Path) -> str:
    """What the system prompt says about ``skills``: how to use them and a line for each; "" for none.

    A very long list is cut, and its end says how many are missing.
    """
    if not skills:
        return ""
    inside = f"{workspace}/"
    lines: list[str] = []
    left = _LISTED_CHARS
    for skill in skills[:_LISTED]:
        line = f"- {skill.name}: {_cut(skill.description)} ({str(skill.path).removeprefix(inside)})"
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    if missing := len(skills) - len(lines):
        lines.append(f"[{missing} more are installed than fit into this list.]")
    return "\n".join((_HOW_TO, *lines))


_Found: TypeAlias = tuple[Path, str]
_Stamp: TypeAlias = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    stamps: Mapping[_Found, _Stamp]
    programs: tuple[_Stamp, ...]
    manifests: Mapping[_Found, _Manifest | None]
    skills: tuple[Skill, ...]


def _without_blanks(value: Any) -> Any:
    """``key:`` with nothing after it, or a null, says as much as no key."""
    return {k: v for k, v in value.items() if v not in _BLANK} if isinstance(value, dict) else value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return loads(value.encode())
    except InvalidJson as error:
        raise ValueError(f"is neither a mapping nor JSON: {error}") from None


def _own_part(value: Any) -> Any:
    metadata = _from_json(value)
    if not isinstance(metadata, dict):
        raise ValueError("must be a mapping")  # noqa: TRY004 - pydantic wants a ValueError
    return next((metadata[owner] for owner in _OWNERS if metadata.get(owner)), {})


_Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class _Part(BaseModel):
    """A part of the front matter; what we do not know in it is somebody else's business."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_blanks(cls, data: Any) -> Any:
        return _without_blanks(data)


class _Requires(_Part):
    bins: _Names = ()
    any_bins: _Names = Field(default=(), alias="anyBins")
    env: _Names = ()
    config: _Names = ()


class _Gates(_Part):
    always: bool = False
    os: _Names = ()
    requires: _Requires = _Requires()
    skill_key: str = Field(default="", alias="skillKey")
    primary_env: str = Field(default="", alias="primaryEnv")


_Name: TypeAlias = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=64, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")
]


class _Manifest(_Part):
    name: _Name
    description: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    gates: Annotated[_Gates, BeforeValidator(_own_part)] = Field(default=_Gates(), alias="metadata")
    hidden: bool = Field(default=False, alias="disable-model-invocation")


def _folders(root: Path) -> Iterator[tuple[_Found, _Stamp]]:
    """The skill folders in ``root`` in order of their names, and what tells that one has changed."""
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in islice(entries, _MAX_FOLDERS))
    except OSError:
        return
    for name in names:
        if name.isprintable() and not name.startswith("."):
            stamp = _stamp(os.path.join(root, name, SKILL_FILE))  # noqa: PTH118 - for every run
            if stamp is not None:
                yield (root, name), stamp


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - for every run
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(root: Path, folder: str) -> _Manifest | None:
    try:
        return _parse(read_inside(root, f"{folder}/{SKILL_FILE}", _MAX_BYTES).decode(errors="replace"))
    except ToolError as error:
        _log.warning("a skill is left out: %s", error)
    except (ValueError, yaml.YAMLError) as error:
        _log.warning("the skill in %s is left out: %s", root / folder, _reason(error))
    return None


def _parse(text: str) -> _Manifest:
    """:raises ValueError: there is no front matter, or not what a skill needs.
    :raises yaml.YAMLError: it is not YAML.
    """
    found = _FRONT_MATTER.match(text)
    if found is None:
        raise ValueError("it does not begin with front matter between two lines of ---")
    front_matter = found[1]
    _refuse_bombs(front_matter)
    # The base loader makes text, lists and mappings, nothing else.
    return _Manifest.model_validate(yaml.load(front_matter, Loader=_LOADER))  # noqa: S506 - a safe one


_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def _refuse_bombs(text: str) -> None:
    """:raises ValueError: the document would become much larger, or deeper, than it looks."""
    depth = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("anchors and aliases are not allowed in front matter")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or nodes > _MAX_NODES:
            raise ValueError("the front matter is too complicated")


def _reason(error: Exception) -> str:
    """One line that quotes nothing of the file but names of keys."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'front matter'}: {first['msg'].lower()}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem} (line {error.problem_mark.line + 2})"
    return str(error).partition("\n")[0]


def _on_offer(
    manifests: Mapping[_Found, _Manifest | None], settings: SkillSettings, programs: str
) -> Iterator[Skill]:
    """Of every name the last skill, if it may be offered."""
    by_name = {manifest.name: (found, manifest) for found, manifest in manifests.items() if manifest}
    for name, ((root, folder), manifest) in sorted(by_name.items()):
        gates = manifest.gates
        entry = settings.entries.get(gates.skill_key or name, SkillEntry())
        if root in settings.untrusted:  # whoever can write there would get the secrets by writing a name
            entry = SkillEntry(entry.enabled)
        env = {gates.primary_env: entry.api_key} if gates.primary_env and entry.api_key else {}
        env.update(entry.env)
        if entry.enabled and not manifest.hidden and _is_ready(gates, settings, env, programs):
            description = " ".join(manifest.description.split())
            yield Skill(name, description, root / folder / SKILL_FILE, env)


def _is_ready(gates: _Gates, settings: SkillSettings, env: Mapping[str, str], programs: str) -> bool:
    """True if everything is there that the skill needs."""
    if gates.os and settings.platform not in gates.os:
        return False
    if gates.always:
        return True
    needs = gates.requires
    return (
        all(_has_program(name, programs) for name in needs.bins)
        and (not needs.any_bins or any(_has_program(name, programs) for name in needs.any_bins))
        and all(env.get(name) or settings.environment.get(name) for name in needs.env)
        and all(_is_set(settings.config, key) for key in needs.config)
    )


def _has_program(name: str, programs: str) -> bool:
    # A name with a slash is a path, and would tell anyone who writes a skill what exists on the disk.
    return "/" not in name and "\0" not in name and which(name, path=programs) is not None


def _is_set(config: Mapping[str, object], key: str) -> bool:
    value: object = config
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return bool(value)


def _cut(description: str) -> str:
    if len(description) <= _DESCRIPTION_CHARS:
        return description
    return description[: _DESCRIPTION_CHARS - 1].rstrip() + "…"
