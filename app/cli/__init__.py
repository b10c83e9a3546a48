"""The ``openclaw`` command."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from ..errors import GatewayError
from ..version import version
from .agent import agent
from .approvals import approvals
from .backup import backup, restore
from .chat import chat
from .doctor import doctor
from .logs import logs
from .migrate import migrate
from .sessions import sessions
from .setup import config, gateway, init
from .status import status
from .usage import usage


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), message="openclaw %(version)s")
def openclaw() -> None:
    """Run and talk to an OpenClaw gateway."""


_COMMANDS = (
    *(agent, approvals, backup, chat, config, doctor, gateway, init),
    *(logs, migrate, restore, sessions, status, usage),
)

for command in _COMMANDS:
    openclaw.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed or misused, 130 or 143 interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        openclaw(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except GatewayError as error:
        click.echo(f"openclaw: {error}", err=True)
        sys.exit(1)
    sys.exit(0)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's arguments
    sys.exit(143)
