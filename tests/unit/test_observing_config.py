"""What of the log and the metrics is set up where."""

from __future__ import annotations

import pytest

from app.config import Config, load_config
from app.errors import ConfigError

MINE = {"gateway": {"auth": {"token": "a-token-of-tests"}}}


def load(logging: object = None, **env: str) -> Config:
    return load_config(MINE | ({} if logging is None else {"logging": logging}), {"HOME": "/h", **env})


def test_the_environment_has_the_last_word_on_the_log() -> None:
    written = {"level": "debug", "consoleStyle": "json"}
    assert (load().logging.level, load().logging.console_style) == ("info", "pretty")
    assert (load(written).logging.level, load(written).logging.console_style) == ("debug", "json")
    settings = load(written, OPENCLAW_LOG_LEVEL="WARN", OPENCLAW_LOG_FORMAT="text").logging
    assert (settings.level, settings.console_style) == ("warn", "pretty")
    assert load(None, OPENCLAW_LOG_FORMAT="json").logging.console_style == "json"
    assert load(written, OPENCLAW_LOG_LEVEL="", OPENCLAW_LOG_FORMAT=" ").logging.level == "debug"


@pytest.mark.parametrize(
    ("name", "key"), [("OPENCLAW_LOG_LEVEL", "level"), ("OPENCLAW_LOG_FORMAT", "consoleStyle")]
)
def test_a_variable_that_says_nothing_sensible_is_named(name: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, **{name: "loud"})
    (problem,) = caught.value.problems
    assert problem.startswith(f"logging.{key} ({name}): ")


def test_what_openclaw_also_says_of_its_log_is_left_out_with_a_warning() -> None:
    config = load({"level": "warn", "file": "/tmp/openclaw.log", "redactSensitive": "tools"})
    assert config.logging.level == "warn"
    assert any("logging.file" in warning for warning in config.warnings)
