"""``python -m app`` is the ``openclaw`` command."""

from .cli import main

main()
