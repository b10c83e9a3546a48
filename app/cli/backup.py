"""``openclaw backup`` and ``openclaw restore``: all state in one file, and back."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import datetime
from pathlib import Path

import click

from ..config import Config, load_config
from ..sessions.export import open_rows
from ..sessions.sqlite import FILE_NAME
from .backups.places import find_places
from .backups.restoring import Restored
from .backups.restoring import restore as put_back
from .backups.writing import Writer, new_file

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")


@click.command()
@_FILE
@click.option(
    "--with-secrets", is_flag=True, help="Also keys and tokens: the configuration file as it is, .env."
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there already.")
def backup(file: Path, with_secrets: bool, force: bool) -> None:
    """Write everything the gateway keeps into FILE, a .tar.gz; the gateway may be running.

    Sessions, runs, workspaces with their notes, skills, approvals, and the configuration.
    """
    config = load_config(None, os.environ, require_auth=False, platform_env=True)
    with new_file(file, overwrite=force) as target:
        writer = Writer(target, lambda text: click.echo(f"warning: {text}", err=True))
        _add_store(writer, config)
        for name, root in find_places(config).roots.items():
            writer.add_files(name, root, with_secrets=with_secrets)
        writer.add_config(config, with_secrets=with_secrets)
        writer.finish(with_secrets=with_secrets)
    counts = ", ".join(f"{number} {table}" for table, number in writer.counts.items())
    click.echo(f"Wrote {file}: {counts or 'no sessions yet'}, {writer.files} files.")
    click.echo("It holds the secrets: keep it safe." if with_secrets else "It holds no keys and tokens.")


@click.command()
@_FILE
@click.option(
    "--force", is_flag=True, help="Even if there is state already; that is moved aside, not deleted."
)
def restore(file: Path, force: bool) -> None:
    """Put back what FILE holds. The gateway must not be running."""
    config = load_config(None, os.environ, require_auth=False, platform_env=True)
    restored = put_back(file, config, force=force)
    for line in _told(restored, config):
        click.echo(line)


def _add_store(writer: Writer, config: Config) -> None:
    """One transaction of a reader: what is written meanwhile is not seen, and nobody waits for us."""
    place = config.store_place
    if isinstance(place, str) or (place / FILE_NAME).exists():
        with closing(open_rows(place, readonly=True)) as database:
            database.read(writer.add_rows)


def _told(restored: Restored, config: Config) -> list[str]:
    manifest = restored.manifest
    made = datetime.fromtimestamp(manifest.created_at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    lines = [
        f"Restored the backup of {made} ({manifest.rows.get('sessions', 0)} sessions) in {config.state_dir}."
    ]
    if restored.aside:
        lines.append(f"What was there before is in {restored.aside}.")
    if restored.config is None:
        lines.append("The configuration is the one that was there.")
    elif manifest.omitted:
        lines.append(f"The backup has no secrets. Set in {restored.config}: {', '.join(manifest.omitted)}.")
    return lines
