"""Errors of the gateway in the words of the WebSocket protocol."""

from __future__ import annotations

import pytest

from app.channels.ws.connection import refusal_of
from app.errors import AgentNotFound, GatewayBusy, GatewayError, InvalidRequest, SessionBusy, StoreError


@pytest.mark.parametrize(
    ("error", "code", "detail", "retry_after_ms"),
    [
        (InvalidRequest("no", code="invalid_json"), "INVALID_REQUEST", {"code": "invalid_json"}, None),
        (InvalidRequest("no"), "INVALID_REQUEST", None, None),
        (AgentNotFound("x"), "INVALID_REQUEST", {"code": "model_not_found"}, None),
        (GatewayBusy(), "UNAVAILABLE", {"code": "gateway_busy"}, 1_000),
        (StoreError("disk full"), "UNAVAILABLE", {"code": "store_error"}, None),
        (GatewayError("internal error"), "UNAVAILABLE", None, None),
    ],
)
def test_an_error_says_whose_fault_it_is_and_when_to_ask_again(
    error: GatewayError, code: str, detail: object, retry_after_ms: int | None
) -> None:
    refusal = refusal_of(error)

    assert str(refusal) == error.message
    assert (refusal.code, refusal.details, refusal.retry_after_ms) == (code, detail, retry_after_ms)


def test_a_full_session_may_be_asked_again() -> None:
    assert refusal_of(SessionBusy(3)).retry_after_ms == 1_000
