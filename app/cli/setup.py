"""``openclaw init``, ``config check`` and ``gateway``: from nothing to a running gateway."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import click

from ..config import Config, config_path, load_config

_FIRST_CONFIG = """\
// The OpenClaw gateway reads this file at start. All keys: docs/configuration.md.
{{
  gateway: {{
    auth: {{ mode: "token", token: "{token}" }},
    http: {{ endpoints: {{ chatCompletions: {{ enabled: true }} }} }},
  }},
  agents: {{ list: [{{ id: "main", default: true }}] }},
}}
"""

_CURL = """\
  curl -sS http://127.0.0.1:{port}/v1/chat/completions \\
    -H 'Authorization: Bearer {token}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "openclaw", "messages": [{{"role": "user", "content": "hi"}}]}}'"""


@click.command()
def init() -> None:
    """Write a first configuration with a new token, unless there is one."""
    path = config_path(os.environ)
    if path.exists():
        click.echo(f"Keeping {path}.")
        return
    token = secrets.token_urlsafe(32)
    _write_private(path, _FIRST_CONFIG.format(token=token))
    port = load_config(None, os.environ).gateway.port
    click.echo(f"Wrote {path}.\n\nYour token, shown this once: {token}\n\nOnce the gateway runs:\n")
    click.echo(_CURL.format(port=os.environ.get("PORT") or port, token=token) + "\n")


@click.group()
def config() -> None:
    """Look after openclaw.json."""


@config.command()
def check() -> None:
    """Say whether the configuration can be used, and everything that is wrong with it."""
    loaded = load_config(None, os.environ)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    agents = ", ".join(agent.id for agent in loaded.agents.items)
    click.echo(f"{loaded.path or 'No file, defaults'}: fine. Agents: {agents}.")


@click.command()
def gateway() -> None:
    """Serve the gateway with gunicorn, in the foreground."""
    loaded = load_config(None, os.environ)
    settings = _settings_file()
    click.echo(f"Starting the gateway on http://{_bind(loaded)} …", err=True)
    os.chdir(settings.parent)
    bind = ["--bind", _bind(loaded)]
    os.execv(  # noqa: S606 - becoming gunicorn is the point
        sys.executable,
        [sys.executable, "-m", "gunicorn", "-c", str(settings), *bind, "wsgi:app"],
    )  # fmt: skip


def _bind(loaded: Config) -> str:
    return f"{loaded.gateway.host}:{os.environ.get('PORT') or loaded.gateway.port}"


def _settings_file() -> Path:
    """The gunicorn settings beside this package, in a checkout; elsewhere the host has its own."""
    path = Path(__file__).parents[2] / "gunicorn.conf.py"
    if not path.exists():
        raise click.ClickException("gunicorn.conf.py is not here; start your own WSGI server instead.")
    return path


def _write_private(path: Path, text: str) -> None:
    """Create the file for its owner only, never over another."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
