"""``openclaw doctor``: what is wrong with this gateway, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from ..config import config_path, load_config, state_dir
from ..errors import ConfigError, GatewayError
from ..log import configure_logging
from ..runtime import check_agents, secrets_of
from .checks import CHECKS, Check, Finding, Site

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


@dataclass(frozen=True)
class _Told:
    """A finding, by which check, and what has become of it."""

    check: str
    finding: Finding
    fixed: bool = False

    @property
    def json(self) -> dict[str, Any]:
        finding = self.finding
        return {
            "check": self.check,
            "level": finding.level,
            "text": finding.text,
            "fix": finding.fix or None,
            "fixable": finding.mend is not None,
            "fixed": self.fixed,
        }


@click.command()
@click.option(
    "--online", is_flag=True, help="Call a model of each provider in use, too; it may cost a little."
)
@click.option("--deep", is_flag=True, help="Start MCP servers and load the built-in model, too.")
@click.option("--fix", is_flag=True, help="Mend what is safe to mend: permissions, folders, leftovers.")
@click.option("--strict", is_flag=True, help="Exit with 2 if there are warnings.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def doctor(online: bool, deep: bool, fix: bool, strict: bool, as_json: bool) -> None:
    """Look for what is wrong, and say what to do. Exits with 1 if there is a problem."""
    site = _site(online=online, deep=deep)
    told = []
    for name, check in CHECKS.items():
        for finding in _found(check, site):
            told.append(_Told(name, finding, fixed=fix and _mend(finding)))
            if not as_json:
                _show(told[-1])
    left = {one.finding.level for one in told if not one.fixed}
    if as_json:
        findings = [one.json for one in told]
        print(json.dumps({"ok": "problem" not in left, "findings": findings}, ensure_ascii=False))
    else:
        click.echo(_summary(told))
    if code := 1 if "problem" in left else 2 if strict and "warning" in left else 0:
        sys.exit(code)


def _site(*, online: bool, deep: bool) -> Site:
    """Where to look; as much of the configuration as can be used."""
    mistakes: list[str] = []
    config, agents = None, None
    try:
        config = load_config(None, os.environ, require_auth=False, platform_env=True)
        # What checks call may log; doctor tells what matters of it.
        configure_logging(secrets_of(config, os.environ), "silent")
        agents = check_agents(config, os.environ)
    except GatewayError as error:
        mistakes += (error.problems if isinstance(error, ConfigError) else ()) or (error.message,)
    return Site(
        env=os.environ,
        state=state_dir(os.environ),
        config_path=(config and config.path) or config_path(os.environ),
        config=config,
        agents=agents,
        mistakes=tuple(mistakes),
        online=online,
        deep=deep,
    )


def _found(check: Check, site: Site) -> Iterator[Finding]:
    """What a check finds, be it no more than what it may not look at."""
    try:
        yield from check(site)
    except OSError as error:
        place = error.filename or site.state
        told = f"{place} cannot be looked at: {error.strerror or error}."
        yield Finding("problem", told, "Give it to the user of the gateway.")


def _mend(finding: Finding) -> bool:
    if finding.mend is None:
        return False
    try:
        finding.mend()
    except OSError as error:
        click.echo(f"openclaw: {error.filename or 'it'} cannot be mended: {error.strerror}", err=True)
        return False
    return True


def _show(told: _Told) -> None:
    finding = told.finding
    mark, color = ("✓", "green") if told.fixed else _MARKS[finding.level]
    click.echo(f"{click.style(mark, fg=color)} {finding.text}{' Fixed.' if told.fixed else ''}")
    if finding.fix and not told.fixed:
        click.echo(f"    → {finding.fix}")


def _summary(told: Iterable[_Told]) -> str:
    left = [one for one in told if not one.fixed]
    problems = sum(one.finding.level == "problem" for one in left)
    warnings = sum(one.finding.level == "warning" for one in left)
    if not problems and not warnings:
        return "\nAll is well."
    found = f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}."
    fixable = any(one.finding.mend and one.finding.level != "ok" for one in left)
    return f"\n{found}{' `openclaw doctor --fix` mends some of it.' if fixable else ''}"
