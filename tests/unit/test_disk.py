"""Which disks a platform takes away, by what it says of itself and what is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.runtime.disk import disk_warning, fleeting

MACHINE = "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /run tmpfs rw 0 0\n"
CONTAINER = "overlay / overlay rw,lowerdir=/a:/b 0 0\n/dev/sdb /state ext4 rw 0 0\n"
SPACED = r"/dev/sda1 / ext4 rw 0 0" + "\n" + r"tmpfs /my\040state tmpfs rw 0 0" + "\n"


@pytest.mark.parametrize(
    ("directory", "mounts", "env", "why"),
    [
        ("/home/me/.openclaw", MACHINE, {"DYNO": "web.1"}, "a dyno of Heroku starts with an empty disk"),
        ("/run/openclaw", MACHINE, {}, "/run is memory"),
        ("/my state/openclaw", SPACED, {}, "/my state is memory"),
        ("/root/.openclaw", CONTAINER, {}, "/ is a disk that goes with its container"),
        ("/statement", CONTAINER, {}, "/ is a disk that goes with its container"),
        ("/root/.openclaw", MACHINE, {"FLY_APP_NAME": "gateway"}, "on Fly only volumes last"),
        ("/root/.openclaw", MACHINE, {"RENDER": "true"}, "on Render only volumes last"),
        ("/root/.openclaw", "", {"K_SERVICE": "gateway"}, "on Cloud Run only volumes last"),
        ("/state", "a / ext4 rw 0 0\nb /state ext4 rw 0 0\nc /state tmpfs rw 0 0\n", {}, "/state is memory"),
    ],
)  # fmt: skip
def test_a_disk_that_goes_is_named_with_what_to_do(
    directory: str, mounts: str, env: dict[str, str], why: str
) -> None:
    told = fleeting(Path(directory), mounts, env)

    assert told == (
        f"the state in {directory} will be lost with the next restart ({why}): give the gateway a Postgres "
        "database (DATABASE_URL), or a volume and a directory on it (OPENCLAW_STATE_DIR)"
    )


@pytest.mark.parametrize(
    ("directory", "mounts", "env"),
    [
        ("/home/me/.openclaw", MACHINE, {}),
        ("/home/me/.openclaw", "", {}),
        ("/state", CONTAINER, {}),
        ("/state/openclaw", CONTAINER, {"FLY_APP_NAME": "gateway"}),
        ("/state", "/dev/sda / ext4 rw 0 0\nold /state tmpfs rw 0 0\nnew /state ext4 rw 0 0\n", {}),
    ],
)
def test_a_disk_that_stays_is_not_talked_about(directory: str, mounts: str, env: dict[str, str]) -> None:
    assert fleeting(Path(directory), mounts, env) is None


@given(st.text(), st.text())
def test_whatever_is_mounted_is_read(directory: str, mounts: str) -> None:
    fleeting(Path("/", directory), mounts, {})


def test_this_machines_memory_is_memory() -> None:
    told = disk_warning(Path("/dev/shm/openclaw"), {})
    assert told is not None
    assert "(/dev/shm is memory)" in told
