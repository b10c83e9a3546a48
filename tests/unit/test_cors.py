"""Which pages may be listed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.config import CorsConfig


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "",
        "chat.example",
        "https://",
        "https://chat.example/app",
        "https://*.example",
        "https://a b",
    ],
)
def test_only_origins_can_be_listed(origin: str) -> None:
    with pytest.raises(ValidationError):
        CorsConfig.model_validate({"allowedOrigins": [origin]})


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("https://Chat.Example/", "https://chat.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("app://obsidian.md", "app://obsidian.md"),
    ],
)
def test_an_origin_is_kept_as_browsers_write_it(written: str, compared: str) -> None:
    assert CorsConfig.model_validate({"allowedOrigins": [written]}).allowed_origins == (compared,)


@pytest.mark.parametrize("seconds", [-1, 86_401, 1.5, "60"])
def test_browsers_are_not_to_remember_for_ever(seconds: object) -> None:
    with pytest.raises(ValidationError):
        CorsConfig.model_validate({"maxAgeSeconds": seconds})
