"""``openclaw migrate``: the database as this version needs it, before the version runs."""

from __future__ import annotations

import os

import click

from ..config import load_config
from ..sessions.sql import migrate_database


@click.command()
def migrate() -> None:
    """Bring the database up to date; for the release phase of a platform.

    Without a database there is nothing to do: the file in the state directory is brought up to date when the
    gateway starts, as a database is, too.
    """
    config = load_config(None, os.environ, require_auth=False, platform_env=True)
    if not config.state.database:
        click.echo("No database is configured: nothing to do.")
        return
    before, after = migrate_database(config.state.database)
    if before == after:
        click.echo(f"The database is up to date (version {after}).")
    elif before:
        click.echo(f"The database was brought from version {before} to version {after}.")
    else:
        click.echo(f"The database was set up (version {after}).")
