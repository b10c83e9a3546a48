"""A run's events as frames."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cancel import CancelReason
from app.channels.ws.events import Frame, Narrator
from app.channels.ws.history import history
from app.errors import GatewayError, RunTimeout
from app.events import (
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
    ToolUpdated,
)
from app.messages import AssistantMessage, ImagePart, TextPart, ToolCall, ToolMessage, Usage, UserMessage
from app.sessions.records import Entry


def told(*events: tuple[int, RunEvent]) -> list[Frame]:
    narrator = Narrator("r1", "agent:main:main", "main")
    return [frame for now, event in events for frame in narrator.tell(event, now)]


def data(frames: list[Frame], stream: str) -> list[Any]:
    return [f.payload["data"] for f in frames if f.name == "agent" and f.payload["stream"] == stream]


def chats(frames: list[Frame]) -> list[Any]:
    return [f.payload for f in frames if f.name == "chat"]


def completed(text: str) -> RunCompleted:
    return RunCompleted(text, "stop", Usage())


def test_an_answer_begins_grows_ends_and_is_final() -> None:
    frames = told(
        (1_000, RunStarted(990)),
        (1_010, TextDelta("Hel")),
        (1_020, TextDelta("lo")),
        (1_030, completed("Hello")),
    )

    common = {"runId": "r1", "sessionKey": "agent:main:main", "agentId": "main"}
    assert [(f.name, f.payload) for f in frames] == [
        (
            "agent",
            {
                **common,
                "stream": "lifecycle",
                "data": {"phase": "start", "startedAt": 990},
                "seq": 1,
                "ts": 1_000,
            },
        ),
        (
            "agent",
            {**common, "stream": "assistant", "data": {"text": "Hel", "delta": "Hel"}, "seq": 2, "ts": 1_010},
        ),
        (
            "chat",
            {
                **common,
                "seq": 2,
                "state": "delta",
                "message": {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "Hel"}],
                    "timestamp": 1_010,
                },
                "deltaText": "Hel",
            },
        ),
        (
            "agent",
            {
                **common,
                "stream": "assistant",
                "data": {"text": "Hello", "delta": "lo"},
                "seq": 3,
                "ts": 1_020,
            },
        ),
        (
            "agent",
            {
                **common,
                "stream": "lifecycle",
                "data": {"phase": "end", "startedAt": 990, "endedAt": 1_030},
                "seq": 4,
                "ts": 1_030,
            },
        ),
        (
            "chat",
            {
                **common,
                "seq": 4,
                "state": "final",
                "message": {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "Hello"}],
                    "timestamp": 1_030,
                    "stopReason": "stop",
                },
                "stopReason": "stop",
            },
        ),
    ]


def test_deltas_come_at_most_every_150_milliseconds_and_miss_nothing() -> None:
    frames = told(*((1_000 + 50 * n, TextDelta(str(n))) for n in range(7)))

    deltas = chats(frames)
    assert [c["deltaText"] for c in deltas] == ["0", "123", "456"]
    assert deltas[-1]["message"]["content"][0]["text"] == "0123456"


def test_only_deltas_may_be_dropped() -> None:
    frames = told(
        (0, RunStarted(0)), (1, TextDelta("x")), (2, ToolStarted("c", "ls", "{}")), (3, completed("x"))
    )

    assert [f.payload["state"] for f in frames if f.droppable] == ["delta"]


def test_the_text_of_a_message_begins_anew_after_a_tool_and_the_chat_goes_on() -> None:
    frames = told(
        (0, TextDelta("Let me see.")),
        (0, ToolStarted("c1", "read", '{"path": "a"}')),
        (0, ToolUpdated("c1", "read", "so far")),
        (0, ToolFinished("c1", "read", True, "no such file")),
        (500, TextDelta("\n\n")),
        (500, TextDelta("Nothing.")),
    )

    assert data(frames, "assistant") == [
        {"text": "Let me see.", "delta": "Let me see."},
        {"text": "Nothing.", "delta": "Nothing."},
    ]
    assert data(frames, "tool") == [
        {"phase": "start", "name": "read", "toolCallId": "c1", "args": {"path": "a"}},
        {
            "phase": "update",
            "name": "read",
            "toolCallId": "c1",
            "partialResult": {"content": [{"type": "text", "text": "so far"}]},
        },
        {
            "phase": "result",
            "name": "read",
            "toolCallId": "c1",
            "isError": True,
            "result": {"content": [{"type": "text", "text": "no such file"}]},
        },
    ]
    assert chats(frames)[-1]["deltaText"] == "\n\nNothing."
    assert [f.about_tools for f in frames] == [False, False, True, True, True, False, False]


@pytest.mark.parametrize("arguments", ["", "[1]", "{", '"x"', "\ud800"])
def test_arguments_that_are_no_object_are_shown_as_nothing(arguments: str) -> None:
    frames = told((0, ToolStarted("c", "ls", arguments)))

    assert data(frames, "tool")[0]["args"] == {}


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (CancelReason.USER, "rpc"),
        (CancelReason.DISCONNECT, "disconnect"),
        (CancelReason.SHUTDOWN, "shutdown"),
    ],
)
def test_a_stopped_run_is_aborted_with_what_it_had_said(reason: CancelReason, shown: str) -> None:
    frames = told((0, RunStarted(0)), (0, TextDelta("half")), (9, RunCancelled(reason)))

    assert data(frames, "lifecycle")[-1] == {
        "phase": "end",
        "startedAt": 0,
        "endedAt": 9,
        "aborted": True,
        "status": "cancelled",
    }
    last = chats(frames)[-1]
    assert (last["state"], last["stopReason"]) == ("aborted", shown)
    assert last["message"]["content"] == [{"type": "text", "text": "half"}]


def test_a_run_that_was_stopped_while_it_waited_has_only_a_chat_event() -> None:
    [frame] = told((0, RunCancelled(CancelReason.USER)))

    assert (frame.name, frame.payload["state"]) == ("chat", "aborted")
    assert "message" not in frame.payload


def test_a_failed_run_says_why() -> None:
    frames = told((0, RunStarted(0)), (5, RunFailed(GatewayError("the model is away"))))

    assert data(frames, "lifecycle")[-1] == {
        "phase": "error",
        "startedAt": 0,
        "endedAt": 5,
        "error": "the model is away",
    }
    assert chats(frames)[-1]["errorMessage"] == "the model is away"


def test_a_run_out_of_time_is_aborted() -> None:
    frames = told((0, RunStarted(0)), (5, RunFailed(RunTimeout(2))))

    assert (chats(frames)[-1]["state"], chats(frames)[-1]["stopReason"]) == ("aborted", "timeout")


def test_an_answer_without_a_word_is_final_and_has_a_message() -> None:
    frames = told((0, RunStarted(0)), (5, completed("")))

    assert chats(frames)[-1]["message"]["content"] == [{"type": "text", "text": ""}]


def test_a_run_that_leaves_calls_to_its_client_is_final_and_shows_them() -> None:
    call = ToolCall("c1", "weather", '{"city": "Ulm"}')
    frames = told((0, RunStarted(0)), (5, RunCompleted("", "tool_calls", Usage(), (call,))))

    last = chats(frames)[-1]
    assert (last["state"], last["stopReason"]) == ("final", "toolUse")
    assert last["message"] == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": ""},
            {"type": "toolCall", "id": "c1", "name": "weather", "arguments": {"city": "Ulm"}},
        ],
        "timestamp": 5,
        "stopReason": "toolUse",
    }


_PROGRESS = st.one_of(
    st.text(max_size=5).map(TextDelta),
    st.just(TextDelta("\n\n")),
    st.just(ToolStarted("c", "ls", "{}")),
    st.just(ToolFinished("c", "ls", False, "x")),
)


@given(st.lists(st.tuples(st.integers(0, 200), st.booleans(), _PROGRESS), max_size=40))
def test_whatever_happens_the_pieces_make_the_text_and_the_last_frame_is_the_only_end(
    script: list[tuple[int, bool, RunEvent]],
) -> None:
    narrator = Narrator("r", "k", "a")
    frames = list(narrator.tell(RunStarted(0), 0))
    now = 0
    for later, heard_by_somebody, event in script:
        now += later
        if heard_by_somebody:
            frames += narrator.tell(event, now)
        else:
            narrator.hear(event)
    said = "".join(event.text for _, _, event in script if isinstance(event, TextDelta))
    frames += narrator.tell(completed(said), now)

    assert narrator.text == said
    ends = [c["state"] for c in chats(frames) if c["state"] != "delta"]
    assert ends == ["final"]
    assert frames[-1].payload["state"] == "final"
    pieces = [c["deltaText"] for c in chats(frames) if c["state"] == "delta"]
    assert said.startswith("".join(pieces))
    seqs = [f.payload["seq"] for f in frames if f.name == "agent"]
    assert seqs == list(range(1, len(seqs) + 1))
    assert frames[-1].payload["seq"] == seqs[-1]


def entry(seq: int, message: Any, stop: Any = None) -> Entry:
    return Entry(seq, message, stop, 1_000 + seq, "r1")


def test_a_history_shows_calls_results_and_that_there_was_an_image() -> None:
    rows = history(
        [
            entry(1, UserMessage((TextPart("look"), ImagePart("image/png", "AAAA")))),
            entry(2, AssistantMessage("Let me.", (ToolCall("c1", "read", '{"path": "a"}'),)), "tool_calls"),
            entry(3, ToolMessage("c1", "read", "text of a")),
            entry(4, AssistantMessage("Done."), "stop"),
        ]
    )

    assert rows == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image", "mimeType": "image/png", "omitted": True, "bytes": 3},
            ],
            "timestamp": 1_001,
            "__openclaw": {"id": "r1:1", "seq": 1},
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me."},
                {"type": "toolCall", "id": "c1", "name": "read", "arguments": {"path": "a"}},
            ],
            "stopReason": "toolUse",
            "timestamp": 1_002,
            "__openclaw": {"id": "r1:2", "seq": 2},
        },
        {
            "role": "toolResult",
            "toolCallId": "c1",
            "toolName": "read",
            "content": [{"type": "text", "text": "text of a"}],
            "isError": False,
            "timestamp": 1_003,
            "__openclaw": {"id": "r1:3", "seq": 3},
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Done."}],
            "stopReason": "stop",
            "timestamp": 1_004,
            "__openclaw": {"id": "r1:4", "seq": 4},
        },
    ]


def test_a_history_that_is_too_large_keeps_its_newest_rows() -> None:
    rows: list[Any] = history([entry(n, UserMessage.of("x" * 200_000)) for n in range(1, 11)])

    assert [row["__openclaw"]["seq"] for row in rows] == [6, 7, 8, 9, 10]
    assert rows[0]["content"][0]["text"].endswith("x…")
