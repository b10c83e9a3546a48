"""What is the same request, and what is a key."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.openai.idempotency import fingerprint_of, key_of, run_id_of
from app.errors import InvalidRequest

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 1}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.text(), json_values, max_size=5)


@given(bodies, st.randoms(), st.booleans())
def test_neither_order_nor_streaming_makes_another_request(body: Any, dice: Any, stream: bool) -> None:
    names = list(body)
    dice.shuffle(names)
    again = {name: body[name] for name in names} | {
        "stream": stream,
        "stream_options": {"include_usage": True},
    }
    assert fingerprint_of(again, {}) == fingerprint_of(
        body, {"user-agent": "x", "x-openclaw-events": "tools"}
    )


@given(bodies, st.text().filter(lambda name: name not in ("stream", "stream_options")), json_values)
def test_whatever_else_is_added_makes_another_request(body: Any, name: str, value: Any) -> None:
    if name not in body:
        assert fingerprint_of(body | {name: value}, {}) != fingerprint_of(body, {})


@pytest.mark.parametrize(
    "changed",
    [
        BODY | {"temperature": 1.5},
        BODY | {"user": "ann"},
        BODY | {"messages": [*BODY["messages"], {"role": "user", "content": "more"}]},
        [],
        None,
    ],
)
def test_another_body_is_another_request(changed: Any) -> None:
    assert fingerprint_of(changed, {}) != fingerprint_of(BODY, {})


def test_headers_that_choose_who_answers_count() -> None:
    plain = fingerprint_of(BODY, {})
    assert fingerprint_of(BODY, {"x-openclaw-session-key": "a"}) != plain
    assert fingerprint_of(BODY, {"x-openclaw-agent-id": "a"}) != plain


@pytest.mark.parametrize("key", ["", "x" * 256, "gr\xfcn", "a\tb", "\x7f", "a\nb"])
def test_what_cannot_be_a_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        key_of({"idempotency-key": key})
    assert refusal.value.param == "Idempotency-Key"


@pytest.mark.parametrize("key", ["x", " ", "x" * 255, '"quoted"', "8e03978e-40d5-43dd-bc93-6894a57f9324"])
def test_everything_else_can(key: str) -> None:
    assert key_of({"idempotency-key": key}) == key
    assert key_of({}) is None


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_id_of_a_keys_run_follows_from_the_key(one: str, other: str) -> None:
    assert (run_id_of(one) == run_id_of(other)) == (one == other)


def test_what_is_nested_too_deeply_to_be_compared_is_refused() -> None:
    nested: Any = 1
    for _ in range(1_000):
        nested = {"a": nested}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        fingerprint_of({"unknown": nested}, {})
