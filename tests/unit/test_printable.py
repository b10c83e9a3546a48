"""What a terminal shows of a command that waits for an operator's word."""

from __future__ import annotations

import pytest

from app.cli.approvals import harmless, printable, waiting


def shown(command: str) -> str:
    return waiting({"directory": "/work", "command": command})


def test_a_line_break_cannot_be_taken_for_its_escape() -> None:
    assert shown("echo done\\nrm x") == "An agent wants to run, in /work:\n  echo done\\nrm x"
    assert shown("echo done\nrm x") == "An agent wants to run these 2 lines, in /work:\n  echo done\n  rm x"


@pytest.mark.parametrize("char", "\x00\x1b\r\x9b\u00a0\u202e\u2066\u200b\u3164\u115f\u2800\ufe0f\U000e0101")
def test_what_is_not_seen_is_written_out(char: str) -> None:
    assert char not in printable(f"a{char}b")
    assert printable(f"a{char}b").isascii()


def test_text_that_is_seen_stays_as_it_is() -> None:
    assert printable("grüße -n 'λ → ☃ 漢字' | wc") == "grüße -n 'λ → ☃ 漢字' | wc"


def test_text_of_a_model_cannot_command_the_terminal() -> None:
    assert harmless("a\x1b[8mb\x9b8m\n\tc") == "a[8mb8m\n\tc"
