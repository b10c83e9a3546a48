"""Which messages of a chat are commands, and what is left of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.approvals import printable, waiting
from app.runs.chat import Command, is_stop_word, parse_command

WITH_ARGUMENTS = ("new", "reset", "model", "think", "compact", "usage")
ALONE = ("stop", "status", "whoami", "help", "commands")


@pytest.mark.parametrize("name", WITH_ARGUMENTS + ALONE)
@pytest.mark.parametrize("form", ["/{}", "/{} ", "  /{}\n", "\n/{}\t"])
def test_a_command_may_stand_alone(name: str, form: str) -> None:
    command = parse_command(form.format(name))
    assert command is not None
    assert (command.name, command.rest.strip()) == (name, "")


@pytest.mark.parametrize("text", ["/STATUS", "/Status"])
def test_a_command_may_be_written_in_capitals(text: str) -> None:
    assert parse_command(text) == Command("status")


@given(st.sampled_from(WITH_ARGUMENTS), st.text())
def test_what_follows_a_command_is_left_as_it_was_written(name: str, rest: str) -> None:
    assert parse_command(f"/{name} {rest}") == Command(name, rest)


@given(st.sampled_from(ALONE), st.text().filter(str.strip))
def test_a_command_without_arguments_that_is_followed_by_text_is_a_message(name: str, rest: str) -> None:
    assert parse_command(f"/{name} {rest}") is None


@given(st.text().filter(lambda text: text.strip() and text.lstrip()[0] != "/"), st.sampled_from(ALONE))
def test_a_command_in_the_middle_of_a_message_is_text(before: str, name: str) -> None:
    assert parse_command(f"{before} /{name}") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "//status",
        "/ status",
        "/statusx",
        "/new-model",
        "/etc/hosts",
        "/foo",
        "status",
        "/stätus",
        "/new/",
    ],
)
def test_anything_else_goes_to_the_agent(text: str) -> None:
    assert parse_command(text) is None


@pytest.mark.parametrize("text", ["stop", " Stop. ", "STOP!!!", "abort", "interrupt\n"])
def test_a_bare_word_asks_to_stop(text: str) -> None:
    assert is_stop_word(text)


@pytest.mark.parametrize("text", ["", "stop it", "don't stop", "nonstop", "/stop", "wait", "?stop"])
def test_a_sentence_or_another_word_does_not_ask_to_stop(text: str) -> None:
    assert not is_stop_word(text)


@given(st.text())
def test_a_waiting_command_cannot_command_the_terminal_that_shows_it(command: str) -> None:
    shown = waiting({"directory": "/work", "command": command})
    assert len(shown.split("\n")) == 2 + command.count("\n")
    assert all(char.isprintable() for char in shown.replace("\n", ""))


def test_what_is_not_seen_in_a_waiting_command_is_written_out() -> None:
    assert printable("rm -rf x\r\x1b[2Kls\u202e") == r"rm -rf x\r\x1b[2Kls\u202e"
