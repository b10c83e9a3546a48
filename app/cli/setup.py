"""``openclaw init``, ``config check`` and ``gateway``: from nothing to a running gateway."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click

from ..config import GatewayConfig, config_path, load_config
from ..errors import GatewayError
from ..runtime import check_agents
from ..sessions.beacon import seen
from .address import base_url, bind_address
from .checks.network import answering, bind_error
from .client import gateway_client, url_option

_FAREWELL = 5.0  # seconds

_FIRST_CONFIG = """\
// The OpenClaw gateway reads this file at start. All keys: docs/configuration.md.
{{
  gateway: {{
    auth: {{ {auth} }},
    http: {{ endpoints: {{ chatCompletions: {{ enabled: true }}, responses: {{ enabled: true }} }} }},
  }},
  agents: {{ list: [{{ id: "main", default: true }}] }},
}}
"""

# A secret from the environment is used, not copied: it would be one more place to keep it.
_SECRETS = {"OPENCLAW_GATEWAY_TOKEN": "token", "OPENCLAW_GATEWAY_PASSWORD": "password"}

_CURL = """\
  curl -sS {url}/v1/chat/completions \\
    -H "Authorization: Bearer {token}" \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "openclaw", "messages": [{{"role": "user", "content": "hi"}}]}}'"""


@click.command()
def init() -> None:
    """Write a first configuration with a new token, unless there is one."""
    path = config_path(os.environ)
    url = base_url(GatewayConfig(), os.environ)
    given = next((name for name in _SECRETS if os.environ.get(name, "").strip()), None)
    token = secrets.token_urlsafe(32)
    auth = f'mode: "{_SECRETS[given]}"' if given else f'mode: "token", token: "{token}"'
    if not _write_private(path, _FIRST_CONFIG.format(auth=auth)):
        click.echo(f"Keeping {path}.")
        return
    told = f"It takes the secret from {given}." if given else f"Your token, shown this once: {token}"
    click.echo(f"Wrote {path}.\n\n{told}\n\nOnce the gateway runs:\n")
    click.echo(_CURL.format(url=url, token=f"${given}" if given else token) + "\n")


@click.group()
def config() -> None:
    """Look after openclaw.json."""


@config.command()
def check() -> None:
    """Say whether the configuration can be used, and everything that is wrong with it."""
    loaded = load_config(None, os.environ, platform_env=True)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    agents = ", ".join(f"{agent.id} ({agent.model_ref})" for agent in check_agents(loaded, os.environ))
    click.echo(f"{loaded.path or 'No file, defaults'}: fine. Agents: {agents}.")
    if loaded.variables:
        click.echo(f"From the environment: {', '.join(loaded.variables)}.")


@config.command("reload")
@url_option
def reload_config(url: str | None) -> None:
    """Have the running gateway read its configuration again, and say what has changed."""
    done = gateway_client(url).call("openclaw.reload")
    if done["applied"]:
        click.echo(f"These hold from now on: {', '.join(done['applied'])}.")
    if done["waiting"]:
        click.echo(f"These wait for a restart: {', '.join(done['waiting'])}.")
    if not done["applied"] and not done["waiting"]:
        click.echo("Nothing has changed.")


@click.command()
def gateway() -> None:
    """Serve the gateway with gunicorn, in the foreground."""
    loaded = load_config(None, os.environ, platform_env=True)
    settings = _settings_file()
    _wait_for_port(bind_address(loaded.gateway, os.environ), loaded.state_dir)
    click.echo(f"Starting the gateway on {base_url(loaded.gateway, os.environ)} …", err=True)
    # The working directory stays: relative paths in the environment and the configuration start there.
    place = ["--bind", bind_address(loaded.gateway, os.environ), "--pythonpath", str(settings.parent)]
    if loaded.logging.console_style == "json":  # the server's own lines, too
        os.environ["OPENCLAW_LOG_FORMAT"] = "json"
    os.execv(  # noqa: S606 - becoming gunicorn is the point
        sys.executable,
        [sys.executable, "-m", "gunicorn", "-c", str(settings), *place, "wsgi:app"],
    )  # fmt: skip


def _wait_for_port(bound: str, state: Path) -> None:
    """Return once nobody listens there any more: a gateway that is being restarted takes its time to go.

    :raises GatewayError: somebody stays.
    """
    deadline = time.monotonic() + _FAREWELL
    while (error := bind_error(bound)) and error.errno == errno.EADDRINUSE:
        if time.monotonic() > deadline:
            raise GatewayError(_taken(bound, state))
        time.sleep(0.2)


def _taken(bound: str, state: Path) -> str:
    beacon = seen(state)
    if beacon is not None and beacon.url.endswith(bound.rpartition(":")[2]):
        return f"This gateway is running already: {beacon}."
    who = "Another gateway" if answering(bound) in ("ready", "draining") else "Another program"
    return f"{who} listens at {bound}. Stop it, or set gateway.port or PORT."


def _settings_file() -> Path:
    """The gunicorn settings beside this package, in a checkout; elsewhere the host has its own."""
    path = Path(__file__).parents[2] / "gunicorn.conf.py"
    if not path.exists():
        raise GatewayError("gunicorn.conf.py is not here; start your own WSGI server instead.")
    return path


def _write_private(path: Path, text: str) -> bool:
    """Create the file, whole, for its owner only; False if there is one already.

    :raises GatewayError: it cannot be written.
    """
    try:
        if path.exists():
            return False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file, ExitStack() as on_failure:
            on_failure.callback(path.unlink)
            file.write(text)
            file.flush()
            on_failure.pop_all()
    except OSError as error:
        raise GatewayError(f"{path} cannot be written: {error.strerror}.") from error
    return True
