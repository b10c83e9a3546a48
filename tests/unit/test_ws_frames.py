"""Frames: every input is a request or a clear no, every output is what strict clients take."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.ws.frames import MAX_NAME_LENGTH, Malformed, Request, error, event, parse, response
from app.channels.ws.protocol import Refusal
from app.wire import dumps

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Values at the border of what a frame may hold, so that chance finds frames that are almost right.
FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["req", "res", "event", "", None, 1]),
        "id": st.sampled_from(["1", "", "x" * 512, "x" * 513, None, 7, ["1"]]),
        "method": st.sampled_from(["health", "", "x" * 513, None, 7, {}]),
        "params": JSON,
        "jsonrpc": st.just("2.0"),
    },
)


def strict(frame: bytes) -> dict[str, Any]:
    """A frame as the strictest client reads it: the one of version 3."""
    read: dict[str, Any] = json.loads(frame, parse_constant=lambda name: pytest.fail(name))
    if read["type"] == "event":
        _check_event(read)
    else:
        _check_response(read)
    return read


def _check_event(frame: dict[str, Any]) -> None:
    assert frame.keys() <= {"type", "event", "payload", "seq", "stateVersion"}
    assert isinstance(frame["event"], str)
    assert frame["event"]
    if "seq" in frame:
        assert type(frame["seq"]) is int
        assert frame["seq"] >= 0
    if "stateVersion" in frame:
        assert frame["stateVersion"].keys() == {"presence", "health"}
        assert all(type(version) is int for version in frame["stateVersion"].values())


def _check_response(frame: dict[str, Any]) -> None:
    assert frame["type"] == "res"
    assert frame.keys() <= {"type", "id", "ok", "payload", "error"}
    assert isinstance(frame["id"], str)
    assert frame["id"]
    assert frame["ok"] is ("error" not in frame)
    if not frame["ok"]:
        _check_error(frame["error"])


def _check_error(body: dict[str, Any]) -> None:
    assert body.keys() <= {"code", "message", "details", "retryable", "retryAfterMs"}
    assert all(isinstance(body[name], str) and body[name] for name in ("code", "message"))
    assert None not in body.values()
    assert type(body.get("retryable", True)) is bool
    assert type(body.get("retryAfterMs", 0)) is int
    assert body.get("retryAfterMs", 0) >= 0


# what comes in


def test_a_request_is_read_whatever_else_the_frame_holds() -> None:
    frame = b'{"type":"req","id":"1:a","method":"health","params":{"probe":true},"traceparent":"00-1"}'

    assert parse(frame) == parse(frame.decode()) == Request("1:a", "health", {"probe": True})


@pytest.mark.parametrize("params", ["", ',"params":null', ',"params":[1]', ',"params":"x"', ',"params":7'])
def test_params_that_are_no_object_are_an_empty_one(params: str) -> None:
    assert parse(f'{{"type":"req","id":"1","method":"health"{params}}}') == Request("1", "health", {})


@pytest.mark.parametrize(
    ("data", "reply", "message"),
    [
        (b"", None, ""),
        (b"hello", None, ""),
        (b'{"type":"req"', None, ""),
        (b"\xff\xfe", None, "it is not UTF-8 at byte 0"),
        (b'{"type":"req","id":"1","method":NaN}', None, "NaN is not a JSON value"),
        (b"[]", "invalid", "must be object"),
        (b"null", "invalid", "must be object"),
        (b'"req"', "invalid", "must be object"),
        (b"{}", "invalid", 'at /type: must be "req"'),
        (b'{"jsonrpc":"2.0","id":1,"method":"health"}', "invalid", 'at /type: must be "req"'),
        (b'{"type":"res","id":"9","ok":true}', "9", 'at /type: must be "req"'),
        (b'{"type":"req","method":"health"}', "invalid", "must have required property 'id'"),
        (b'{"type":"req","id":"9"}', "9", "must have required property 'method'"),
        (
            b'{"type":"req","id":9,"method":"health"}',
            "invalid",
            "at /id: must be string of 1 to 512 characters",
        ),
        (
            b'{"type":"req","id":"","method":"health"}',
            "invalid",
            "at /id: must be string of 1 to 512 characters",
        ),
        (b'{"type":"req","id":"9","method":""}', "9", "at /method: must be string of 1 to 512 characters"),
        (b'{"type":"req","id":"9","method":null}', "9", "at /method: must be string of 1 to 512 characters"),
    ],
)
def test_what_is_no_request_is_told_apart(data: bytes, reply: str | None, message: str) -> None:
    frame = parse(data)

    assert isinstance(frame, Malformed)
    assert frame.reply == reply
    assert frame.message.startswith(f"invalid request frame: {message}")


@pytest.mark.parametrize("name", ["id", "method"])
def test_a_name_is_not_longer_than_it_can_be_repeated(name: str) -> None:
    frame = {"type": "req", "id": "1", "method": "health"}

    assert isinstance(parse(dumps(frame | {name: "x" * MAX_NAME_LENGTH})), Request)
    assert isinstance(parse(dumps(frame | {name: "x" * (MAX_NAME_LENGTH + 1)})), Malformed)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"type":"req","id":"1","method":"m","params":[{"a":'])
def test_deep_nesting_is_refused_at_once(opening: str) -> None:
    began = time.process_time()

    assert isinstance(parse(opening * 100_000), Malformed)
    assert time.process_time() - began < 1


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_input_raises(data: bytes | str) -> None:
    assert isinstance(parse(data), Request | Malformed)


@given(FRAMES)
def test_only_a_complete_frame_is_a_request_and_any_other_gets_an_answer(frame: dict[str, Any]) -> None:
    read = parse(dumps(frame))

    names = [frame.get("id"), frame.get("method")]
    complete = frame.get("type") == "req" and all(isinstance(n, str) and 0 < len(n) <= 512 for n in names)
    if complete:
        assert read == Request(frame["id"], frame["method"], _object(frame.get("params")))
    else:
        assert isinstance(read, Malformed)
        assert read.reply is not None
        strict(error(read.reply, Refusal(read.message)))


def _object(params: Any) -> Any:
    return json.loads(dumps(params)) if isinstance(params, dict) else {}


# what goes out


@given(st.text(min_size=1), JSON)
def test_every_answer_is_accepted_by_a_strict_client(request_id: str, payload: Any) -> None:
    frame = strict(response(request_id, payload))

    assert frame == {"type": "res", "id": request_id, "ok": True, "payload": payload}


@given(
    st.text(min_size=1),
    st.text(),
    st.none() | st.dictionaries(st.text(), JSON, max_size=3),
    st.none() | st.integers(0, 10**9),
    JSON,
)
def test_every_error_is_accepted_by_a_strict_client(
    request_id: str, message: str, details: Any, retry_after_ms: int | None, payload: Any
) -> None:
    refusal = Refusal(message, details=details, retry_after_ms=retry_after_ms, payload=payload)
    frame = strict(error(request_id, refusal))

    assert frame["error"]["message"] == message or not message
    assert frame["error"].get("details") == details
    assert frame["error"].get("retryAfterMs") == retry_after_ms
    assert frame["error"].get("retryable", False) is (retry_after_ms is not None)
    assert frame.get("payload") == payload


@given(
    st.text(min_size=1),
    JSON,
    st.none() | st.integers(1),
    st.none() | st.tuples(st.integers(0), st.integers(0)),
)
def test_every_event_is_accepted_by_a_strict_client(
    name: str, payload: Any, seq: int | None, versions: tuple[int, int] | None
) -> None:
    state = {"presence": versions[0], "health": versions[1]} if versions else None
    frame = strict(event(name, dumps(payload), seq=seq, state_version=dumps(state) if state else None))

    assert (frame["event"], frame["payload"]) == (name, payload)
    assert frame.get("seq") == seq
    assert frame.get("stateVersion") == state


def test_an_answer_without_a_payload_says_null_and_an_error_leaves_it_out() -> None:
    assert response("1") == b'{"type":"res","id":"1","ok":true,"payload":null}'
    assert strict(error("1", Refusal("no"))) == {
        "type": "res",
        "id": "1",
        "ok": False,
        "error": {"code": "INVALID_REQUEST", "message": "no"},
    }
