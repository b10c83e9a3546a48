"""A gateway of your own to push to a platform. All its settings are config vars; see README.md."""

from openclaw_gateway import create_app

app = create_app()
