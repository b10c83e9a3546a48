"""The stand-alone host's log: what is masked in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from app.log import configure_logging, get_logger


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    logger = logging.getLogger("openclaw")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


def test_a_secret_is_masked_in_the_line_and_in_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(["s3cret-token"])
    try:
        raise ValueError("of s3cret-token")
    except ValueError:
        get_logger("tests").exception("with %s", "s3cret-token")

    written = capsys.readouterr().err
    assert "with ***" in written
    assert "ValueError: of ***" in written
    assert "s3cret" not in written


@pytest.mark.parametrize("secret", ["", "a", "gateway"])
def test_a_secret_that_is_a_word_or_less_leaves_the_lines_legible(
    capsys: pytest.CaptureFixture[str], secret: str
) -> None:
    configure_logging([secret, "12345678"])
    get_logger("gateway").warning("a gateway starts with 12345678")

    assert capsys.readouterr().err.endswith("openclaw.gateway: a gateway starts with ***\n")
