"""gunicorn's settings: the time to stop is longer than what the gateway may need for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.channels.ws.protocol import Limits

SETTINGS = Path(__file__).parents[2] / "gunicorn.conf.py"
SHOW = (
    f"import runpy; s = runpy.run_path({str(SETTINGS)!r}); print(s['DRAIN_SECONDS'], s['graceful_timeout'])"
)
STOPPING, LAST_WORDS = 5, 1  # RunService.drain


@pytest.mark.parametrize(
    ("configured", "notice", "drain", "total"),
    [("", "", 15, 30), ("0.5", "", 0.5, 16), ("60", "", 60, 75), ("15", "10", 15, 40)],
)
def test_the_server_waits_longer_than_the_gateway_takes(
    configured: str, notice: str, drain: float, total: int
) -> None:
    env = os.environ | {"OPENCLAW_DRAIN_SECONDS": configured, "OPENCLAW_LAME_DUCK_SECONDS": notice}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], env=env, capture_output=True, text=True, check=True, timeout=30
    )

    farewell = 1 + Limits().farewell_seconds
    seconds, graceful = map(float, shown.stdout.split())
    assert (seconds, graceful) == (drain, total)
    assert graceful >= float(notice or 0) + seconds + STOPPING + LAST_WORDS + farewell + 5
